"""Small files in the schemas of CaloGAN and of the CaloChallenge for tests."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dist_calo.data.formats.binning import OWN_FILES, read_binning
from dist_calo.geometry import CylindricalLayers

VOXELS = {"dataset_1_photons": 368, "dataset_1_pions": 533, "dataset_2": 6480, "dataset_3": 40500}
"""Voxels of the challenge's data sets."""
LAYERS = ((3, 8), (4, 4), (2, 2))


def binning(name: str) -> CylindricalLayers:
    """The cells of one of the challenge's data sets."""
    return next(read_binning(path)[0].geometry for path in OWN_FILES if path.stem == name)


def incident_energies(rows: int) -> np.ndarray:
    """Spread evenly in the logarithm from 1 GeV to 1 TeV, in GeV, shape (rows, 1)."""
    return np.geomspace(1, 1000, rows)[:, None]


def voxels(rows: int, cells: int, seed: int = 0) -> np.ndarray:
    """Showers in GeV whose cells sum to 0.9 of the incident energy, most of them empty, shape (rows, cells)."""
    numbers = np.random.default_rng(seed)
    found = numbers.exponential(size=(rows, cells)) * (numbers.random((rows, cells)) < 0.2)
    found[:, 0] += 0.01
    return 0.9 * incident_energies(rows) * found / found.sum(axis=1, keepdims=True)


def write(path: Path, attributes: dict[str, Any] | None = None, **data_sets: Any) -> Path:
    """A file of these data sets; those that are None are left out."""
    with h5py.File(path, "w") as file:
        for name, values in data_sets.items():
            if values is not None:
                file[name] = values
        file.attrs.update(attributes or {})
    return path


def write_calochallenge(
    path: Path, cells: int, rows: int = 40, unit: float = 1000.0, **data_sets: Any
) -> Path:
    """A file as the challenge's: float64, in MeV unless another unit is given in 1/GeV."""
    written = {"incident_energies": unit * incident_energies(rows), "showers": unit * voxels(rows, cells)}
    return write(path, **(written | data_sets))


def parametrised_voxels(geometry: CylindricalLayers, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Data sets of showers in these cells, in MeV: gamma profiles that fluctuate, sampled by a Poisson number of spots.

    After Grindhammer and Peters (hep-ex/0001020), without a core: the means of cells are integrals of the profiles.
    Energies are uniform in the logarithm from 1 GeV to 1 TeV; a single cell of 1 MeV or more is common.
    """
    from scipy.special import gammainc

    numbers = np.random.default_rng(seed)
    energy = np.exp(numbers.uniform(0.0, np.log(1000.0), rows))
    read = [number for number, cells in enumerate(geometry.layer_cells) if cells]
    # Depths in radiation lengths: many thin layers, or a presampler, a strip layer, a deep one and the rest.
    depths = (
        np.linspace(0.0, 18.0, len(read) + 1)
        if len(read) > 10
        else np.array([0, 1.5, 6, 18, 22, 24, 26, 28.0])
    )
    middle = np.log(energy / 0.008) + 0.5
    maximum = middle * np.exp(0.08 * numbers.standard_normal(rows))
    alpha = 1.0 + 0.5 * middle * np.exp(0.1 * numbers.standard_normal(rows))
    reached = gammainc(alpha[:, None], (alpha - 1)[:, None] * depths / maximum[:, None])
    parts = []
    for place, number in enumerate(read):
        edges, sectors = np.asarray(geometry.r_edges[number]), geometry.sectors[number]
        radius = 12.0 + 1.5 * depths[place]
        ring = np.diff(edges**2 / (edges**2 + radius**2))
        mean = 0.9 * energy * (reached[:, place + 1] - reached[:, place])
        parts.append(mean[:, None] * np.tile(ring, sectors) / sectors)
    spot = 0.002
    spots = numbers.poisson(np.concatenate(parts, axis=1) / spot)
    deposits = spot * numbers.standard_gamma(spots)
    deposits[:, 0] += 0.01 * (deposits.sum(axis=1) == 0)
    return {"incident_energies": 1000 * energy[:, None], "showers": 1000 * deposits}


def layers(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Data sets of layered showers in GeV."""
    flat = voxels(rows, sum(eta * phi for eta, phi in LAYERS), seed)
    bounds = np.cumsum([0, *(eta * phi for eta, phi in LAYERS)])
    return {
        f"layer_{number}": flat[:, bounds[number] : bounds[number + 1]]
        .reshape(rows, *shape)
        .astype(np.float32)
        for number, shape in enumerate(LAYERS)
    } | {"energy": incident_energies(rows).astype(np.float32)}
