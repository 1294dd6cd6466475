"""The folder of a trial: its checkpoints, the worker that has claimed it, and why it failed.

    checkpoints/    of its training
    owner.json      the worker that has begun it or taken it over last
    beat            touched and locked by that worker
    failure         the reason, left by a rank that has ended the others

Optuna's journal has no heartbeat. A worker therefore writes who it is into ``owner.json`` and touches ``beat`` while it
works. It counts as dead at once when it was a process of this machine that is gone, or an earlier start of the same
batch job; on other machines when the beat is older than a limit and not locked: a worker that was only halted for long
holds its lock, where the file system passes locks on.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dist_calo.documents import read_json
from dist_calo.errors import ConfigError
from dist_calo.files import read_bytes, write_text
from dist_calo.leases.signs_of_life import Beat, Process, flocked

BEATS = 12
"""Beats within the time after which a silent worker counts as dead."""


@dataclass(frozen=True, kw_only=True)
class Claim(Process):
    """The worker of a trial."""

    attempt: int = 1
    """Number of times that the trial was begun without getting further than the time before."""
    step: int = 0
    """Step of the newest checkpoint at the time of the claim."""
    released: bool = False
    """Whether the worker has left the trial in order."""

    @classmethod
    def of(cls, folder: Path) -> "Claim | None":
        """Return the claim on the trial in this folder; None if it was never begun.

        Raises:
            ConfigError: if the file cannot be read.
        """
        with suppress(FileNotFoundError):
            return read_json(
                folder / "owner.json", cls, ConfigError, "remove it: another worker then takes the trial"
            )
        return None

    @classmethod
    def make(cls, folder: Path, *, attempt: int = 1, step: int = 0) -> "Claim":
        """Claim the trial in this folder for this process."""
        claim = cls(**asdict(Process.here()), attempt=attempt, step=step)
        claim.write(folder)
        (folder / "beat").touch()
        return claim

    def write(self, folder: Path) -> None:
        """Write the claim into the folder of its trial."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "owner.json", json.dumps(asdict(self)))

    def holds(self, folder: Path) -> bool:
        """Return whether the trial in this folder is still this process's."""
        return self.is_same(Claim.of(folder))

    def is_known_dead(self, here: Process) -> bool:
        """Return whether the worker is known to work no more; False says nothing."""
        return self.released or super().is_known_dead(here)

    def beat(self, folder: Path, abandoned_after_s: float) -> Beat:
        """Return the sign of life that shows, within a ``with`` block, that the trial is worked on.

        Args:
            folder: the trial's.
            abandoned_after_s: silence after which others take the trial over, in seconds.
        """
        return Beat(folder / "beat", abandoned_after_s / BEATS, lambda: not self.holds(folder))


def is_locked(folder: Path) -> bool:
    """Return whether a living process, maybe halted, holds the lock of the trial's beat."""
    with suppress(FileNotFoundError), flocked(folder / "beat") as free:
        return free is False
    return False


def note_failure(folder: Path, reason: str) -> None:
    """Note the error of a trial that ends its ranks; the first note is kept."""
    with suppress(OSError):
        handle = os.open(folder / "failure", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        with os.fdopen(handle, "w") as file:
            file.write(reason)


def noted_failure(folder: Path) -> str | None:
    """Return what `note_failure` has noted."""
    try:
        return read_bytes(folder / "failure").decode(errors="replace").strip("\0") or "unknown"
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"unknown ({error.strerror}: {folder}/failure)"


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, without loading torch; 0 if there is none."""
    names = sorted(path.stem for path in (folder / "checkpoints").glob("step-*.pt"))
    return int(names[-1].removeprefix("step-")) if names else 0
