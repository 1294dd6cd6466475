"""Complete comparison of generated with Geant4 showers: every number with its error and its floor."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dist_calo.geometry import Geometry
from dist_calo.physics.metrics.half_sample_bootstrap import (
    LEAST_SHOWERS,
    Design,
    Measured,
    MeasuredArray,
    measured_arrays,
)
from dist_calo.physics.metrics.metric_definitions import METRICS, SCORE_DEFINITION, definition_of
from dist_calo.physics.metrics.multivariate_metrics import LEAST_ROWS
from dist_calo.physics.metrics.observable_metrics import LEAST_FOR_WIDTH, compared_observables, named
from dist_calo.physics.metrics.profile_metrics import (
    LEAST_FOR_FIT,
    LEAST_IN_CELL,
    compared_in_slot,
    compared_whole,
    score_of,
    score_terms,
)
from dist_calo.physics.observables.energy_bins import Binning
from dist_calo.physics.observables.examples import Examples
from dist_calo.physics.observables.groups import GROUPS
from dist_calo.physics.observables.observer import FAULTS, Observer
from dist_calo.physics.observables.sample import GroupSums, Sample

AT_FLOOR = 2.0
"""Sigmas within which a number counts as equal to its floor."""
UNKNOWN = Measured(value=math.inf, error=math.nan, floor=math.nan, spread=math.nan, sigmas=math.nan)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Results of an evaluation, or of a validation, which has a part of its numbers.

    Attributes:
        geometry: the read-out.
        real: sums over the Geant4 showers.
        fake: sums over the generated showers.
        slots: for each of ``binning.labels`` (bins of incident energy, then all showers) the numbers of its
            observables and profiles, by name.
        whole: numbers that exist for all showers only: correlations, FPD, classifier and so on, by name.
        examples: a few showers of both, of the same incident energies where both have them.
        names: names of the two samples.
        facts: facts about them for the report, by section and line, such as ``facts["model"]["training step"]``.
        history: training curves by name, each a list of (step, value).
        notes: warnings to the reader about the numbers, one sentence each.
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
        """The observer of both samples."""
        return self.real.observer

    @property
    def binning(self) -> Binning:
        """The binning of both samples."""
        return self.real.binning

    @property
    def real_part(self) -> GroupSums:
        """All Geant4 showers."""
        return self.real.of(np.arange(GROUPS))

    @property
    def fake_part(self) -> GroupSums:
        """All generated showers."""
        return self.fake.of(np.arange(GROUPS))

    @property
    def numbers(self) -> dict[str, Measured]:
        """The numbers of all showers, by name."""
        return {**self.slots[-1], **self.whole}

    @property
    def score(self) -> Measured:
        """How good the generated showers are in one number, the lower the better; infinite where it is not known."""
        return self.whole.get("score", UNKNOWN)

    @property
    def score_terms(self) -> dict[str, float]:
        """The numbers whose mean is the score, the largest first."""
        known = [(name, self.numbers[name].value) for name in self.observer.scored if name in self.numbers]
        return dict(sorted(known, key=lambda item: -item[1]))

    @property
    def judged(self) -> dict[str, float]:
        """By how many sigmas each number is worse than its floor, the worst first.

        Numbers of single layers or channels count only through their group, and the score through its parts.
        """
        found = {
            name: sigmas_above_floor(name, number)
            for name, number in self.numbers.items()
            if name.count("/") == 1
        }
        known = [(name, sigmas) for name, sigmas in found.items() if not math.isnan(sigmas)]
        return dict(sorted(known, key=lambda item: -item[1]))

    @property
    def at_floor(self) -> int:
        """Numbers of `judged` that are within `AT_FLOOR` sigmas of their floor."""
        return sum(sigmas <= AT_FLOOR for sigmas in self.judged.values())

    def values(self, kinds: Collection[str] = METRICS) -> dict[str, float]:
        """Return the score, the share of bad showers and the numbers of some kinds, but for single layers, by name."""
        score, numbers = self.score, self.numbers
        found = {"score": score.value, "score_error": score.error, "score_floor": score.floor}
        found |= {"bad_showers": self.bad_share}
        found |= {name: number.value for name, number in numbers.items() if name.split("/")[0] in kinds}
        return {name: value for name, value in found.items() if name.count("/") < 2 and math.isfinite(value)}

    @property
    def absent(self) -> dict[str, str]:
        """Reasons why numbers are missing, by the name of the number or of the bin of incident energy."""
        counts = [sample.count for sample in (self.real, self.fake)]
        rows = [len(sample.rows.groups) for sample in (self.real, self.fake)]
        there = {"errors"} if min(counts) >= LEAST_SHOWERS else set()
        there |= {name.split("/")[0] for name in self.numbers}
        few = "at least {} showers of each sample are needed, there are {} and {}"
        learn = "train a classifier: --classifier high (on observables) or --classifier low (on cells)"
        many = few.format(LEAST_ROWS, *counts)
        kept = many if min(counts) < LEAST_ROWS else few.format(LEAST_ROWS, *rows) + ": raise --rows"
        reasons = {
            "score": f"at least {LEAST_FOR_WIDTH} {self.names[0]} showers and one {self.names[1]} shower are needed",
            "errors": few.format(LEAST_SHOWERS, *counts),
            "fpd": many,
            **dict.fromkeys(("kpd", "precision", "recall", "density", "coverage"), kept),
            **dict.fromkeys(("auc", "jsd"), kept if min(rows) < LEAST_ROWS else learn),
            "correlation": few.format(LEAST_FOR_WIDTH, *counts),
            "image": f"no cell has energy in at least {LEAST_IN_CELL:g} showers of a sample: more showers are needed",
            "resolution_fit": f"more bins of incident energy with {LEAST_FOR_FIT} showers of each sample are needed",
        }
        empty = {
            label: f"one of the samples has no shower in {label}"
            for label, numbers in zip(self.binning.labels[:-1], self.slots[:-1], strict=True)
            if not numbers
        }
        return {name: reason for name, reason in reasons.items() if name not in there} | empty

    @property
    def bad_share(self) -> float:
        """Share of the generated showers that have a fault."""
        return sum(self.fake.faults.values()) / max(self.fake.count + self.fake.left_out, 1)

    @property
    def bad_in_words(self) -> str:
        """Faulty generated showers in words: ``3 of 100 generated showers (3 %) are bad: ...``; "" without any."""
        faults, left_out, name = self.fake.faults, self.fake.left_out, self.names[1]
        if not faults:
            return ""
        total = self.fake.count + left_out
        each = "; ".join(f"{FAULTS[fault]} ({count:,})" for fault, count in faults.items())
        words = f"{sum(faults.values()):,} of {total:,} {name} showers ({100 * self.bad_share:.3g} %) are bad: {each}."
        return words + (
            f" {left_out:,} of them are left out of all numbers, which would be NaN." if left_out else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all but the samples as plain values for ``metrics.json``; NaN and infinity become null."""
        bins = zip(self.binning.labels[:-1], self.slots[:-1], strict=True)
        return {
            **{
                "score" if name == "value" else f"score_{name}": value
                for name, value in _fields(self.score)
                if name != "spread"
            },
            "score_meaning": METRICS["score"].meaning,
            "score_definition": SCORE_DEFINITION,
            "judged": {"numbers": len(self.judged), "within_2_sigmas": self.at_floor},
            "showers": {
                name: sample.count + sample.left_out
                for name, sample in (("real", self.real), ("fake", self.fake))
            },
            "bad_showers": {
                "share": self.bad_share,
                "left_out": self.fake.left_out,
                "outside_of_energy_bins": self.fake.outside,
                **{fault: self.fake.faults.get(fault, 0) for fault in FAULTS},
            },
            "notes": list(self.notes),
            "not_computed": self.absent,
            "metrics": _as_dicts(self.numbers),
            "bins": {label: _as_dicts(numbers) for label, numbers in bins},
            "facts": self.facts,
        }


