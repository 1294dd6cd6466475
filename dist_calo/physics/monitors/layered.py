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

from dist_calo.geometry import LayeredReadout
from dist_calo.physics.metrics.distances import compared
from dist_calo.physics.monitors.feature_monitor import FeatureMonitor, ObservedShowers
from dist_calo.physics.observables.examples import Examples
from dist_calo.physics.observables.features import Feature
from dist_calo.physics.observables.layered_cells import cell_positions, hit_threshold, length_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_LAYER = ("layer_energy", "share", "centre_x", "centre_y", "width", "hit_share")
OF_SHOWER = ("response", "depth", "depth_width")
RATIOS = ("layer_energy", "width", "hit_share", *OF_SHOWER)
"""Observables whose means may be compared as ratios: a logarithm and a place have an arbitrary zero."""


class LayerMonitor(FeatureMonitor):
    """Validation of showers in layers; see `dist_calo.physics.monitors.monitor.Monitor`."""

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
