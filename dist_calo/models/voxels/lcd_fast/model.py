"""Small generator and discriminator of showers at normal incidence, which train on a laptop.

A shower factorises into its visible energy, its longitudinal profile, the transverse shape of each layer, and the
sampling fluctuation of each cell. The networks see amplitudes ``x = sqrt(scale E_cell)``, in which Poisson
fluctuations have the same width in every cell. With ``z ~ N(0, 1)`` of length ``latent``, the standardised
``e = (ln E - <ln E>) / std(ln E)`` and dense features ``h(z, e)``, the **generator** computes::

    E_vis = f E exp(a z_0 / sqrt(E) + T(h))                       f sampling fraction, a stochastic term
    E_l   = E_vis softmax_l(p_l(e) + sum_k z_k d_kl + P_l(h))     energy of layer l
    m_lxy = E_l / w_l softmax_xy(t_lxy + S_lxy(z, h))             expected number of hits in a cell, of energy w_l
    q_lxy = max(0, ln(1 - exp(-m)) - ln(1 - u))                   u uniform, one for each cell
    y_lxy = sqrt(q) (c_0 + c_1 (1 - exp(-m)) + c_2 sqrt(m)) + max(0, c_3 sqrt(m) - c_4)
    x_lxy = y_lxy sqrt(scale E_l / sum_xy y_lxy^2)                so that the layer's energy is E_l

The last but one line begins as a cell in which a Poisson number of exponential hits is seen: ``y > 0`` with probability
``1 - exp(-m)``, a single hit's energy is exponential, and for large m the width of y is that of compound Poisson
statistics. ``S`` sums principal modes of the transverse shape, learned transverse patterns weighted in each layer, and
a stack of transposed convolutions. The mean response and its stochastic term, ``p``, the principal modes ``d`` of the
longitudinal profile and those of the transverse shape, the mean shape ``t`` and the hit energy are fitted to training
showers before the first step (`LcdFast.calibrate`): this is the starting point of the training. ``T``, ``P``, ``c``
and what ``S`` and ``w`` deviate from the fit by are learned by adversarial training. A shower is put into a random one
of the eight orientations of its square cross-section, all equally likely in nature.

The **discriminator** reads a shower, in a random orientation too, in two ways: strided convolutions of ln(1 + 4x), and
dense layers on observables (visible energy, profiles, hits, core; cf. CaloGAN, arXiv:1712.10321) as deviations from
their mean at the incident energy. The score is a conditional projection (arXiv:1802.05637). All layers up to the score
are divided by their spectral norm (arXiv:1802.05957), computed afresh from the weights: a norm that is iterated from
call to call, as is usual, would depend on the number of micro-batches.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_calo.errors import ConfigError
from dist_calo.geometry import Geometry, VoxelGrid
from dist_calo.models.gan import GanModel
from dist_calo.models.interfaces import Statistics
from dist_calo.models.nn.blocks import fill, leaky
from dist_calo.models.nn.requirements import column, require_conditions, require_kind, require_sizes
from dist_calo.models.voxels.lcd_fast import calibration as fit
from dist_calo.models.voxels.lcd_fast.discriminator import FLOOR, FastDiscriminator
from dist_calo.models.voxels.lcd_fast.orientation import coarser, oriented
from dist_calo.randomness import Draws

DEPTH_MODES, TRANSVERSE_MODES = 6, 4
"""Numbers of fitted modes that are used."""
COMPOUND_POISSON = (1.04, 0.46, 0.0, 1.0, 1.31)
"""Constants c with which a cell follows the compound Poisson distribution of exponential hits: mean and width of its
energy within about a tenth for any number of hits, the chance of no energy exactly if 1.5 hits are expected or less."""
ROUNDING = 0.003
"""Rounds off the infinite slope of the square root at no energy."""


class FastGenerator(nn.Module):
    """Generator of showers; see the module's docstring.

    Args:
        geometry: any voxel grid.
        latent: normal numbers of a shower, besides one number of each cell.
        width: channels of the finest transposed convolution.
        hidden: width of the dense layers.
        patterns: learned transverse patterns.
    """

    log_energy: Tensor
    response: Tensor
    profile: Tensor
    depth_modes: Tensor
    template: Tensor
    transverse_modes: Tensor
    hit: Tensor
    scale: Tensor

    def __init__(self, geometry: VoxelGrid, latent: int, width: int, hidden: int, patterns: int) -> None:
        super().__init__()
        x, y, z = geometry.shape
        self.geometry, self.latent, self.patterns = geometry, latent, patterns
        self.register_buffer("log_energy", torch.tensor([4.0, 1.0]))
        self.register_buffer("response", torch.tensor([0.02, 0.2]))
        self.register_buffer("profile", torch.zeros(2, z))
        self.register_buffer("depth_modes", torch.zeros(DEPTH_MODES, z))
        self.register_buffer("template", torch.zeros(x, y, z))
        self.register_buffer("transverse_modes", torch.zeros(TRANSVERSE_MODES + 3, x, y))
        self.register_buffer("hit", torch.tensor(0.35))
        self.register_buffer("scale", torch.tensor(1000.0))
        self.dense = nn.ModuleList([nn.Linear(latent + 1, hidden), nn.Linear(hidden, hidden)])
        self.total, self.layers = nn.Linear(hidden, 1), nn.Linear(hidden, z)
        self.mode_weights = nn.Parameter(torch.ones(TRANSVERSE_MODES + 3, z))
        self.pattern_weights = nn.Linear(hidden, patterns * z)
        self.pattern = nn.Parameter(0.1 * torch.randn(patterns, x, y))
        sizes = [coarser(geometry.shape, times) for times in (3, 2, 1, 0)]
        self.coarse = (4 * width, *sizes[0])
        self.start = nn.Linear(hidden, int(np.prod(self.coarse)))
        self.finer = nn.ModuleList(
            _doubling(before, after, small, large)
            for before, after, small, large in zip(
                (4 * width, 2 * width, width), (2 * width, width, 1), sizes[:-1], sizes[1:], strict=True
            )
        )
        self.cell = nn.Parameter(torch.tensor(COMPOUND_POISSON)[:, None].repeat(1, z))
        self.log_hit = nn.Parameter(torch.zeros(z))

    def forward(self, conditions: Tensor, latent: Tensor, uniform: Tensor) -> Tensor:
        """Return amplitudes (B, X, Y, Z) for conditions (B, C), noise (B, latent) and uniform numbers (B, X Y Z)."""
        energy = column(conditions, self.geometry, "energy")
        e = ((energy.log() - self.log_energy[0]) / self.log_energy[1])[:, None]
        h = torch.cat([latent, e], dim=1)
        for layer in self.dense:
            h = leaky(layer(h))
        first, along, across, _ = latent.split(
            [1, DEPTH_MODES, TRANSVERSE_MODES, self.latent - 1 - DEPTH_MODES - TRANSVERSE_MODES], dim=1
        )
        deviation = self.response[1] * energy.rsqrt() * first[:, 0] + 0.02 * self.total(h)[:, 0]
        visible = self.scale * self.response[0] * energy * deviation.exp()
        logits = self.profile[0] + e * self.profile[1] + along @ self.depth_modes + 0.1 * self.layers(h)
        layers = visible[:, None] * F.softmax(logits, dim=1) + FLOOR
        shape = self.template + self._shape(h, across)
        per_hit = layers.log() - self.hit.log() - self.log_hit
        expected = shape + (per_hit - torch.logsumexp(shape, dim=(1, 2)))[:, None, None, :]
        y = self._sampled(expected, uniform.view_as(expected))
        return y * (layers / (y.square().sum((1, 2)) + 1e-4)).sqrt()[:, None, None, :]

    def _shape(self, h: Tensor, across: Tensor) -> Tensor:
        """Return the deviation of the log of the transverse shapes from their mean, (B, X, Y, Z)."""
        weights = self.pattern_weights(h).unflatten(1, (self.patterns, -1))
        x = self.start(h).unflatten(1, self.coarse)
        for convolution in self.finer[:-1]:
            x = leaky(convolution(x))
        a, b = across[:, :1], across[:, 1:2]
        amounts = torch.cat([across, a.square() - 1.0, b.square() - 1.0, a * b], dim=1)
        modes = torch.einsum("bm,mz,mxy->bxyz", amounts, self.mode_weights, self.transverse_modes)
        return modes + torch.einsum("bpz,pxy->bxyz", weights, self.pattern) + self.finer[-1](x).squeeze(1)

    def _sampled(self, expected: Tensor, uniform: Tensor) -> Tensor:
        """Sample amplitudes of cells, given the log of their expected energies in units of a hit's."""
        mean = expected.clamp(-25.0, 12.0).exp()
        root, seen = mean.sqrt(), -torch.expm1(-mean)
        beyond = F.relu(seen.log() - torch.log1p(-uniform.clamp(max=1.0 - 1e-6)))
        hit = beyond / ((beyond + ROUNDING).sqrt() + ROUNDING**0.5)  # sqrt(beyond), rounded off
        c = self.cell
        return hit * (c[0] + c[1] * seen + c[2] * root) + F.relu(c[3] * root - c[4])


