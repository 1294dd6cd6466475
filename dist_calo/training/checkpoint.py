"""Checkpoints that survive a kill at any instant.

A checkpoint is one file ``step-00000500.pt``: a plain nested dict of tensors, numbers and strings. It is written under
a temporary name in the same folder, flushed to disk and renamed, so a file under its final name is complete. A JSON
file of the same name says in words what is inside. Loading never runs code (``weights_only=True``).

No state of random generators is stored: every draw is a function of the position in the run (`dist_calo.randomness`).
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dist_calo.errors import CheckpointError

FORMAT_VERSION = 1
BEST = "best.pt"
_NAME = re.compile(r"step-(\d{8})\.pt")


def _replace(path: Path, write: Any) -> None:
    """Write a file so that the final name holds either the old content or the whole new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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

    def save(self, state: Mapping[str, Any], summary: Mapping[str, Any], *, best: bool = False) -> Path:
        """Write a checkpoint and remove those that are no longer kept.

        Args:
            state: nested dict of tensors, numbers and strings with ``step``.
            summary: what the JSON file beside it says.
            best: whether this is the best checkpoint so far, kept as ``best.pt``.

        Raises:
            CheckpointError: if the file system refuses.
        """
        path = self.path(state["step"])
        content = {"format": FORMAT_VERSION, **state}
        text = json.dumps({"file": path.name, **summary}, indent=2, sort_keys=True).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for target in [path, self.folder / BEST] if best else [path]:
                _replace(target.with_suffix(".json"), lambda file: file.write(text))
                _replace(target, lambda file: torch.save(content, file))
            self._forget_old()
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {path} cannot be written ({error}); the older ones are untouched: free some space or set "
                "checkpoint.dir to another file system, then continue with checkpoint.resume=auto"
            ) from error
        return path

    def _forget_old(self) -> None:
        for step in self.steps()[: -self._keep]:
            self.path(step).unlink(missing_ok=True)
            self.path(step).with_suffix(".json").unlink(missing_ok=True)

    def newest(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, or None if the folder holds none.

        Raises:
            CheckpointError: if there are checkpoints but none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return load_checkpoint(self.path(step))
            except CheckpointError as error:
                print(f"dist_calo: {error}; trying the one before it", file=sys.stderr)
        if steps:
            raise CheckpointError(
                f"{self.folder}: none of its {len(steps)} checkpoints can be read; restore one or start elsewhere"
            )
        return None


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU.

    Raises:
        CheckpointError: if the file is missing, damaged, or of another format version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path}: there is no such file") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {path} cannot be read ({reason})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT_VERSION:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(
            f"checkpoint {path} has format {found}; this version of dist_calo reads format {FORMAT_VERSION}"
        )
    return state


def find_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file, or of a folder the best one if there is one, else the newest.

    Raises:
        CheckpointError: if there is nothing to read.
    """
    path = Path(path)
    if path.is_file() or not path.exists():
        return load_checkpoint(path)
    if (path / BEST).exists():
        return load_checkpoint(path / BEST)
    state = CheckpointFolder(path).newest()
    if state is None:
        raise CheckpointError(
            f"checkpoint folder {path} holds no checkpoint (files like step-00000500.pt); train first or name another"
        )
    return state
