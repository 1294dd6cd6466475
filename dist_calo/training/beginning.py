"""The beginning of a job's start: the checkpoint that it goes on from, the run that it is, and its ledger."""

import json
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from dist_calo.comm.protocol import Communicator
from dist_calo.config import RunConfig
from dist_calo.data.ledger import Ledger, LedgerRun, claim_ledger, require_own, truncate_after
from dist_calo.data.loader import training_order
from dist_calo.data.manifest import Manifest, require_same_files
from dist_calo.documents import read_json
from dist_calo.errors import CheckpointError, DataError
from dist_calo.files import why_missing, write_text
from dist_calo.launching.slurm import batch_job, restarted
from dist_calo.training.checkpoint import Checkpoint, State, load_checkpoint
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.restore import require_parts, require_same_run

BEGINNING = "begun.json"
"""File that names the job that began in the folder last, where it began, and as ``uid`` the run that it is."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start of a run: its checkpoint, and the run that it is."""

    checkpoint: Checkpoint | None
    """Checkpoint to go on from; None to start anew."""
    uid: str
    """Identity of the run, known on rank 0."""
    run_id: str | None
    """Its MLflow run; None for a new one."""
    abandoned_run: str | None = None
    """MLflow run that has gone beyond this checkpoint, which this run leaves behind."""


def find_start(
    config: RunConfig, manifest: Manifest, communicator: Communicator, run_id: str | None
) -> Start:
    """Find where this run starts, the same on all ranks; ``run_id`` is that of a run that starts anew.

    Raises:
        UserError: as `find_state` does.
    """
    first = communicator.world.rank == 0
    found: Start | None = communicator.broadcast_object(find_state(config, manifest) if first else None)
    return found or Start(checkpoint=None, uid=run_uid(config, None) if first else "", run_id=run_id)


def find_state(config: RunConfig, manifest: Manifest) -> Start | None:
    """Find the checkpoint that this run continues from, on rank 0; None to start anew.

    ``checkpoint.resume`` says where a job begins; once it has, its later starts go on from the newest checkpoint.

    Raises:
        CheckpointError: if the folder holds checkpoints and none is to be continued, or the run is another one.
        DataError: if the files differ from those that the run was started with.
    """
    folder = CheckpointFolder(config.checkpoint.dir)
    steps = folder.steps()
    resume = "auto" if steps and has_begun(config) else config.checkpoint.resume
    state = _state_to_continue(config, folder, steps, resume)
    if state is None:
        return None
    require_parts(state, f"in {folder.folder}" if resume == "auto" else resume)
    saved = Checkpoint.from_dict(state)
    require_same_run(config, saved)
    try:
        require_same_files(saved.data, manifest, known="the checkpoint")
    except DataError as error:
        path = saved.config["data"]["path"]
        raise DataError(
            f"the run to continue (step {saved.step}) was started with other data: {error}; give its own, "
            f"data.path={path}, or train on these anew in another checkpoint.dir"
        ) from None
    uid = run_uid(config, saved)
    if config.data.ledger:
        require_own_ledger(config, uid, saved.step)
    if resume != "auto" and saved.run_id and goes_back(resume, saved.step):
        folder.require_writable()
        folder.abandon_run(saved.run_id)
    folder.set_aside_after(saved.step)
    if saved.run_id in folder.abandoned_runs:
        return Start(checkpoint=saved, uid=uid, run_id=None, abandoned_run=saved.run_id)
    return Start(checkpoint=saved, uid=uid, run_id=saved.run_id)


def _state_to_continue(
    config: RunConfig, folder: CheckpointFolder, steps: list[int], resume: str
) -> State | None:
    """Read the checkpoint that a setting names, in a folder with checkpoints of these steps."""
    match resume:
        case "no":
            if steps:
                raise CheckpointError(
                    f"checkpoint.dir={config.checkpoint.dir} holds checkpoints up to step {steps[-1]}: "
                    "continue with --checkpoint.resume=auto, or name another folder"
                )
            return None
        case "auto":
            return folder.newest()
        case path:
            if not Path(path).exists():
                raise CheckpointError(
                    f"checkpoint.resume={path}: {why_missing(path)}; give no, auto, or the name of a checkpoint"
                )
            state = load_checkpoint(path)
            if steps and Path(path).resolve().parent != folder.folder.resolve():
                raise CheckpointError(
                    f"checkpoint.dir={config.checkpoint.dir} holds checkpoints and checkpoint.resume={path} is not one "
                    "of them: name another folder"
                )
            return state


def read_beginning(folder: Path) -> dict[str, str]:
    """Return the last note of `note_beginning` in a checkpoint folder; empty if there is none.

    Raises:
        CheckpointError: if it is damaged.
    """
    remedy = "remove it: this start then begins where checkpoint.resume says"
    with suppress(FileNotFoundError):
        return read_json(folder / BEGINNING, dict[str, str], CheckpointError, remedy)
    return {}


def note_beginning(folder: Path, facts: dict[str, str]) -> None:
    """Keep in a checkpoint folder which job begins where, for its later starts."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / BEGINNING, json.dumps(facts))


def run_uid(config: RunConfig, saved: Checkpoint | None) -> str:
    """Return the identity of this run, on rank 0: made once, kept in its checkpoints and in their folder.

    A run that goes on from a checkpoint in another folder is the same run, unless it goes back behind later ones.
    """
    folder, resume = CheckpointFolder(config.checkpoint.dir), config.checkpoint.resume
    noted = read_beginning(folder.folder).get("uid") if resume == "auto" or has_begun(config) else None
    if saved is not None and not noted:
        branches = resume != "auto" and Path(resume).resolve().parent != folder.folder.resolve()
        noted = None if branches and goes_back(resume, saved.step) else saved.uid
    return noted or uuid.uuid4().hex[:12]


def begin(config: RunConfig, uid: str) -> None:
    """Note in the checkpoint folder, on rank 0, that this job has begun, and which run it is."""
    folder = Path(config.checkpoint.dir)
    told = {} if config.checkpoint.resume == "auto" else _beginning(config)
    before = read_beginning(folder)
    noted = {**before, **told, "uid": uid}
    if noted != before:
        note_beginning(folder, noted)


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
    noted = read_beginning(Path(config.checkpoint.dir)) if restarted() else {}
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
