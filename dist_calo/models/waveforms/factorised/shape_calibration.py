"""Calibration of pulse shapes for `dist_calo.models.waveforms.factorised.model`: templates, fluctuations.

Waveforms are lined up at their measured times: offset 0 is the last sample before the crossing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ENOUGH = 20
"""Waveforms that a class of amplitudes needs for a template of its own."""
MOST = 3000
"""Most waveforms of a class that are used."""
LARGEST_LAG = 30
"""Samples over which fluctuations of the pulse are correlated, at most."""
SMOOTHED, WIDEST = 25, 8
"""Offset k is averaged over k // SMOOTHED samples to either side, WIDEST at most: noise goes and the decay stays."""


@dataclass(frozen=True)
class ShapeFit:
    """Pulses at some amplitudes, over G offsets."""

    template: Array
    """Mean waveform / amplitude, shape (knots, G)."""
    deviation: Array
    """Standard deviation about it in the unit of the samples, shape (knots, G)."""
    white: float
    """Standard deviation of the noise from sample to sample."""
    baseline: float
    """Standard deviation of the baseline from waveform to waveform."""
    kernel: Array
    """Filter of white noise that gives the fluctuations of the pulse their correlation, unit length."""


def shape_fit(
    waves: Array, amplitudes: Array, places: Array, knots: Array, *, lead: int, tail: int
) -> ShapeFit:
    """Fit templates and fluctuations.

    Args:
        waves: pulses with a time, shape (n, samples), in the unit of the samples.
        amplitudes: theirs, shape (n,).
        places: where they cross, in samples, shape (n,).
        knots: rising logarithms of amplitudes; each pulse belongs to the nearest.
        lead: samples before the crossing, of which the first half is free of the pulse.
        tail: samples after it. Offsets that too few waveforms reach before they end repeat the last that enough do.
    """
    offsets = np.arange(-lead, tail)
    nearest = np.abs(np.log(amplitudes)[:, None] - knots).argmin(axis=1)
    members = [np.flatnonzero(nearest == knot)[:MOST] for knot in range(len(knots))]
    filled = [knot for knot, found in enumerate(members) if len(found) >= ENOUGH]
    if not filled:
        filled, members[0] = [0], np.arange(len(waves))[:MOST]
    template, deviation = np.empty((len(knots), len(offsets))), np.empty((len(knots), len(offsets)))
    noise = baseline = 0.0
    kernel = np.zeros(2 * LARGEST_LAG + 1)
    for knot in filled:
        some, size = waves[members[knot]], amplitudes[members[knot]]
        before, share = np.divmod(places[members[knot]], 1.0)
        index = before.astype(int)[:, None] + offsets
        lined_up = _at(some, index)
        between = lined_up + share[:, None] * (_at(some, index + 1) - lined_up)
        known = (index >= 0) & (index + 1 < waves.shape[1])
        count = known.sum(axis=0)
        reached = np.flatnonzero(count >= min(ENOUGH, len(some)))
        nearest_reached = np.arange(len(offsets)).clip(reached[0], reached[-1])
        template[knot] = ((between * known).sum(axis=0) / np.maximum(size @ known, 1e-9))[nearest_reached]
        # A sample lies a share of a step before the offset that the template is known at.
        earlier = np.concatenate([template[knot, :1], template[knot, :-1]])
        expected = template[knot] + share[:, None] * (earlier - template[knot])
        residuals = lined_up - size[:, None] * expected
        moments = [(residuals**power * known).sum(axis=0) / np.maximum(count, 1) for power in (1, 2)]
        deviation[knot] = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0.0))[nearest_reached]
        quiet = residuals[:, : lead // 2]
        noise += quiet.std(axis=1, ddof=1).mean() / len(filled)
        baseline += quiet.mean(axis=1).var() / len(filled)
        kernel = _kernel(
            residuals / np.maximum(deviation[knot], 1e-9), lead + 10, lead + 10 + 5 * LARGEST_LAG
        )
        template[knot], deviation[knot] = (_smooth(part, lead) for part in (template[knot], deviation[knot]))
    for knot in range(len(knots)):
        if knot not in filled:
            source = min(filled, key=lambda other: abs(other - knot))
            template[knot], deviation[knot] = template[source], deviation[source]
    baseline = max(baseline - noise**2 / max(lead // 2, 1), 0.0)
    deviation = np.maximum(deviation, 0.1 * noise)
    return ShapeFit(template, deviation, float(noise), float(np.sqrt(baseline)), kernel)


def _at(waves: Array, index: NDArray[np.int64]) -> Array:
    return np.take_along_axis(waves, index.clip(0, waves.shape[1] - 1), axis=1)


def _smooth(values: Array, lead: int) -> Array:
    """Average values at offsets from -lead on, the wider the later, and equally before the pulse."""
    place = np.arange(len(values))
    half = ((place - lead) // SMOOTHED).clip(0, WIDEST)
    half = np.minimum(half, place[::-1])
    sums = np.concatenate([[0.0], values.cumsum()])
    smooth = np.where(half > 0, (sums[place + half + 1] - sums[place - half]) / (2 * half + 1), values)
    smooth[: lead // 2] = values[: lead // 2].mean()
    return np.asarray(smooth)


def _kernel(residuals: Array, first: int, last: int) -> Array:
    """Return a symmetric filter that gives white noise the autocorrelation of the residuals."""
    part = residuals[:, first:last]
    lags = min(LARGEST_LAG, part.shape[1] - 1)
    correlation = np.zeros(LARGEST_LAG + 1)
    for lag in range(lags + 1):
        correlation[lag] = np.mean(part[:, lag:] * part[:, : part.shape[1] - lag])
    correlation *= 0.5 * (1.0 + np.cos(np.pi * np.arange(LARGEST_LAG + 1) / (LARGEST_LAG + 1)))
    circle = np.concatenate([correlation, correlation[:0:-1]])
    power = np.fft.fft(circle).real.clip(min=0.0)
    kernel = np.roll(np.fft.ifft(np.sqrt(power)).real, LARGEST_LAG)
    length = np.linalg.norm(kernel)
    return np.asarray(kernel / length if length > 0 else np.eye(2 * LARGEST_LAG + 1)[LARGEST_LAG])
