"""Generation of a sample by a trained network, on all ranks.

The samples are cut into parts of whole batches (`dist_calo.generation.parts_on_ranks`). A batch begins at a multiple of
the batch size and is always computed in full, by one thread: so the number of ranks changes no bit of the result.

Rank 0 alone reads the checkpoint and the conditions and sends them to all, 4 bytes a shower and condition. A rank holds
one batch and a chunk of compressed showers.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_calo import __version__
from dist_calo.data.formats import ShowerWriter
from dist_calo.data.formats.schema import SchemaName, schema_of
from dist_calo.errors import EXIT_PREEMPTED, ConfigError
from dist_calo.generation.incident_conditions import (
    ConditionRange,
    IncidentConditions,
    TableConditions,
    requested_conditions,
)
from dist_calo.generation.partial_output import CHUNK_ROWS, Partition, part_rows
from dist_calo.generation.parts_on_ranks import PartMaker, Sample, make_file
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
class Inputs:
    """The inputs that rank 0 sends to all ranks."""

    checkpoint: "Checkpoint"
    """Sent without the parts that only training needs."""
    conditions: IncidentConditions
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
    from dist_calo.training.restore import generating_device

    device = generating_device(request.device, communicator.world)
    made = make_file(
        request.out,
        communicator,
        partial(_set_up, request),
        partial(_maker, request, device),
        unit="batch",
        force=request.force,
    )
    if made is None:
        return EXIT_PREEMPTED
    if communicator.world.rank == 0:
        inputs = made.sample.inputs
        low, high = inputs.conditions.energy_range()
        showers = made.sample.partition.samples
        print(
            f"{request.out}: {showers} showers of {low:g} to {high:g} GeV, from step {inputs.checkpoint.step}"
        )
        if made.empty:
            print(
                f"{made.empty} of them are empty, which readers refuse: train for longer, or take another checkpoint"
            )
    return 0


def _set_up(request: GenerationRequest) -> Sample[Inputs]:
    """Read the inputs; on rank 0."""
    from dist_calo.training.model_sources import state_of

    checkpoint = state_of(request.checkpoint, request.tracking_uri)
    geometry = checkpoint.readout
    particle = checkpoint.manifest["particle"]
    try:
        schema_of(geometry, particle, request.schema)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from error
    conditions = requested_conditions(checkpoint, geometry, request.ranges, request.conditions)
    n = request.n or (len(conditions.rows) if isinstance(conditions, TableConditions) else DEFAULT_SHOWERS)
    return Sample(
        inputs=Inputs(
            checkpoint=replace(checkpoint, optimizers={}, objective={}, manifest={}),
            conditions=conditions,
            attributes={
                "generator": f"dist_calo, step {checkpoint.step}, MLflow run {checkpoint.run_id}",
                "seed": request.seed,
                **({"particle": particle} if particle else {}),
            },
        ),
        partition=Partition(samples=n, rows=part_rows(n, request.batch_size)),
        settings={
            "n": n,
            "seed": request.seed,
            "batch-size": request.batch_size,
            **conditions.describe(),
            "schema": request.schema,
            "device": request.device,
            "checkpoint": f"step {checkpoint.step}, SHA-256 {_digest(checkpoint)[:16]}, dist_calo {__version__}",
        },
    )


@contextmanager
def _maker(request: GenerationRequest, device: str, inputs: Inputs) -> Iterator[PartMaker]:
    """Restore the generator and make parts with it."""
    from dist_calo.training.restore import restore_generator

    with _one_thread():
        yield partial(_make_part, request, inputs, restore_generator(inputs.checkpoint, device))


def _make_part(
    request: GenerationRequest,
    inputs: Inputs,
    generator: "TrainedGenerator",
    rows: range,
    path: Path,
    progress: "SharedProgress",
) -> None:
    import torch

    empty = 0
    with ShowerWriter(
        path, generator.geometry, inputs.attributes, chunk_rows=CHUNK_ROWS, schema=request.schema
    ) as writer:
        for start in range(rows.start, rows.stop, request.batch_size):
            # Samples beyond the last are generated too and dropped: rounding may differ in batches of another size.
            draws = Draws(request.seed, 0, range(start, start + request.batch_size), "generate")
            conditions = inputs.conditions.draw(draws)
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
