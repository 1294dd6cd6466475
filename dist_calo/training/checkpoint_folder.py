"""The folder of a run's checkpoints, which survive a kill at any instant.

A file is written under a temporary name in the same folder, read back, flushed to disk and renamed, so a file under its
final name is complete. A JSON file of the same name says in words what is inside.
"""

import errno
import io
import itertools
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dist_calo.documents import read_json
from dist_calo.errors import CheckpointError, SpoiltCheckpointError, remedy
from dist_calo.files import write_text, write_whole
from dist_calo.leases.lease import Lease
from dist_calo.training.checkpoint import STEP_FILE, State, checkpoint_bytes, load_checkpoint

BEST = "best.pt"
ABANDONED = "abandoned"
"""Subfolder of what a run has left behind that went back to an earlier step."""
ABANDONED_AFTER_S = 3600.0
"""Age at which a half-written file is that of a killed process, in seconds; a younger one may still be written to."""


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: where they live; made when the first one is written.
        keep: newest checkpoints kept; the best one is kept besides.
    """

    def __init__(self, folder: str | Path, keep: int = 3) -> None:
        self.folder = Path(folder)
        self._keep = keep

    def steps(self) -> list[int]:
        """Return steps of the complete checkpoints, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m.group(1)) for m in map(STEP_FILE.fullmatch, os.listdir(self.folder)) if m)

    def path(self, step: int) -> Path:
        """Return the file of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}.pt"

    def require_writable(self) -> None:
        """Make the folder and check that files can be written, before hours of training depend on it.

        What a killed process has left half written is removed when it is old: the writer may be slow, not dead.

        Raises:
            CheckpointError: if not.
        """
        probe = self.folder / f".probe.{socket.gethostname()}.{os.getpid()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"probe")
            now = probe.stat().st_mtime  # in the file server's time
            for left in self.folder.glob(".*.tmp"):
                with suppress(FileNotFoundError):
                    if now - left.stat().st_mtime > ABANDONED_AFTER_S:
                        left.unlink()
        except OSError as error:
            raise CheckpointError(
                f"checkpoint.dir={self.folder} cannot be written ({error.strerror}): {remedy(error)}"
            ) from error
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)

    @contextmanager
    def written_alone(self) -> Iterator[None]:
        """Keep other jobs out of the folder, where each would move or follow the checkpoints of the other.

        Raises:
            CheckpointError: if another job writes there, or the folder cannot be written.
        """
        is_new = not self.folder.exists()
        self.require_writable()
        lock = Lease(self.folder / "lock")
        try:
            if not lock.wait():
                raise CheckpointError(
                    f"checkpoint.dir={self.folder}: another job trains there ({self.folder}/lock{lock.held_by}); wait "
                    "until it has ended, or name another folder"
                )
        except OSError:
            if is_new:
                with suppress(OSError):
                    self.folder.rmdir()
            raise

        try:
            with lock.kept(remove=True):
                yield
        finally:
            if is_new:
                with suppress(OSError):  # it is kept unless the run was refused before it saved anything
                    self.folder.rmdir()

    def save(self, state: State, summary: State, *, best: bool = False) -> Path:
        """Write a checkpoint and remove those that are no longer kept.

        Args:
            state: nested dict of tensors, numbers and strings with ``step``.
            summary: what the JSON file beside it says.
            best: whether this is the best checkpoint so far, kept as ``best.pt``.

        Raises:
            CheckpointError: if the file system refuses, or a number is not finite.
        """
        path = self.path(state["step"])
        text = json.dumps({"step": state["step"], **summary}, indent=2, sort_keys=True).encode()
        content = checkpoint_bytes(state)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._put(path.with_suffix(".json"), text, best)
            self._put(path, content, best)
        except OSError as error:
            with suppress(OSError):
                if not path.exists():
                    path.with_suffix(".json").unlink(missing_ok=True)
            stays = "there is none before it"
            if steps := self.steps():
                stays = (
                    "the older ones are untouched: go on with checkpoint.resume=auto, or in another checkpoint.dir "
                    f"with checkpoint.resume={self.path(steps[-1])}"
                )
            raise CheckpointError(
                f"checkpoint {path} cannot be written ({error.strerror}): {remedy(error)}; {stays}"
            ) from error
        self._forget_old(state["step"])
        return path

    def _put(self, path: Path, content: bytes, best: bool) -> None:
        with write_whole(path) as temporary:
            _write(temporary, content)
            if best:
                # First the best, then the step: a kill between the two leaves a best one that the resumed run makes
                # again.
                with write_whole((self.folder / BEST).with_suffix(path.suffix)) as copy:
                    _write(copy, content)

    def _forget_old(self, current: int) -> None:
        """Remove what is no longer kept, now that the current one is known to be good."""
        for step in [step for step in self.steps() if step != current][: -self._keep + 1 or None]:
            try:
                self.path(step).unlink(missing_ok=True)
                self.path(step).with_suffix(".json").unlink(missing_ok=True)
            except OSError as error:
                print(
                    f"dist_calo: {self.path(step)} is kept: it cannot be removed ({error})", file=sys.stderr
                )

    def best(self) -> tuple[Path, State] | None:
        """Return file and content of the best checkpoint that is sound, else of the newest; None if there is none.

        Raises:
            CheckpointError: if there are checkpoints but none is sound, or one that may be cannot be read.
        """
        best = self.folder / BEST
        return self._first_sound(*([best] if best.exists() else []))

    def set_aside_after(self, step: int) -> None:
        """Move the checkpoints of later steps into ``abandoned/``: the run goes on from this step without them.

        Those of the same steps that were moved there before keep their names, and the later ones get a number.
        """
        later = [self.path(number) for number in self.steps() if number > step]
        best = self.folder / BEST
        try:
            if best.exists() and load_checkpoint(best)["step"] > step:
                later.append(best)
        except SpoiltCheckpointError as error:
            print(f"dist_calo: {error}; it is moved to {self.folder / ABANDONED}", file=sys.stderr)
            later.append(best)
        for path in [*later, *(path.with_suffix(".json") for path in later)]:
            if path.exists():
                (self.folder / ABANDONED).mkdir(exist_ok=True)
                os.replace(path, self._unused(path.name))

    def _unused(self, name: str) -> Path:
        """Return a name in ``abandoned/`` that nothing has."""
        first = self.folder / ABANDONED / name
        numbered = (first.with_suffix(f".{number}{first.suffix}") for number in itertools.count(2))
        return next(path for path in itertools.chain([first], numbered) if not path.exists())

    @property
    def abandoned_runs(self) -> list[str]:
        """MLflow runs that end with steps which were abandoned: what goes on from their steps is another run."""
        remedy = "remove it: the next start then goes on under the run that the checkpoint names"
        with suppress(FileNotFoundError):
            return read_json(self.folder / ABANDONED / "runs.json", list[str], CheckpointError, remedy)
        return []

    def abandon_run(self, run_id: str) -> None:
        """Add a run to ``abandoned_runs``, which hold for all later starts in this folder."""
        runs = sorted({*self.abandoned_runs, run_id})
        (self.folder / ABANDONED).mkdir(exist_ok=True)
        write_text(self.folder / ABANDONED / "runs.json", json.dumps(runs))

    def newest(self) -> State | None:
        """Return the newest checkpoint that is sound, or None if the folder holds none.

        Raises:
            CheckpointError: if there are checkpoints but none is sound, or one that may be cannot be read.
        """
        found = self._first_sound()
        return found[1] if found else None

    def _first_sound(self, *preferred: Path) -> tuple[Path, State] | None:
        """Return the first of these and of all steps, newest first, that is sound."""
        paths = [*preferred, *map(self.path, reversed(self.steps()))]
        for path in paths:
            try:
                return path, load_checkpoint(path)
            except SpoiltCheckpointError as error:
                if path != paths[-1]:
                    print(f"dist_calo: {error}; trying the one before it", file=sys.stderr)
        if paths:
            raise SpoiltCheckpointError(
                f"{self.folder}: none of its {len(paths)} checkpoints is sound; restore one or start elsewhere"
            )
        return None


def _write(path: Path, content: bytes) -> None:
    """Write a file and see that it reads back, before anything older is given up for it."""
    with open(path, "wb") as file:
        shutil.copyfileobj(io.BytesIO(content), file)
    if path.read_bytes() != content:
        raise OSError(errno.EIO, "it reads back otherwise than it was written")


def find_checkpoint(path: str | Path) -> State:
    """Read a checkpoint file, or of a folder the best one if there is one, else the newest that can be read.

    Raises:
        CheckpointError: if there is nothing to read.
    """
    path = Path(path)
    if path.is_file() or not path.exists():
        return load_checkpoint(path)
    found = CheckpointFolder(path).best()
    if found is None:
        raise CheckpointError(
            f"checkpoint folder {path} holds no checkpoint (files like step-00000500.pt); train first or name another"
        )
    return found[1]
