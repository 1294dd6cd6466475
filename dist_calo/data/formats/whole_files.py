"""Opening and closing of HDF5 files, with errors of the system in words and the remedy for a full disk."""

import errno
import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.errors import DataError
from dist_calo.files import error_number, why_missing

if TYPE_CHECKING:
    import h5py

_NO_ERRNO = 524
"""Answer of a file system without locks, ENOTSUPP, for which C has no name."""


def open_file(path: str | Path) -> "h5py.File":
    """Open an HDF5 file for reading, without a lock: thousands of ranks would overload the file server.

    Raises:
        DataError: if it does not exist, may not be read, is no complete HDF5 file, or is being written.
    """
    try:
        return _opened_anyhow(path)
    except OSError as error:
        raise DataError(f"{path}: {_why_not_opened(str(path), error)}") from error


def _opened_anyhow(path: str | Path) -> "h5py.File":
    """Return the file, opened without a lock, or as this process has opened it before: HDF5 wants the same of both."""
    import h5py

    for locking in (False, True):
        try:
            return h5py.File(path, "r", locking=locking)
        except OSError as error:
            if "flag values don't match" not in str(error):
                raise
    return h5py.File(path, "r", locking="best-effort")


def require_not_being_written(file: "h5py.File") -> None:
    """Check that no process has a file open for writing, where the file system has locks.

    HDF5 locks a file that it writes to, whose content may be incomplete.

    Raises:
        DataError: if one has.
    """
    try:
        fcntl.flock(file.id.get_vfd_handle(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(
            f"{file.filename}: another process has the file open for writing: wait until it has closed it"
        ) from None
    except OSError:  # no locks here
        pass


def _why_not_opened(path: str, error: OSError) -> str:
    """Return why HDF5 cannot open a file, and the remedy."""
    number, text = error_number(error), str(error)
    if number == errno.ENOENT:
        return why_missing(path, "the file does not exist")
    if number in (errno.EACCES, errno.EPERM):
        return (
            "the file may not be read by this user: have its owner allow it (chmod a+r, and x on the folders)"
        )
    if number == errno.EISDIR:
        return "is a folder: name the files in it"
    if "unable to lock file" in text:
        return (
            f"the file system answers a lock with {meaning(error)}: leave HDF5_USE_FILE_LOCKING unset, reading needs "
            "no lock"
        )
    if number is not None:
        return f"cannot be read: {meaning(error)}"
    if "already open for write" in text:
        return (
            "another process has the file open for writing: wait until it has closed it; if that process has died, "
            f"h5clear -s {shlex.quote(path)} marks the file as closed"
        )
    if "truncated" in text:
        return f"not a complete HDF5 file ({text}): it is truncated, make or copy it again"
    with suppress(OSError), open(path, "rb") as file:
        first = file.read(40)
        if "signature not found" in text and not first.startswith(b"\x89HDF"):
            seen = f"begins with {first[:16]!r}" if first else "is empty"
            remedy = "git lfs pull" if b"git-lfs" in first else "make or copy it again"
            return f"not an HDF5 file, it {seen}: {remedy}"
    return f"not a complete HDF5 file ({text}): it is damaged, make or copy it again"


def meaning(error: BaseException) -> str:
    """Return the meaning of a system error in words, or HDF5's own words."""
    number = error_number(error)
    if number is None:
        return str(error)
    return "operation not supported (524)" if number == _NO_ERRNO else f"{os.strerror(number)} ({number})"


def why_unreadable(error: BaseException) -> str:
    """Return why HDF5 cannot read part of a file, and the remedy."""
    if error_number(error) is not None:
        return meaning(error)
    return f"{' '.join(map(str, error.args))}: the file is damaged, make or copy it again"


@contextmanager
def hdf5_errors_of(file: "h5py.File") -> Iterator[None]:
    """Turn HDF5's many kinds of errors about a file into one with a message of one line.

    Raises:
        DataError: instead of HDF5's error.
    """
    try:
        yield
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{file.filename}: cannot be read: {why_unreadable(error)}") from error


def abandon(file: "h5py.File") -> None:
    """Close a file whose content is not needed any more, whether or not the disk accepts it.

    HDF5 holds what it could not write, tries again when the file is closed and once more when the process ends, and
    ends that with a segmentation fault: so the rest is written to ``/dev/null``.
    """
    with suppress(OSError, ValueError, RuntimeError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        try:
            os.dup2(nowhere, file.id.get_vfd_handle())
        finally:
            os.close(nowhere)
    with suppress(OSError, ValueError, RuntimeError):
        file.close()
