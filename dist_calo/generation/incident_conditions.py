"""Incident conditions of generated showers: energies and angles, a function of seed and number of the shower."""

import hashlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.errors import ConfigError, DataError
from dist_calo.geometry import CONDITIONS

if TYPE_CHECKING:
    from dist_calo.geometry import Geometry
    from dist_calo.randomness import Draws
    from dist_calo.training.checkpoint import Checkpoint

DEFAULT_RANGES = {"energy": (10.0, 100.0), "theta": (math.pi / 2, math.pi / 2)}
"""Ranges in GeV and rad for checkpoints that do not hold those of training."""


@dataclass(frozen=True, kw_only=True)
class ConditionRange:
    """The values that a condition takes: uniform between two bounds, or those of a list in turn."""

    low: float
    high: float
    listed: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        """Return the values as the command line has them: ``50.0``, ``10.0:100.0`` or ``10.0,20.0,50.0``."""
        if self.listed:
            return ",".join(map(repr, self.listed))
        return repr(self.low) if self.low == self.high else f"{self.low!r}:{self.high!r}"


def parse_range(option: str, text: str) -> ConditionRange:
    """Read one number, a range ``LOW:HIGH`` or a list ``A,B,C``.

    Raises:
        ConfigError: if the text is none of them, a number is not finite, or the bounds are in the wrong order.
    """
    try:
        if "," in text:
            listed = tuple(float(part) for part in text.split(","))
            values = ConditionRange(low=min(listed), high=max(listed), listed=listed)
        else:
            low, high = (float(part) for part in (text if ":" in text else f"{text}:{text}").split(":"))
            values, listed = ConditionRange(low=low, high=high), (low, high)
    except ValueError:
        raise ConfigError(
            f"{option} {text}: give one number, a range such as 10:100, or a list such as 10,20,50"
        ) from None
    if not all(map(math.isfinite, listed)) or not values.low <= values.high:
        raise ConfigError(f"{option} {text}: the lower bound comes first and all numbers are finite")
    return values


@dataclass(frozen=True, kw_only=True)
class RangeConditions:
    """Conditions drawn from ranges, or taken from lists in turn."""

    ranges: tuple[tuple[str, ConditionRange], ...]
    """Name and values of each condition, in the geometry's order."""

    def draw(self, draws: "Draws") -> np.ndarray:
        """Return the conditions of samples, float32 with shape (B, C).

        Of two lists all combinations come in turn, the first list's next value with each sample.
        """
        columns, turn = [], draws.samples
        for name, values in self.ranges:
            if values.listed:
                columns.append(np.asarray(values.listed)[turn % len(values.listed)])
                turn = turn // len(values.listed)
            else:
                columns.append(values.low + (values.high - values.low) * draws.uniform(name).numpy()[:, 0])
        return np.stack(columns, axis=1).astype(np.float32)

    def energy_range(self) -> tuple[float, float]:
        """Return the lowest and the highest energy, in GeV."""
        return self.ranges[0][1].low, self.ranges[0][1].high

    def describe(self) -> dict[str, str]:
        """Return plain values, by the names of the options."""
        return {name: values.text for name, values in self.ranges}


@dataclass(frozen=True, kw_only=True)
class TableConditions:
    """The rows of a table in turn, from the first again after the last: 4 bytes a row and condition on each rank."""

    rows: np.ndarray
    """Float32 with shape (N, C)."""

    def draw(self, draws: "Draws") -> np.ndarray:
        """Return the conditions of samples, float32 with shape (B, C)."""
        found: np.ndarray = self.rows[draws.samples % len(self.rows)]
        return found

    def energy_range(self) -> tuple[float, float]:
        """Return the lowest and the highest energy, in GeV."""
        return float(self.rows[:, 0].min()), float(self.rows[:, 0].max())

    def describe(self) -> dict[str, str]:
        """Return plain values, by the names of the options."""
        digest = hashlib.sha256(np.ascontiguousarray(self.rows).tobytes()).hexdigest()
        return {"conditions": f"{len(self.rows)} rows, SHA-256 {digest[:16]}"}


IncidentConditions = RangeConditions | TableConditions


def requested_conditions(
    checkpoint: "Checkpoint",
    geometry: "Geometry",
    asked: Mapping[str, ConditionRange],
    conditions: str | None,
) -> IncidentConditions:
    """Return the conditions that are asked for, else those of training; print a warning where they extrapolate.

    Args:
        checkpoint: its training saw some energies and angles.
        geometry: its read-out.
        asked: ranges of values by condition.
        conditions: shower file, or glob, whose conditions are to be taken; None for none.

    Raises:
        ConfigError: if the model does not know a condition that is asked for, or the file lacks one that it needs.
        DataError: if the file cannot be read.
    """
    seen = checkpoint.ranges
    if conditions is not None:
        from dist_calo.data.conditions import read_conditions

        try:
            names, rows = read_conditions(conditions)
        except DataError as error:
            raise DataError(f"--conditions {error}") from error
        for name in geometry.conditions:
            if name not in names:
                raise ConfigError(
                    f"--conditions {conditions}: has {', '.join(names)} and this model needs {name} too; take another "
                    "file, or --energy and --theta"
                )
        rows = np.ascontiguousarray(rows[:, [names.index(name) for name in geometry.conditions]])
        for number, name in enumerate(geometry.conditions):
            low, high = float(rows[:, number].min()), float(rows[:, number].max())
            _tell_extrapolation(f"--conditions {conditions}: {name}", name, low, high, seen)
        return TableConditions(rows=rows)
    for name, values in asked.items():
        if name not in geometry.conditions:
            raise ConfigError(
                f"--{name} {values.text}: this model knows no {name}, only {', '.join(geometry.conditions)}; "
                "leave it out or take another checkpoint"
            )
        _tell_extrapolation(f"--{name} {values.text}", name, values.low, values.high, seen)
    ranges = DEFAULT_RANGES | seen
    default = {
        name: ConditionRange(low=ranges[name][0], high=ranges[name][1]) for name in geometry.conditions
    }
    return RangeConditions(ranges=tuple((default | dict(asked)).items()))


def _tell_extrapolation(
    option: str, name: str, low: float, high: float, seen: Mapping[str, tuple[float, float]]
) -> None:
    """Print a warning if training saw other values.

    Raises:
        ConfigError: if they are far from those and would be among them in another unit.
    """
    if name not in seen:
        return
    first, last = seen[name]
    unit, (other, size) = CONDITIONS[name].unit, CONDITIONS[name].mistaken
    # The range comes from a sample of the training showers, so its ends are not exact.
    margin = 0.01 * (last - first)
    if first - margin <= low * size <= high * size <= last + margin and low > 10 * last:
        raise ConfigError(
            f"{option}: training saw {first:.4g} to {last:.4g} {unit}, and these are in {unit}: if they were meant in "
            f"{other}, give {low * size:.4g}:{high * size:.4g}"
        )
    if low < first - margin or high > last + margin:
        print(
            f"--{name}: training saw {first:.4g} to {last:.4g} {unit}; showers beyond are extrapolated",
            file=sys.stderr,
        )
