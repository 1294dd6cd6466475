"""Pulses of given amplitudes and times, and their measurement by an optimal filter.

A channel's waveform at the sample times t is, with the amplitude A and the time tau of its pulse::

    w(t) = A T(t - tau) + sqrt(A) sum_m z_m F_m(t - tau) + b + n(t)

``T`` is the mean pulse, with its peak at 1. ``F_m`` are the principal components of the fluctuations about it (Karhunen
and Loeve), whose variance rises with the number of photoelectrons, hence with A. ``b`` is the baseline of the channel,
``n`` the white noise of its electronics, and all z, b and n are normal numbers. The digitiser rounds to whole steps.
Between the points of their grids, which are as far apart as samples, T and F follow cubic splines (Catmull and Rom), so
tau is continuous.
"""

import torch
from torch import Tensor, nn

from dist_calo.pulses import amplitudes_and_times

MODES = 48
"""Principal components of a pulse's fluctuations."""
LEAD, TAIL = 100, 250
"""Samples before and after a pulse's time that the filter reads, at most; pulses reach to the last sample."""
ROUNDS, LARGEST_STEP, SEARCH = 5, 5.0, 15.0
"""Steps of Newton's method for the time, the largest of them, and how far from its start it may go, in samples."""


class PulseShape(nn.Module):
    """Mean pulse, fluctuations, noise and filter; `dist_calo.models.waveforms.factorised.pulse_calibration` fits them.

    Args:
        samples: of a waveform.
        sample_ns: time between two.
    """

    basis: Tensor
    filters: Tensor
    noise: Tensor
    step: Tensor
    arrival: Tensor
    scale: Tensor

    def __init__(self, samples: int, sample_ns: float) -> None:
        super().__init__()
        self.samples, self.sample_ns = samples, sample_ns
        self.lead, self.tail = min(LEAD, samples // 4), min(TAIL, samples // 2)
        self.register_buffer("basis", torch.zeros(1 + MODES, self.lead + samples))
        self.register_buffer("filters", torch.zeros(3, self.lead + self.tail))
        self.register_buffer("noise", torch.tensor([1.0, 0.0]))
        self.register_buffer("step", torch.tensor(0.0))
        self.register_buffer("arrival", torch.tensor(0.0))
        self.register_buffer("scale", torch.tensor(0.01))

    def forward(
        self, amplitudes: Tensor, times: Tensor, fluctuations: Tensor, noise: Tensor, baseline: Tensor
    ) -> Tensor:
        """Return waveforms (B, n, samples).

        Args:
            amplitudes: in the unit of the samples, at least 0, shape (B, n).
            times: in ns since the first sample, shape (B, n).
            fluctuations: normal numbers, shape (B, n, MODES).
            noise: normal numbers, shape (B, n, samples).
            baseline: normal numbers, shape (B, n).
        """
        size = amplitudes.unsqueeze(-1)
        pulses = torch.cat([size, size.sqrt() * fluctuations], dim=-1) @ self.basis
        waves = interpolated(pulses, self.lead - times / self.sample_ns, self.samples)
        waves = waves + self.noise[0] * noise + self.noise[1] * baseline.unsqueeze(-1)
        return torch.where(self.step > 0, torch.round(waves / self.step) * self.step, waves)

    def measured(self, waves: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Return the amplitudes, which noise may make negative, and the times in ns of waveforms (B, n, samples).

        Each fit starts at the time of the event's largest pulse.

        Args:
            waves: in the unit of the samples.
            noise: standard deviation of a sample's noise in that unit.
        """
        start = event_times(waves, self.sample_ns, noise, self.arrival) / self.sample_ns
        start = start[:, None].expand(waves.shape[:2])
        amplitudes, places, _ = fit_pulses(waves, start, self.filters, self.lead, noise)
        return amplitudes, places * self.sample_ns

    def time_error(self) -> Tensor:
        """Return the error in ns that the white noise makes in a measured time, times the amplitude."""
        return self.noise[0] * self.filters[1].norm() * self.sample_ns


def event_times(waves: Tensor, sample_ns: float, noise: float, otherwise: Tensor) -> Tensor:
    """Return the time in ns of the largest pulse of each event (B, n, samples), shape (B,).

    Args:
        waves: in any unit.
        sample_ns: time between two samples.
        noise: standard deviation of a sample's noise, in that unit.
        otherwise: times of events without a significant pulse.
    """
    largest = waves.amax(dim=-1).argmax(dim=1)
    pulses = waves[torch.arange(len(waves), device=waves.device), largest]
    times = amplitudes_and_times(pulses, sample_ns=sample_ns, noise=noise)[1]
    return torch.where(times.isnan(), otherwise.to(times), times)


def fit_pulses(
    waves: Tensor, start: Tensor, filters: Tensor, lead: int, noise: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the amplitude, the place in samples and the baseline of each pulse of waveforms (..., samples).

    Args:
        waves: in any unit.
        start: where the fits start, in samples, shape (...).
        filters: weights of a pulse's window for its amplitude, amplitude times delay in samples and baseline,
            shape (3, W).
        lead: samples of the window before the pulse's time.
        noise: standard deviation of a sample's noise; a smaller amplitude counts as that large.
    """
    place = start
    for _ in range(ROUNDS):
        found = interpolated(waves, place - lead, filters.shape[1]) @ filters.T
        move = found[..., 1] / found[..., 0].clamp(min=noise)
        place = place + move.clamp(-LARGEST_STEP, LARGEST_STEP)
        place = torch.minimum(torch.maximum(place, start - SEARCH), start + SEARCH)
    found = interpolated(waves, place - lead, filters.shape[1]) @ filters.T
    return found[..., 0], place, found[..., 2]


def interpolated(values: Tensor, first: Tensor, count: int) -> Tensor:
    """Return values (..., n) at the places first, first + 1, ..., shape (..., count); beyond the ends as at the ends.

    Example:
        >>> interpolated(torch.arange(8.0), torch.tensor(2.25), 3).tolist()
        [2.25, 3.25, 4.25]
    """
    before = first.floor()
    s = (first - before).unsqueeze(-1)
    index = before.long().unsqueeze(-1) + torch.arange(-1, count + 2, device=values.device)
    found = values.gather(-1, index.clamp(0, values.shape[-1] - 1))
    weights = (
        s * (s * (1.0 - 0.5 * s) - 0.5),
        s * s * (1.5 * s - 2.5) + 1.0,
        s * (s * (2.0 - 1.5 * s) + 0.5),
        s * s * (0.5 * s - 0.5),
    )
    parts = [weight * found[..., k : k + count] for k, weight in enumerate(weights)]
    return torch.stack(parts).sum(0)
