"""Files that appear under their name whole or not at all."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to, and the file its name once it is complete and on disk.

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
        yield temporary
        publish(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


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
