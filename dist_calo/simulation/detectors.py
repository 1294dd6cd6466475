"""Detectors that can be simulated: positions of their cells, and constants of their parametrisation.

Depths are measured from the front face in mm, x and y from the middle of the read-out window.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dist_calo.errors import ConfigError
from dist_calo.geometry import Geometry, LayeredGrid, VoxelGrid
from dist_calo.simulation.longitudinal import Longitudinal
from dist_calo.simulation.radial import Radial
from dist_calo.simulation.signals import PulseChain, waveform_geometry

CONSTANTS = Path(__file__).with_name("constants.yaml")


@dataclass(frozen=True, kw_only=True)
class Parametrisation:
    """Constants of one calorimeter.

    Attributes:
        source: what they were fitted to.
        energies: lowest and highest incident energy of that, in GeV.
        response: visible energy of a shower that is wholly contained, as a share of the incident energy.
        spot_energy: mean energy of a spot in GeV; spots are as many as their energies, which are exponential, and
            the response ask for, and their number is what makes sampling fluctuations.
        lump_energy: incident energy in GeV of a lump, by whose number the slices' shares of the energy fluctuate.
    """

    source: str
    energies: tuple[float, float]
    response: float
    spot_energy: float
    lump_energy: float
    longitudinal: Longitudinal
    radial: Radial


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Rectangular cells in layers, with a flat numbering.

    The cell in layer ``l``, column ``i`` along x and ``j`` along y is number ``first[l] + i step_x[l] + j step_y[l]``.

    Attributes:
        shape: of the array of one shower.
        columns: cells of each layer along x, shape (L,).
        rows: the same along y.
        width: pitch in x in mm, shape (L,).
        height: pitch in y in mm, shape (L,).
        first: shape (L,).
        step_x: shape (L,).
        step_y: shape (L,).
    """

    shape: tuple[int, ...]
    columns: np.ndarray
    rows: np.ndarray
    width: np.ndarray
    height: np.ndarray
    first: np.ndarray
    step_x: np.ndarray
    step_y: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Slab:
    """Plate of one material.

    Attributes:
        material: name in Geant4's table of materials.
        thickness: in mm.
        layer: layer of cells that reads it out; None for a passive one.
    """

    material: str
    thickness: float
    layer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Calorimeter with the beam on it.

    Attributes:
        name: as on the command line.
        constants: name of its parametrisation in ``constants.yaml``.
        materials: of a sampling layer from its front: name in Geant4's table of materials, and thickness in mm.
        active: the material that is read out.
        side: of the square front in mm; cells fill it, of which the window has those in the middle.
        layer_edges: depths between which cells are read out, in mm.
        impact: width of the square around the middle in which particles arrive, in mm.
        spot: standard deviation of a Gaussian spread of the impact besides, in mm.
        pivot: depth at which tilted axes cross the middle of the window, in mm.
        cells: where its cells lie.
        chain: the electronics that make waveforms of the deposits; None where energies of cells are read out.
    """

    name: str
    constants: str
    materials: tuple[tuple[str, float], ...]
    active: str
    side: float
    layer_edges: tuple[float, ...]
    impact: float
    spot: float = 0.0
    pivot: float
    cells: Cells = field(repr=False)
    chain: PulseChain | None = None

    def geometry(self, conditions: tuple[str, ...] = ("energy",)) -> Geometry:
        """Return the read-out of its showers, conditioned on the energy and, where showers are tilted, on ``theta``."""
        grid = self.cells
        if self.chain is not None:
            return replace(waveform_geometry(self.chain), conditions=conditions)
        if len(grid.shape) == 3:
            columns, rows, layers = grid.shape
            width, height = float(grid.width[0]), float(grid.height[0])
            size = (width, height, self.pitch)
            return VoxelGrid(shape=(columns, rows, layers), cell_size=size, conditions=conditions)
        return LayeredGrid(
            layers=tuple(zip(grid.rows.tolist(), grid.columns.tolist(), strict=True)),
            cell_sizes=tuple(zip(grid.height.tolist(), grid.width.tolist(), strict=True)),
            conditions=conditions,
        )

    @property
    def pitch(self) -> float:
        """Thickness of a sampling layer in mm."""
        return sum(thickness for _, thickness in self.materials)

    @property
    def slabs(self) -> tuple[Slab, ...]:
        """Plates from the front to the back; an active one that two layers of cells share is cut."""
        found, front = [], 0.0
        for material, thickness in round(self.layer_edges[-1] / self.pitch) * self.materials:
            back = front + thickness
            if material != self.active:
                found.append(Slab(material=material, thickness=thickness))
            else:
                # Edges that differ from a plate's face by rounding alone do not cut it.
                inner = [edge for edge in self.layer_edges if front + 1e-6 < edge < back - 1e-6]
                for low, high in pairwise((front, *inner, back)):
                    layer = int(np.searchsorted(self.layer_edges, 0.5 * (low + high))) - 1
                    found.append(Slab(material=material, thickness=high - low, layer=layer))
            front = back
        return tuple(found)

    @property
    def description(self) -> str:
        """Return what it is made of, in words."""
        matter = " + ".join(f"{thickness:g} mm {name}" for name, thickness in self.materials)
        return (
            f"{round(self.layer_edges[-1] / self.pitch)} layers of {matter}, {self.side:g} x {self.side:g} mm^2, "
            f"{self.active} read out in cells; nothing in front, vacuum around, no magnetic field"
        )

    @property
    def parametrisation(self) -> Parametrisation:
        """Build a parametrisation from plain numbers."""
        return read_constants(CONSTANTS)[self.constants]

    @property
    def slices(self) -> np.ndarray:
        """Depths in mm that divide a shower at normal incidence into slices, each within one layer."""
        end = self.layer_edges[-1]
        return np.unique([*self.layer_edges, *np.arange(round(end / self.pitch) + 1) * self.pitch])


@lru_cache(maxsize=4)
def read_constants(path: Path) -> dict[str, Parametrisation]:
    """Read the parametrisations in a file, by name."""
    import yaml

    return {name: parametrisation(values) for name, values in yaml.safe_load(path.read_text()).items()}


def parametrisation(values: dict[str, Any]) -> Parametrisation:
    """Build a parametrisation from plain numbers."""

    def tuples(part: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in part.items()}

    return Parametrisation(
        source=values["source"],
        energies=tuple(values["energies"]),
        response=values["response"],
        spot_energy=values["spot_energy"],
        lump_energy=values["lump_energy"],
        longitudinal=Longitudinal(**tuples(values["longitudinal"])),
        radial=Radial(**tuples(values["radial"])),
    )


def _voxels(columns: int, rows: int, layers: int, size: float) -> Cells:
    """Return cells ordered x, y, layer."""
    ones = np.ones(layers, dtype=np.int64)
    return Cells(
        shape=(columns, rows, layers),
        columns=columns * ones,
        rows=rows * ones,
        width=size * ones,
        height=size * ones,
        first=np.arange(layers),
        step_x=rows * layers * ones,
        step_y=layers * ones,
    )


def images(layers: tuple[tuple[int, int], ...], side: float) -> Cells:
    """Return layers of rows along y (eta) and columns along x (phi), the faster index, all of one size in mm."""
    rows, columns = np.array(layers).T
    return Cells(
        shape=(int((rows * columns).sum()),),
        columns=columns,
        rows=rows,
        width=side / columns,
        height=side / rows,
        first=np.concatenate([[0], np.cumsum(rows * columns)[:-1]]),
        step_x=np.ones(len(layers), dtype=np.int64),
        step_y=columns,
    )


def _towers(layers: int, side: int, size: float) -> Cells:
    """Return cells ordered layer, x, y."""
    ones = np.ones(layers, dtype=np.int64)
    return Cells(
        shape=(layers, side, side),
        columns=side * ones,
        rows=side * ones,
        width=size * ones,
        height=size * ones,
        first=side * side * np.arange(layers),
        step_x=side * ones,
        step_y=ones,
    )


def _lcd(name: str, side: int) -> Detector:
    return Detector(
        name=name,
        constants="lcd",
        materials=(("G4_W", 3.4), ("G4_Si", 0.5), ("G4_AIR", 1.2)),
        active="G4_Si",
        side=51 * 5.1,
        layer_edges=tuple(5.1 * np.arange(26)),
        impact=5.1,
        pivot=46.0,
        cells=_voxels(side, side, 25, 5.1),
    )


DETECTORS = {
    detector.name: detector
    for detector in (
        _lcd("lcd25", 25),
        _lcd("lcd51", 51),
        Detector(
            name="layers",
            constants="layers",
            materials=(("G4_Pb", 2.0), ("G4_lAr", 4.0)),
            active="G4_lAr",
            side=480.0,
            layer_edges=(0.0, 90.0, 437.0, 480.0),
            impact=0.0,
            spot=0.5,
            pivot=130.0,
            cells=images(((3, 96), (12, 12), (12, 6)), 480.0),
        ),
        Detector(
            name="signals",
            constants="signals",
            materials=(("G4_Pb", 2.0), ("G4_POLYSTYRENE", 4.0)),
            active="G4_POLYSTYRENE",
            side=9 * 40.4,
            layer_edges=tuple(6.0 * np.arange(67)),
            impact=40.4,
            pivot=110.0,
            cells=_towers(66, 3, 40.4),
            chain=PulseChain(),
        ),
    )
}
"""By name."""


def find_detector(name: str) -> Detector:
    """Return the detector of that name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in DETECTORS:
        raise ConfigError(f"--detector {name}: there is no such detector; choose from {', '.join(DETECTORS)}")
    return DETECTORS[name]