def sigmas_above_floor(name: str, number: Measured) -> float:
    """Return by how many sigmas a number is worse than its floor; for a signed number its absolute distance."""
    sigmas = number.sigmas
    return (
        abs(sigmas) if definition_of(name).signed else max(sigmas, 0.0) if math.isfinite(sigmas) else sigmas
    )


def measured_sums(
    real: Sample, fake: Sample, paired: bool = False, brief: bool = False
) -> tuple[tuple[dict[str, Measured], ...], dict[str, Measured]]:
    """Compute all metrics that follow from sums.

    Args:
        real: Geant4 showers.
        fake: generated showers.
        paired: whether each was generated for the conditions of the Geant4 shower of the same number.
        brief: without bins of incident energy, the mean shower and the terms of the energy resolution.

    Returns:
        Those of each bin of incident energy and, last, of all showers; and those that exist for all showers only.
    """
    last = real.binning.slots - 1
    slots = range(last if brief else 0, last + 1)

    everything = np.arange(GROUPS)
    one, other = fake.of(everything), real.of(everything)
    scored = score_terms(
        other, compared_observables(one, other, last), compared_whole(one, other, brief=True)
    )

    def compare(part: GroupSums, reference: GroupSums) -> dict[str, ArrayLike]:
        whole = compared_whole(part, reference, brief)
        several = {slot: compared_observables(part, reference, slot) for slot in slots}
        whole |= score_of(part, score_terms(reference, several[last], whole), scored)
        found: dict[str, ArrayLike] = {f"whole {name}": value for name, value in whole.items()}
        for slot in slots:
            single = compared_in_slot(part, reference, slot)
            found |= {f"{slot} single {name}": value for name, value in single.items()}
            found |= {f"{slot} {name}": values for name, values in several[slot].items()}
        return found

    design = Design(ratio=max(fake.count, 1) / max(real.count, 1), paired=paired)
    numbers = measured_arrays(compare, fake.of, real.of, design)
    counts = [min(part.count(slot) for part in (one, other)) for slot in range(last + 1)]
    return (
        tuple(
            _without_unknown_errors(_of_slot(numbers, slot, real.observer), counts[slot])
            for slot in range(last + 1)
        ),
        _without_unknown_errors(
            {name: array[()] for name, array in _with_prefix(numbers, "whole ").items()}, counts[-1]
        ),
    )


