"""A checkpoint against showers that its training never saw."""

from collections.abc import Mapping
from typing import Any

from dist_calo.comm.single import SingleCommunicator
from dist_calo.config import DataConfig, RunConfig, TrainConfig
from dist_calo.data.row_blocks import Split
from dist_calo.data.shards import Manifest
from dist_calo.launching.environment import World
from dist_calo.physics.monitors.monitor import Monitor
from dist_calo.training.restore import restore_generator
from dist_calo.training.validation import Validator


def held_out_validator(
    state: Mapping[str, Any], split: Split = "test", monitor: Monitor | None = None
) -> Validator:
    """What compares the generator of a checkpoint with a split of the data that it was trained on, on one rank.

    Args:
        state: what `dist_calo.training.checkpoint.load_checkpoint` returned.
        split: which showers.
        monitor: observables and comparison; by default those of the geometry.

    Raises:
        CheckpointError: if the checkpoint's networks do not fit the model of this version.
        DataError: if the files are gone or the split is empty.
    """
    config = RunConfig(
        data=DataConfig(**state["config"]["data"]), train=TrainConfig(**state["config"]["train"])
    )
    manifest = Manifest.from_dict(state["manifest"])
    communicator = SingleCommunicator(World())
    return Validator(config, manifest, restore_generator(state), communicator, split=split, monitor=monitor)
