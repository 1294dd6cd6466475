"""Generation of a sample on all ranks: each rank makes parts of the file, and rank 0 joins them at the end.

The samples are cut into parts (`dist_calo.generation.partial_output`), a function of their number and the batch size.
Each part is one rank's work and one file; the parts that are missing are dealt out to the ranks in turn. A batch
begins at a multiple of the batch size and is always computed in full, by one thread: so the number of ranks changes no
bit of the result.

At 4,096 ranks: rank 0 alone reads the checkpoint, the conditions and the folder, and sends weights, conditions (4 bytes
a shower and condition) and the list of missing parts (8 bytes a part, at most 16,384 up to 160 million showers) to all
in one broadcast. A rank has one file open, the part that it writes; it holds one batch and a chunk of compressed
showers. Progress takes 24 bytes a second and rank. Rank 0 alone joins, at the speed of the file system.
"""

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo import __version__
from dist_calo.data.formats import ShowerWriter
from dist_calo.data.formats.schema import SchemaName, schema_of
from dist_calo.errors import EXIT_PREEMPTED, ConfigError, DataError
from dist_calo.generation.incident_conditions import (
    ConditionRange,
    IncidentConditions,
    TableConditions,
    requested_conditions,
)
from dist_calo.generation.partial_output import CHUNK_ROWS, PartialOutput, Partition, part_rows
from dist_calo.geometry import CONDITIONS
from dist_calo.randomness import Draws

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator
    from dist_calo.generation.shared_progress import SharedProgress
    from dist_calo.training.checkpoint import Checkpoint
    from dist_calo.training.restore import TrainedGenerator

