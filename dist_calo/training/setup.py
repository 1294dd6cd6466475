"""The set-up of a run on one rank: data, networks, record."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch

from dist_calo.comm import local_device
from dist_calo.comm.protocol import Communicator
from dist_calo.comm.threads import set_threads
from dist_calo.config import RunConfig
from dist_calo.data.loader import Loader, training_loader, training_order
from dist_calo.data.manifest import Manifest
from dist_calo.data.order import Position
from dist_calo.errors import ConfigError
from dist_calo.launching.environment import most_ranks
from dist_calo.models import build_model
from dist_calo.models.nn.batch_norm import synchronise_batch_norm
from dist_calo.objectives import build_objective
from dist_calo.physics.metrics.observable_metrics import LEAST_FOR_WIDTH
from dist_calo.tracking.provenance import describe_run
from dist_calo.tracking.store_uri import checked_uri
from dist_calo.tracking.tracker import NullTracker, Tracker, make_tracker
from dist_calo.training.beginning import Start, begin, find_start, open_ledger
from dist_calo.training.checkpoint import Checkpoint, State
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.dataset import (
    as_kept,
    condition_ranges,
    identity,
    shared_manifest,
    training_statistics,
)
from dist_calo.training.learner import Learner
from dist_calo.training.progress import Progress, run_in_words
from dist_calo.training.restore import TrainedGenerator
from dist_calo.training.trainer import Batches, RunLoggers, StoppingRules, Trainer, TrainState
from dist_calo.training.validation import Validator
from dist_calo.transforms import Transform
from dist_calo.values import flattened


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The processor that this rank computes on."""

    device: torch.device
    threads: int
    reason: str
    """Number of threads and why so many, in words."""


@contextmanager
def build_run(
    config: RunConfig,
    communicator: Communicator,
    *,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    stopping: StoppingRules | None = None,
) -> Iterator[Trainer]:
    """Build all that a rank needs to train, and close it again in order; the record ends as the run did.

    Args:
        config: the run's settings.
        communicator: how the ranks talk.
        run_id: the run in the tracking store that goes on where no checkpoint names one; None for a new run.
        tags: facts for the run's record, besides those that are found here.
        stopping: decisions of a sweep.

    Raises:
        UserError: if the data, the configuration or the checkpoint to continue from are at fault.
    """
    world = communicator.world
    require_enough_samples(config, most_ranks(world, os.environ))
    placement = place_rank(config, communicator)
    manifest = shared_manifest(config.data, communicator)
    config = with_known_steps(config, manifest)
    kept_data, kept_manifest = as_kept(config.data, manifest)
    kept_config = replace(config, data=kept_data)
    transform = Transform.from_config(config.transform)
    start = find_start(config, manifest, communicator, run_id)
    state = TrainState.of(start.checkpoint)
    learner = build_learner(config, manifest, transform, communicator, placement.device, start.checkpoint)
    # Free weights, optimizers and averages, which the learner has now.
    start = replace(start, checkpoint=None)
    if world.rank == 0:
        require_record(config)
    with ExitStack() as stack:
        ledger = open_ledger(config, communicator, start.uid, state.step, manifest)
        if ledger:
            stack.callback(ledger.close)
        tracker = make_tracker(config.tracking, start.run_id, rank=world.rank, folder=config.checkpoint.dir)
        outcome = stack.enter_context(recorded(tracker))
        if world.rank == 0:
            facts = {**describe_run(), **_facts(communicator, placement, start.abandoned_run), **(tags or {})}
            parameters = dict(flattened(kept_config.to_dict()))
            tracker.start(parameters, facts, identity(kept_manifest, kept_data))
            begin(config, start.uid)
        loader = stack.enter_context(open_loader(config, manifest, communicator, state))
        progress = Progress(
            config.train.max_steps,
            state.step,
            show=world.rank == 0,
            ranks=world.size,
            launcher=world.launcher,
            seconds=None
            if config.train.max_seconds is None
            else config.train.max_seconds - state.train_seconds,
        )
        stack.callback(progress.close)
        networks = learner.model.networks
        for line in _in_words(config, communicator, placement, manifest, networks, loader, start, state):
            progress.say(line)
        validator = build_validator(config, manifest, learner, transform, communicator)
        held_out = 0 if validator is None else validator.samples
        if config.train.patience and held_out < LEAST_FOR_WIDTH:
            progress.say(
                f"warning: train.patience={config.train.patience} never ends this run: a score needs {LEAST_FOR_WIDTH} "
                f"showers, and validations have {held_out}; raise data.validation_fraction or train.validation_showers"
            )
        trainer = Trainer(
            kept_config,
            description=_description(kept_manifest, transform, start),
            learner=learner,
            batches=Batches(loader=loader, validator=validator),
            communicator=communicator,
            loggers=RunLoggers(tracker=tracker, ledger=ledger, progress=progress),
            state=state,
            stopping=stopping or StoppingRules(),
        )
        yield trainer
        outcome.stopped_by = trainer.stopped_by


