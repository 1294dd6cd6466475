"""Facts in which ranks may differ: their settings, the code and the libraries that they run."""

import hashlib
import os
import platform
import subprocess
from argparse import Namespace
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dist_calo import __version__
from dist_calo.comm.agreement import installed
from dist_calo.masking import hidden
from dist_calo.resources import PACKAGED
from dist_calo.values import flattened

PACKAGES = ("torch", "numpy", "h5py", "mlflow", "mpi4py", "horovod")
"""Packages whose versions are told."""
CODE = "code of dist_calo"
PER_RANK = ("comm.threads", "launch")
"""Settings that may differ between ranks: nodes have other numbers of cores."""
COMPUTING_PACKAGES = ("torch", "numpy", "h5py")
"""Packages whose versions have to be the same on all ranks."""
NUMERIC_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Variables of the environment by which libraries compute other numbers."""
_FOLDER = Path(__file__).resolve().parents[1]


def versions(first_on_node: bool) -> dict[str, str]:
    """Return the versions by name.

    Args:
        first_on_node: also look at the source, whose many small files one rank of a node is enough to open.
    """
    found = {"python": platform.python_version(), "dist_calo": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found | _source() if first_on_node else found


def code_digest() -> str:
    """Return a digest of the package's source, some milliseconds' work: a copy on another node may be an older one."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(_FOLDER.rglob("*.py")):
        if path.is_relative_to(_FOLDER / PACKAGED):
            continue
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_FOLDER).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _source() -> dict[str, str]:
    """Return the digest of the source, and the commit of the checkout that it comes from."""
    found = {CODE: code_digest()}
    if (_FOLDER.parent / ".git").exists():
        command = ["git", "-C", str(_FOLDER.parent), "rev-parse", "--short", "HEAD"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            found["commit"] = done.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            found["commit"] = "unknown"
    return found


def library_of(backend: str) -> dict[str, str]:
    """Return which MPI, or which parts of Horovod, a backend runs on."""
    if backend == "mpi":
        from dist_calo.comm.mpi import set_opal_prefix

        set_opal_prefix(os.environ)
        from mpi4py import MPI

        return {"MPI library": MPI.Get_library_version().split(",")[0].split("\n")[0].strip("\0 ")}
    if backend == "horovod":
        import horovod.torch as hvd

        built = {"Gloo": hvd.gloo_built(), "MPI": hvd.mpi_built(), "NCCL": hvd.nccl_built()}
        return {"Horovod build": ", ".join(name for name, there in built.items() if there)}
    return {}


def facts_of(options: object) -> dict[str, str]:
    """Return what has to be the same on all ranks: settings, code and versions."""
    facts = {CODE: f"{__version__} {code_digest()}", "python": platform.python_version()}
    return settings_of(options) | facts | {package: installed(package) for package in COMPUTING_PACKAGES}


def settings_of(options: object) -> dict[str, str]:
    """Return the settings that have to be the same on all ranks, and variables that change numbers.

    Args:
        options: the checked settings of a command; fields of dataclasses that are not compared are left out.
    """
    own = tuple(f".{name}" for name in PER_RANK)
    settings = flattened(_plain(options))
    told = {name: hidden(str(value)) for name, value in settings if not f".{name}".endswith(own)}
    return told | {name: os.environ.get(name, "") for name in NUMERIC_VARIABLES}


def _plain(value: Any) -> Any:
    """Return nested dicts of what dataclasses, namespaces and lists of them hold."""
    if isinstance(value, list | tuple) and any(map(is_dataclass, value)):
        value = dict(enumerate(value))
    elif is_dataclass(value):
        value = {part.name: getattr(value, part.name) for part in fields(value) if part.compare}
    elif isinstance(value, Namespace):
        value = vars(value)
    return {str(name): _plain(part) for name, part in value.items()} if isinstance(value, dict) else value
