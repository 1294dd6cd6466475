"""Networks of `dist_calo.models.waveforms.factorised.model` for the shapes of pulses."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from dist_calo.models.nn.blocks import SpectralNorm, leaky
from dist_calo.models.waveforms.factorised.pulse_maker import joined, place_of
from dist_calo.models.waveforms.factorised.quantile_maps import between
from dist_calo.models.waveforms.factorised.shape_calibration import LARGEST_LAG

SHAPE_KNOTS = 7
LEAD, TAIL = 100, 250
"""Samples before and after the crossing that the discriminator sees, at most; templates reach to the last sample."""
CORRECTION = 0.1
"""Scale of what the convolutions add to fluctuations, so that they start from the fit."""
BASELINE_SHARE = 0.67
"""Part of the deviation of an empty channel's largest sample that is its baseline's."""


class ShapesGenerator(nn.Module):
    """Generator of pulses of given amplitudes and times; see `dist_calo.models.waveforms.factorised.model`.

    Args:
        samples: of a waveform.
        sample_ns: time between two.
        width: channels of the convolutions.
    """

    knots: Tensor
    template: Tensor
    deviation: Tensor
    noise: Tensor
    step: Tensor

    def __init__(self, samples: int, sample_ns: float, width: int) -> None:
        super().__init__()
        self.samples, self.sample_ns = samples, sample_ns
        self.lead, self.tail = min(LEAD, samples // 4), min(TAIL, samples // 2)
        self.register_buffer("knots", torch.arange(float(SHAPE_KNOTS)))
        self.register_buffer("template", torch.zeros(SHAPE_KNOTS, self.lead + samples))
        self.register_buffer("deviation", torch.ones(SHAPE_KNOTS, self.lead + samples))
        self.register_buffer("noise", torch.tensor([1.0, 0.0]))
        self.register_buffer("step", torch.tensor(0.0))
        self.register_buffer("scale", torch.tensor(0.01))
        self.kernel = nn.Parameter(F.one_hot(torch.tensor(LARGEST_LAG), 2 * LARGEST_LAG + 1).float())
        self.inner, self.outer = nn.Conv1d(3, width, 9, padding=4), nn.Conv1d(width, 1, 9, padding=4)

    def forward(self, amplitudes: Tensor, times: Tensor, noise: Tensor, baseline: Tensor) -> Tensor:
        """Return waveforms with these measured amplitudes and times, (B, n, S) for any number S of samples.

        Args:
            amplitudes: in the unit of the samples, shape (B, n).
            times: in ns, NaN where there is no signal, shape (B, n).
            noise: normal numbers, shape (B, n, 2, S).
            baseline: normal numbers, shape (B, n).
        """
        samples = noise.shape[-1]
        mean, deviation = self.expected(amplitudes, times, samples)
        quiet = self.noise.square().sum().sqrt()
        of_pulse = (1.0 - (quiet / deviation).square()).clamp(min=0.0)
        white, steady = self.noise / quiet
        colored = self._filtered(noise[:, :, 0])
        signal = ~torch.isnan(times).unsqueeze(-1)
        electronic = white * noise[:, :, 1] + steady * torch.where(signal, baseline.unsqueeze(-1), 0.0)
        fluctuation = of_pulse.sqrt() * colored + (1.0 - of_pulse).sqrt() * electronic
        inputs = torch.stack([fluctuation, of_pulse, mean / amplitudes.unsqueeze(-1)], dim=2).flatten(0, 1)
        learned = self.outer(leaky(self.inner(inputs))).view_as(mean)
        natural = mean + deviation * (fluctuation + CORRECTION * learned)
        # The amplitude of an empty channel is the largest of its noise: much of it comes from the baseline.
        lift = BASELINE_SHARE * (amplitudes.unsqueeze(-1) - natural.detach().amax(-1, keepdim=True))
        natural = natural + torch.where(signal, 0.0, lift)
        return joined(natural, amplitudes, times, self.sample_ns, self.step)

    def _filtered(self, noise: Tensor) -> Tensor:
        """Filter white noise (B, n, S), with periodic boundaries."""
        samples = noise.shape[-1]
        kernel = self.kernel / self.kernel.norm().clamp(min=1e-6)
        if noise.shape[0] == 0:
            return noise * kernel.sum()  # libraries refuse to transform nothing
        size = max(samples, len(kernel))
        spectrum = torch.fft.rfft(noise, n=size) * torch.fft.rfft(kernel, n=size)
        return torch.fft.irfft(spectrum, n=size)[..., :samples]

    def expected(self, amplitudes: Tensor, times: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation of pulses of amplitudes and times (B, n), each (B, n, samples)."""
        before, share = place_of(times, samples, self.sample_ns)
        index = torch.arange(samples, device=times.device) - before.unsqueeze(-1) + self.lead
        return self._profiles(amplitudes, times, index, share)

    def in_window(self, times: Tensor) -> Tensor:
        """Return times relative to waveforms that are only the window around the crossing."""
        _, share = place_of(times, self.samples, self.sample_ns)
        return torch.where(torch.isnan(times), times, (self.lead + share) * self.sample_ns)

    def windows(self, waves: Tensor, amplitudes: Tensor, times: Tensor) -> Tensor:
        """Return waveforms (B, n, S) around the crossing, standardised by mean and width, (B, n, lead + tail).

        All 0 where there is no signal.
        """
        before, share = place_of(times, waves.shape[-1], self.sample_ns)
        window = torch.arange(self.lead + self.tail, device=waves.device)
        mean, deviation = self._profiles(amplitudes, times, window.expand(*times.shape, -1), share)
        index = (window + before.unsqueeze(-1) - self.lead).clamp(0, waves.shape[-1] - 1)
        seen = (waves.gather(-1, index) - mean) / deviation
        return torch.where(torch.isnan(times).unsqueeze(-1), 0.0, seen)

    def _profiles(
        self, amplitudes: Tensor, times: Tensor, index: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation at places (B, n, S) of the templates' grid."""
        low, part = between(self.knots, amplitudes.clamp(min=1e-6).log())
        part = part.unsqueeze(-1)
        # No place lies further from the crossing than there are samples.
        templates, deviations = (
            grid[:, : self.lead + index.shape[-1]] for grid in (self.template, self.deviation.log())
        )
        template = torch.lerp(templates[low], templates[low + 1], part)
        deviation = torch.lerp(deviations[low], deviations[low + 1], part).exp()
        # Before the templates, where no pulse is yet, is as at their start: an edge would show in the mean.
        last = template.shape[-1] - 1
        here, left = (template.gather(-1, (index - back).clamp(0, last)) for back in (0, 1))
        mean = amplitudes.unsqueeze(-1) * torch.lerp(here, left, share.unsqueeze(-1))
        signal = ~torch.isnan(times).unsqueeze(-1)
        width = deviation.gather(-1, index.clamp(0, last))
        quiet = self.noise.square().sum().sqrt()
        return torch.where(signal, mean, 0.0), torch.where(signal, width, quiet)


class ShapesDiscriminator(nn.Module):
    """Strided convolutions of each channel with spectral norm up to the score; scores are averaged.

    Args:
        width: channels of the first convolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [2, width, 2 * width, 2 * width]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, 9, stride=4, padding=4) for a, b in itertools.pairwise(sizes)
        )
        for layer in self.convolutions:
            register_parametrization(layer, "weight", SpectralNorm())
        self.score = nn.Linear(2 * width, 1)

    def forward(self, seen: Tensor) -> Tensor:
        """Return scores (B,) of windows whose last number is the log of the amplitude, (B, n, samples + 1)."""
        windows, logs = seen[..., :-1], seen[..., -1:]
        h = torch.stack([windows, 0.3 * logs.expand_as(windows)], dim=2).flatten(0, 1)
        for layer in self.convolutions:
            h = leaky(layer(h)) * 1.4
        score: Tensor = self.score(h.mean(-1)).view(seen.shape[:2])
        return score.mean(1)
