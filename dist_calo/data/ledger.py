"""Ledger of the samples that each rank used at each step, as proof of the order of a run.

A folder with one append-only text file a rank, ``rank-00000.tsv``, and one line a step::

    epoch<TAB>step<TAB>comma-separated global sample ids

Steps count from the start of the run and rise within a file. A sample's global id is its row's index over the
files in sorted order. ``run.json`` beside them names the run, and how many ranks wrote from which step on;
ledgers of earlier versions lack it.
"""

import json
import logging
import os
import re
import shlex
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from dist_calo.errors import DataError
from dist_calo.files import open_ordinary, read_json, write_whole, writing

log = logging.getLogger("dist_calo.data")

_LONGEST_LINE = 1 << 27
"""Bytes of a line: six million samples of one rank."""
_LINE = re.compile(rb"(\d{1,18})\t(\d{1,18})\t([\d,]*)\n")
_PROVEN_LINES = 1000
_NAME = re.compile(r"rank-(\d{5,})\.tsv")
_STAYS = "checkpoints are as they were, go on with --checkpoint.resume=auto"
_REMEDY = "restore it, or name another folder, in which the ledger begins anew at the run's next step"

IdsOf = Callable[[int, int, int], tuple[int, np.ndarray]]
"""From a step, a rank and the number of ranks to the epoch and that rank's sample ids."""
Starts = tuple[tuple[int, int], ...]
"""The steps after which the number of ranks changed, and the ranks from there on, in order of steps."""


@dataclass(frozen=True, kw_only=True)
class LedgerRun:
    """Run that a ledger belongs to."""

    uid: str
    """Tells the run from all others."""
    checkpoints: str
    """Folder of its checkpoints."""
    starts: Starts = ()
    """Filled in by `claim_ledger`."""

    @property
    def described(self) -> str:
        """The run in a few words."""
        return f"run {self.uid} (checkpoint.dir={self.checkpoints})"


class Kept(NamedTuple):
    """Content of a ledger's folder that a resumed run keeps."""

    starts: Starts
    """Ranks that wrote the kept lines; empty if unknown."""
    files: tuple[int, ...]
    """Numbers of the ranks that have a file."""


class Ledger:
    """File of one rank, flushed at every step. `claim_ledger` and `truncate_after` prepare the folder first.

    Raises:
        DataError: if the file cannot be written to.
    """

    def __init__(self, folder: str | Path, rank: int) -> None:
        self._path = path = Path(folder) / f"rank-{rank:05d}.tsv"
        try:
            # Unbuffered, so that closing the file writes nothing.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise DataError(f"data.ledger={folder}: {path.name} cannot be written to ({error})") from error

    def write(self, epoch: int, step: int, ids: Iterable[int] | np.ndarray) -> None:
        """Record the global sample ids that this rank used at a step of the run."""
        numbers = ids.tolist() if isinstance(ids, np.ndarray) else ids
        line = f"{epoch}\t{step}\t{','.join(map(str, numbers))}\n".encode("ascii")
        with writing(self._path, _STAYS):
            while line:
                line = line[self._file.write(line) :]

    def secure(self) -> None:
        """Wait until all steps recorded so far are on disk: a node that crashes loses what it has not written."""
        with writing(self._path, _STAYS):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def ledger_run(folder: str | Path) -> LedgerRun | None:
    """Return the run of the ledger in a folder; None if it is not recorded or there is none.

    Raises:
        DataError: if that cannot be read.
    """
    try:
        return read_json(Path(folder) / "run.json", LedgerRun, DataError, _REMEDY)
    except FileNotFoundError:
        return None


def require_own(folder: str | Path, run: LedgerRun, step: int) -> Kept:
    """Check by names alone that a run may continue a ledger; nothing is changed.

    Args:
        folder: of the ledger, which need not exist.
        run: that wants to write.
        step: the last one in the checkpoint that the run continues from, 0 if it starts anew.

    Returns:
        What is there, as far as the ledger tells.

    Raises:
        DataError: if it is the ledger of another run, or the file of a rank is missing.
    """
    path = Path(folder)
    try:
        names = os.listdir(path) if path.exists() else []
        known = ledger_run(path)
        there = {int(match[1]): path / name for name in names if (match := _NAME.fullmatch(name))}
        # A ledger that does not name its run is taken for this run's if there is something to go on with.
        foreign = (
            known.uid != run.uid if known else not step and any(f.stat().st_size for f in there.values())
        )
    except OSError as error:
        raise DataError(f"data.ledger={folder}: cannot be read ({error.strerror}); name a folder") from error
    if foreign:
        theirs = (
            f"--checkpoint.dir={shlex.quote(known.checkpoints)} --checkpoint.resume=auto" if known else ""
        )
        remedy = f", or continue that run with {theirs}" if known else ""
        raise DataError(
            f"data.ledger={folder} holds the ledger of {known.described if known else 'another run'}, and this is "
            f"{run.described}: name another folder{remedy}"
        )
    starts = tuple(start for start in known.starts if start[0] < step) if known else ()
    wrote = max((ranks for _, ranks in starts), default=max(there, default=-1) + 1) if step else 0
    for number in range(wrote):
        if number not in there:
            raise DataError(f"{path}/rank-{number:05d}.tsv: is missing, of {wrote} ranks; {_REMEDY}")
    return Kept(starts, tuple(there))


