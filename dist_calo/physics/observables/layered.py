"""Observables of showers in layers: the energy over layers, within each of them, and over the cells.

In a layer, ``centre_x``, ``centre_y`` and, for rings, ``centre_r`` are energy-weighted means of the cells' positions,
``width`` is the root mean square distance of the energy from its centre, ``width_x``, ``width_y`` and ``width_r`` are
the square roots of the central second moments, as in the CaloChallenge's evaluation; its eta and phi are x and y of a
cylinder, but it counts alpha from -pi, so that its centres have the other sign. ``sparsity`` is, as there, the share of
cells that are not hit. ``core_fraction`` is the energy of the layer's middle cells
(`dist_calo.physics.observables.layered_cells.core_cells`) over that of the layer, ``hottest_fraction`` that of its
hottest cell. ``e_ratio`` is (E_1 - E_2) / (E_1 + E_2) with the two largest cell energies of the layer, and
``depth_weighted_energy`` sum_i i E_i over the layers i, as in CaloGAN's (arXiv:1712.10321).

A layer has only those features that can vary in it: a single cell has no width, rings without sectors no x and y.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from dist_calo.geometry import CylindricalLayers, LayeredReadout
from dist_calo.physics.observables.features import Feature
from dist_calo.physics.observables.layered_cells import (
    cell_positions,
    core_cells,
    hit_threshold,
    length_unit,
)
from dist_calo.physics.observables.observer import (
    Observed,
    Profile,
    cell_profiles,
    check_shapes,
    mean_and_width,
    ratio,
    scored,
)
from dist_calo.physics.observables.spectrum import CELLS_ABOVE, CellSpectrum, cells_above

CELL_ENERGY = (1e-6, 1e4)
"""Lowest and highest cell energy of the spectrum, in GeV: the CaloChallenge's particles have up to 4 TeV."""
CELLS_AT_ONCE = 1 << 22
"""Cells that are measured at once, which bounds the memory: one layer of them then fits in the processor's cache."""
SUMMARY = (
    "response",
    "layer_fraction",
    "depth",
    "depth_width",
    "width",
    "core_fraction",
    "hottest_fraction",
    "sparsity",
)
UNSCORED = ("share", "depth_weighted_energy")
"""Observables that say again what others say."""
DECADES = (2, 3, 4, 5, 6)
"""Powers of ten of the thresholds in keV above which cells are counted."""
MOST_CORRELATED_LAYERS = 6
"""Layers, evenly spread, whose energies are among the observables whose correlations are shown."""

OF_SHOWER = {
    "response": "E_vis / E_inc",
    "shower_max": "layer of the shower maximum",
    "depth": "energy-weighted layer",
    "depth_width": "longitudinal width [layers]",
    "depth_weighted_energy": "sum of layer number x E_layer [GeV]",
    "hits": "cells hit",
    "hottest_layer": "layer of the hottest cell",
    "leading_fraction": "E_hottest cell / E_vis",
}
PER_LAYER = {
    "layer_energy": "E_layer [GeV]",
    "layer_fraction": "E_layer / E_vis",
    "share": "log10(E_layer / E_vis)",
    "sparsity": "share of the layer's cells not hit",
    "core_fraction": "E_core of the layer / E_layer",
    "hottest_fraction": "E_hottest cell of the layer / E_layer",
    "e_ratio": "(E_1 - E_2) / (E_1 + E_2) of the layer's hottest cells",
    "width": "lateral width of the layer",
}
IN_LAYER = {"x": "phi", "y": "eta", "r": "r"}
"""Positions in a layer, and their names in a grid."""
UNITS = {"layer_energy": "GeV", "depth_weighted_energy": "GeV"}
WITHOUT_RATIO = ("share", "centre_x", "centre_y")
"""Observables whose zero is a convention."""


