#!/usr/bin/env bash
# Which plugin of srun starts MPI here: pmix where it is listed and works, else none. (PMI-2 has to be asked for by
# MPI=pmi2: whether an MPI library speaks it cannot be told from outside.)
set -euo pipefail
if srun --mpi=list 2>&1 | grep -qw pmix && srun --mpi=pmix --nodes=1 --ntasks=1 true &>/dev/null; then
    echo pmix
else
    echo none
fi