def _without_unknown_errors(numbers: dict[str, Measured], showers: float) -> dict[str, Measured]:
    """Remove errors and floors where a sample has too few showers."""
    if showers >= LEAST_SHOWERS:
        return numbers
    unknown = dict.fromkeys(("error", "floor", "spread", "sigmas"), math.nan)
    return {name: replace(number, **unknown) for name, number in numbers.items()}


def _of_slot(numbers: Mapping[str, MeasuredArray], slot: int, observer: Observer) -> dict[str, Measured]:
    mine = _with_prefix(numbers, f"{slot} ")
    single = _with_prefix(mine, "single ")
    several = {name: array for name, array in mine.items() if not name.startswith("single ")}
    return {**named(observer, several), **{name: array[()] for name, array in single.items()}}


def _with_prefix(numbers: Mapping[str, MeasuredArray], start: str) -> dict[str, MeasuredArray]:
    return {name.removeprefix(start): array for name, array in numbers.items() if name.startswith(start)}


def _as_dicts(numbers: Mapping[str, Measured]) -> dict[str, dict[str, float | None]]:
    return {name: dict(_fields(number)) for name, number in numbers.items()}


def _fields(number: Measured) -> Iterator[tuple[str, float | None]]:
    for name, value in vars(number).items():
        yield name, _plain(value)


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
