"""Multivariate metrics of two samples: FPD, KPD, precision and recall, and a classifier.

Observables are measured from the Geant4 showers' median in units of their standard deviation; one that a shower does
not have is given the median.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from dist_calo.physics.metrics.frechet_distance import Moments, frechet_from_groups
from dist_calo.physics.metrics.half_sample_bootstrap import (
    Design,
    HalfSamples,
    Measured,
    half_samples,
    measured,
)
from dist_calo.physics.metrics.kernel_distance import kernel_distance
from dist_calo.physics.metrics.precision_recall import precision_recall_density_coverage
from dist_calo.physics.observables.rows import Rows
from dist_calo.physics.observables.sample import FARTHEST, GroupSums, Sample

SUBJECT = "observables"
HALVINGS = 8
"""Halvings for errors and floors of metrics that cost more than a sum."""
LEAST_ROWS = 200
"""Least number of showers of each sample for these metrics."""


def measured_frechet(real: Sample, fake: Sample, paired: bool = False) -> dict[str, Measured]:
    """Compute the FPD from the sums of all showers; empty with fewer than `LEAST_ROWS` showers of either sample."""
    if min(real.count, fake.count) < LEAST_ROWS:
        return {}
    design = Design(ratio=fake.count / real.count, paired=paired, count=HALVINGS)
    return measured(_frechet, fake.of, real.of, design)


def measured_rows(real: Sample, fake: Sample) -> dict[str, Measured]:
    """Compute KPD, precision, recall, density and coverage from the rows that the samples kept.

    Empty with fewer than `LEAST_ROWS` rows of either.
    """
    real_rows, fake_rows = real.rows, fake.rows
    if min(len(real_rows.columns), len(fake_rows.columns)) < LEAST_ROWS:
        return {}
    design = Design(ratio=len(fake_rows.groups) / len(real_rows.groups), count=HALVINGS)
    return measured(_of_rows(real), fake_rows.of, real_rows.of, design)


def standardised(rows: Rows, sample: Sample) -> np.ndarray:
    """Return the observables as distances from the Geant4 median in standard deviations, shape (n, F)."""
    binning = sample.binning
    scaled = (rows.columns - binning.centre) / binning.scale
    return np.where(np.isfinite(rows.columns), np.clip(scaled, -FARTHEST, FARTHEST), 0.0)


def _frechet(fake: GroupSums, real: GroupSums) -> dict[str, float]:
    sides = [_moments(side) for side in (fake, real)]
    return {f"fpd/{SUBJECT}": frechet_from_groups(*sides).value}


def _moments(part: GroupSums) -> Moments:
    sums = part.sample.sums
    return Moments(
        count=sums["count"][part.groups].sum(axis=1),
        sums=sums["sum"][part.groups].sum(axis=1),
        products=sums["products"][part.groups],
    )


def _of_rows(real_sample: Sample) -> Callable[[Rows, Rows], dict[str, float]]:
    def compare(fake: Rows, real: Rows) -> dict[str, float]:
        a, b = standardised(fake, real_sample), standardised(real, real_sample)
        distance, _ = kernel_distance(a, b, seed=0)
        found = precision_recall_density_coverage(b, a)
        return {
            f"kpd/{SUBJECT}": distance,
            **{f"{name}/{SUBJECT}": value for name, (value, _) in found.items()},
        }

    return compare


def measured_classifier(
    real: Sample,
    fake: Sample,
    level: str,
    say: Callable[[str], None] = lambda _: None,
    *,
    hidden: int = 2048,
    epochs: int = 50,
) -> dict[str, Measured]:
    """Compute AUC and JSD of a classifier on half of the rows, and the same between two halves of Geant4.

    Args:
        real: Geant4 showers, whose rows were kept.
        fake: generated showers, whose rows were kept.
        level: ``high`` for observables, ``low`` for cells, which both samples must have kept.
        say: called with the progress of training.
        hidden: width of the classifier's two layers; by default the CaloChallenge's.
        epochs: of its training; by default the CaloChallenge's.
    """
    from dist_calo.physics.metrics.classifier import classify

    inputs = {"high": _high_level, "low": _low_level}[level]
    if min(len(real.rows.columns), len(fake.rows.columns)) < LEAST_ROWS:
        return {}
    train = partial(classify, seed=0, hidden=hidden, epochs=epochs, say=say)
    ratio = len(fake.rows.groups) / len(real.rows.groups)
    halves: HalfSamples = next(half_samples(Design(ratio=ratio, count=1)))
    say(f"classifier, {level} level")
    first = inputs(real.rows.of(halves.real), real)
    # Extreme values are as separable when clipped, and unclipped ones would spoil the training.
    farthest = 10.0 * np.abs(first).max()
    result = train(first, np.clip(inputs(fake.rows.of(halves.fake), real), -farthest, farthest))
    say(f"classifier, {level} level, between two halves of the reference")
    floor = train(first, inputs(real.rows.of(halves.rest), real))
    pairs = {
        "auc": (result.auc, result.auc_error, floor.auc, floor.auc_error),
        "jsd": (result.jsd, result.jsd_error, floor.jsd, floor.jsd_error),
    }
    return {
        f"{kind}/{level}_level": Measured(
            value=value,
            error=error,
            floor=least,
            spread=spread,
            sigmas=(value - least) / float(np.hypot(error, spread) or np.inf),
        )
        for kind, (value, error, least, spread) in pairs.items()
    }


def _high_level(rows: Rows, sample: Sample) -> np.ndarray:
    energy = np.log(rows.conditions[:, :1].astype(np.float64) / np.mean(sample.binning.energy))
    return np.concatenate([standardised(rows, sample), energy], axis=1).astype(np.float32)


def _low_level(rows: Rows, sample: Sample) -> np.ndarray:
    from dist_calo.physics.metrics.classifier import low_level_rows

    if rows.showers is None:
        raise ValueError("the samples kept no showers: ask for them before they are read")
    return low_level_rows(rows.showers, rows.conditions[:, 0])
