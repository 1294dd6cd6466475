"""Identity of data files: the check that a file is still the one in the manifest."""

import functools
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

from dist_calo.errors import DataError

_END_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class FileIdentity:
    """Fingerprint of a file, which detects changes and exchanged files."""

    path: str
    bytes: int
    fingerprint: str
    """SHA-256 of the size and of the first and last MiB."""
    mtime_ns: int = 0
    """Time of the last change when the file was looked at, in ns; with the inode, it spares reading the file again.
    Neither belongs to the identity: a copy is the same file."""
    inode: int = 0


def identity_of(path: str) -> FileIdentity:
    """Return the identity of a file as it is now.

    Raises:
        OSError: if it cannot be read.
    """
    found = os.stat(path)
    return FileIdentity(
        path=path,
        bytes=found.st_size,
        fingerprint=_fingerprint(path, found.st_size),
        mtime_ns=found.st_mtime_ns,
        inode=found.st_ino,
    )


def what_changed(known: Iterable[FileIdentity]) -> str | None:
    """Return the first file that has changed and how, None if none has; one ``stat`` for each file.

    Where time or inode differ, as after ``touch`` or in a copy, the content decides, once for each such time.
    """
    for file in known:
        try:
            found = os.stat(file.path)
            if found.st_size != file.bytes:
                change = f"it has {found.st_size} bytes and had {file.bytes}"
            elif (found.st_mtime_ns, found.st_ino) == (file.mtime_ns, file.inode) or file.fingerprint == (
                _seen(file.path, found.st_size, found.st_mtime_ns, found.st_ino)
            ):
                continue
            else:
                change = "its content is another"
        except FileNotFoundError:
            change = "it is gone"
        except OSError as error:
            change = f"it cannot be read now ({error.strerror})"
        return f"{file.path}: the file has changed since it was first read: {change}"
    return None


def require_unchanged(*known: FileIdentity) -> None:
    """Check that files have not changed.

    Raises:
        DataError: naming the first that is not, and what has changed.
    """
    if change := what_changed(known):
        raise DataError(f"{change}; put it back as it was, or start anew with the new files")


@functools.lru_cache(maxsize=1 << 16)
def _seen(path: str, size: int, mtime_ns: int, inode: int) -> str:
    """Return the fingerprint of a file as it was at a time."""
    return _fingerprint(path, size)


def _fingerprint(path: str, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(_END_BYTES))
        if size > _END_BYTES:
            file.seek(max(_END_BYTES, size - _END_BYTES))
            digest.update(file.read())
    return digest.hexdigest()