def place_rank(config: RunConfig, communicator: Communicator) -> Placement:
    """Set this process's threads and device.

    Raises:
        LaunchError: if a GPU is asked for and this rank has none of its own.
    """
    threads, reason = set_threads(communicator, config.comm.threads)
    device = torch.device(local_device(config.train.device, communicator.world))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Placement(device=device, threads=threads, reason=reason)


def _facts(communicator: Communicator, placement: Placement, abandoned_run: str | None) -> dict[str, object]:
    """Return the run's tags that tell where it computes, and the run that it was continued from."""
    world = communicator.world
    facts = {
        "ranks": world.size,
        "launcher": world.launcher,
        "backend": communicator.backend,
        "device": str(placement.device),
        "threads": placement.threads,
    }
    return facts | ({"continued_from": abandoned_run} if abandoned_run else {})


def _description(manifest: Manifest, transform: Transform, start: Start) -> State:
    """Return what checkpoints say of the run besides its position and settings, as plain values."""
    return {
        "geometry": manifest.geometry.to_dict(),
        "transform": transform.to_dict(),
        "manifest": manifest.to_dict(),
        "run_id": start.run_id,
        "uid": start.uid,
    }


def _in_words(
    config: RunConfig,
    communicator: Communicator,
    placement: Placement,
    manifest: Manifest,
    networks: Mapping[str, torch.nn.Module],
    loader: Loader,
    start: Start,
    state: TrainState,
) -> Iterator[str]:
    """Yield the first lines of a run: its ranks, data, networks and where it starts."""
    world = communicator.world
    started = f"launcher {world.launcher}, backend {communicator.backend}"
    yield f"{world.size} rank(s), {started}, {placement.reason}, {placement.device}, {config.train.precision}"
    yield from run_in_words(config, manifest, networks, world.size)
    if (batch := config.train.global_batch_size) > loader.samples:
        yield (
            f"warning: train.global_batch_size={batch} is larger than the {loader.samples} training showers: every "
            "step takes all of them, and no more; lower it, or give more data"
        )
    if state.step:
        yield f"continuing after step {state.step} of {config.checkpoint.dir}"
        if finished := state.why_finished(config.train):
            yield f"nothing is left to train: {finished}; raise it to go on"
    if start.abandoned_run:
        yield (
            f"a new run: {start.abandoned_run}, its tag continued_from, has gone beyond step {state.step}; later "
            f"checkpoints of {config.checkpoint.dir} lie in its folder abandoned/"
        )


@dataclass
class Outcome:
    """End of a run that no error ended."""

    stopped_by: str | None = None


@contextmanager
def recorded(tracker: Tracker | NullTracker) -> Iterator[Outcome]:
    """End the run's record as the run ends; a failing run is not held up by a store that does not answer."""
    outcome = Outcome()
    try:
        yield outcome
    except BaseException as error:
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", timeout_s=5.0)
        raise
    if outcome.stopped_by:  # the time that is left is short
        tracker.finish("KILLED", timeout_s=15.0)
    else:
        tracker.finish("FINISHED")


