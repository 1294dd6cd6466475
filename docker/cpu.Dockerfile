# dist_calo on CPUs:  docker build -f docker/cpu.Dockerfile -t dist-calo:cpu .
# Debian's Open MPI 4.1 with PMIx 4, so that the srun or mpirun of a host starts its ranks; mpi4py and Horovod are
# built against it. Python packages have the versions of constraints.txt. docs/containers.md tells how to run it.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      ca-certificates=20* \
      g++=4:12.2.* \
      libopenmpi-dev=4.1.4-* \
      make=4.3-* \
      python3-dev=3.11.* \
      python3-venv=3.11.* \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
# What takes long comes first and depends on these versions alone; they are those of constraints.txt.
ARG MPI4PY=4.1.2
ARG NUMPY=2.4.6
ARG TORCH=2.13.0
# Optimising its one big file takes minutes, and no message is faster for it.
RUN CFLAGS='-O0 -g0' pip install --no-binary mpi4py "mpi4py==$MPI4PY"
# PyTorch's index of builds without CUDA; empty where pip's own settings lead to one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "torch==$TORCH" "numpy==$NUMPY" \
 && python -c 'import sys, torch; sys.exit(torch.version.cuda and "torch has CUDA: TORCH_INDEX leads to no CPU build")'
COPY tools/build_horovod.py tools/
RUN python tools/build_horovod.py --mpi system --cache /tmp/horovod \
 && strip --strip-unneeded /opt/venv/lib/python3.11/site-packages/horovod/torch/*.so \
 && rm -rf /tmp/horovod
# What the package needs changes more seldom than the package.
COPY LICENSE README.md constraints.txt pyproject.toml setup.cfg ./
RUN mkdir dist_calo \
 && touch dist_calo/__init__.py \
 && pip install --constraint constraints.txt '.[server,sweep]' \
 && rm -r dist_calo
# The package carries recipes, job scripts and a sample; setup.py puts them in.
COPY setup.py ./
COPY configs configs
COPY data data
COPY docker docker
COPY launch launch
COPY slurm slurm
COPY dist_calo dist_calo
# What was built of the empty package goes: setuptools would take it for newer.
RUN rm -r build dist_calo.egg-info \
 && pip install --no-deps --force-reinstall . \
 && pip freeze > /opt/venv/versions.txt

FROM ${BASE}
LABEL org.opencontainers.image.title=dist_calo \
      org.opencontainers.image.description="Distributed training of generative models of calorimeter showers, on CPUs" \
      org.opencontainers.image.licenses=Apache-2.0
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      ca-certificates=20* \
      openmpi-bin=4.1.4-* \
      python3=3.11.* \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home calo \
 && install --directory --owner calo --group calo /work \
 && ln -s /opt/dist_calo/configs /opt/dist_calo/data /opt/dist_calo/launch /work/
COPY --from=build /opt/venv /opt/venv
COPY configs /opt/dist_calo/configs
COPY data /opt/dist_calo/data
COPY launch /opt/dist_calo/launch
# Packages in the home folder that Apptainer brings along must not hide those of the image. PMIx keeps its tables in
# memory, not in files of the host. Ranks in one container may not read each other's memory without CAP_SYS_PTRACE.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONNOUSERSITE=1 \
    PMIX_MCA_gds=hash \
    OMPI_MCA_btl_vader_single_copy_mechanism=none
WORKDIR /work
USER 1000:1000
# A checkpoint folder of its own: whether a job may go on from its checkpoints is not the container's health. It takes
# nothing from a training beside it, and so may take long.
HEALTHCHECK --interval=1h --timeout=30m --start-period=1m \
  CMD ["nice", "-n19", "env", "OMP_NUM_THREADS=1", "dist-calo", "doctor", \
       "--data.path=/opt/dist_calo/data/sample/*.h5", "--checkpoint.dir=/tmp/doctor"]
CMD ["dist-calo", "doctor"]
