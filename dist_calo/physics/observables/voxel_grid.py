"""Observables of showers on a voxel grid: response, moments, layers, core, hits, hottest cell and angle.

With ``E_xyz`` the energy of a cell, nearly everything follows from ``E_xz = sum_y E_xyz`` and ``E_yz = sum_x E_xyz``.
A position is that of the middle of a cell, x and y in mm from the centre of the grid, the depth in layers from 0. A
width is the square root of the central second moment. Of a layer, the width is the root mean square distance of its
energy from its barycentre. The core is the middle `core_slice` of columns and rows. Sparsity is the share of cells that
are not hit, as in the CaloChallenge's evaluation.
"""

import math

import numpy as np

from dist_calo.geometry import VoxelGrid
from dist_calo.physics.observables.features import Feature
from dist_calo.physics.observables.observer import (
    Observed,
    Profile,
    cell_profiles,
    check_shapes,
    mean_and_width,
    ratio,
    scored,
)
from dist_calo.physics.observables.spectrum import CELLS_ABOVE, CellSpectrum, cells_above, core_slice

THRESHOLD = 1e-5
"""Energy in GeV above which a cell counts as hit."""
CELL_ENERGY = (1e-7, 10.0)
"""Lowest and highest cell energy of the spectrum, in GeV."""
CELLS_AT_ONCE = 1 << 18
"""Cells that are summed at once: with what is made of them, they stay in the processor's cache."""
LEAST_SHARE = 1e-6
"""A layer with a smaller part of the visible energy is ignored for the angle."""

LABELS = {
    "response": "E_vis / E_inc",
    "shower_max": "layer of the shower maximum",
    "depth": "energy-weighted layer",
    "depth_width": "longitudinal width [layers]",
    "mean_x": "barycentre in x [mm]",
    "mean_y": "barycentre in y [mm]",
    "width_x": "width in x [mm]",
    "width_y": "width in y [mm]",
    "hits": "cells hit",
    "sparsity": "share of cells not hit",
    "hottest_x": "x of the hottest cell [cells]",
    "hottest_y": "y of the hottest cell [cells]",
    "hottest_layer": "layer of the hottest cell",
    "core_fraction": "E_core / E_vis",
    "leading_fraction": "E_hottest cell / E_vis",
    "angle": "measured angle - theta [mrad]",
    "layer_fraction": "E_layer / E_vis",
    "layer_width": "lateral width of the layer [mm]",
    "cells_above": CELLS_ABOVE,
}
UNITS = {
    **dict.fromkeys(("mean_x", "mean_y", "width_x", "width_y", "layer_width"), "mm"),
    "angle": "mrad",
}
PER_LAYER = ("layer_fraction", "layer_width")
DECADES = (2, 3, 4, 5)
"""Powers of ten of the thresholds in keV above which cells are counted."""
WITHOUT_RATIO = ("mean_x", "mean_y", "hottest_x", "hottest_y", "angle")
"""Observables whose zero is a convention."""
UNSCORED = ("sparsity", "hottest_x", "hottest_y")
"""Observables that say again what others say."""


