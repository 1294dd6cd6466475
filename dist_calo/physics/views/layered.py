"""Validation of showers in layers: the energy of each layer, their correlations, and the shapes in layers.

With ``E_i`` the energy in layer i and ``E_vis`` their sum, the columns are ``layer_energy`` E_i in GeV, ``share`` the
logarithm of E_i / E_vis to base 10, ``response`` E_vis / E_inc, ``depth`` the energy-weighted layer and ``depth_width``
its standard deviation; within a layer ``centre_x``, ``centre_y`` and ``width`` (root mean square distance of its energy
from the centre) and ``hit_share`` the share of its cells above `hit_threshold`. An empty layer has no share, centre or
width; a layer of rings without sectors has no centre, and its width is about the axis.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.geometry import CylindricalLayers, LayeredGrid, LayeredReadout
from dist_calo.physics.metrics.distances import compared
from dist_calo.physics.observables.features import Feature
from dist_calo.physics.views.feature_view import FeatureView, ObservedShowers
from dist_calo.physics.views.view import Examples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID_THRESHOLD = 1e-5
"""Energy in GeV above which a cell of a grid counts as hit."""
FEW_CELLS_THRESHOLD, MANY_CELLS_THRESHOLD = 1e-3, 1.515e-5
"""The same for cylinders, in GeV: those of the CaloChallenge, 1 MeV in dataset 1 and 15.15 keV in datasets 2 and 3."""
FEW_CELLS = 1000
"""Cylinders with fewer cells are read out as the CaloChallenge's dataset 1 is (368 and 533 cells)."""
PER_LAYER = ("layer_energy", "share", "centre_x", "centre_y", "width", "hit_share")
OF_SHOWER = ("response", "depth", "depth_width")
RATIOS = ("layer_energy", "width", "hit_share", *OF_SHOWER)
"""Observables whose means may be compared as ratios: a logarithm and a place have an arbitrary zero."""


def hit_threshold(geometry: LayeredReadout) -> float:
    """Return the energy in GeV above which a cell counts as hit."""
    if not isinstance(geometry, CylindricalLayers):
        return GRID_THRESHOLD
    return FEW_CELLS_THRESHOLD if geometry.cells < FEW_CELLS else MANY_CELLS_THRESHOLD


def length_unit(geometry: LayeredReadout) -> str:
    """Return the unit of `cell_positions`: mm, or none where lengths are relative to the layer's size."""
    return "" if isinstance(geometry, LayeredGrid) and geometry.cell_sizes is None else "mm"


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


class LayerView(FeatureView):
    """Validation of showers in layers; see `dist_calo.physics.views.view.View`."""

    headlines = (
        "separation/layer_energy",
        "correlation/layer_energy",
        "separation/share",
        "separation/width",
        "separation/hit_share",
        "separation/response",
    )

    def __init__(self, geometry: LayeredReadout) -> None:
        self.geometry = geometry
        self._read_out = [number for number, cells in enumerate(geometry.layer_cells) if cells]
        self._slices = [geometry.layer_slices[number] for number in self._read_out]
        self._positions = cell_positions(geometry)
        self._threshold = hit_threshold(geometry)
        length = length_unit(geometry)
        units = {"layer_energy": "GeV", "centre_x": length, "centre_y": length, "width": length}
        features = [
            Feature(group=group, index=number, unit=units.get(group, ""), relative=group in RATIOS)
            for group in PER_LAYER
            for number in self._read_out
        ] + [Feature(group=group) for group in OF_SHOWER]
        super().__init__(geometry, features, "cells")

    def observe(self, showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
        """Return the features of showers (n, V) in GeV of incident energies (n,) in GeV, shape (n, F)."""
        columns: dict[str, list[np.ndarray]] = {group: [] for group in PER_LAYER}
        for part in self._slices:
            cells, (x, y, square_radius) = showers[:, part], self._positions[part].T
            energy = cells.sum(axis=1, dtype=np.float64)
            with np.errstate(divide="ignore", invalid="ignore"):
                centre_x, centre_y = cells @ x / energy, cells @ y / energy
                square = cells @ square_radius / energy
                square -= np.nan_to_num(centre_x**2 + centre_y**2)
            columns["layer_energy"].append(energy)
            columns["centre_x"].append(centre_x)
            columns["centre_y"].append(centre_y)
            columns["width"].append(np.sqrt(np.maximum(square, 0.0)))
            columns["hit_share"].append((cells > self._threshold).mean(axis=1))
        layers = np.stack(columns["layer_energy"], axis=1)
        total = layers.sum(axis=1)
        number = np.array(self._read_out, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.log10(layers / total[:, None])
            depth = layers @ number / total
            depth_width = np.sqrt(np.maximum(layers @ number**2 / total - depth**2, 0.0))
        columns["share"] = list(np.where(np.isfinite(share), share, np.nan).T)
        stacked = [column for group in PER_LAYER for column in columns[group]]
        return np.stack([*stacked, total / energies, depth, depth_width], axis=1)

    def numbers(self, fake: ObservedShowers, real: ObservedShowers) -> dict[str, float]:
        return compared(fake, real, detailed=("layer_energy",))

    def score(self, numbers: dict[str, float]) -> float:
        """Return the mean separation power of all observables, plus two mean differences.

        These are of the shares of showers that have an observable and of the layers' correlations.
        """
        groups = (*PER_LAYER, *OF_SHOWER)
        # Geant4 showers in rings without sectors have no centre to compare.
        separations = [numbers[f"separation/{group}"] for group in groups]
        known = [value for value in separations if math.isfinite(value)]
        missing = sum(numbers[f"fraction/{group}"] for group in groups) / len(groups)
        others = missing + numbers.get("correlation/layer_energy", 0.0)
        return sum(known) / len(known) + others if known and math.isfinite(others) else math.inf

    def pictures(
        self, real: ObservedShowers, fake: ObservedShowers, examples: Examples
    ) -> "dict[str, Callable[[], Figure]]":
        from dist_calo.physics.figures import layered

        return {
            "layer_energies": partial(layered.energies_figure, real, fake),
            "layer_correlations": partial(layered.correlations_figure, real, fake),
            "layer_shapes": partial(layered.shapes_figure, real, fake),
            "layer_means": partial(layered.means_figure, self.geometry, real, fake),
            "showers": partial(layered.showers_figure, self.geometry, examples),
        }
