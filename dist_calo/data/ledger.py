"""Ledger of the samples that each rank used at each step, as proof of the order of a run.

A folder with one append-only text file a rank, ``rank-00000.tsv``, and one line a step::

    epoch<TAB>step<TAB>comma-separated global sample ids

Steps count from the start of the run and rise within a file. A sample's global id is its row's index over the
files in sorted order. ``run.json`` beside them says whose ledger it is, and how many ranks wrote it from which step on;
ledgers of earlier versions lack it.
"""

import json
import logging
import os
import re
import shlex
from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from dist_calo.documents import read_json
from dist_calo.errors import DataError
from dist_calo.files import open_ordinary, write_text, writing

log = logging.getLogger("dist_calo.data")

_LONGEST_LINE = 1 << 27
"""Bytes of a line: six million samples of one rank."""
_LINE = re.compile(rb"(\d{1,18})\t(\d{1,18})\t([\d,]*)\n")
_PROVEN_STEPS = 1000
_NAME = re.compile(r"rank-(\d{5,})\.tsv")
_STAYS = "checkpoints are as they were, go on with --checkpoint.resume=auto"
_REMEDY = "restore it, or name another folder, in which the ledger begins anew at the run's next step"

IdsOf = Callable[[int, int, int], tuple[int, np.ndarray]]
"""Function of a step, a rank and the number of ranks: the epoch and that rank's sample ids."""
Starts = tuple[tuple[int, int], ...]
"""The steps after which the number of ranks changed, and the ranks from there on, in order of steps."""


@dataclass(frozen=True, kw_only=True)
class LedgerRun:
    """Run that a ledger belongs to."""

    uid: str
    """Name that no other run has."""
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

    run: LedgerRun | None
    """None if the ledger does not name its run, or is a new one."""
    starts: Starts
    """Ranks that wrote the kept lines; empty if unknown."""
    files: tuple[int, ...]
    """Numbers of the ranks that have a file."""


class Ledger:
    """One rank's file, flushed at every step. `claim_ledger` and `truncate_after` make the folder ready first.

    Raises:
        DataError: if the file cannot be written to.
    """

    def __init__(self, folder: str | Path, rank: int) -> None:
        self._path = path = Path(folder) / f"rank-{rank:05d}.tsv"
        try:
            # Without a buffer, nothing is left that closing it would have to write.
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
        """Wait until all steps recorded so far are on disk: a node that crashes takes what it has not written along."""
        with writing(self._path, _STAYS):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def require_own(folder: str | Path, run: LedgerRun, step: int) -> Kept:
    """Check by names alone that a run may continue a ledger after a step, 0 if it starts anew; change nothing.

    Raises:
        DataError: if it is the ledger of another run, or the file of a rank is missing.
    """
    path, known = Path(folder), None
    try:
        names = os.listdir(path) if path.exists() else []
        with suppress(FileNotFoundError):
            known = read_json(path / "run.json", LedgerRun, DataError, _REMEDY)
        there = {int(match[1]): path / name for name in names if (match := _NAME.fullmatch(name))}
        # A ledger that does not name its run is taken for this run's if there is something to go on with.
        foreign = known.uid != run.uid if known else not step and any(map(os.path.getsize, there.values()))
    except OSError as error:
        raise DataError(f"data.ledger={folder}: cannot be read ({error.strerror}); name a folder") from error
    if foreign:
        theirs = f"--checkpoint.dir={shlex.quote(known.checkpoints)}" if known else ""
        remedy = f", or continue that run with {theirs} --checkpoint.resume=auto" if known else ""
        raise DataError(
            f"data.ledger={folder} holds the ledger of {known.described if known else 'another run'}, and this is "
            f"{run.described}: name another folder{remedy}"
        )
    starts = tuple(start for start in known.starts if start[0] < step) if known else ()
    wrote = max((ranks for _, ranks in starts), default=max(there, default=-1) + 1) if step else 0
    for number in range(wrote):
        if number not in there:
            raise DataError(f"{path}/rank-{number:05d}.tsv: is missing, of {wrote} ranks; {_REMEDY}")
    return Kept(known, starts, tuple(there))


def claim_ledger(folder: str | Path, run: LedgerRun, step: int, ranks: int) -> Kept:
    """Prepare a folder for a run, where `require_own` allows it, before its ranks call `truncate_after`.

    One rank calls it.

    Raises:
        DataError: as `require_own` does.
        OSError: if the folder cannot be written.
    """
    kept = require_own(folder, run, step)
    now = kept.starts if kept.starts and kept.starts[-1][1] == ranks else (*kept.starts, (step, ranks))
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_text(Path(folder) / "run.json", json.dumps(asdict(replace(run, starts=now))) + "\n")
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

    The ranks share the files: each takes its own, and those of ranks that are no more. Where they are known, sample
    ids must be below ``rows``, and those of a file's last thousand steps as ``ids_of`` says.

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
        number = 1
        try:
            with open_ordinary(path) as file:
                while (line := file.readline(_LONGEST_LINE)).endswith(b"\n") or len(line) == _LONGEST_LINE:
                    epoch, step, ids = _parsed(line)
                    found.setdefault((epoch, step), array("q")).extend(ids)
                    number += 1
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
    return {key: np.array(ids, dtype=np.int64) for key, ids in sorted(found.items())}


def _kept(
    file: BinaryIO, path: Path, step: int, starts: Starts, rank: int, rows: int | None, ids_of: IdsOf | None
) -> int:
    """Return the size in bytes of the lines of a rank to keep, after a check that all of them are complete."""
    ends = [*(after for after, _ in starts[1:]), step]
    parts = [(range(s[0] + 1, end + 1), s[1]) for s, end in zip(starts, ends, strict=False) if rank < s[1]]
    due = ((at, ranks) for steps, ranks in parts for at in steps)
    known_from = starts[0][0] if starts else step
    # Rank 0 takes part in every step. Of others nothing is known where the ledger does not tell who wrote it.
    last_due = max((steps[-1] for steps, _ in parts if steps), default=0 if starts or rank else step)
    kept = last = last_epoch = 0
    lines = iter(lambda: file.readline(_LONGEST_LINE), b"")  # one that is too long comes in pieces
    for number, line in enumerate(lines, start=1):
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
                if ids_of is not None and at > last_due - _PROVEN_STEPS:
                    due_epoch, due_ids = ids_of(at, rank, ranks)
                    if (epoch, ids) != (due_epoch, due_ids.tolist()):
                        raise ValueError(f"not this run's samples of step {at}")
        except ValueError as error:
            if last < (last_due if starts else step):
                raise DataError(f"{path}, line {number}: {error}; {_REMEDY}") from None
            if line.endswith(b"\n"):
                log.warning("%s, line %d: %s; cut off, as it is beyond the checkpoint", path, number, error)
            break
        kept, last, last_epoch = kept + len(line), at, epoch
    if last < last_due:
        raise DataError(f"{path}: ends with step {last}, before step {last_due} of the checkpoint; {_REMEDY}")
    return kept


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
