"""Making of a file of showers on all ranks: each makes parts of the file, and rank 0 joins them at the end.

The rows are cut into parts (`dist_calo.generation.partial_output`), a function of their number and of what makes them
alone. Each part is one rank's work and one file; the parts that are missing are dealt out to the ranks in turn.

At 4,096 ranks: rank 0 alone reads the inputs and the folder, and sends them and the list of missing parts (8 bytes a
part, at most 16,384 up to 160 million showers) to all in one broadcast. A rank has one file open, the part that it
writes. Progress takes 24 bytes a second and rank. Rank 0 alone joins, at the speed of the file system.
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from dist_calo.errors import ConfigError, DataError
from dist_calo.generation.partial_output import PartialOutput, Partition

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator
    from dist_calo.generation.shared_progress import SharedProgress

Inputs = TypeVar("Inputs")
PartMaker = Callable[[range, Path, "SharedProgress"], None]
"""Makes the file of some rows and adds each shower to the progress."""


@dataclass(frozen=True, kw_only=True)
class Sample(Generic[Inputs]):
    """The sample to make, as rank 0 sends it to all ranks."""

    inputs: Inputs
    """What makes the showers."""
    partition: Partition
    settings: Mapping[str, Any]
    """Those that decide what the file holds, plain values by the names of the options."""


@dataclass(frozen=True, kw_only=True)
class Made(Generic[Inputs]):
    """A finished file."""

    sample: Sample[Inputs]
    empty: int
    """Showers without energy; counted on rank 0."""


def make_file(
    out: Path,
    communicator: "Communicator",
    set_up: Callable[[], Sample[Inputs]],
    maker: Callable[[Inputs], AbstractContextManager[PartMaker]],
    *,
    unit: str,
    force: bool,
) -> Made[Inputs] | None:
    """Make a file of showers on all ranks, or what is missing of one that was begun; collective.

    Args:
        out: the file.
        communicator: of all ranks.
        set_up: reads the inputs; called on rank 0.
        maker: of parts; entered on the ranks that have a part to make.
        unit: what `SharedProgress.add` counts as one piece of work, in a word.
        force: whether an existing file is replaced, and parts of another sample are dropped.

    Returns:
        What was made; None if a signal stopped the ranks: the complete parts are kept then.

    Raises:
        UserError: if the file exists, parts of another sample are in the way, or the disk is full.
    """
    from dist_calo.generation.shared_progress import GenerationStopped, SharedProgress, ShowerCount
    from dist_calo.launching.rank_progress import SIGNS
    from dist_calo.training.preemption import StopRequest

    SIGNS.begin("in set-up", unit=unit)
    world = communicator.world
    folder = PartialOutput(out)
    with ExitStack() as stack:
        stack.callback(folder.close)
        stack.enter_context(_room(folder))
        sample, missing = communicator.broadcast_object(
            _begin(folder, set_up, force) if world.rank == 0 else None
        )
        partition = sample.partition
        kept = partition.samples - sum(len(partition.part(number)) for number in missing.tolist())
        if world.rank == 0 and kept:
            print(f"continuing: {kept} of {partition.samples} showers are in {folder.folder}", flush=True)
        count = ShowerCount(partition.samples, kept, show=world.rank == 0, launcher=world.launcher)
        stack.callback(count.close)
        stop = stack.enter_context(StopRequest(communicator))

        def asked_to_stop() -> bool:
            return stop.received is not None

        mine = missing[world.rank :: world.size].tolist()
        try:
            progress = SharedProgress(communicator, count.made, asked_to_stop)
            if mine:
                with maker(sample.inputs) as make:
                    for number in mine:
                        make(partition.part(number), folder.path(number), progress)
            progress.wait_for_all()
            SIGNS.begin("while the parts are joined")
            # Joining does not stop for a signal: the parts are kept even if the process is killed.
            empty = _joined(folder, partition, SharedProgress(communicator), world.rank)
        except GenerationStopped:
            if world.rank == 0:
                print(f"stopped; complete parts are kept in {folder.folder}: give the same command again")
            return None
    return Made(sample=sample, empty=empty)


def _begin(
    folder: PartialOutput, set_up: Callable[[], Sample[Inputs]], force: bool
) -> tuple[Sample[Inputs], np.ndarray]:
    """Read the inputs and open the folder of the parts; return the numbers of those that are missing, int64."""
    out = folder.out
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; name a file in it")
    if out.exists() and not force:
        raise ConfigError(f"--out {out}: the file exists; name another or add --force to replace it")
    sample = set_up()
    folder.open(sample.settings, renew=force)
    complete = np.fromiter(folder.complete(), dtype=np.int64)
    return sample, np.setdiff1d(np.arange(sample.partition.count), complete)


def _joined(folder: PartialOutput, partition: Partition, progress: "SharedProgress", rank: int) -> int:
    """Join the parts on rank 0, and return there how many showers are empty; 0 on other ranks.

    The others exchange progress with it, so that no collective lasts as long as all of its work.
    """
    empty = 0
    if rank == 0:
        for found in folder.join(partition):
            empty += found
            progress.add(0)
    progress.wait_for_all()
    return empty


@contextmanager
def _room(folder: PartialOutput) -> Iterator[None]:
    """Turn the error of a full disk into one line that says what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.add_note(f"what is complete is kept in {folder.folder}: then give the same command again")
            raise
        raise DataError(
            f"--out {folder.out}: no room is left on the disk or in your quota, which must hold the showers twice for "
            f"a moment; what is complete is kept in {folder.folder}: free some space and give the same command again"
        ) from error
