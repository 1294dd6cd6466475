"""Generator of `dist_calo.models.voxels.lcd_fast.model`, which describes its mathematics."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_calo.geometry import VoxelGrid
from dist_calo.models.nn.blocks import fill, leaky
from dist_calo.models.nn.requirements import column
from dist_calo.models.voxels.lcd_fast import calibration as fit
from dist_calo.models.voxels.lcd_fast.calibration import Array
from dist_calo.models.voxels.lcd_fast.discriminator import FLOOR
from dist_calo.models.voxels.lcd_fast.orientation import coarser

DEPTH_MODES, TRANSVERSE_MODES = 6, 4
"""Numbers of fitted modes that are used."""
COMPOUND_POISSON = (1.04, 0.46, 0.0, 1.0, 1.31)
"""Constants c with which a cell follows the compound Poisson distribution of exponential hits: mean and width of its
energy within about a tenth for any number of hits, the chance of no energy exactly if 1.5 hits are expected or less."""
ROUNDING = 0.003
"""Rounds off the infinite slope of the square root at no energy."""


class FastGenerator(nn.Module):
    """Generator that starts from principal modes of layers and transverse shapes.

    Args:
        geometry: any voxel grid.
        latent: normal numbers of a shower, besides one number of each cell.
        width: channels of the finest transposed convolution.
        hidden: width of the dense layers.
        patterns: learned transverse patterns.
    """

    cell_start: tuple[float, ...] = COMPOUND_POISSON
    """Constants of `_sampled` before they are learned."""
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
        self.register_buffer("template", torch.zeros(x, y, z))
        self.register_buffer("hit", torch.tensor(0.35))
        self.register_buffer("scale", torch.tensor(1000.0))
        self.dense = nn.ModuleList([nn.Linear(latent + 1, hidden), nn.Linear(hidden, hidden)])
        self.total, self.layers = nn.Linear(hidden, 1), nn.Linear(hidden, z)
        self.mode_weights = nn.Parameter(torch.ones(self._register_fit(), z))
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
        self.cell = nn.Parameter(torch.tensor(self.cell_start)[:, None].repeat(1, z))
        self.log_hit = nn.Parameter(torch.zeros(z))

    def forward(self, conditions: Tensor, latent: Tensor, uniform: Tensor) -> Tensor:
        """Return amplitudes (B, X, Y, Z) for conditions (B, C), noise (B, latent) and uniform numbers (B, X Y Z)."""
        energy = column(conditions, self.geometry, "energy")
        e = ((energy.log() - self.log_energy[0]) / self.log_energy[1])[:, None]
        h = torch.cat([latent, e], dim=1)
        for layer in self.dense:
            h = leaky(layer(h))
        layers, modes = self._start(energy, e, h, latent)
        shape = self.template + modes + self._learned_shape(h)
        hits = self._expected_hits(layers)
        expected = shape + (hits - torch.logsumexp(shape, dim=(1, 2)))[:, None, None, :]
        y = self._sampled(expected, uniform.view_as(expected))
        return y * (layers / (y.square().sum((1, 2)) + 1e-4)).sqrt()[:, None, None, :]

    @staticmethod
    def fitted_latent(geometry: VoxelGrid) -> int:
        """Return how many normal numbers of a shower the fit uses."""
        return 1 + DEPTH_MODES + TRANSVERSE_MODES

    def _register_fit(self) -> int:
        """Register the buffers of the fit besides those of every fit; return the number of transverse modes."""
        x, y, z = self.geometry.shape
        self.register_buffer("response", torch.tensor([0.02, 0.2]))
        self.register_buffer("profile", torch.zeros(2, z))
        self.register_buffer("depth_modes", torch.zeros(DEPTH_MODES, z))
        self.register_buffer("transverse_modes", torch.zeros(TRANSVERSE_MODES + 3, x, y))
        return TRANSVERSE_MODES + 3

    def _start(self, energy: Tensor, e: Tensor, h: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layers' energies (B, Z) in network units squared and the modes of the shapes (B, X, Y, Z)."""
        first, along, across, _ = latent.split(
            [1, DEPTH_MODES, TRANSVERSE_MODES, self.latent - 1 - DEPTH_MODES - TRANSVERSE_MODES], dim=1
        )
        deviation = self.response[1] * energy.rsqrt() * first[:, 0] + 0.02 * self.total(h)[:, 0]
        visible = self.scale * self.response[0] * energy * deviation.exp()
        logits = self.profile[0] + e * self.profile[1] + along @ self.depth_modes + 0.1 * self.layers(h)
        a, b = across[:, :1], across[:, 1:2]
        amounts = torch.cat([across, a.square() - 1.0, b.square() - 1.0, a * b], dim=1)
        modes = torch.einsum("bm,mz,mxy->bxyz", amounts, self.mode_weights, self.transverse_modes)
        return visible[:, None] * F.softmax(logits, dim=1) + FLOOR, modes

    def _learned_shape(self, h: Tensor) -> Tensor:
        """Return what is learned of the log of the transverse shapes, (B, X, Y, Z)."""
        weights = self.pattern_weights(h).unflatten(1, (self.patterns, -1))
        x = self.start(h).unflatten(1, self.coarse)
        for convolution in self.finer[:-1]:
            x = leaky(convolution(x))
        return torch.einsum("bpz,pxy->bxyz", weights, self.pattern) + self.finer[-1](x).squeeze(1)

    def calibrate(self, showers: Array, energy: Array, scale: float) -> None:
        """Fit the start to showers (n, X, Y, Z) of incident energies (n,), both in GeV."""
        e = self._calibrate_scales(showers, energy, scale)
        showers = showers.astype(np.float64)
        profile, depth_modes = fit.longitudinal(showers, e, DEPTH_MODES)
        fill(
            self,
            response=fit.response(energy, showers.sum(axis=(1, 2, 3))),
            profile=profile,
            depth_modes=depth_modes,
            template=fit.template(showers),
            transverse_modes=fit.transverse(showers, TRANSVERSE_MODES),
        )

    def _calibrate_scales(self, showers: Array, energy: Array, scale: float) -> Array:
        """Fit what every start has; return standardised logarithms of the energies (n,)."""
        logs = np.log(energy)
        mean, width = logs.mean(), max(logs.std(), 1e-3)
        fill(self, log_energy=[mean, width], hit=scale * fit.hit_energy(showers), scale=scale)
        return np.asarray((logs - mean) / width)

    def _expected_hits(self, layers: Tensor) -> Tensor:
        """Return the logarithm of the expected hits of layers of these energies, (B, Z)."""
        return layers.log() - self.hit.log() - self.log_hit

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
