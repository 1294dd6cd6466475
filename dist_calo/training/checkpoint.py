"""Checkpoints that survive a kill at any instant.

A checkpoint is one file ``step-00000500.pt``: a plain nested dict of tensors, numbers and strings, sealed with a
checksum (`dist_calo.files.seal_of`; outsiders' ``torch.load`` passes over it). It is written under a temporary name in
the same folder, read back, flushed to disk and renamed, so a file under its final name is complete. A JSON file of the
same name says in words what is inside. Loading never runs code (``weights_only=True``). What is not finite is neither
saved nor loaded.

No state of random generators is stored: every draw is a function of the position in the run (`dist_calo.randomness`).
"""

import errno
import io
import itertools
import json
import math
import os
import pickle
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from dist_calo.errors import CheckpointError, SpoiltCheckpointError, remedy
from dist_calo.files import is_sound, open_ordinary, read_json, seal_of, why_missing, write_whole
from dist_calo.leases.lease import Lease
from dist_calo.masking import hidden

FORMAT_VERSION = 2
"""What is written; version 1 had no checksum and is still read."""
NUMBERS = ("model", "optimizers", "average", "objective", "condition_ranges", "transform")
"""Parts of a checkpoint whose numbers must be finite."""
BEST = "best.pt"
ABANDONED = "abandoned"
"""Subfolder of what a run has left behind that went back to an earlier step."""
BEGINNING = "begun.json"
"""Which job has begun in the folder last, and where, as far as it was told where; and ``uid``, which run this is."""
ABANDONED_AFTER_S = 3600.0
"""Age at which a half-written file is that of a killed process, in seconds; a younger one may still be written to."""
_NAME = re.compile(r"step-(\d{8})\.pt")


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
        """Steps of the complete checkpoints, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m.group(1)) for m in map(_NAME.fullmatch, os.listdir(self.folder)) if m)

    def path(self, step: int) -> Path:
        """File of the checkpoint of a step."""
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

    def save(self, state: Mapping[str, Any], summary: Mapping[str, Any], *, best: bool = False) -> Path:
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

    def best(self) -> tuple[Path, dict[str, Any]] | None:
        """File and content of the best checkpoint that is sound, else of the newest; None if there is none.

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
        """A name in ``abandoned/`` that nothing has."""
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
        with write_whole(self.folder / ABANDONED / "runs.json") as temporary:
            temporary.write_text(json.dumps(runs))

    @property
    def beginning(self) -> dict[str, str]:
        """What ``note_beginning`` was given last; empty if nothing."""
        remedy = "remove it: this start then begins where checkpoint.resume says"
        with suppress(FileNotFoundError):
            return read_json(self.folder / BEGINNING, dict[str, str], CheckpointError, remedy)
        return {}

    def note_beginning(self, facts: Mapping[str, str]) -> None:
        """Keep which job begins where, for its later starts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with write_whole(self.folder / BEGINNING) as temporary:
            temporary.write_text(json.dumps(dict(facts)))

    def newest(self) -> dict[str, Any] | None:
        """The newest checkpoint that is sound, or None if the folder holds none.

        Raises:
            CheckpointError: if there are checkpoints but none is sound, or one that may be cannot be read.
        """
        found = self._first_sound()
        return found[1] if found else None

    def _first_sound(self, *preferred: Path) -> tuple[Path, dict[str, Any]] | None:
        """The first of these and of all steps, newest first, that is sound."""
        paths = [*preferred, *map(self.path, reversed(self.steps()))]
        for path in paths:
            try:
                return path, load_checkpoint(path)
            except SpoiltCheckpointError as error:
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


def checkpoint_bytes(state: Mapping[str, Any]) -> bytes:
    """A checkpoint file's content.

    Raises:
        CheckpointError: if a number is not finite.
    """
    require_finite(state, "not saved")
    content = io.BytesIO()
    torch.save({**state, "format": FORMAT_VERSION}, content)
    content.write(seal_of(content.getbuffer()))
    return content.getvalue()


def not_finite(state: Mapping[str, Any]) -> str | None:
    """Dotted name of the first number that training has made and that is not finite; None if all are."""
    return next(_not_finite({name: state[name] for name in NUMBERS if name in state}), None)


def _not_finite(value: Any, name: str = "") -> Iterator[str]:
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, torch.Tensor):
        # A finite sum, which takes a tenth of the time, has finite parts alone; another one may have overflowed.
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all():
            yield name
    elif isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    elif isinstance(value, float) and not math.isfinite(value):
        yield name
    for key, part in parts:
        yield from _not_finite(part, f"{name}.{key}".lstrip("."))


def require_finite(state: Mapping[str, Any], what: str) -> None:
    """Check all that training has made; NaN would not show in the cells: what is not above 0 has no energy.

    Raises:
        SpoiltCheckpointError: if a number is not finite; it begins with `what`.
    """
    if (name := not_finite(state)) is not None:
        raise SpoiltCheckpointError(
            f"{what}: the checkpoint of step {state.get('step')} has weights that are not finite ({name}); training "
            "has diverged: take an earlier one"
        )


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU.

    Raises:
        SpoiltCheckpointError: if the file is damaged, of another step than its name says, or a number is not finite.
        CheckpointError: if it is missing, may not be read, or is of another format version.
    """
    try:
        with open_ordinary(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path}: {why_missing(path)}") from None
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({error.strerror}): make it readable, or name another one"
        ) from error
    sound = is_sound(content)
    if sound is False:
        reason = "it is empty" if not content else "its content is not what was written"
        raise SpoiltCheckpointError(f"checkpoint {path} is damaged ({reason}), or no checkpoint of dist_calo")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"checkpoint {path}: no checkpoint of dist_calo, which hold no code") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # What is sealed is whole, and perhaps of a newer PyTorch.
        kind = CheckpointError if sound else SpoiltCheckpointError
        raise kind(f"checkpoint {path} cannot be read ({reason})") from error
    version = state.get("format") if isinstance(state, dict) else None
    if not isinstance(version, int):
        raise CheckpointError(
            f"checkpoint {path}: no checkpoint of dist_calo, which say their format; name another"
        )
    if not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path} has format {version}, and this version reads formats 1 to {FORMAT_VERSION}: use the "
            "version of dist_calo that wrote it, or name another one"
        )
    named = _NAME.fullmatch(Path(path).name)
    if named and int(named[1]) != state.get("step"):
        raise SpoiltCheckpointError(
            f"checkpoint {path} holds step {state.get('step')}: give it back its own name, or take another one"
        )
    require_finite(state, str(path))
    if sound is None:
        print(
            f"dist_calo: checkpoint {path} has no checksum (an earlier version wrote it, or another program): small "
            "damage may go unnoticed",
            file=sys.stderr,
        )
    config = state.get("config")
    tracking = config.get("tracking") if isinstance(config, dict) else None
    if isinstance(tracking, dict) and "uri" in tracking:
        tracking["uri"] = hidden(tracking["uri"])  # of earlier versions
    return state


def find_checkpoint(path: str | Path) -> dict[str, Any]:
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