def require_record(config: RunConfig) -> None:
    """Check, on rank 0 and before anything is written, that the run can be recorded and its checkpoints kept.

    Raises:
        UserError: if the tracking store's address or the folder of checkpoints is at fault.
    """
    if config.tracking.uri != "none":
        checked_uri(config.tracking.uri)
    CheckpointFolder(config.checkpoint.dir).require_writable()


def with_known_steps(config: RunConfig, manifest: Manifest) -> RunConfig:
    """Return the settings with the ``train.max_steps`` that ``train.max_epochs`` of these showers are."""
    train = config.train
    if train.max_epochs is None:
        return config
    order = training_order(manifest, config.data, train.seed, train.global_batch_size)
    steps = max(1, round(train.max_epochs * order.steps_per_epoch))
    return replace(config, train=replace(train, max_steps=steps))


def require_enough_samples(config: RunConfig, ranks: int) -> None:
    """Check that every rank has something to do in every micro-batch.

    Raises:
        ConfigError: if there are more ranks than samples in a micro-batch.
    """
    batch, accumulation = config.train.global_batch_size, config.train.accumulation
    if batch // accumulation < ranks:
        raise ConfigError(
            f"train.global_batch_size={batch} with train.accumulation={accumulation}: {batch // accumulation} samples "
            f"a micro-batch are too few for {ranks} ranks; raise the batch size or start fewer ranks"
        )


def build_learner(
    config: RunConfig,
    manifest: Manifest,
    transform: Transform,
    communicator: Communicator,
    device: torch.device,
    saved: Checkpoint | None,
) -> Learner:
    """Build networks and optimizers in the same state on all ranks: that of the checkpoint, or fresh and calibrated."""
    torch.manual_seed(config.train.seed)
    model = build_model(config.model, manifest.geometry).to(device)
    if config.train.channels_last:
        keep_channels_last(model)
    if config.model.batch_norm == "sync":
        synchronise_batch_norm(model, communicator.all_reduce)
    objective = build_objective(config.objective, model, transform)
    ranges: dict[str, list[float]] = {}
    if saved is None:
        if communicator.world.rank == 0:
            statistics = training_statistics(manifest, config.data, model.calibration_numbers)
            ranges = condition_ranges(manifest, statistics.pop("conditions"))
            units = {"network_units": transform.forward(statistics["showers"])}
            objective.calibrate({**statistics, **units})
        fresh = communicator.broadcast_object((model.state_dict(), objective.state_dict(), ranges))
        model.load_state_dict(fresh[0])
        objective.load_state_dict(fresh[1])
        ranges = fresh[2]
    learner = Learner(config, model, objective, transform, communicator, ranges)
    if saved is not None:
        learner.load_state_dict(saved.to_dict())
    return learner


def keep_channels_last(model: torch.nn.Module) -> None:
    """Lay out the weights of 3-d convolutions channels last; those of all other layers stay as they are."""
    for parameter in model.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


def build_validator(
    config: RunConfig, manifest: Manifest, learner: Learner, transform: Transform, communicator: Communicator
) -> Validator | None:
    """Build the comparison of generated with held-out showers; None where no showers are held out."""
    if config.data.validation_fraction == 0:
        return None
    generator = TrainedGenerator(model=learner.model, transform=transform, geometry=manifest.geometry)
    return Validator(config, manifest, generator, communicator)


def open_loader(
    config: RunConfig, manifest: Manifest, communicator: Communicator, state: TrainState
) -> Loader:
    """Open this rank's share of the batches from the run's position on."""
    return training_loader(
        manifest,
        config.data,
        seed=config.train.seed,
        global_batch_size=config.train.global_batch_size,
        rank=communicator.world.rank,
        size=communicator.world.size,
        accumulation=config.train.accumulation,
        start=Position(epoch=state.epoch, samples_seen=state.samples_seen),
    )