DEFAULT_SHOWERS = 1000


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """The sample to generate, as the command line asks for it.

    Raises:
        ConfigError: if values contradict each other.
    """

    checkpoint: str
    """File, folder, or MLflow's ``models:/...`` or ``runs:/...``."""
    out: Path
    n: int | None = None
    """Showers; None for as many as `conditions` has rows, else 1,000."""
    ranges: Mapping[str, ConditionRange] = field(default_factory=dict)
    """Incident energies in GeV and angles in rad, where they are not those of training."""
    conditions: str | None = None
    """Shower file, or glob, whose conditions are taken."""
    schema: SchemaName = "native"
    seed: int = 0
    batch_size: int = 100
    device: str = "cpu"
    tracking_uri: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("batch-size", self.batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value}: must be at least 1")
        for name, values in self.ranges.items():
            CONDITIONS[name].require(f"--{name} {values.text}", values.low, values.high)
        if self.conditions is not None and self.ranges:
            name, values = next(iter(self.ranges.items()))
            raise ConfigError(
                f"--{name} {values.text} --conditions {self.conditions}: both tell the {name}; leave one out"
            )


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The inputs that rank 0 sends to all ranks."""

    checkpoint: "Checkpoint"
    """Sent without the parts that only training needs."""
    conditions: IncidentConditions
    partition: Partition
    missing: np.ndarray
    """Numbers of the parts to be made, int64."""
    attributes: dict[str, Any]
    """Attributes of the file."""


def make_showers(request: GenerationRequest, communicator: "Communicator") -> int:
    """Generate the sample on all ranks; collective.

    Returns:
        The exit code: 0, or EXIT_PREEMPTED if a signal stopped the ranks; the complete parts are kept then.

    Raises:
        UserError: if the request does not fit the checkpoint, the file exists, the weights make cells that are not
            finite, or the disk is full.
    """
    from dist_calo.generation.shared_progress import GenerationStopped, SharedProgress, ShowerCount
    from dist_calo.launching.signs import SIGNS
    from dist_calo.training.preemption import StopRequest
    from dist_calo.training.restore import generating_device, restore_generator

    SIGNS.begin("in set-up", unit="batch")
    world = communicator.world
    device = generating_device(request.device, world)
    folder = PartialOutput(request.out)
    with ExitStack() as stack:
        stack.callback(folder.close)
        stack.enter_context(_room(folder))
        setup = communicator.broadcast_object(_set_up(request, folder) if world.rank == 0 else None)
        generator = restore_generator(setup.checkpoint, device)
        kept = setup.partition.samples - sum(
            len(setup.partition.part(number)) for number in setup.missing.tolist()
        )
        if world.rank == 0 and kept:
            print(
                f"continuing: {kept} of {setup.partition.samples} showers are in {folder.folder}", flush=True
            )
        count = ShowerCount(setup.partition.samples, kept, show=world.rank == 0, launcher=world.launcher)
        stack.callback(count.close)
        stack.enter_context(_one_thread())
        stop = stack.enter_context(StopRequest(communicator))

        def asked_to_stop() -> bool:
            return stop.received is not None

        try:
            progress = SharedProgress(communicator, count.made, asked_to_stop)
            for number in setup.missing[world.rank :: world.size].tolist():
                _make_part(request, setup, generator, number, folder.path(number), progress)
            progress.wait_for_all()
            SIGNS.begin("while the parts are joined")
            # Joining does not stop for a signal: the parts are kept even if the process is killed.
            empty = _joined(folder, setup.partition, SharedProgress(communicator), world.rank)
        except GenerationStopped:
            if world.rank == 0:
                print(f"stopped; complete parts are kept in {folder.folder}: give the same command again")
            return EXIT_PREEMPTED
    if world.rank == 0:
        low, high = setup.conditions.energy_range()
        print(
            f"{request.out}: {setup.partition.samples} showers of {low:g} to {high:g} GeV, from step {generator.step}"
        )
        if empty:
            print(
                f"{empty} of them are empty, which readers refuse: train for longer, or take another checkpoint"
            )
    return 0


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


def _set_up(request: GenerationRequest, folder: PartialOutput) -> Setup:
    """Read the inputs and open the folder of the parts; on rank 0."""
    from dist_calo.training.model_sources import state_of

    if request.out.is_dir():
        raise ConfigError(f"--out {request.out}: is a folder; name a file in it")
    if request.out.exists() and not request.force:
        raise ConfigError(f"--out {request.out}: the file exists; name another or add --force to replace it")
    checkpoint = state_of(request.checkpoint, request.tracking_uri)
    geometry = checkpoint.readout
    particle = checkpoint.manifest["particle"]
    try:
        schema_of(geometry, particle, request.schema)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from error
    conditions = requested_conditions(checkpoint, geometry, request.ranges, request.conditions)
    n = request.n or (len(conditions.rows) if isinstance(conditions, TableConditions) else DEFAULT_SHOWERS)
    settings = {
        "n": n,
        "seed": request.seed,
        "batch-size": request.batch_size,
        **conditions.describe(),
        "schema": request.schema,
        "device": request.device,
        "checkpoint": f"step {checkpoint.step}, SHA-256 {_digest(checkpoint)[:16]}, dist_calo {__version__}",
    }
    folder.open(settings, renew=request.force)
    partition = Partition(samples=n, rows=part_rows(n, request.batch_size))
    return Setup(
        checkpoint=replace(checkpoint, optimizers={}, objective={}, manifest={}),
        conditions=conditions,
        partition=partition,
        missing=np.setdiff1d(np.arange(partition.count), np.fromiter(folder.complete(), dtype=np.int64)),
        attributes={
            "generator": f"dist_calo, step {checkpoint.step}, MLflow run {checkpoint.run_id}",
            "seed": request.seed,
            **({"particle": particle} if particle else {}),
        },
    )


def _make_part(
    request: GenerationRequest,
    setup: Setup,
    generator: "TrainedGenerator",
    number: int,
    path: Path,
    progress: "SharedProgress",
) -> None:
    import torch

    rows, empty = setup.partition.part(number), 0
    with ShowerWriter(
        path, generator.geometry, setup.attributes, chunk_rows=CHUNK_ROWS, schema=request.schema
    ) as writer:
        for start in range(rows.start, rows.stop, request.batch_size):
            # Samples beyond the last are generated too and dropped: rounding may differ in batches of another size.
            draws = Draws(request.seed, 0, range(start, start + request.batch_size), "generate")
            conditions = setup.conditions.draw(draws)
            made = min(request.batch_size, rows.stop - start)
            showers = generator.generate_finite(torch.from_numpy(conditions), draws)[:made]
            empty += int((showers.flatten(1) == 0).all(dim=1).sum())
            writer.append(showers.numpy(), conditions[:made])
            progress.add(made)
        writer.add_attributes({"empty_showers": empty})


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: the order of sums, and so the last bits, may depend on the number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _digest(checkpoint: "Checkpoint") -> str:
    """Return the SHA-256 of all in a checkpoint that decides what it generates."""
    digest = hashlib.sha256()
    # Files of earlier versions have no ranges.
    ranges, model = checkpoint.condition_ranges or None, checkpoint.config["model"]
    for part in (checkpoint.geometry, checkpoint.transform, ranges, model):
        digest.update(json.dumps(part, sort_keys=True).encode())
    weights = {
        ("model", ""): checkpoint.model,
        **{("average", name): found for name, found in checkpoint.average.items()},
    }
    for key, found in sorted(weights.items()):
        for name in sorted(found):
            digest.update(f"{key} {name}".encode())
            digest.update(found[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
