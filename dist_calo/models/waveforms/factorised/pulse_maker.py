"""Pulses with given measured amplitudes and times: natural pulses, shifted where they would differ."""

import torch
from torch import Tensor

SLOPE = (0.02, 0.45)
"""Least and largest rise between the two samples around the crossing, in units of the amplitude."""
BELOW_PEAK = 0.9995
"""Largest sample besides the peak, in units of the amplitude."""
ABOVE_LEVEL = 1e-4
"""Least distance of samples on the rise above half of the amplitude, in units of it."""
TINY = 1e-9


def place_of(times: Tensor, samples: int, sample_ns: float) -> tuple[Tensor, Tensor]:
    """Return the sample before each crossing and the fraction to the next one; without a signal the time is 0."""
    place = (torch.nan_to_num(times) / sample_ns).clamp(0.0, samples - 4.0)
    before = place.detach().long()
    # On a sample itself, rounding would decide whether that sample lies below the level.
    return before, (place - before).clamp(ABOVE_LEVEL, 1.0 - ABOVE_LEVEL)


def rounded(values: Tensor, step: Tensor) -> Tensor:
    """Round values to multiples of a step, if it is above 0; gradients pass unchanged."""
    on_grid = torch.where(step > 0, torch.round(values / step.clamp(min=TINY)) * step, values)
    return on_grid.detach() + (values - values.detach())


def joined(natural: Tensor, amplitudes: Tensor, times: Tensor, sample_ns: float, step: Tensor) -> Tensor:
    """Return pulses that `dist_calo.pulses.amplitudes_and_times` measures exactly, close to the natural ones.

    The two samples around the crossing are set on a line that crosses half of the amplitude at the time; from there to
    the peak samples are mirrored above that level, and everywhere below the amplitude; the peak is set to it. All but
    the two samples of the crossing are digitised.

    Args:
        natural: pulses at about these amplitudes and times, shape (..., samples).
        amplitudes: above 0, in the unit of the samples, multiples of the step, shape (...).
        times: in ns since the first sample, up to the third before the last; NaN where there is no signal, shape (...).
        sample_ns: time between two samples, in ns.
        step: of the digitiser, in the unit of the samples; 0 if there is none.

    Returns:
        Waveforms of the shape of ``natural``, differentiable with respect to it.
    """
    samples = natural.shape[-1]
    index = torch.arange(samples, device=natural.device)
    signal = ~torch.isnan(times).unsqueeze(-1)
    amplitude = amplitudes.unsqueeze(-1)
    before, share = (part.unsqueeze(-1) for part in place_of(times, samples, sample_ns))
    level = 0.5 * amplitude
    after_crossing = (index > before + 1) | ~signal
    peak = torch.where(after_crossing, natural, -torch.inf).argmax(dim=-1, keepdim=True)
    highest = torch.minimum(BELOW_PEAK * amplitude, amplitude - step)
    waves = torch.minimum(natural, 2.0 * highest - natural)
    rising = signal & (index > before + 1) & (index < peak)
    lowest = (0.5 + ABOVE_LEVEL) * amplitude
    waves = torch.where(rising, (lowest + (waves - lowest).abs()).minimum(highest), waves)
    waves = rounded(waves, step)
    rise = natural.gather(-1, before + 1) - natural.gather(-1, before)
    rise = rise.maximum(SLOPE[0] * amplitude).minimum(SLOPE[1] * amplitude)
    waves = torch.where(signal & (index == before), level - share * rise, waves)
    waves = torch.where(signal & (index == before + 1), level + (1.0 - share) * rise, waves)
    return torch.where(index == peak, amplitude, waves)
