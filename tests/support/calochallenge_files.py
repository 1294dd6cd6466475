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
