"""Origin of a run: code, machine, versions and job, as tags of its record."""

import getpass
import os
import platform
import shlex
import socket
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dist_calo import __version__
from dist_calo.masking import mask

JOB_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "PBS_JOBID",
    "LSB_JOBID",
)
COMMIT, CHANGED = "mlflow.source.git.commit", "git.changed"
OF_ONE_START = (*(name.lower() for name in JOB_VARIABLES), COMMIT, CHANGED)
"""Tags that not every start of a run has: an earlier start's must not stand for one without them."""
PACKAGES = ("torch", "numpy", "horovod", "mpi4py", "mlflow")


def describe_run(command: list[str] | None = None) -> dict[str, str]:
    """Return tags that say where a run comes from: MLflow's own names for code and user, ours for the rest.

    Args:
        command: the command line; that of this process by default.
    """
    words = sys.argv if command is None else command
    tags = {
        "mlflow.source.name": words[0],
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
        "dist_calo.version": __version__,
        "dist_calo.command": shlex.join(words),
        "dist_calo.folder": str(Path.cwd()),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    tags |= {name: found for name in PACKAGES if (found := _version(name))}
    tags |= {name.lower(): os.environ[name] for name in JOB_VARIABLES if os.environ.get(name)}
    tags |= _git(Path(__file__).resolve().parents[2])
    return {name: mask(value) for name, value in tags.items()}


def _git(folder: Path) -> dict[str, str]:
    """Return the commit of the checkout that the package runs from, and whether it has changes, if there is one."""
    if not (folder / ".git").exists():
        return {}
    with suppress(OSError, subprocess.SubprocessError):
        commit = _output(folder, "rev-parse", "HEAD")
        changes = _output(folder, "status", "--porcelain", "--untracked-files=no")
        return {COMMIT: commit, CHANGED: str(bool(changes)).lower()}
    return {}


def _output(folder: Path, *arguments: str) -> str:
    git = ["git", "-C", str(folder), *arguments]
    return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None