def _doubling(before: int, after: int, small: tuple[int, ...], large: tuple[int, ...]) -> nn.ConvTranspose3d:
    """Return a transposed convolution of stride 2 from one picture size to the next larger."""
    x, y, z = (n + 1 - 2 * m for m, n in zip(small, large, strict=True))
    return nn.ConvTranspose3d(before, after, 3, 2, 1, output_padding=(x, y, z))


class LcdFast(GanModel):
    """Both networks; `calibrate` fits their starting point."""

    geometry: VoxelGrid
    generator: FastGenerator
    discriminator: FastDiscriminator

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Generate showers of conditions (B, C): amplitudes (B, X, Y, Z)."""
        latent = draws.normal("latent", self.generator.latent).to(conditions)
        uniform = draws.uniform("cells", self.geometry.cells).to(conditions)
        return oriented(self.generator(conditions, latent, uniform), draws)

    def calibrate(self, statistics: Statistics) -> None:
        """Fit the starting point of the training; deterministic.

        Args:
            statistics: of a sample of training showers: ``energy`` (n,) in GeV, ``showers`` (n, X, Y, Z) in GeV and
                ``network_units`` (n, X, Y, Z), the same as the networks see them.

        Raises:
            ConfigError: if the network units are not sqrt(scale E).
        """
        scale = fit.amplitude_scale(statistics["showers"], statistics["network_units"])
        energy = statistics["energy"].astype(np.float64)
        showers = statistics["showers"].astype(np.float64)
        log_energy = np.array([np.log(energy).mean(), max(np.log(energy).std(), 1e-3)])
        e = (np.log(energy) - log_energy[0]) / log_energy[1]
        fraction, stochastic = fit.response(energy, showers.sum(axis=(1, 2, 3)))
        profile, depth_modes = fit.longitudinal(showers, e, DEPTH_MODES)
        fill(
            self.generator,
            log_energy=log_energy,
            response=[fraction, stochastic],
            profile=profile,
            depth_modes=depth_modes,
            template=fit.template(showers),
            transverse_modes=fit.transverse(showers, TRANSVERSE_MODES),
            hit=scale * fit.hit_energy(showers),
            scale=scale,
        )
        judge = self.discriminator
        device = judge.means.device
        seen = judge.observables(
            torch.from_numpy(statistics["network_units"]).to(device),
            torch.from_numpy(energy).float().to(device),
        )
        observed = seen.cpu().double().numpy()
        powers = np.stack([np.ones_like(e), e, e**2], axis=1)
        means = np.linalg.lstsq(powers, observed, rcond=None)[0]
        widths = (observed - powers @ means).std(axis=0) + 1e-3
        fill(judge, log_energy=log_energy, means=means, widths=widths, fraction=scale * fraction)


def lcd_fast(
    geometry: Geometry,
    *,
    latent: int = 32,
    width: int = 8,
    hidden: int = 128,
    patterns: int = 12,
    discriminator_width: int = 16,
) -> LcdFast:
    """Build the two networks for any voxel grid.

    Args:
        geometry: the read-out.
        latent: normal numbers of a shower; the first 11 feed the fitted fluctuations too.
        width: channels of the finest transposed convolution; coarser ones have twice and four times as many.
        hidden: width of the dense layers of both networks.
        patterns: learned transverse patterns.
        discriminator_width: channels of the first convolution; the others have twice as many.

    Raises:
        ConfigError: if the data are no voxel grid or have other conditions than the energy, or a size is too small.
    """
    grid = require_kind("lcd_fast", geometry, VoxelGrid)
    require_conditions("lcd_fast", geometry, ("energy",))
    least = 1 + DEPTH_MODES + TRANSVERSE_MODES
    if latent < least:
        raise ConfigError(
            f"model.options.latent={latent}: lcd_fast needs at least {least}, which its fitted modes use"
        )
    require_sizes(width=width, hidden=hidden, patterns=patterns, discriminator_width=discriminator_width)
    return LcdFast(
        grid,
        FastGenerator(grid, latent, width, hidden, patterns),
        FastDiscriminator(grid, discriminator_width, hidden),
    )
