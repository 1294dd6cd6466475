"""Putting a run together on one rank: data, networks, record, and what a checkpoint says about where to go on."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dist_calo.comm import local_device
from dist_calo.comm.protocol import Communicator
from dist_calo.comm.threads import set_threads
from dist_calo.config import RunConfig, flattened
from dist_calo.data.loader import Loader, training_loader
from dist_calo.data.order import Position
from dist_calo.data.shards import Manifest, require_same_files
from dist_calo.errors import CheckpointError, ConfigError, DataError
from dist_calo.launching.environment import most_ranks
from dist_calo.models import build_model
from dist_calo.models.nn.batch_norm import synchronise_batch_norm
from dist_calo.objectives import build_objective
from dist_calo.tracking.provenance import describe_run
from dist_calo.tracking.spool import SPOOL_PREFIX
from dist_calo.tracking.store_uri import checked_uri
from dist_calo.tracking.tracker import NullTracker, Tracker, make_tracker
from dist_calo.training.beginning import begin, goes_back, has_begun, open_ledger, require_own_ledger, run_uid
from dist_calo.training.checkpoint import CheckpointFolder, load_checkpoint
from dist_calo.training.dataset import (
    as_kept,
    condition_ranges,
    identity,
    shared_manifest,
    training_statistics,
)
from dist_calo.training.learner import Learner
from dist_calo.training.progress import Progress
from dist_calo.training.restore import TrainedGenerator, require_parts, require_same_run
from dist_calo.training.trainer import Trainer, TrainState
from dist_calo.training.validation import Validator
from dist_calo.transforms import Transform


@contextmanager
def build_run(
    config: RunConfig,
    communicator: Communicator,
    *,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Iterator[Trainer]:
    """Everything that a rank needs to train, closed again in order; the record ends as the run did.

    Args:
        config: the run's settings.
        communicator: how the ranks talk.
        run_id: the run in the tracking store that goes on where no checkpoint names one; None for a new run.
        tags: facts for the run's record, besides those that are found here.

    Raises:
        UserError: if the data, the configuration or the checkpoint to continue from are at fault.
    """
    world = communicator.world
    require_enough_samples(config, most_ranks(world, os.environ))
    threads, reason = set_threads(communicator, config.comm.threads)
    device = torch.device(local_device(config.train.device, world))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    manifest = shared_manifest(config.data, communicator)
    data, kept = as_kept(config.data, manifest)
    kept_config = replace(config, data=data)
    saved = communicator.broadcast_object(find_state(config, manifest) if world.rank == 0 else None)
    state = TrainState(**{name: saved[name] for name in vars(TrainState())} if saved else {})
    resumed, run_id = saved is not None, saved["run_id"] if saved else run_id
    abandoned = saved.get("abandoned_run") if saved else None
    transform = Transform.from_config(config.transform)
    learner = build_learner(config, manifest, transform, communicator, device, saved)
    uid = saved["uid"] if saved else ""
    del saved  # weights, optimizers and averages, which the learner has now
    if world.rank == 0:
        if config.tracking.uri != "none":
            checked_uri(config.tracking.uri)  # before anything is written
        CheckpointFolder(config.checkpoint.dir).require_writable()
        uid = uid or run_uid(config, None)
    with ExitStack() as stack:
        ledger = open_ledger(config, communicator, uid, state.step, manifest)
        if ledger:
            stack.callback(ledger.close)
        tracker = make_tracker(config.tracking, run_id, rank=world.rank, folder=config.checkpoint.dir)
        outcome = stack.enter_context(recorded(tracker))
        if world.rank == 0:
            facts = {
                "ranks": world.size,
                "launcher": world.launcher,
                "backend": communicator.backend,
                "device": str(device),
                "threads": threads,
            }
            if abandoned:
                facts["continued_from"] = abandoned
            parameters = dict(flattened(kept_config.to_dict()))
            found = {**describe_run(), **facts, **(tags or {})}
            tracker.start(parameters, found, identity(kept, data))
            begin(config, uid)
        loader = stack.enter_context(open_loader(config, manifest, communicator, state))
        progress = Progress(config.train.max_steps, state.step, show=world.rank == 0, launcher=world.launcher)
        stack.callback(progress.close)
        started = f"launcher {world.launcher}, backend {communicator.backend}"
        progress.say(f"{world.size} rank(s), {started}, {reason}, {device}")
        progress.say(f"{manifest.rows} showers in {len(manifest.files)} file(s), {config.data.described}")
        if resumed:
            progress.say(f"continuing after step {state.step} of {config.checkpoint.dir}")
        if config.tracking.uri != "none" and (name := tracker.named_run_id()):
            where = "not sent yet to" if name.startswith(SPOOL_PREFIX) else "in"
            progress.say(f"MLflow run {name} {where} {config.tracking.uri}")
            if abandoned:
                progress.say(
                    f"a new run: {abandoned}, its tag continued_from, has gone beyond step {state.step}; later "
                    f"checkpoints of {config.checkpoint.dir} lie in its folder abandoned/"
                )
        trainer = Trainer(
            kept_config,
            description={
                "geometry": manifest.geometry.to_dict(),
                "transform": transform.to_dict(),
                "manifest": kept.to_dict(),
                "run_id": run_id,
                "uid": uid,
            },
            learner=learner,
            loader=loader,
            validator=build_validator(config, manifest, learner, transform, communicator),
            communicator=communicator,
            tracker=tracker,
            ledger=ledger,
            progress=progress,
            state=state,
        )
        yield trainer
        outcome.stopped_by = trainer.stopped_by


@dataclass
class Outcome:
    """How a run ended, if not by an error."""

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


def find_state(config: RunConfig, manifest: Manifest) -> dict[str, Any] | None:
    """The checkpoint that this run continues from, on rank 0; None to start anew.

    ``checkpoint.resume`` says where a job begins; once it has, its later starts go on from the newest checkpoint.
    Where the run goes back behind steps that its MLflow run has, that run is ``abandoned_run`` and ``run_id`` is None.

    Raises:
        CheckpointError: if the folder holds checkpoints and none is to be continued, or the run is another one.
        DataError: if the files differ from those that the run was started with.
    """
    folder = CheckpointFolder(config.checkpoint.dir)
    steps = folder.steps()
    resume = "auto" if steps and has_begun(config) else config.checkpoint.resume
    match resume:
        case "no":
            if steps:
                raise CheckpointError(
                    f"checkpoint.dir={config.checkpoint.dir} holds checkpoints up to step {steps[-1]}: "
                    "continue with --checkpoint.resume=auto, or name another folder"
                )
            return None
        case "auto":
            saved = folder.newest()
        case path:
            saved = load_checkpoint(path)
            if steps and Path(path).resolve().parent != folder.folder.resolve():
                raise CheckpointError(
                    f"checkpoint.dir={config.checkpoint.dir} holds checkpoints and checkpoint.resume={path} is not one "
                    "of them: name another folder"
                )
    if saved is not None:
        require_parts(saved, f"in {folder.folder}" if resume == "auto" else resume)
        require_same_run(config, saved)
        try:
            require_same_files(Manifest.from_dict(saved["manifest"]), manifest)
        except DataError as error:
            raise DataError(
                f"the run to continue (step {saved['step']}) was started with other data: {error}"
            ) from None
        saved["uid"] = run_uid(config, saved)
        if config.data.ledger:
            require_own_ledger(config, saved["uid"], saved["step"])
        if resume != "auto" and saved["run_id"] and goes_back(resume, saved["step"]):
            folder.require_writable()
            folder.abandon_run(saved["run_id"])
        folder.set_aside_after(saved["step"])
        if saved["run_id"] in folder.abandoned_runs:
            saved["abandoned_run"], saved["run_id"] = saved["run_id"], None
    return saved


def build_learner(
    config: RunConfig,
    manifest: Manifest,
    transform: Transform,
    communicator: Communicator,
    device: torch.device,
    saved: Mapping[str, Any] | None,
) -> Learner:
    """Networks and optimizers in the same state on all ranks: that of the checkpoint, or fresh and calibrated."""
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
            statistics = training_statistics(manifest, config.data)
            ranges = condition_ranges(manifest, statistics.pop("conditions"))
            units = {"network_units": transform.forward(statistics["showers"])}
            objective.calibrate({**statistics, **units})
        fresh = communicator.broadcast_object((model.state_dict(), objective.state_dict(), ranges))
        model.load_state_dict(fresh[0])
        objective.load_state_dict(fresh[1])
        ranges = fresh[2]
    learner = Learner(config, model, objective, transform, communicator, ranges)
    if saved is not None:
        learner.load_state_dict(saved)
    return learner


def keep_channels_last(model: torch.nn.Module) -> None:
    """Lay out the weights of 3-d convolutions channels last; those of all other layers stay as they are."""
    for parameter in model.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


def build_validator(
    config: RunConfig, manifest: Manifest, learner: Learner, transform: Transform, communicator: Communicator
) -> Validator | None:
    """What compares generated with held-out showers; None where no showers are held out."""
    if config.data.validation_fraction == 0:
        return None
    generator = TrainedGenerator(model=learner.model, transform=transform, geometry=manifest.geometry)
    return Validator(config, manifest, generator, communicator)


def open_loader(
    config: RunConfig, manifest: Manifest, communicator: Communicator, state: TrainState
) -> Loader:
    """This rank's share of the batches from the run's position on."""
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
