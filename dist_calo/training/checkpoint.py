"""The content of a checkpoint, and its file.

A checkpoint is one file ``step-00000500.pt``: a plain nested dict of tensors, numbers and strings, sealed with a
checksum (`dist_calo.files.seal_of`; outsiders' ``torch.load`` passes over it). Loading never runs code
(``weights_only=True``). What is not finite is neither saved nor loaded.

No state of random generators is stored: every draw is a function of the position in the run (`dist_calo.randomness`).
"""

import io
import math
import pickle
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_calo.config import DataConfig, RunConfig, TrainConfig
from dist_calo.data.manifest import Manifest
from dist_calo.errors import CheckpointError, SpoiltCheckpointError
from dist_calo.files import is_sound, open_ordinary, seal_of, why_missing
from dist_calo.geometry import Geometry, geometry_from_dict
from dist_calo.masking import hidden

FORMAT_VERSION = 2
"""The version that is written; version 1 had no checksum and is still read."""
NUMBERS = ("model", "optimizers", "average", "objective", "condition_ranges", "transform")
"""Parts of a checkpoint whose numbers must be finite."""
STEP_FILE = re.compile(r"step-(\d{8})\.pt")
"""Name of the file of a step."""
State = dict[str, Any]
"""A nested dict of tensors, numbers, strings and lists, as it lies on disk."""
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run after a step; what only training needs may be absent, as in a registered model."""

    step: int
    epoch: int | None = None
    samples_seen: int = 0
    """Samples used in this epoch, over all ranks."""
    best_score: float | None = None
    best_step: int = 0
    best_error: float | None = None
    best_floor: float | None = None
    score_definition: int = 1
    """By which the best score was measured (`dist_calo.physics.metrics.evaluation.SCORE_DEFINITION`)."""
    validations_since_best: int = 0
    train_seconds: float = 0.0
    """Time that the run has taken, over all resumes."""
    model: Weights = field(default_factory=dict)
    optimizers: Mapping[str, State] = field(default_factory=dict)
    average: Mapping[str, Weights] = field(default_factory=dict)
    """Moving averages of the networks that generate."""
    objective: Weights = field(default_factory=dict)
    condition_ranges: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Smallest and largest value of each condition of the training showers; empty in files of earlier versions."""
    bad_in_a_row: int = 0
    bad_steps: int = 0
    geometry: State = field(default_factory=dict)
    transform: State = field(default_factory=dict)
    manifest: State = field(default_factory=dict)
    config: State = field(default_factory=dict)
    run_id: str | None = None
    """MLflow run that trained it."""
    uid: str = ""
    """Identity of the run; empty in files of earlier versions."""

    @classmethod
    def from_dict(cls, state: State) -> "Checkpoint":
        """Take a checkpoint from the dict that `load_checkpoint` returned."""
        return cls(**{f.name: state[f.name] for f in fields(cls) if f.name in state})

    def to_dict(self) -> State:
        """Return the dict that is written, without the format's version."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def readout(self) -> Geometry:
        """Read-out of the showers that it generates."""
        return geometry_from_dict(self.geometry)

    @property
    def model_name(self) -> str:
        """Name of the model among `dist_calo.models.MODELS`."""
        return str(self.config["model"]["name"])

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of each condition, by name."""
        return {name: (low, high) for name, (low, high) in self.condition_ranges.items()}

    @property
    def energies(self) -> tuple[float, float]:
        """Incident energies of its training in GeV; 10 to 100 where they are not told."""
        return self.ranges.get("energy", (10.0, 100.0))

    @property
    def reading(self) -> RunConfig:
        """Settings by which its data and batches were read; all others are defaults."""
        return RunConfig(data=DataConfig(**self.config["data"]), train=TrainConfig(**self.config["train"]))

    @property
    def data(self) -> Manifest:
        """Data that it was trained on."""
        return Manifest.from_dict(self.manifest)


def checkpoint_bytes(state: State) -> bytes:
    """Return a checkpoint file's content.

    Raises:
        CheckpointError: if a number is not finite.
    """
    require_finite(state, "not saved")
    content = io.BytesIO()
    torch.save({**state, "format": FORMAT_VERSION}, content)
    content.write(seal_of(content.getbuffer()))
    return content.getvalue()


def not_finite(state: State) -> str | None:
    """Return the dotted name of the first number that training has made and that is not finite; None if all are."""
    return next(_not_finite({name: state[name] for name in NUMBERS if name in state}), None)


def _not_finite(value: object, name: str = "") -> Iterator[str]:
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Tensor):
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


def require_finite(state: State, what: str) -> None:
    """Check all that training has made; NaN would not show in the cells: what is not above 0 has no energy.

    Raises:
        SpoiltCheckpointError: if a number is not finite; it begins with `what`.
    """
    if (name := not_finite(state)) is not None:
        raise SpoiltCheckpointError(
            f"{what}: the checkpoint of step {state.get('step')} has weights that are not finite ({name}); training "
            "has diverged: take an earlier one"
        )


def load_checkpoint(path: str | Path) -> State:
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
        raise SpoiltCheckpointError(
            f"checkpoint {path} is damaged ({reason}), or not a checkpoint of dist_calo"
        )
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"checkpoint {path}: is not a checkpoint of dist_calo: it holds code") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # What is sealed is whole, and perhaps of a newer PyTorch.
        kind = CheckpointError if sound else SpoiltCheckpointError
        raise kind(f"checkpoint {path} cannot be read ({reason})") from error
    version = state.get("format") if isinstance(state, dict) else None
    if not isinstance(version, int):
        raise CheckpointError(
            f"checkpoint {path}: is not a checkpoint of dist_calo: it has no format number; name another"
        )
    if not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path} has format {version}, and this version reads formats 1 to {FORMAT_VERSION}: use the "
            "version of dist_calo that wrote it, or name another one"
        )
    named = STEP_FILE.fullmatch(Path(path).name)
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
    checked: State = state
    return checked