class LayerObserver:
    """Observer of showers in layers; see `dist_calo.physics.observables.observer.Observer`.

    Args:
        geometry: the layers.
    """

    def __init__(self, geometry: LayeredReadout) -> None:
        self.geometry = geometry
        self._spectrum = CellSpectrum(*CELL_ENERGY)
        self._threshold = hit_threshold(geometry)
        self._read_out = np.flatnonzero(geometry.layer_cells)
        self._slices = [geometry.layer_slices[number] for number in self._read_out]
        positions = cell_positions(geometry)
        self._axes = ("x", "y", "r") if isinstance(geometry, CylindricalLayers) else ("x", "y")
        in_axes = np.column_stack([positions[:, :2], np.sqrt(positions[:, 2])])[:, : len(self._axes)]
        # Unknown positions make no feature; as NaN they would spoil the others in a matrix product.
        self._known = [np.isfinite(in_axes[part]).all(axis=0) for part in self._slices]
        in_axes, core = np.nan_to_num(in_axes), core_cells(geometry)
        self._weights = [
            np.column_stack(
                [
                    np.ones(part.stop - part.start),
                    in_axes[part],
                    in_axes[part] ** 2,
                    positions[part, 2],
                    core[part],
                ]
            )
            for part in self._slices
        ]
        self._columns = self._places_of_groups(in_axes, core)
        """Of each group per layer, its layers' places among those read out."""
        self.labels = {**OF_SHOWER, **self._labels_in_layers(), "cells_above": CELLS_ABOVE}
        units = UNITS | {
            group: length_unit(geometry) for group in self.labels if group.startswith(("width", "centre"))
        }
        relative = {group: group not in WITHOUT_RATIO for group in self.labels}
        self.features = tuple(
            Feature(group=group, index=int(index), unit=units.get(group, ""), relative=relative[group])
            for group in self.labels
            for index in self._indices(group)
        )
        self.scored = scored(self.features, UNSCORED, ("layer_energy", "layer_fraction"))
        self.indexed_by = {**dict.fromkeys(self._columns, "layer"), "cells_above": "n"}
        spread = np.linspace(
            0, len(self._read_out) - 1, min(len(self._read_out), MOST_CORRELATED_LAYERS)
        ).round()
        self.correlated = (
            *(f"{group}/0" for group in ("response", "depth", "depth_width", "hits", "leading_fraction")),
            *(f"layer_energy/{self._read_out[int(place)]}" for place in spread),
        )
        self.summary_groups = tuple(group for group in SUMMARY if group in self.labels)
        self._radial = RadialDensity(geometry) if isinstance(geometry, CylindricalLayers) else None
        self.profiles = self._profiles()
        self._batch = max(1, CELLS_AT_ONCE // geometry.cells)

    def _indices(self, group: str) -> Sequence[int]:
        if group == "cells_above":
            return DECADES
        return self._read_out[self._columns[group]].tolist() if group in self._columns else (0,)

    def _places_of_groups(self, in_axes: np.ndarray, core: np.ndarray) -> dict[str, np.ndarray]:
        everywhere = np.arange(len(self._read_out))
        several = np.array([part.stop - part.start > 1 for part in self._slices])
        varies = np.array(
            [
                known & (np.ptp(in_axes[part], axis=0) > 0)
                for part, known in zip(self._slices, self._known, strict=True)
            ]
        )
        places = {
            group: everywhere[several] if group in ("hottest_fraction", "e_ratio", "width") else everywhere
            for group in PER_LAYER
        }
        places["core_fraction"] = everywhere[[not core[part].all() for part in self._slices]]
        for column, axis in enumerate(self._axes):
            for group in (f"centre_{axis}", f"width_{axis}"):
                places[group] = everywhere[varies[:, column]]
        return {group: layers for group, layers in places.items() if len(layers)}

    def _labels_in_layers(self) -> dict[str, str]:
        unit = length_unit(self.geometry)
        size = f" [{unit}]" if unit else " [layer's size]"
        labels = PER_LAYER | {"width": PER_LAYER["width"] + size}
        for axis in self._axes:
            name = axis if isinstance(self.geometry, CylindricalLayers) else IN_LAYER[axis]
            labels[f"centre_{axis}"] = f"centre of the layer's energy in {name}{size}"
            labels[f"width_{axis}"] = f"width of the layer in {name}{size}"
        return {group: label for group, label in labels.items() if group in self._columns}

    def _profiles(self) -> dict[str, Profile]:
        profiles = {
            "longitudinal": Profile(
                edges=self._read_out.astype(np.float64), points=True, axis="layer", title="mean energy [GeV]"
            ),
            **cell_profiles(self._spectrum.edges),
        }
        if self._radial is not None:
            profiles["radial"] = Profile(
                edges=self._radial.edges,
                axis="r [mm]",
                title="mean energy density [GeV/mm²]",
                log_values=True,
            )
        return profiles

    def observe(self, showers: np.ndarray, conditions: np.ndarray) -> Observed:
        """Measure showers (n, V) in GeV; see `dist_calo.physics.observables.observer.Observer.observe`."""
        check_shapes(self.geometry, showers, conditions)
        showers = np.asarray(showers, dtype=np.float32)
        starts = range(0, max(len(showers), 1), self._batch)
        parts = [
            self._measured(showers[first : first + self._batch], conditions[first : first + self._batch])
            for first in starts
        ]
        return Observed(
            columns=np.concatenate([part.columns for part in parts]),
            profiles={
                name: np.concatenate([part.profiles[name] for part in parts]) for name in self.profiles
            },
        )

    def _measured(self, showers: np.ndarray, conditions: np.ndarray) -> Observed:
        cells_of_layers = [showers[:, part] for part in self._slices]
        measured = [
            _of_layer(cells, weights, self._threshold)
            for cells, weights in zip(cells_of_layers, self._weights, strict=True)
        ]
        sums, largest, second, hits = (np.stack(values, axis=1) for values in zip(*measured, strict=True))
        layers = sums[:, :, 0]
        per_layer = self._in_layers(layers, sums[:, :, 1:-1])
        per_layer["core_fraction"] = ratio(sums[:, :, -1], layers)
        per_layer["hottest_fraction"] = ratio(largest, layers)
        sizes = np.array([part.stop - part.start for part in self._slices])
        per_layer["sparsity"] = 1.0 - hits / sizes
        with np.errstate(invalid="ignore", over="ignore"):
            per_layer["e_ratio"] = ratio(largest - second, largest + second)
            total = layers.sum(axis=1)
            weighted = layers @ self._read_out.astype(np.float64)
        depth, depth_width = mean_and_width(layers, self._read_out.astype(np.float64))
        lit = total > 0
        of_shower = {
            "response": total / conditions[:, 0].astype(np.float64),
            "shower_max": np.where(lit, self._read_out[layers.argmax(axis=1)], np.nan),
            "depth": depth,
            "depth_width": depth_width,
            "depth_weighted_energy": weighted,
            "hits": hits.sum(axis=1),
            "hottest_layer": np.where(lit, self._read_out[largest.argmax(axis=1)], np.nan),
            "leading_fraction": ratio(largest.max(axis=1), total),
        }
        values = {group: of_shower[group][:, None] for group in OF_SHOWER}
        values |= {group: per_layer[group][:, places] for group, places in self._columns.items()}
        counts = self._spectrum.counts(showers)
        values["cells_above"] = self._spectrum.above_decades(counts, DECADES)
        profiles = {"longitudinal": layers, "spectrum": counts[:, :-1], "hits_above": cells_above(counts)}
        if self._radial is not None:
            profiles["radial"] = self._radial.of(cells_of_layers)
        return Observed(
            columns=np.concatenate([values[group] for group in self.labels], axis=1),
            profiles=profiles,
        )

    def _in_layers(self, layers: np.ndarray, moments: np.ndarray) -> dict[str, np.ndarray]:
        """Return the features of each layer (n, R) from energies (n, R) and sums weighted with positions (n, R, K)."""
        axes = len(self._axes)
        fraction = ratio(layers, layers.sum(axis=1, keepdims=True))
        means = ratio(moments, layers[:, :, None])
        centres, squares, square_radius = means[:, :, :axes], means[:, :, axes : 2 * axes], means[:, :, -1]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            share = np.log10(np.where(fraction > 0, fraction, np.nan))
            spreads = np.sqrt(np.maximum(squares - centres**2, 0.0))
            width = np.sqrt(np.maximum(square_radius - (centres[:, :, :2] ** 2).sum(axis=2), 0.0))
        values = {"layer_energy": layers, "layer_fraction": fraction, "share": share, "width": width}
        for column, axis in enumerate(self._axes):
            values[f"centre_{axis}"], values[f"width_{axis}"] = centres[:, :, column], spreads[:, :, column]
        return values


def _of_layer(cells: np.ndarray, weights: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
    """Return sums (n, K) of a layer (n, V) with weights (V, K), its largest and second largest cell
    (n,), which is 0 where there is but one, and the number of cells above the threshold (n,)."""
    rows = np.arange(len(cells))
    with np.errstate(invalid="ignore", over="ignore"):
        sums = cells.astype(np.float64) @ weights
        hits = np.count_nonzero(cells > threshold, axis=1)
    place = cells.argmax(axis=1)
    largest = cells[rows, place].astype(np.float64)
    others = cells.copy()
    others[rows, place] = 0.0 if cells.shape[1] == 1 else -np.inf
    return sums, largest, others.max(axis=1).astype(np.float64), hits


class RadialDensity:
    """Energy per area as a function of r, summed over layers, in bins that are common to all of them.

    The energy of a ring is spread evenly over its area, so that its density is the same in all bins within it.

    Args:
        geometry: layers of rings.
    """

    def __init__(self, geometry: CylindricalLayers) -> None:
        layers = [
            (edges, sectors)
            for edges, sectors in zip(geometry.r_edges, geometry.sectors, strict=True)
            if len(edges) > 1
        ]
        self.edges = np.unique(np.concatenate([edges for edges, _ in layers]))
        """Of the bins of r in mm, shape (W + 1,)."""
        self._sectors = [np.ones((1, sectors), dtype=np.float32) for _, sectors in layers]
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        self._density = np.array(
            [
                ((middle > low) & (middle < high)) / (np.pi * (high**2 - low**2))
                for edges, _ in layers
                for low, high in itertools.pairwise(edges)
            ]
        )

    def of(self, layers: Sequence[np.ndarray]) -> np.ndarray:
        """Return densities in GeV/mm², shape (n, W), from the cells of each layer that is read out."""
        rings = []
        with np.errstate(invalid="ignore", over="ignore"):
            for cells, sectors in zip(layers, self._sectors, strict=True):
                count, cut = len(cells), sectors.shape[1]
                # A product with ones is the fastest sum over the middle one of three axes.
                rings.append((sectors @ cells.reshape(count, cut, cells.shape[1] // cut))[:, 0])
            return np.asarray(np.concatenate(rings, axis=1).astype(np.float64) @ self._density)
