"""Networks of `dist_calo.models.waveforms.factorised.model` for amplitudes and times."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from dist_calo.models.nn.blocks import SpectralNorm, leaky
from dist_calo.models.waveforms.factorised.calibration import basis_powers, equivalent_channels, orientations
from dist_calo.models.waveforms.factorised.pulse_maker import rounded
from dist_calo.models.waveforms.factorised.quantile_maps import QuantileMap
from dist_calo.randomness import Draws

ENERGY_KNOTS, TIME_KNOTS = 7, 13
LARGEST_SHARE = 0.97
"""Most that the common offset can make of a time's score."""
CORRECTION = 0.1
"""Scale of what the dense layers add to scores, so that they start from the fit."""


class NumbersGenerator(nn.Module):
    """Generator of amplitudes and times; see `dist_calo.models.waveforms.factorised.model`.

    Args:
        side: rows and columns of channels.
        latent: normal numbers of an event beyond two for each channel and one for the common offset.
        hidden: width of the dense layers.
    """

    log_energy: Tensor
    impact_mean: Tensor
    impact_width: Tensor
    mixing: Tensor
    offset: Tensor
    step: Tensor
    threshold: Tensor
    powers: Tensor
    turned: Tensor

    def __init__(self, side: int, latent: int, hidden: int) -> None:
        super().__init__()
        channels = side * side
        classes = equivalent_channels(side)
        middle = [int(kind == max(classes)) for kind in classes]
        self.channels, self.latent = channels, 2 * channels + 1 + latent
        self.amplitude_map = QuantileMap(classes, ENERGY_KNOTS)
        self.time_map = QuantileMap(middle, TIME_KNOTS)
        terms = len(basis_powers())
        self.register_buffer("log_energy", torch.tensor([2.0, 1.0]))
        self.register_buffer("impact_mean", torch.zeros(terms, channels))
        self.register_buffer("impact_width", torch.zeros(terms, channels))
        self.register_buffer("mixing", torch.eye(channels))
        self.register_buffer("offset", torch.tensor(0.1))
        self.register_buffer("step", torch.tensor(0.0))
        self.register_buffer("threshold", torch.tensor(5.0))
        self.register_buffer("powers", torch.tensor(basis_powers()), persistent=False)
        self.register_buffer("turned", torch.from_numpy(orientations(side)), persistent=False)
        sizes = [self.latent + 3, hidden, hidden]
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.correction = nn.Linear(hidden, 3 * channels)
        nn.init.normal_(self.correction.weight, std=0.1 * hidden**-0.5)
        nn.init.zeros_(self.correction.bias)

    def forward(self, energy: Tensor, impact: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the amplitudes in the unit of the samples and scores of the times, each (B, channels).

        Args:
            energy: in GeV, shape (B,).
            impact: the point of impact in the central cell, from -1 to 1 in both coordinates, shape (B, 2).
            noise: normal numbers, shape (B, latent).
        """
        e = ((energy.log() - self.log_energy[0]) / self.log_energy[1])[:, None]
        for_amplitudes, for_times, common, _ = noise.split(
            [self.channels, self.channels, 1, self.latent - 2 * self.channels - 1], dim=1
        )
        h = torch.cat([impact, noise, e], dim=1)
        for layer in self.dense:
            h = leaky(layer(h))
        shift, stretch, delay = (CORRECTION * self.correction(h)).chunk(3, dim=1)
        terms = torch.cat([impact, e], dim=1).unsqueeze(1).pow(self.powers).prod(-1)
        width = (terms @ self.impact_width + stretch).clamp(max=3.0).exp()
        score = terms @ self.impact_mean + width * (for_amplitudes @ self.mixing.T) + shift
        logs = self.amplitude_map.to_value(score, energy.log()[:, None].expand_as(score))
        least = self.step.clamp(min=1e-3)
        amplitudes = rounded(logs.exp(), self.step).maximum(least)
        share = (self.offset / self.time_width(amplitudes.detach().log())).clamp(max=LARGEST_SHARE)
        return amplitudes, share * common + (1.0 - share.square()).sqrt() * for_times + delay

    def time_width(self, log_amplitudes: Tensor) -> Tensor:
        """Return half of the central 68 % of the times in ns, given the log of the amplitudes; both (B, channels)."""
        one = torch.ones_like(log_amplitudes)
        upper, lower = (self.time_map.to_value(score, log_amplitudes) for score in (one, -one))
        return ((upper - lower) / 2).clamp(min=1e-3)

    def oriented(self, values: Tensor, draws: Draws) -> Tensor:
        """Turn each event (B, channels, ...) to a random one of the orientations of the square."""
        return oriented(values, self.turned, draws)

    def times(self, amplitudes: Tensor, scores: Tensor) -> Tensor:
        """Return the times in ns of scores, NaN where the amplitude is too small for one; all (B, channels)."""
        times = self.time_map.to_value(scores, amplitudes.log())
        return torch.where(amplitudes >= self.threshold, times, torch.nan)

    def seen(self, amplitudes: Tensor, scores: Tensor) -> Tensor:
        """Return the discriminator's input: logarithms of amplitudes, and scores of times, 0 where there is none."""
        least = self.step.clamp(min=1e-3)
        scores = torch.where(amplitudes >= self.threshold, scores, 0.0)
        return torch.cat([amplitudes.maximum(least).log(), scores], dim=1)


class NumbersDiscriminator(nn.Module):
    """Dense layers on amplitudes and times in a random orientation, with spectral norm up to the score.

    Digitised amplitudes are smeared within their step, real and generated ones alike: the score is smooth in between.

    Args:
        side: rows and columns of channels.
        hidden: width of the dense layers.
    """

    log_energy: Tensor
    step: Tensor
    roots: Tensor
    turned: Tensor

    def __init__(self, side: int, hidden: int) -> None:
        super().__init__()
        channels = side * side
        self.channels = channels
        self.amplitude_map = QuantileMap(equivalent_channels(side), ENERGY_KNOTS)
        self.register_buffer("log_energy", torch.tensor([2.0, 1.0]))
        self.register_buffer("step", torch.tensor(0.0))
        self.register_buffer("roots", torch.tensor([[0.0], [1.0]]).repeat(1, channels))
        self.register_buffer("turned", torch.from_numpy(orientations(side)), persistent=False)
        sizes = [3 * channels + 1, hidden, hidden, hidden]
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        for layer in self.dense:
            register_parametrization(layer, "weight", SpectralNorm())
        self.score = nn.Linear(hidden, 1)

    def forward(self, seen: Tensor, energy: Tensor, draws: Draws) -> Tensor:
        """Return the scores (B,) of what is seen (B, 2 channels), at energies (B,) in GeV."""
        logs, scores = seen.split(self.channels, dim=1)
        smear = draws.uniform("smear", self.channels).to(logs) - 0.5
        amplitudes = (logs.exp() + self.step * smear).clamp(min=1e-3)
        both = torch.stack([amplitudes, scores], dim=2)
        amplitudes, scores = oriented(both, self.turned, draws).unbind(2)
        log_energy = energy.log()[:, None]
        normal = self.amplitude_map.to_score(amplitudes.log(), log_energy.expand_as(amplitudes))
        root = (amplitudes / energy[:, None]).sqrt()
        root = (root - self.roots[0]) / self.roots[1]
        h = torch.cat([normal, root, scores, (log_energy - self.log_energy[0]) / self.log_energy[1]], dim=1)
        for layer in self.dense:
            h = leaky(layer(h)) * 1.4
        return self.score(h).squeeze(1)


def oriented(values: Tensor, turned: Tensor, draws: Draws) -> Tensor:
    """Permute the channels of each event (B, channels, ...) by a random one of some orders (8, channels)."""
    choice = (draws.uniform("orientation") * len(turned)).long().squeeze(1).to(values.device)
    order = turned[choice].view(*values.shape[:2], *(1 for _ in values.shape[2:])).expand_as(values)
    return values.gather(1, order)
