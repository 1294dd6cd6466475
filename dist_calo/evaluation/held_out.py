"""A checkpoint against showers that its training never saw."""

from dist_calo.comm.single import SingleCommunicator
from dist_calo.data.row_blocks import Split
from dist_calo.launching.environment import World
from dist_calo.physics.monitors.monitor import Monitor
from dist_calo.training.checkpoint import Checkpoint
from dist_calo.training.restore import restore_generator
from dist_calo.training.validation import Validator


def held_out_validator(
    checkpoint: Checkpoint, split: Split = "test", monitor: Monitor | None = None
) -> Validator:
    """Build the comparison of a checkpoint with a split of the data that it was trained on, on one rank.

    Args:
        checkpoint: the weights, and where their data are.
        split: which showers.
        monitor: observables and comparison; by default those of the geometry.

    Raises:
        CheckpointError: if the checkpoint's networks do not fit the model of this version.
        DataError: if the files are gone or the split is empty.
    """
    generator, communicator = restore_generator(checkpoint), SingleCommunicator(World())
    return Validator(
        checkpoint.reading, checkpoint.data, generator, communicator, split=split, monitor=monitor
    )
