"""Places of the cells of layers: who is whose neighbour, and the mirror images of a shower.

A layer is a picture of (eta, phi) in a grid, of (sector, ring) in a cylinder, whose sectors close to a circle.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dist_calo.geometry import CylindricalLayers, LayeredGrid, LayeredReadout
from dist_calo.randomness import Draws

MOST = 1 << 22
"""Cells of showers of which a calibration sees all images, at most: it bounds its memory."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The cells of one layer."""

    rows: int
    columns: int
    """The faster index."""
    closed: bool
    """Whether the last row is the first one's neighbour."""

    def squared_offsets(self) -> Tensor:
        """Return the squared distance of each cell from the middle along rows and along columns, in cells, (N, 2).

        Sectors are all at 0, and rings count from the innermost one.
        """
        rows, columns = (torch.arange(float(size)) for size in (self.rows, self.columns))
        if self.closed:
            rows = torch.zeros_like(rows)
        else:
            rows, columns = (offsets - offsets.mean() for offsets in (rows, columns))
        return torch.stack(torch.meshgrid(rows**2, columns**2, indexing="ij"), dim=-1).flatten(0, 1)

    def shifted(self, cells: Tensor, axis: int, by: int) -> Tensor:
        """Return each cell's neighbour ``by`` places along an axis (1 for rows, 2 for columns), 0 where there is none.

        Args:
            cells: shape (B, rows, columns).
            axis: 1 or 2.
            by: 1 or more, or -1 or less.
        """
        turned = cells.roll(-by, axis)
        if axis == 1 and self.closed:
            return turned
        places = torch.arange(cells.shape[axis], device=cells.device) + by
        inside = (places >= 0) & (places < cells.shape[axis])
        return turned * (inside[:, None] if axis == 1 else inside)

    def correlated(self, normal: Tensor, weights: Tensor) -> Tensor:
        """Return standard normal numbers (B, N) of which neighbours are correlated, from independent ones.

        Args:
            normal: independent, (B, N).
            weights: of both neighbours along rows and columns, (2,); the correlation is 2 k / (1 + 2 k^2).
        """
        cells = normal.view(-1, self.rows, self.columns)
        for axis, size in ((1, self.rows), (2, self.columns)):
            if size < (3 if axis == 1 and self.closed else 2):
                continue
            weight = weights[axis - 1]
            ones = torch.ones_like(cells[:1])
            both = self.shifted(cells, axis, 1) + self.shifted(cells, axis, -1)
            count = self.shifted(ones, axis, 1) + self.shifted(ones, axis, -1)
            cells = (cells + weight * both) * (1.0 + weight.square() * count).rsqrt()
        return cells.flatten(1)


def pictures(geometry: LayeredReadout) -> tuple[Picture, ...]:
    """Return those of the layers that are read out."""
    if isinstance(geometry, CylindricalLayers):
        return tuple(
            Picture(rows=sectors, columns=len(edges) - 1, closed=True)
            for edges, sectors in zip(geometry.r_edges, geometry.sectors, strict=True)
            if len(edges) > 1
        )
    assert isinstance(geometry, LayeredGrid)
    return tuple(Picture(rows=eta, columns=phi, closed=False) for eta, phi in geometry.layers)


class Mirrors(nn.Module):
    """Mirror images of showers that are equally likely where the beam stands in the middle of symmetric layers.

    A grid is mirrored in eta and in phi. A cylinder is mirrored by counting its sectors backwards, and turned by half a
    circle where all layers have an even number of sectors, or one.

    Args:
        geometry: any layered read-out.
    """

    images: Tensor

    def __init__(self, geometry: LayeredReadout) -> None:
        super().__init__()
        layers = pictures(geometry)
        turns = all(layer.rows % 2 == 0 or layer.rows == 1 for layer in layers)
        first, images = 0, []
        for layer in layers:
            cells = torch.arange(first, first + layer.rows * layer.columns).view(layer.rows, layer.columns)
            first += layer.rows * layer.columns
            other = cells.roll(layer.rows // 2 * turns, 0) if layer.closed else cells.flip(1)
            images.append(torch.stack([x.flatten() for x in (cells, cells.flip(0), other, other.flip(0))]))
        self.register_buffer("images", torch.cat(images, dim=1), persistent=False)

    def expanded(self, *samples: np.ndarray) -> list[np.ndarray]:
        """Return all images of the first showers of each sample: cells (n, V) or numbers of a shower (n,)."""
        images = self.images.cpu().numpy()
        kept = slice(max(MOST // images.shape[1], 1))
        return [
            np.concatenate([values[kept][:, image] if values.ndim == 2 else values[kept] for image in images])
            for values in samples
        ]

    def forward(self, showers: Tensor, draws: Draws) -> Tensor:
        """Return a random one of the four images of each shower (B, V)."""
        choice = (4.0 * draws.uniform("mirror")[:, 0]).long().to(showers.device)
        return showers.gather(1, self.images[choice])
