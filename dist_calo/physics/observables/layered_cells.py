"""Positions of the cells of layers, which of them are their core, and the energy above which a cell counts as hit."""

import math

import numpy as np

from dist_calo.geometry import CylindricalLayers, LayeredGrid, LayeredReadout
from dist_calo.physics.observables.spectrum import core_slice

GRID_THRESHOLD = 1e-5
"""Energy in GeV above which a cell of a grid counts as hit."""
FEW_CELLS_THRESHOLD, MANY_CELLS_THRESHOLD = 1e-3, 1.515e-5
"""The same for cylinders, in GeV: those of the CaloChallenge, 1 MeV in dataset 1 and 15.15 keV in datasets 2 and 3."""
FEW_CELLS = 1000
"""Cylinders with fewer cells are read out as the CaloChallenge's dataset 1 is (368 and 533 cells)."""


def hit_threshold(geometry: LayeredReadout) -> float:
    """Return the energy in GeV above which a cell counts as hit."""
    if not isinstance(geometry, CylindricalLayers):
        return GRID_THRESHOLD
    return FEW_CELLS_THRESHOLD if geometry.cells < FEW_CELLS else MANY_CELLS_THRESHOLD


def length_unit(geometry: LayeredReadout) -> str:
    """Return the unit of `cell_positions`: mm, or none where lengths are relative to the layer's size."""
    return "" if isinstance(geometry, LayeredGrid) and geometry.cell_sizes is None else "mm"


def core_cells(geometry: LayeredReadout) -> np.ndarray:
    """Return whether each cell is in the core of its layer (V,): the innermost ring, or the middle of a grid."""
    layers: list[np.ndarray] = []
    if isinstance(geometry, CylindricalLayers):
        for edges, sectors in zip(geometry.r_edges, geometry.sectors, strict=True):
            layers.append(np.tile(np.arange(len(edges) - 1) == 0, sectors if len(edges) > 1 else 0))
    elif isinstance(geometry, LayeredGrid):
        for rows, columns in geometry.layers:
            core = np.zeros((rows, columns), dtype=bool)
            core[core_slice(rows), core_slice(columns)] = True
            layers.append(core.ravel())
    return np.concatenate(layers)


def cell_positions(geometry: LayeredReadout) -> np.ndarray:
    """Return cell positions in the plane of their layer (V, 3): x along phi, y along eta, squared radius.

    In mm about the middle of the layer; in units of the layer's size where the geometry does not tell the cells'. A
    ring that is not cut in sectors has a radius, but x and y are NaN: its direction is undefined.
    """
    layers: list[np.ndarray] = []
    if isinstance(geometry, LayeredGrid):
        for number, (eta, phi) in enumerate(geometry.layers):
            sizes = geometry.cell_sizes[number] if geometry.cell_sizes else (1 / eta, 1 / phi)
            y, x = ((np.arange(n) + 0.5 - n / 2) * size for n, size in zip((eta, phi), sizes, strict=True))
            plane = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
            layers.append(np.column_stack([plane, (plane**2).sum(axis=1)]))
    elif isinstance(geometry, CylindricalLayers):
        for edges, sectors in zip(geometry.r_edges, geometry.sectors, strict=True):
            if len(edges) < 2:
                continue
            r = (np.asarray(edges[1:]) + np.asarray(edges[:-1])) / 2
            alpha = (np.arange(sectors) + 0.5) * (2 * math.pi / sectors)
            direction = np.stack([np.cos(alpha), np.sin(alpha)], axis=-1)
            plane = (direction[:, None, :] * r[None, :, None]).reshape(-1, 2)
            layers.append(np.column_stack([plane, np.tile(r**2, sectors)]))
            if sectors == 1:
                layers[-1][:, :2] = np.nan
    return np.concatenate(layers)
