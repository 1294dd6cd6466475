"""Generators and critics of signals, conditioned on the incident energy; formulae in `families`.

Each knows the constants that turn what it generates into waveforms.
"""

import torch
from torch import Tensor, nn

from dist_calo.geometry import Waveforms
from dist_calo.models.interfaces import Verdict
from dist_calo.models.nn.blocks import fill
from dist_calo.models.nn.requirements import column
from dist_calo.models.waveforms.published import pulse_units as units
from dist_calo.pulses import SIGNIFICANCE, amplitudes_and_times
from dist_calo.randomness import Draws

APART = 3.0
"""Distance of a compressed signal from the mean: that of nine standardised amplitudes."""


class Conditioned(nn.Module):
    """Network with the standardised incident energy as input.

    Args:
        geometry: the read-out.
    """

    log_energy: Tensor

    def __init__(self, geometry: Waveforms) -> None:
        super().__init__()
        self.geometry = geometry
        self.register_buffer("log_energy", torch.tensor([2.0, 1.0]))

    def energy(self, conditions: Tensor) -> Tensor:
        """Return the standardised logarithm of the incident energy, (B, 1)."""
        logarithm = column(conditions, self.geometry, "energy").log()
        return ((logarithm - self.log_energy[0]) / self.log_energy[1]).unsqueeze(1)


class PulseGenerator(Conditioned):
    """Generator of the standardised amplitudes of a signal, or of amplitudes and times."""

    def __init__(self, geometry: Waveforms, network: nn.Module, latent: int) -> None:
        super().__init__(geometry)
        self.network, self.latent = network, latent
        self.amplitudes = units.AmplitudeScale(geometry.channels)

    def forward(self, conditions: Tensor, noise: Tensor) -> Tensor:
        """Return standardised numbers (B, detectors, numbers) for conditions (B, C) and noise (B, latent)."""
        values: Tensor = self.network(torch.cat([noise, self.energy(conditions)], dim=1))
        return values


class TimedPulseGenerator(PulseGenerator):
    """Generator of amplitudes and times, and of the waveforms that belong to them."""

    noise: Tensor

    def __init__(self, geometry: Waveforms, network: nn.Module, latent: int) -> None:
        super().__init__(geometry, network, latent)
        self.times, self.templates = units.TimeScale(geometry), units.Templates(geometry)
        self.register_buffer("noise", torch.tensor(geometry.noise))

    def forward(self, conditions: Tensor, noise: Tensor) -> Tensor:
        values = super().forward(conditions, noise)
        quiet = self.amplitudes.restore(values[..., 0]) < SIGNIFICANCE * self.noise
        return torch.stack([values[..., 0], values[..., 1].masked_fill(quiet, 0.0)], dim=2)

    def view(self, showers: Tensor) -> Tensor:
        """Return the standardised amplitudes and times (B, detectors, 2) of waveforms (B, detectors, samples)."""
        amplitude, time = amplitudes_and_times(showers, sample_ns=self.geometry.sample_ns, noise=0.0)
        time = time.masked_fill(amplitude < SIGNIFICANCE * self.noise, torch.nan)
        return torch.stack([self.amplitudes.standardise(amplitude), self.times.standardise(time)], dim=2)

    def join(self, values: Tensor) -> Tensor:
        """Return waveforms (B, detectors, samples) from standardised amplitudes and times (B, detectors, 2)."""
        waveforms = self.templates(self.times.restore(values[..., 1]))
        return self.amplitudes.restore(values[..., 0]).unsqueeze(2) * waveforms


class WaveformGenerator(Conditioned):
    """Generator of samples about their mean, with noise on top.

    Args:
        geometry: the read-out.
        network: from the inputs to (B, detectors, samples).
        latent: normal numbers of a signal, besides one for each sample.
    """

    mean: Tensor
    width: Tensor
    noise: Tensor
    knee: Tensor

    def __init__(self, geometry: Waveforms, network: nn.Module, latent: int) -> None:
        super().__init__(geometry)
        self.network, self.latent = network, latent
        self.level = nn.Linear(latent + 1, geometry.channels)
        nn.init.zeros_(self.level.weight)
        nn.init.zeros_(self.level.bias)
        self.register_buffer("mean", torch.zeros(geometry.shape))
        self.register_buffer("width", torch.ones(geometry.shape))
        self.register_buffer("noise", torch.ones(geometry.channels))
        self.register_buffer("knee", torch.ones(()))

    def smooth(self, conditions: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples without noise (B, detectors, samples), and the width of the noise (B, detectors, 1)."""
        inputs = torch.cat([latent, self.energy(conditions)], dim=1)
        level = self.noise * self.level(inputs).clamp(-5.0, 5.0).exp()
        return self.mean + self.width * self.network(inputs), level.unsqueeze(2)

    def start_from(self, views: Tensor) -> None:
        """Take mean and width of every sample from training events, (n, detectors, samples)."""
        mean = views.mean(dim=0)
        width = (views - mean).square().mean(dim=0).sqrt()
        fill(self, mean=mean.cpu().numpy(), width=width.cpu().numpy())


class ShapeGenerator(WaveformGenerator):
    """Generator of waveforms whose largest sample is 1."""

    def forward(self, conditions: Tensor, latent: Tensor, noise: Tensor) -> Tensor:
        """Return shapes for conditions (B, C), noise (B, latent) and sample noise (B, detectors, samples)."""
        values, level = self.smooth(conditions, latent)
        return units.with_peak_one(values + level * noise)


class SampleGenerator(WaveformGenerator):
    """Generator of waveforms in network units."""

    spread: Tensor

    def __init__(self, geometry: Waveforms, network: nn.Module, latent: int) -> None:
        super().__init__(geometry, network, latent)
        self.register_buffer("spread", torch.ones(()))

    def forward(self, conditions: Tensor, latent: Tensor, noise: Tensor) -> Tensor:
        """Return waveforms for conditions (B, C), noise (B, latent) and sample noise (B, detectors, samples)."""
        values, level = self.smooth(conditions, latent)
        # The largest pulse of any read-out is far below e^12 times the noise.
        return self.knee * values.clamp(-12.0, 12.0).sinh() + level * noise

    def compressed(self, showers: Tensor) -> Tensor:
        """Compress waveforms in network units for the critic: whole signals then differ by a few units."""
        return torch.asinh(showers / self.knee) / self.spread

    def start_from(self, views: Tensor) -> None:
        """Take the constants from compressed training events, (n, detectors, samples)."""
        super().start_from(views)
        fill(self, spread=max(float(self.width.square().sum().sqrt()) / APART, 1.0))


class Critic(Conditioned):
    """Critic of a representation of a signal, at its incident energy."""

    gain: Tensor

    def __init__(self, geometry: Waveforms, network: nn.Module) -> None:
        super().__init__(geometry)
        self.network = network
        self.register_buffer("gain", torch.ones(()))

    def forward(self, views: Tensor, conditions: Tensor, draws: Draws) -> Verdict:
        """Return the score of views (B, detectors, numbers) of signals with conditions (B, C)."""
        return Verdict(score=self.network(self.gain * views, self.energy(conditions)))