class VoxelObserver:
    """Observer of a voxel grid; see `dist_calo.physics.observables.observer.Observer`.

    Args:
        geometry: the grid; ``angle`` is observed only where it has the condition ``theta``.
    """

    summary_groups = (
        "response",
        "depth",
        "depth_width",
        "width_x",
        "width_y",
        "core_fraction",
        "hits",
        "leading_fraction",
    )

    def __init__(self, geometry: VoxelGrid) -> None:
        self.geometry = geometry
        self.indexed_by = {**dict.fromkeys(PER_LAYER, "layer"), "cells_above": "n"}
        self._spectrum = CellSpectrum(*CELL_ENERGY)
        self._tilted = "theta" in geometry.conditions
        columns, rows, layers = geometry.shape
        self.labels = {group: label for group, label in LABELS.items() if group != "angle" or self._tilted}
        self.features = tuple(
            Feature(group=group, index=index, unit=UNITS.get(group, ""), relative=group not in WITHOUT_RATIO)
            for group in self.labels
            for index in (
                range(layers) if group in PER_LAYER else DECADES if group == "cells_above" else (0,)
            )
        )
        self.scored = scored(self.features, UNSCORED, ("layer_fraction",))
        of_shower = [
            group for group in self.labels if group not in (*self.indexed_by, *UNSCORED, "hottest_layer")
        ]
        self.correlated = tuple(f"{group}/0" for group in of_shower)
        # In the order of the axes: the middles of the cells in mm from the centre.
        self._x, self._y, self._z = (
            (np.arange(cells) + 0.5 - cells / 2) * pitch
            for cells, pitch in zip(geometry.shape, geometry.cell_size, strict=True)
        )
        self.profiles = {
            "longitudinal": Profile(
                edges=np.arange(layers + 1) - 0.5, axis="layer", title="mean energy [GeV]"
            ),
            "x": self._transverse("x", columns, geometry.cell_size[0]),
            "y": self._transverse("y", rows, geometry.cell_size[1]),
            **cell_profiles(self._spectrum.edges),
        }

    @staticmethod
    def _transverse(axis: str, cells: int, pitch: float) -> Profile:
        return Profile(
            edges=(np.arange(cells + 1) - cells / 2) * pitch,
            axis=f"{axis} [mm]",
            title="mean energy [GeV]",
            log_values=True,
        )

    def observe(self, showers: np.ndarray, conditions: np.ndarray) -> Observed:
        """Measure showers (n, X, Y, Z) in GeV; see `dist_calo.physics.observables.observer.Observer.observe`."""
        check_shapes(self.geometry, showers, conditions)
        showers = np.ascontiguousarray(showers, dtype=np.float32)
        along_x, along_y, hits, hottest, largest = self._reduced(showers)
        counts = self._spectrum.counts(showers)
        layers, in_x, in_y = along_y.sum(axis=1), along_x.sum(axis=2), along_y.sum(axis=2)
        total = layers.sum(axis=1)
        centre_x, layer_width_x = mean_and_width(along_x.swapaxes(1, 2), self._x)
        centre_y, layer_width_y = mean_and_width(along_y.swapaxes(1, 2), self._y)
        mean_x, width_x = mean_and_width(in_x, self._x)
        mean_y, width_y = mean_and_width(in_y, self._y)
        depth, depth_width = mean_and_width(layers, np.arange(len(self._z), dtype=np.float64))
        place = np.unravel_index(hottest, self.geometry.shape)
        lit = total > 0
        values = {
            "response": total / conditions[:, 0].astype(np.float64),
            "shower_max": np.where(lit, layers.argmax(axis=1), np.nan),
            "depth": depth,
            "depth_width": depth_width,
            "mean_x": mean_x,
            "mean_y": mean_y,
            "width_x": width_x,
            "width_y": width_y,
            "hits": hits,
            "sparsity": 1.0 - hits / self.geometry.cells,
            **{
                f"hottest_{axis}": np.where(lit, index, np.nan)
                for axis, index in zip(("x", "y", "layer"), place, strict=True)
            },
            "core_fraction": ratio(
                showers[:, core_slice(len(self._x)), core_slice(len(self._y))].sum(
                    axis=(1, 2, 3), dtype=np.float64
                ),
                total,
            ),
            "leading_fraction": ratio(largest, total),
            "cells_above": self._spectrum.above_decades(counts, DECADES),
            "layer_fraction": ratio(layers, total[:, None]),
            "layer_width": np.hypot(layer_width_x, layer_width_y),
        }
        if self._tilted:
            theta = conditions[:, self.geometry.conditions.index("theta")].astype(np.float64)
            measured = self._angle(
                layers,
                centre_x - mean_x[:, None],
                centre_y - mean_y[:, None],
                depth * self.geometry.cell_size[2],
            )
            values["angle"] = 1e3 * (measured - theta)
        return Observed(
            columns=np.column_stack([values[group] for group in self.labels]),
            profiles={
                "longitudinal": layers,
                "x": in_x,
                "y": in_y,
                "spectrum": counts[:, :-1],
                "hits_above": cells_above(counts),
            },
        )

    def _reduced(self, showers: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return E_xz (n, X, Z), E_yz (n, Y, Z); number of cells hit, place and energy of the hottest, (n,)."""
        count, (columns, rows, layers) = len(showers), self.geometry.shape
        along_x = np.empty((count, columns, layers), dtype=np.float32)
        along_y = np.empty((count, rows, layers), dtype=np.float32)
        hits, hottest = np.empty(count), np.empty(count, dtype=np.intp)
        cells = showers.reshape(count, self.geometry.cells)
        ones = np.ones((1, rows), dtype=np.float32)
        step = max(1, CELLS_AT_ONCE // self.geometry.cells)
        with np.errstate(invalid="ignore", over="ignore"):
            for first in range(0, count, step):
                part = slice(first, first + step)
                # A product with ones is the fastest sum over the middle one of three axes.
                np.matmul(ones, showers[part], out=along_x[part, :, None, :])
                np.sum(showers[part], axis=1, out=along_y[part])
                hits[part] = [np.count_nonzero(shower > THRESHOLD) for shower in cells[part]]
                cells[part].argmax(axis=1, out=hottest[part])
        largest = cells[np.arange(count), hottest].astype(np.float64)
        return along_x.astype(np.float64), along_y.astype(np.float64), hits, hottest, largest

    def _angle(self, layers: np.ndarray, dx: np.ndarray, dy: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Return polar angles in rad (n,), NaN without energy, as in Khattak et al., Eur. Phys. J. C 82, 386 (2022).

        Each layer's barycentre makes a slope with that of the shower: the distance along y over that in the plane of x
        and z, with the sign flipped in front of it. The angle pi/2 - atan(slope) is averaged with the layer's depth as
        weight.

        Args:
            layers: energies, shape (n, Z).
            dx: distances in x of the layers' barycentres from the shower's in mm, shape (n, Z), NaN without energy.
            dy: the same in y.
            depth: of the shower's barycentre from the middle of the first layer in mm, shape (n,).
        """
        z = self._z - self._z[0]
        dz = z - depth[:, None]
        weight = np.where(
            layers > LEAST_SHARE * layers.sum(axis=1, keepdims=True), z + self.geometry.cell_size[2] / 2, 0.0
        )
        in_plane = np.hypot(dx, dz)
        slope = np.where(dz < 0, -dy, dy) / np.where(in_plane > 0, in_plane, np.inf)
        angles = np.where(weight > 0, math.pi / 2 - np.arctan(slope), 0.0)
        return ratio((angles * weight).sum(axis=1), weight.sum(axis=1))
