"""A whole comparison of generated with Geant4 showers: every number with its error and floor, and its sources."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from dist_calo.geometry import Geometry
from dist_calo.physics.binning import Binning
from dist_calo.physics.comparison import compared_in_slot, compared_whole, score_of
from dist_calo.physics.halves import GROUPS, Measured, measured
from dist_calo.physics.kinds import kind_of
from dist_calo.physics.observers import Observer
from dist_calo.physics.sample import Part, Sample
from dist_calo.physics.views import Examples


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        geometry: the read-out.
        real: sums over the Geant4 showers.
        fake: sums over the generated showers.
        slots: for each of ``binning.labels`` (bins of incident energy, then all showers) the numbers of its
            observables and profiles, by name.
        whole: numbers that exist for all showers only: correlations, FPD, classifier and so on, by name.
        examples: a few showers of both, of the same incident energies where both have them.
        names: what the two samples are called.
        facts: what is said about them, by section and line, such as ``facts["model"]["training step"]``.
        history: training curves by name, each a list of (step, value).
        notes: what the reader should know before trusting the numbers, a sentence each.
    """

    geometry: Geometry
    real: Sample
    fake: Sample
    slots: tuple[dict[str, Measured], ...]
    whole: dict[str, Measured]
    examples: Examples
    names: tuple[str, str] = ("Geant4", "generated")
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    history: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def observer(self) -> Observer:
        """What was observed."""
        return self.real.observer

    @property
    def binning(self) -> Binning:
        """How."""
        return self.real.binning

    @property
    def real_part(self) -> Part:
        """All Geant4 showers."""
        return self.real.of(np.arange(GROUPS))

    @property
    def fake_part(self) -> Part:
        """All generated showers."""
        return self.fake.of(np.arange(GROUPS))

    @property
    def numbers(self) -> dict[str, Measured]:
        """The numbers of all showers, by name."""
        return {**self.slots[-1], **self.whole}

    @property
    def score(self) -> float:
        """The mean of W₁/σ over the groups of observables of all showers; least is best."""
        values = ((name, number.value) for name, number in self.numbers.items())
        return score_of(values, {feature.group for feature in self.observer.features})

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples, as plain values for ``metrics.json``; what is not a number is null."""
        bins = zip(self.binning.labels[:-1], self.slots[:-1], strict=True)
        return {
            "score": _plain(self.score),
            "score_meaning": "mean over groups of observables of Wasserstein-1 distance / Geant4 standard deviation",
            "showers": {"real": self.real.count, "fake": self.fake.count},
            "notes": list(self.notes),
            "metrics": _as_dicts(self.numbers),
            "bins": {label: _as_dicts(numbers) for label, numbers in bins},
            "facts": self.facts,
        }


def away(name: str, number: Measured) -> float:
    """How many sigmas a number is worse than its floor, 0 or more; of a signed number its distance on either side."""
    sigmas = number.sigmas
    return abs(sigmas) if kind_of(name).signed else max(sigmas, 0.0) if math.isfinite(sigmas) else sigmas


def measured_slots(real: Sample, fake: Sample) -> tuple[dict[str, Measured], ...]:
    """The numbers of each bin of incident energy and, last, of all showers."""
    return tuple(measured(partial(_in_slot, slot), fake.of, real.of) for slot in range(real.binning.slots))


def measured_whole(real: Sample, fake: Sample) -> dict[str, Measured]:
    """The numbers that exist for all showers only and come from sums."""
    return measured(compared_whole, fake.of, real.of)


def _in_slot(slot: int, fake: Part, real: Part) -> dict[str, float]:
    return compared_in_slot(fake, real, slot)


def _as_dicts(numbers: Mapping[str, Measured]) -> dict[str, dict[str, float | None]]:
    return {name: dict(_fields(number)) for name, number in numbers.items()}


def _fields(number: Measured) -> Iterator[tuple[str, float | None]]:
    for name, value in vars(number).items():
        yield name, _plain(value)


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
