"""Amplitude and time of a pulse, by a constant-fraction discriminator that searches back from the peak.

The amplitude is the largest sample above the baseline. The time is where the rising edge crosses a fixed fraction of
it: from the peak back to the last sample below, and from there forward by linear interpolation. So a pulse's time does
not depend on its amplitude, and an early fluctuation of the noise is not mistaken for the pulse.
"""

import torch
from torch import Tensor

FRACTION = 0.5
"""Part of the amplitude at which the time is taken: about where the edge of a pulse is steepest."""
SIGNIFICANCE = 5.0
"""A pulse of fewer standard deviations of the noise has no time."""


def amplitudes_and_times(
    waveforms: Tensor,
    *,
    sample_ns: float,
    noise: float,
    fraction: float = FRACTION,
    significance: float = SIGNIFICANCE,
) -> tuple[Tensor, Tensor]:
    """Measure amplitudes and times of pulses.

    Args:
        waveforms: samples above the baseline, in any unit, shape (..., samples).
        sample_ns: time between two samples, in ns.
        noise: standard deviation of a sample's noise, in the unit of the samples.
        fraction: part of the amplitude at which the time is taken, between 0 and 1.
        significance: amplitude in units of the noise under which a channel has no time.

    Returns:
        Amplitudes in the unit of the samples, and times in ns since the first sample, each of shape (...). The time is
        NaN where the amplitude is too small, and where the waveform never lies below the fraction before its peak.

    Example:
        >>> pulse = torch.tensor([0.0, 0.0, 4.0, 10.0, 6.0, 2.0])
        >>> amplitude, time = amplitudes_and_times(pulse, sample_ns=2.0, noise=0.1)
        >>> amplitude.item(), round(time.item(), 3)
        (10.0, 4.333)
    """
    amplitude, peak = waveforms.max(dim=-1)
    level = fraction * amplitude.unsqueeze(-1)
    place = torch.arange(waveforms.shape[-1], device=waveforms.device)
    below = (waveforms < level) & (place < peak.unsqueeze(-1))
    last = torch.where(below, place, -1).amax(dim=-1, keepdim=True)
    found = (last >= 0).squeeze(-1) & (amplitude >= significance * noise)
    last = last.clamp(min=0)
    before = waveforms.gather(-1, last)
    after = waveforms.gather(-1, (last + 1).clamp(max=waveforms.shape[-1] - 1))
    # The sample after the last one below is not below: where a crossing was found, the edge rises.
    rise = torch.where(found.unsqueeze(-1), after - before, 1.0)
    time = sample_ns * (last + (level - before) / rise).squeeze(-1)
    return amplitude, torch.where(found, time, torch.nan)