def claim_ledger(folder: str | Path, run: LedgerRun, step: int, ranks: int) -> Kept:
    """Prepare a folder for a run, before its ranks call `truncate_after`; one rank calls it.

    Args:
        folder: the ledger's folder, made if it is missing.
        run: that will write.
        step: the last one in the checkpoint that the run continues from, 0 if it starts anew.
        ranks: that will write.

    Returns:
        As `require_own` does, and raises like it.

    Raises:
        DataError: if the folder cannot be written.
    """
    kept = require_own(folder, run, step)
    now = kept.starts if kept.starts and kept.starts[-1][1] == ranks else (*kept.starts, (step, ranks))
    Path(folder).mkdir(parents=True, exist_ok=True)
    with write_whole(Path(folder) / "run.json") as temporary:
        temporary.write_text(json.dumps(asdict(replace(run, starts=now))) + "\n")
    return kept


def truncate_after(
    folder: str | Path,
    step: int,
    kept: Kept,
    *,
    rank: int = 0,
    ranks: int = 1,
    rows: int | None = None,
    ids_of: IdsOf | None = None,
) -> None:
    """Check the lines of a ledger up to a step, and remove all after it, complete or not.

    The ranks share the files: each takes its own, and those of ranks that are no more.

    Args:
        folder: of the ledger.
        step: the last one in the checkpoint that the run continues from.
        kept: what `claim_ledger` returned.
        rank: of this process.
        ranks: that share the work.
        rows: showers of the data, where it is known: sample ids are below.
        ids_of: what the run's order says, where it is known; the last thousand lines of a file must say the same.

    Raises:
        DataError: if a line up to that step is damaged, missing, there twice, in the wrong order or of another run.
    """
    for number in (number for number in kept.files if number % ranks == rank):
        path = Path(folder) / f"rank-{number:05d}.tsv"
        try:
            with open_ordinary(path, change=True) as file:
                file.truncate(_kept(file, path, step, kept.starts, number, rows, ids_of) if step else 0)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; {_REMEDY}") from error


def read_ledger(folder: str | Path) -> dict[tuple[int, int], np.ndarray]:
    """Return the global sample ids of each (epoch, step), those of rank 0 first, int64.

    Takes 8 bytes a sample, and opens one file at a time. Half a line at the end of a file is left out.

    Raises:
        DataError: if a line is not of the ledger's form.
    """
    found: dict[tuple[int, int], array[int]] = {}
    for path in sorted(Path(folder).glob("rank-*.tsv")):
        try:
            with open_ordinary(path) as file:
                for number, line in _numbered(file):
                    if not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                        break
                    try:
                        epoch, step, ids = _parsed(line)
                    except ValueError as error:
                        raise DataError(f"{path}, line {number}: {error}") from None
                    found.setdefault((epoch, step), array("q")).extend(ids)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
    return {key: np.array(ids, dtype=np.int64) for key, ids in sorted(found.items())}


def _kept(
    file: BinaryIO, path: Path, step: int, starts: Starts, rank: int, rows: int | None, ids_of: IdsOf | None
) -> int:
    """Return the size in bytes of the lines of a rank to keep, after a check that all of them are complete."""
    ends = [*(after for after, _ in starts[1:]), step]
    parts = [(range(start[0] + 1, end + 1), start[1]) for start, end in zip(starts, ends, strict=False)]
    due = ((at, ranks) for steps, ranks in parts if rank < ranks for at in steps)
    known_from = starts[0][0] if starts else step
    # Rank 0 takes part in every step. Of others nothing is known where the ledger does not tell who wrote it.
    last_due = max((steps[-1] for steps, ranks in parts if steps and rank < ranks), default=0)
    last_due = last_due if starts or rank else step
    latest: deque[tuple[int, int, int, list[int], int]] = deque(maxlen=_PROVEN_LINES)
    kept = last = last_epoch = 0
    for number, line in _numbered(file):
        try:
            epoch, at, ids = _parsed(line)
            if at > step:
                break
            if at <= last or epoch < last_epoch:
                raise ValueError(f"step {at} of epoch {epoch} after step {last} of epoch {last_epoch}")
            if rows is not None and ids and max(ids) >= rows:
                raise ValueError(f"sample {max(ids)} of {rows} showers")
            if at > known_from:
                wanted, ranks = next(due, (None, 0))
                if at != wanted:
                    raise ValueError(f"step {at} where step {wanted} must be")
                latest.append((number, epoch, at, ids, ranks))
        except ValueError as error:
            if last < max(last_due, 0 if starts else step):
                raise DataError(f"{path}, line {number}: {error}; {_REMEDY}") from None
            if line.endswith(b"\n"):
                log.warning("%s, line %d: %s; cut off, as it is beyond the checkpoint", path, number, error)
            break
        kept, last, last_epoch = kept + len(line), at, epoch
    if last < last_due:
        raise DataError(f"{path}: ends with step {last}, before step {last_due} of the checkpoint; {_REMEDY}")
    if ids_of is not None:
        for number, epoch, at, ids, ranks in latest:
            due_epoch, due_ids = ids_of(at, rank, ranks)
            if (epoch, ids) != (due_epoch, due_ids.tolist()):
                raise DataError(f"{path}, line {number}: not this run's samples of step {at}; {_REMEDY}")
    return kept


def _numbered(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield lines and their numbers from 1; one that is too long comes in pieces."""
    return enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1)


def _parsed(line: bytes) -> tuple[int, int, list[int]]:
    """Return epoch, step and sample ids of a whole line.

    Raises:
        ValueError: if it is not of the ledger's form.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("not epoch, step and ids, separated by tabs")
    try:
        ids = [int(text) for text in match[3].split(b",")] if match[3] else []
    except ValueError:
        raise ValueError("not all ids are numbers") from None
    if ids and max(ids) >= 2**63:
        raise ValueError("an id has more than 63 bits")
    return int(match[1]), int(match[2]), ids
