"""Versions of the code and the libraries that a rank runs."""

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from dist_calo import __version__

PACKAGES = ("torch", "numpy", "h5py", "mlflow", "mpi4py", "horovod")
"""Packages whose versions are told."""
CODE = "code of dist_calo"
_FOLDER = Path(__file__).resolve().parents[1]


def versions(first_on_node: bool) -> dict[str, str]:
    """Return versions by name.

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
