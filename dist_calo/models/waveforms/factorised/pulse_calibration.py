"""Calibration of `dist_calo.models.waveforms.factorised.pulses` on waveforms of training showers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_calo.models.waveforms.factorised.pulses import MODES, SEARCH, event_times, fit_pulses, interpolated
from dist_calo.pulses import amplitudes_and_times

CLEAR, STRONG = 12.0, 30.0
"""Least amplitudes, in units of the noise, of pulses that are used at all, and for the shape and its fluctuations."""
ENOUGH, MOST = 50, 4000
"""Pulses of such an amplitude that a fit needs, and most that are used."""
TIME_MODES, SIGNIFICANT = 24, 2.0
"""Principal components that the filter for the time takes account of, where they correlate by so many errors."""


@dataclass(frozen=True)
class PulseFit:
    """Constants of a `PulseShape`, in the unit of the samples."""

    basis: Tensor
    """Mean pulse, and principal components times their standard deviation at amplitude 1, shape (1 + MODES, G)."""
    filters: Tensor
    """Weights for amplitude, amplitude times delay in samples, and baseline, shape (3, W)."""
    white: float
    """Standard deviation of the noise from sample to sample."""
    baseline: float
    """Standard deviation of the baseline from waveform to waveform."""
    arrival: float
    """Median time of the events in ns."""


@dataclass(frozen=True)
class _Residuals:
    """Differences of n waveforms from the mean pulse at their amplitudes and times."""

    amplitudes: Tensor
    places: Tensor
    values: Tensor
    """Shape (n, G), 0 beyond the ends of the record."""
    known: Tensor
    """False beyond the ends of the record, shape (n, G)."""


def pulse_fit(waves: Tensor, *, sample_ns: float, noise: float, lead: int, tail: int) -> PulseFit:
    """Fit mean pulse, fluctuations, noise and filter; deterministic.

    The filter for the time begins as least squares. Its errors go along with the principal components of what is left
    over; these are subtracted, which makes it the filter of least variance for this noise and these fluctuations.

    Args:
        waves: events above the baseline, shape (n, channels, samples); at least one with a significant pulse.
        sample_ns: time between two samples.
        noise: standard deviation of a sample's noise.
        lead: samples before a pulse's time, of which the first half is free of it.
        tail: samples after it that the filter reads.
    """
    event = event_times(waves, sample_ns, noise, torch.tensor(torch.nan))
    arrival = float(event.nanmedian())
    event = torch.where(event.isnan(), arrival, event) / sample_ns
    heights = waves.amax(dim=-1)
    largest = heights == heights.amax(dim=1, keepdim=True)
    some = _largest(heights, noise)
    pulses, start, largest = waves[some].double(), event[some[0]].double(), largest[some]
    times = amplitudes_and_times(pulses, sample_ns=sample_ns, noise=noise)[1] / sample_ns
    first = torch.where(times.isnan(), start, times)
    template = _mean_pulse(pulses, first, torch.zeros_like(first), lead)
    filters = _least_squares(template, lead, tail)
    amplitudes, places, level = fit_pulses(pulses, start, filters, lead, noise)
    strong = _strong(amplitudes, noise)
    template = _mean_pulse(pulses[strong], places[strong], level[strong], lead)
    filters = _least_squares(template, lead, tail)
    for better_filter in (True, True, False):
        amplitudes, places, _ = fit_pulses(pulses, start, filters, lead, noise)
        # The level that the filter finds depends on the pulse: before it there is only noise.
        quiet = interpolated(pulses, places.floor() - lead, max(lead // 2, 2))
        white = float(quiet.std(dim=1).mean())
        left = _residuals(pulses, amplitudes, places, quiet.mean(dim=1), template, lead)
        strong = _strong(amplitudes, noise)
        modes = _principal_components(left, strong, white, template, filters, quiet.shape[1])
        if better_filter:
            filters = _without_fluctuations(filters, left, modes, (places - start)[~largest], ~largest, noise)
            filters = torch.linalg.solve(filters @ _model(template, lead, tail), filters)
    baseline = float(quiet.mean(dim=1).var()) - white**2 / quiet.shape[1]
    basis = torch.cat([template[None], modes])
    # Before the grid's start, where no pulse is yet, pulses are 0.
    basis[:, :2] = 0.0
    return PulseFit(basis, filters, white, max(baseline, 0.0) ** 0.5, arrival)


def _largest(heights: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Return events and channels of the largest pulses, of which not all need be clear if there are few."""
    ordered = heights.flatten().sort(descending=True).values
    clear = int((ordered > CLEAR * noise).sum())
    least = ordered[min(max(clear, ENOUGH), MOST, len(ordered)) - 1]
    events, channels = (heights >= least).nonzero(as_tuple=True)
    return events[:MOST], channels[:MOST]


def _strong(amplitudes: Tensor, noise: float) -> Tensor:
    """Return which pulses show the shape: the strong ones, or the larger half if there are not enough."""
    strong = amplitudes > STRONG * noise
    return strong if int(strong.sum()) >= ENOUGH else amplitudes >= amplitudes.median()


