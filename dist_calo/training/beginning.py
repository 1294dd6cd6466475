"""Beginning of a run: which run it is, whether its job has begun before, and its ledger."""

import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dist_calo.comm.protocol import Communicator
from dist_calo.config import RunConfig
from dist_calo.data.ledger import Ledger, LedgerRun, claim_ledger, require_own, truncate_after
from dist_calo.data.loader import training_order
from dist_calo.data.shards import Manifest
from dist_calo.errors import DataError
from dist_calo.launching.slurm import batch_job, restarted
from dist_calo.training.checkpoint import CheckpointFolder


def run_uid(config: RunConfig, saved: Mapping[str, Any] | None) -> str:
    """Return on rank 0 the name that no other run has: made once, kept in its checkpoints and in their folder.

    A run that goes on from a checkpoint in another folder is the same run, unless it goes back behind later ones.
    """
    folder, resume = CheckpointFolder(config.checkpoint.dir), config.checkpoint.resume
    noted = folder.beginning.get("uid") if resume == "auto" or has_begun(config) else None
    if saved is not None and not noted:
        branches = resume != "auto" and Path(resume).resolve().parent != folder.folder.resolve()
        noted = None if branches and goes_back(resume, saved["step"]) else saved.get("uid")
    return noted or uuid.uuid4().hex[:12]


def begin(config: RunConfig, uid: str) -> None:
    """On rank 0, note in the checkpoint folder that this job has begun, and which run it is."""
    folder = CheckpointFolder(config.checkpoint.dir)
    told = {} if config.checkpoint.resume == "auto" else _beginning(config)
    noted = {**folder.beginning, **told, "uid": uid}
    if noted != folder.beginning:
        folder.note_beginning(noted)


def _writer(config: RunConfig, uid: str) -> LedgerRun:
    return LedgerRun(uid=uid, checkpoints=str(Path(config.checkpoint.dir).absolute()))


def require_own_ledger(config: RunConfig, uid: str, step: int) -> None:
    """Raise as `require_own`, also where the ledger holds steps that checkpoints elsewhere have."""
    ledger, writer = str(config.data.ledger), _writer(config, uid)
    before = require_own(ledger, writer, step).run
    if before and before.checkpoints != writer.checkpoints:
        last = max(CheckpointFolder(before.checkpoints).steps(), default=0)
        if last > step:
            raise DataError(
                f"data.ledger={ledger} is that of {before.described} up to step {last}, and this is {writer.described} "
                f"from step {step} on: name another folder"
            )


def has_begun(config: RunConfig) -> bool:
    """Tell if an earlier start of this job began where ``checkpoint.resume`` says: what came after is the job's own.

    A start that was preempted while it staged files or imported modules has not.
    """
    noted = CheckpointFolder(config.checkpoint.dir).beginning if restarted() else {}
    return bool(noted) and noted.items() >= _beginning(config).items()


def _beginning(config: RunConfig) -> dict[str, str]:
    return {"job": batch_job(), "resume": config.checkpoint.resume}


def goes_back(path: str, step: int) -> bool:
    """Tell if later checkpoints lie beside the one of this step."""
    return any(later > step for later in CheckpointFolder(Path(path).parent).steps())


def open_ledger(
    config: RunConfig, communicator: Communicator, uid: str, step: int, manifest: Manifest
) -> Ledger | None:
    """Open this rank's ledger, proven whole up to a step and cut back to it; None if none is asked for.

    The run's ``uid`` is known on rank 0.

    Raises:
        DataError: if the ledger is another run's, a file is damaged, or cannot be written.
    """
    if config.data.ledger is None:
        return None
    world, kept = communicator.world, None
    if world.rank == 0:
        require_own_ledger(config, uid, step)
        begin(config, uid)  # first, so that a run killed now knows its ledger again
        kept = claim_ledger(config.data.ledger, _writer(config, uid), step, world.size)
    kept, train = communicator.broadcast_object(kept), config.train
    order = cache(lambda: training_order(manifest, config.data, train.seed, train.global_batch_size))

    def ids_of(step: int, rank: int, ranks: int) -> tuple[int, np.ndarray]:
        epoch, index = divmod(step - 1, order().steps_per_epoch)
        return epoch, order().share(epoch, index, rank, ranks, train.accumulation).ids

    each = {"rank": world.rank, "ranks": world.size, "rows": manifest.rows}
    truncate_after(config.data.ledger, step, kept, **each, ids_of=ids_of)
    communicator.barrier()  # before any rank begins, or writes to a record that it has begun
    return Ledger(config.data.ledger, world.rank)
