"""Networks of `dist_calo.models.waveforms.factorised.model`: amplitudes and times of the pulses of an event."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from dist_calo.models.nn.blocks import SpectralNorm, leaky
from dist_calo.models.waveforms.factorised.calibration import basis_powers, equivalent_channels, orientations
from dist_calo.models.waveforms.factorised.quantile_maps import QuantileMap
from dist_calo.randomness import Draws

ENERGY_KNOTS, TIME_KNOTS = 7, 14
LEAST_AMPLITUDE = 0.3
"""Amplitudes below, in units of the noise, count as this large."""
LEAST_SIGNIFICANCE = 3.0
"""Amplitude in units of the noise from which on a time is compared."""
LARGEST_SHARE = 0.97
"""Most that the common offset can make of a time's score."""
LEAST_INTRINSIC = 0.2
"""Least part of a time's width that is not due to the noise."""
CORRECTION = 0.1
"""Scale of what the dense layers add to scores, so that they start from the fit."""


class AmplitudeTimeGenerator(nn.Module):
    """Generator of amplitudes and times; see `dist_calo.models.waveforms.factorised.model`.

    Args:
        side: rows and columns of channels.
        latent: normal numbers of an event beyond two for each channel and one for the common offset.
        hidden: width of the dense layers.
    """

    log_energy: Tensor
    impact_mean: Tensor
    impact_log_width: Tensor
    mixing: Tensor
    common_offset: Tensor
    time_error: Tensor
    noise: Tensor
    powers: Tensor
    orders: Tensor

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
        self.register_buffer("impact_log_width", torch.zeros(terms, channels))
        self.register_buffer("mixing", torch.eye(channels))
        self.register_buffer("common_offset", torch.tensor(0.1))
        self.register_buffer("time_error", torch.tensor(0.0))
        self.register_buffer("noise", torch.tensor(1.0))
        self.register_buffer("powers", torch.tensor(basis_powers()), persistent=False)
        self.register_buffer("orders", torch.from_numpy(orientations(side)), persistent=False)
        sizes = [self.latent + 3, hidden, hidden]
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.correction = nn.Linear(hidden, 3 * channels)
        nn.init.normal_(self.correction.weight, std=0.1 * hidden**-0.5)
        nn.init.zeros_(self.correction.bias)

    def forward(self, energy: Tensor, impact: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return logarithms of amplitudes in the unit of the samples, and scores of times, each (B, channels).

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
        width = (terms @ self.impact_log_width + stretch).clamp(max=3.0).exp()
        score = terms @ self.impact_mean + width * (for_amplitudes @ self.mixing.T) + shift
        given = energy.log()[:, None].expand_as(score)
        logs = self.amplitude_map.to_value(score, given) + given
        width, intrinsic = self.time_width(logs.detach())
        share = (self.common_offset / (width * intrinsic)).clamp(max=LARGEST_SHARE)
        return logs, share * common + (1.0 - share.square()).sqrt() * for_times + delay

    def time_width(self, logs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the width of measured times in ns, and the part of it that is not due to the noise.

        Args:
            logs: logarithms of the amplitudes, shape (B, channels), as both results.
        """
        one = torch.ones_like(logs)
        upper, lower = (self.time_map.to_value(score, logs) for score in (one, -one))
        width = ((upper - lower) / 2).clamp(min=1e-3)
        noise = self.time_error / logs.exp() / width
        return width, (1.0 - noise.square()).clamp(min=LEAST_INTRINSIC**2).sqrt()

    def times(self, logs: Tensor, scores: Tensor) -> Tensor:
        """Return the times in ns, which waveforms with noise let measure as wide as the map says; all (B, channels)."""
        return self.time_map.to_value(self.time_width(logs)[1] * scores, logs)

    def measured(self, logs: Tensor, scores: Tensor, draws: Draws) -> Tensor:
        """Return the view of amplitudes and scores as measurements on waveforms with noise give them."""
        intrinsic = self.time_width(logs.detach())[1]
        error = draws.normal("time_error", self.channels).to(logs)
        return self.view(logs, intrinsic * scores + (1.0 - intrinsic.square()).sqrt() * error)

    def view(self, logs: Tensor, scores: Tensor) -> Tensor:
        """Return the discriminator's input: logarithms of amplitudes, and scores of times, 0 where there is none."""
        least = (LEAST_AMPLITUDE * self.noise).log()
        significant = logs >= (LEAST_SIGNIFICANCE * self.noise).log()
        return torch.cat([logs.maximum(least), torch.where(significant, scores, 0.0)], dim=1)

    def oriented(self, values: Tensor, draws: Draws) -> Tensor:
        """Turn each event (B, channels, ...) to a random one of the orientations of the square."""
        return oriented(values, self.orders, draws)


class AmplitudeTimeDiscriminator(nn.Module):
    """Dense layers on amplitudes and times in a random orientation, with spectral norm up to the score.

    Args:
        side: rows and columns of channels.
        hidden: width of the dense layers.
    """

    log_energy: Tensor
    roots: Tensor
    orders: Tensor

    def __init__(self, side: int, hidden: int) -> None:
        super().__init__()
        channels = side * side
        self.channels = channels
        self.amplitude_map = QuantileMap(equivalent_channels(side), ENERGY_KNOTS)
        self.register_buffer("log_energy", torch.tensor([2.0, 1.0]))
        self.register_buffer("roots", torch.tensor([[0.0], [1.0]]).repeat(1, channels))
        self.register_buffer("orders", torch.from_numpy(orientations(side)), persistent=False)
        sizes = [3 * channels + 1, hidden, hidden, hidden]
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        for layer in self.dense:
            register_parametrization(layer, "weight", SpectralNorm())
        self.score = nn.Linear(hidden, 1)

    def forward(self, view: Tensor, energy: Tensor, draws: Draws) -> Tensor:
        """Return the scores (B,) of views (B, 2 channels), at energies (B,) in GeV."""
        logs, scores = view.split(self.channels, dim=1)
        logs, scores = oriented(torch.stack([logs, scores], dim=2), self.orders, draws).unbind(2)
        log_energy = energy.log()[:, None]
        given = log_energy.expand_as(logs)
        normal = self.amplitude_map.to_score(logs - given, given)
        root = (((logs - given) / 2.0).exp() - self.roots[0]) / self.roots[1]
        h = torch.cat([normal, root, scores, (log_energy - self.log_energy[0]) / self.log_energy[1]], dim=1)
        for layer in self.dense:
            h = leaky(layer(h)) * 1.4
        return self.score(h).squeeze(1)


def oriented(values: Tensor, orders: Tensor, draws: Draws) -> Tensor:
    """Permute the channels of each event (B, channels, ...) by a random one of some orders (8, channels)."""
    choice = (draws.uniform("orientation") * len(orders)).long().squeeze(1).to(values.device)
    order = orders[choice].view(*values.shape[:2], *(1 for _ in values.shape[2:])).expand_as(values)
    return values.gather(1, order)