def _mean_pulse(pulses: Tensor, places: Tensor, level: Tensor, lead: int) -> Tensor:
    """Return the mean of pulses (n, samples) above their levels, lined up at their places, with its peak at 1."""
    samples = pulses.shape[1]
    known = _known(places, lead, samples)
    lined_up = interpolated(pulses, places - lead, lead + samples) - level[:, None]
    count = known.sum(dim=0)
    reached = (count >= (count.max() + 1) // 2).nonzero().squeeze(1)
    mean = (lined_up * known).sum(dim=0) / count.clamp(min=1)
    mean = mean[torch.arange(len(mean)).clamp(int(reached[0]), int(reached[-1]))]
    mean = mean - mean[int(reached[0]) : max(lead // 2, int(reached[0]) + 1)].mean()
    return mean / mean.max()


def _known(places: Tensor, lead: int, samples: int) -> Tensor:
    index = places.floor().long()[:, None] + torch.arange(-lead, samples)
    return (index >= 0) & (index < samples)


def _model(template: Tensor, lead: int, tail: int) -> Tensor:
    """Return the derivatives of a pulse by amplitude, amplitude times delay and baseline, shape (W, 3)."""
    slope = torch.gradient(template)[0]
    return torch.stack([template, -slope, torch.ones_like(template)], dim=1)[: lead + tail]


def _least_squares(template: Tensor, lead: int, tail: int) -> Tensor:
    return torch.linalg.pinv(_model(template, lead, tail))


def _residuals(
    pulses: Tensor, amplitudes: Tensor, places: Tensor, level: Tensor, template: Tensor, lead: int
) -> _Residuals:
    samples = pulses.shape[1]
    before = places.floor()
    expected = interpolated(template.expand(len(pulses), -1), before - places, lead + samples)
    # Whole samples, not interpolated ones: these would have less noise.
    values = interpolated(pulses, before - lead, lead + samples) - level[:, None]
    known = _known(places, lead, samples)
    return _Residuals(amplitudes, places, (values - amplitudes[:, None] * expected) * known, known)


def _principal_components(
    left: _Residuals, strong: Tensor, white: float, template: Tensor, filters: Tensor, quiet: int
) -> Tensor:
    """Return the principal components of the fluctuations of strong pulses at amplitude 1, shape (MODES, G).

    The covariance of the residuals is that of the fluctuations and that of the white noise, both without what went into
    amplitude, time and level, which is the mean of the first `quiet` samples.
    """
    size, window = len(template), filters.shape[1]
    projection = torch.eye(size, dtype=template.dtype)
    projection[:, :window] -= _model(template, 0, size)[:, :2] @ filters[:2]
    projection[:, :quiet] -= 1.0 / quiet
    values, known = left.values[strong], left.known[strong].to(template)
    number = known.T @ known
    covariance = values.T @ values - white**2 * number * (projection @ projection.T)
    covariance /= ((left.amplitudes[strong, None] * known).T @ known).clamp(min=1e-9)
    covariance[number < ENOUGH] = 0.0
    variances, vectors = torch.linalg.eigh(covariance)
    variances, vectors = variances[-MODES:].flip(0), vectors[:, -MODES:].flip(1)
    # A component's sign is free; this choice is the same on every machine.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()
    modes = torch.zeros(MODES, size, dtype=template.dtype)
    modes[: len(variances)] = (vectors * variances.clamp(min=0.0).sqrt()).T
    return modes


def _without_fluctuations(
    filters: Tensor, left: _Residuals, modes: Tensor, delays: Tensor, which: Tensor, noise: float
) -> Tensor:
    """Return the filters with a time that is uncorrelated with the principal components of the fluctuations.

    Args:
        filters: shape (3, W).
        left: residuals of pulses.
        modes: principal components.
        delays: of the pulses `which`, against a time that does not depend on their fluctuations, in samples.
        which: pulses that count.
        noise: standard deviation of a sample's noise.
    """
    length = modes[:TIME_MODES].norm(dim=1)
    used = length > 1e-3 * noise**0.5
    if not used.any():
        return filters
    vectors = modes[:TIME_MODES][used] / length[used, None]
    amplitudes = left.amplitudes[which]
    good = (amplitudes > CLEAR * noise) & (delays.abs() < 0.8 * SEARCH)
    if int(good.sum()) < ENOUGH:
        return filters
    scores = left.values[which][good] @ vectors.T / amplitudes[good, None]
    delays = delays[good] - delays[good].median()
    sums = scores.square().sum(dim=0)
    slopes = delays @ scores / sums
    errors = (delays.square() @ scores.square()).sqrt() / sums
    slopes = slopes * (1.0 - (SIGNIFICANT * errors / slopes).square()).clamp(min=0.0)
    better = filters.clone()
    better[1] -= (slopes @ vectors)[: filters.shape[1]]
    return better
