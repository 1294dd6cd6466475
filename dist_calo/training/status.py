"""State of a run, from the small JSON files beside its checkpoints and from the holder of their lock."""

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dist_calo.config import CheckpointConfig, RunConfig, TrackingConfig
from dist_calo.documents import read_json
from dist_calo.errors import CheckpointError, SpoiltCheckpointError
from dist_calo.launching import slurm
from dist_calo.leases.lease import Lease
from dist_calo.physics.metrics.metric_definitions import SCORE_DEFINITION
from dist_calo.training.schedule import why_finished


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Content of the JSON file beside a checkpoint."""

    step: int
    epoch: int
    ranks: int
    best_score: float | None
    best_step: int
    best_error: float | None = None
    best_floor: float | None = None
    score_definition: int = 1
    validations_since_best: int = 0
    train_seconds: float = 0.0
    run_id: str | None
    config: RunConfig


def default_folders() -> list[Path]:
    """Return the folders where training puts checkpoints by default, alone and as a job, the newest last.

    Raises:
        CheckpointError: if no training has saved anything there, and none is at work.
    """
    times = {}
    for folder in (Path(CheckpointConfig.dir), *Path("runs").glob("*")):
        newest = max(folder.glob("step-*.json"), default=None)
        if newest is not None or _writer(folder):
            times[folder] = newest.stat().st_mtime if newest else time.time()
    if not times:
        raise CheckpointError(
            f"no checkpoints in {CheckpointConfig.dir} or runs/* of this folder: name the checkpoint.dir of a run"
        )
    return sorted(times, key=times.__getitem__)


def describe(folder: Path, job: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield names and texts of what is known of a run.

    Args:
        folder: of its checkpoints.
        job: what the queue says of its job, as `queued` returns it.

    Raises:
        CheckpointError: if the folder holds no checkpoint, no job of its number is in the queue, and none trains there;
            or the JSON file of the newest one is damaged.
    """
    writer = _writer(folder)
    if job:
        yield "job", job
    if writer:
        yield "training", writer
    goes_on = job or writer
    newest = max(folder.glob("step-*.json"), default=None)
    if newest is None:
        if not folder.is_dir() and not job:
            raise CheckpointError(
                f"{folder} does not exist: name the checkpoint.dir of a run, such as runs/JOB"
            )
        if not goes_on:
            raise CheckpointError(
                f"{folder} holds no checkpoint: its run has not saved anything, or it is not a run's"
            )
        yield "checkpoint", "none yet"
        return
    facts = read_json(newest, Facts, CheckpointError, "remove it, training does not need it")
    config, step, steps = facts.config, facts.step, facts.config.train.max_steps
    yield "run", f"{config.model.name} with {config.objective.name} on {config.data.described}"
    batch = config.train.global_batch_size
    yield "steps", f"{step} of {steps} at the last checkpoint, epoch {facts.epoch}, global batch {batch}"
    if facts.best_score is not None:
        yield "best", f"step {facts.best_step}, score {facts.best_score:.4g}{_about_score(facts)}"
    saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(newest.stat().st_mtime))
    file = newest.with_suffix(".pt")
    yield "checkpoint", f"{file} of {saved}, written by {facts.ranks} rank(s){_unsound(file)}"
    yield "MLflow", _tracking(facts.run_id, config.tracking)
    finished = why_finished(
        config.train,
        step,
        validations_since_best=facts.validations_since_best,
        train_seconds=facts.train_seconds,
    )
    if finished:
        if step < steps:
            yield "ended", finished
        yield (
            "finished",
            f"dist-calo generate --checkpoint {shlex.quote(str(folder))} --out FILE makes showers with it",
        )
    elif not goes_on:
        settings = f"--checkpoint.dir={shlex.quote(str(folder))} --checkpoint.resume=auto"
        yield "unfinished", f"if it runs nowhere: the command that started it goes on with {settings}"


def _about_score(facts: Facts) -> str:
    if facts.score_definition != SCORE_DEFINITION:
        return " as an earlier version defined it"
    error = "" if facts.best_error is None else f" +- {facts.best_error:.2g}"
    return error + ("" if facts.best_floor is None else f", floor {facts.best_floor:.3g}")


def _unsound(checkpoint: Path) -> str:
    """Return the fault of a checkpoint file, to be read after its name; empty if it has none."""
    older = any(path < checkpoint for path in checkpoint.parent.glob("step-*.pt"))
    before = "checkpoint.resume=auto takes the one before it" if older else "restore it, or start anew"
    from dist_calo.training.checkpoint import load_checkpoint

    try:
        load_checkpoint(checkpoint)
    except SpoiltCheckpointError as error:
        return f", which is DAMAGED: {error}; {before}"
    except CheckpointError as error:
        return f", which cannot be read: {error}" + ("" if checkpoint.exists() else f"; {before}")
    return ""


def queued(names: Sequence[str]) -> dict[str, str]:
    """Ask SLURM's queue once for the jobs whose numbers folders bear, seen from outside of those jobs."""
    numbers = [name for name in names if name.isdecimal() and os.environ.get("SLURM_JOB_ID") != name]
    states = slurm.queue(numbers) if numbers else {}
    return {number: f"{number} is {state}" for number, state in states.items()}


def _writer(folder: Path) -> str | None:
    """Return who holds the lock beside the checkpoints; None if nobody does, or it cannot be read."""
    lock = Lease(folder / "lock")
    with suppress(OSError):
        return f"now: {folder / 'lock'}{lock.held_by}" if lock.is_busy() else None
    return None


def _tracking(run_id: str | None, tracking: TrackingConfig) -> str:
    if tracking.uri == "none":
        return "switched off"
    from dist_calo.tracking.spool import SPOOL_PREFIX

    spool = Path(tracking.spool)
    if run_id is None or run_id.startswith(SPOOL_PREFIX):
        if run_id is None or not spool.is_dir() or (spool / run_id).is_dir():
            return f"not sent to {tracking.uri} yet: dist-calo runs sync --spool {shlex.quote(str(spool))}"
        return (
            f"sent to {tracking.uri} after this checkpoint: the run with the tag dist_calo.spool_id={run_id}"
        )
    return f"run {run_id} in {tracking.uri}"
