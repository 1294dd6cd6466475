"""Discriminator of `dist_calo.models.voxels.lcd_fast.model`, which describes its mathematics."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from dist_calo.geometry import VoxelGrid
from dist_calo.models.interfaces import Verdict
from dist_calo.models.nn.blocks import SpectralNorm, leaky
from dist_calo.models.nn.requirements import column
from dist_calo.models.voxels.lcd_fast.orientation import coarser, oriented
from dist_calo.randomness import Draws

FLOOR = 1e-6
"""Energy in network units squared below which differences are ignored."""


class FastDiscriminator(nn.Module):
    """Discriminator of showers; see `dist_calo.models.voxels.lcd_fast.model`.

    Args:
        geometry: any voxel grid.
        width: channels of the first convolution.
        hidden: width of the dense layer on the observables.
        fine: look at more observables of each layer: its width, its core of 3x3 cells, its hits of more energy, and how
            alike it is to the next.
    """

    log_energy: Tensor
    means: Tensor
    widths: Tensor
    fraction: Tensor
    distance: Tensor
    depths: Tensor
    whitening: Tensor

    def __init__(self, geometry: VoxelGrid, width: int, hidden: int, fine: bool = False) -> None:
        super().__init__()
        x, y, z = geometry.shape
        self.geometry, self.fine = geometry, fine
        observables = 4 + x + y + 3 * z + (5 * z + 6 if fine else 0)
        across = [torch.arange(float(n)) - (n - 1) / 2 for n in (x, y)]
        self.register_buffer("distance", across[0][:, None].square() + across[1].square(), persistent=False)
        self.register_buffer("log_energy", torch.tensor([4.0, 1.0]))
        self.register_buffer("means", torch.zeros(3, observables))
        self.register_buffer("widths", torch.ones(observables))
        if fine:
            self.register_buffer("whitening", torch.eye(observables))
        self.register_buffer("fraction", torch.tensor(20.0))
        self.register_buffer("depths", torch.arange(float(z)), persistent=False)
        self.convolutions = nn.ModuleList(
            nn.Conv3d(before, after, 3, 2, 1)
            for before, after in ((2, width), (width, 2 * width), (2 * width, 2 * width))
        )
        cells = int(np.prod(coarser(geometry.shape, 3)))
        self.flat = nn.Linear(2 * width * cells, 64)
        self.dense = nn.ModuleList([nn.Linear(observables + 1, hidden), nn.Linear(hidden, 64)])
        self.score, self.projection = nn.Linear(128, 1), nn.Linear(128, 1)
        self.energy = nn.Linear(64, 1)
        for layer in (*self.convolutions, self.flat, *self.dense, self.score, self.projection):
            register_parametrization(layer, "weight", SpectralNorm())

    def forward(self, showers: Tensor, conditions: Tensor, draws: Draws) -> Verdict:
        """Judge amplitudes (B, X, Y, Z)."""
        energy = column(conditions, self.geometry, "energy")
        e = (energy.log() - self.log_energy[0]) / self.log_energy[1]
        x = oriented(showers, draws)
        picture = torch.stack([torch.log1p(4.0 * x), soft_hits(x, 0.3)], dim=1)
        for convolution in self.convolutions:
            picture = leaky(convolution(picture))
        seen = leaky(self.flat(picture.flatten(1)))
        powers = torch.stack([torch.ones_like(e), e, e.square()], dim=1)
        deviations = (self.observables(x, energy) - powers @ self.means) / self.widths
        if self.fine:
            deviations = deviations @ self.whitening
        measured = torch.cat([deviations, e[:, None]], dim=1)
        for layer in self.dense:
            measured = leaky(layer(measured))
        both = torch.cat([seen, measured], dim=1)
        score = self.score(both) + e[:, None] * self.projection(both)
        visible = x.square().sum((1, 2, 3)) / self.fraction
        return Verdict(score=score.squeeze(1), energy=visible * (0.1 * self.energy(seen)).squeeze(1).exp())

    def observables(self, x: Tensor, energy: Tensor) -> Tensor:
        """Return smooth observables (B, N) of amplitudes (B, X, Y, Z)."""
        cells = x.square()
        total = cells.sum((1, 2, 3)) + FLOOR
        hits = soft_hits(x, 0.3)
        soft_counts = [soft_hits(x, level).sum((1, 2, 3)) for level in (0.1, 1.0, 3.0)]
        parts = [
            (total / energy).log()[:, None],
            *((cells.sum(axes) / total[:, None] + 1e-5).log() for axes in ((2, 3), (1, 3))),
            *((q + 1e-3).sqrt() for q in (cells.sum((1, 2)), hits.sum((1, 2)), _core(cells))),
            torch.stack(soft_counts, dim=1).sqrt(),
        ]
        return torch.cat([*parts, *(self._fine(x, cells, total) if self.fine else ())], dim=1)

    def _fine(self, x: Tensor, cells: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        layers = cells.sum((1, 2))
        spread = torch.einsum("bxyz,xy->bz", cells, self.distance)
        middle = [slice((n - 1) // 2 - 1, n // 2 + 2) for n in x.shape[1:3]]
        alike = (x[..., 1:] * x[..., :-1]).sum((1, 2))
        high = [soft_hits(x, level).sum((1, 2)) for level in (0.1, 1.0)]
        middle_cells = cells[:, middle[0], middle[1]].sum((1, 2))
        depth = (layers @ self.depths) / total
        whole = (
            middle_cells.sum(1) / total,
            _core(cells).sum(1) / total,
            (spread.sum(1) / total).log(),
            depth,
            ((layers @ self.depths.square()) / total - depth.square() + 1e-2).log(),
            (cells.square().sum((1, 2, 3)) / total.square()).log(),
        )
        return (
            ((spread + 1e-2) / (layers + 1e-2)).log(),
            *((q + 1e-3).sqrt() for q in (middle_cells, *high)),
            F.pad(alike / (layers[:, 1:] * layers[:, :-1] + 1e-2).sqrt(), (0, 1)),
            torch.stack(whole, dim=1),
        )


def soft_hits(x: Tensor, level: float) -> Tensor:
    """Return x / (x + level): near 1 in cells of amplitude above a level, 0 in empty ones."""
    # Written so that its derivative needs no division, which is slow.
    return 1.0 - level * (x + level).reciprocal()


def _core(cells: Tensor) -> Tensor:
    """Return the column of cells in the middle, (B, Z)."""
    return cells[:, cells.shape[1] // 2, cells.shape[2] // 2]
