"""Files that appear under their name whole or not at all, and readers that trust no byte of them."""

import errno
import hashlib
import io
import os
import re
import socket
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

Form = TypeVar("Form")

MOST_BYTES = 1 << 28
"""Size of the largest text file that is read at once, in bytes: a manifest of a million shower files."""

_SEAL = b"\ndist_calo: SHA-256 of all before this line "
_SEAL_BYTES = len(_SEAL) + 64
_ARCHIVE_END_BYTES = 22
"""Size of the record that ends an archive without a comment."""


def seal_of(content: bytes | memoryview) -> bytes:
    """Return the checksum that is put behind content and travels with the file."""
    return _SEAL + hashlib.sha256(content).hexdigest().encode()


def is_sound(content: bytes) -> bool | None:
    """Tell if sealed content is what was written.

    None for a whole archive without a seal whose own checksums hold, as earlier versions and ``torch.save`` write it:
    they cover its records but not its headers.
    """
    kept, seal = memoryview(content)[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
    if seal.startswith(_SEAL):
        return seal == seal_of(kept)
    with suppress(zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        is_whole = content[-_ARCHIVE_END_BYTES:].startswith(b"PK\5\6")
        if is_whole and zipfile.ZipFile(io.BytesIO(content)).testzip() is None:
            return None
    return False


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to, and give the file its name once it is complete and on disk.

    ::

        with write_whole(path) as temporary:
            temporary.write_text(text)

    A file of this name is replaced at one instant. After an error it is as it was, and the temporary file is gone; only
    a process that is killed leaves one, ``.NAME.HOST.PID.tmp`` in the same folder.

    Raises:
        OSError: if the disk refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with writing(path, "what was there before stays"):
            yield temporary
            publish(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as `write_whole` does: a reader sees the old or the new one, never a part.

    Raises:
        OSError: if the disk refuses.
    """
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def writing(path: str | Path, stays: str = "") -> Iterator[None]:
    """Add the name of the file to an error of the system, or of HDF5, which lacks it where the file is open.

    Args:
        path: the file; the name of a temporary one is replaced by it.
        stays: what is valid all the same.

    Raises:
        OSError: with number, reason and name.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if (number := error_number(error)) is None:
            raise
        if "errno = " in str(error) or not isinstance(error, OSError):  # HDF5, whose words fill a screen
            error = OSError(number, os.strerror(number)).with_traceback(error.__traceback__)
        if error.filename is None or str(error.filename).endswith(".tmp"):
            error.filename = str(path)
        if error.filename == str(path) and not hasattr(error, "__notes__"):
            error.add_note(stays)
        raise error


def error_number(error: BaseException) -> int | None:
    """Return the system's number of an error, which HDF5 at times tells in words alone."""
    told = re.search(r"errno = (\d+)", str(error))
    number = getattr(error, "errno", None)
    return number or (int(told[1]) if told else None)


def publish(temporary: Path, path: Path) -> None:
    """Give a complete, closed file its final name once it is on disk.

    Raises:
        OSError: if the disk refuses; the final name is as it was.
    """
    with open(temporary, "rb") as written:
        os.fsync(written.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def why_missing(path: str | Path, otherwise: str = "there is no such file") -> str:
    """Say why a file cannot be found: a link that leads nowhere is there."""
    if os.path.islink(path):
        return f"is a link to {os.readlink(path)}, which does not exist: correct the link"
    return otherwise


def open_ordinary(path: str | Path, *, change: bool = False) -> BinaryIO:
    """Open a file to read, or to change, that has an end: no folder, device or pipe.

    Raises:
        OSError: if it is none, or cannot be opened.
    """
    handle = os.open(path, (os.O_RDWR if change else os.O_RDONLY) | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "is not an ordinary file", str(path))
    return open(handle, "r+b" if change else "rb")


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """Return the content of a small file.

    Raises:
        OSError: if it cannot be read, is not an ordinary file, or is larger than ``most`` bytes.
    """
    with open_ordinary(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"is larger than {most} bytes", str(path))
        return file.read(most)
