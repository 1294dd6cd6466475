"""The ledger: which samples each rank used at which step, so that anyone can check the order of a run.

A folder with one append-only text file a rank, ``rank-00000.tsv``, and one line a step::

    epoch<TAB>step<TAB>comma-separated global sample ids

Steps count from the start of the run and rise within a file. A sample's global id is its row's index over the
files in sorted order.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dist_calo.errors import DataError

_PIECE_BYTES = 1 << 20


class Ledger:
    """One rank's file, flushed at every step. `prepare_ledger` makes the folder ready first, on one rank.

    Raises:
        DataError: if the file cannot be written to.
    """

    def __init__(self, folder: str | Path, rank: int) -> None:
        path = Path(folder) / f"rank-{rank:05d}.tsv"
        try:
            self._file = path.open("a", encoding="ascii")
        except OSError as error:
            raise DataError(f"data.ledger={folder}: {path.name} cannot be written to ({error})") from error

    def write(self, epoch: int, step: int, ids: Iterable[int] | np.ndarray) -> None:
        """Record the global sample ids that this rank used at a step of the run."""
        numbers = ids.tolist() if isinstance(ids, np.ndarray) else ids
        self._file.write(f"{epoch}\t{step}\t{','.join(map(str, numbers))}\n")
        self._file.flush()

    def secure(self) -> None:
        """Wait until all steps recorded so far are on disk: a node that crashes takes what it has not written along."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def prepare_ledger(folder: str | Path, resume_after: int | None = None) -> None:
    """Make a folder ready for a run; one rank calls it before any opens its `Ledger`.

    Args:
        folder: the ledger's folder, made if it is missing.
        resume_after: the last step that the run to be continued has in its checkpoint; None starts anew.

    Raises:
        DataError: if a run starts anew in a folder that holds a ledger, or the folder cannot be made.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"data.ledger={folder}: the folder cannot be made ({error})") from error
    if resume_after is not None:
        truncate_after(path, resume_after)
    elif any(path.glob("rank-*.tsv")):
        raise DataError(
            f"data.ledger={folder} holds the ledger of another run: name another folder, or continue "
            "that run with --checkpoint.resume=auto"
        )


def truncate_after(folder: str | Path, step: int) -> None:
    """Drop the lines of all steps after `step`, and half-written last lines, from every rank's file."""
    for path in sorted(Path(folder).glob("rank-*.tsv")):
        with path.open("r+b") as file:
            file.truncate(_end_of_step(file.fileno(), step))


def read_ledger(folder: str | Path) -> dict[tuple[int, int], np.ndarray]:
    """The global sample ids of each (epoch, step), those of rank 0 first, int64.

    Raises:
        DataError: if a line is not of the ledger's form.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for path in sorted(Path(folder).glob("rank-*.tsv")):
        with path.open(encoding="ascii") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    epoch, step, ids = line.rstrip("\n").split("\t")
                    here = found.setdefault((int(epoch), int(step)), [])
                    here.extend(int(sample) for sample in ids.split(",") if sample)
                except ValueError as error:
                    raise DataError(
                        f"{path}, line {number}: not epoch, step and ids, separated by tabs"
                    ) from error
    return {key: np.array(ids, dtype=np.int64) for key, ids in sorted(found.items())}


def _end_of_step(file: int, step: int) -> int:
    """Offset of the end of the last complete line whose step is at most `step`, sought from the end."""
    begin = os.fstat(file).st_size
    text, end = b"", 0
    while True:
        line = text.rfind(b"\n", 0, max(0, end - 1)) + 1
        if line == 0 and begin > 0:
            first = max(0, begin - _PIECE_BYTES)
            piece = os.pread(file, begin - first, first)
            text, end, begin = piece + text[:end], end + len(piece), first
            continue
        complete = text[line:end].endswith(b"\n")
        if end == 0 or (complete and int(text[line:end].split(b"\t", 2)[1]) <= step):
            return begin + end
        end = line
