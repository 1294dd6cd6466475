"""Small shower files for tests."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

SHAPE = (25, 25, 25)


def showers(rows: int, first: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Mostly empty showers that tell which row they are: cell [0, 0, 0] of row i is (i + 1) / 256 GeV, float32."""
    cells = np.zeros((rows, *shape), dtype=np.float32)
    cells[:, 0, 0, 0] = (np.arange(first, first + rows) + 1) / 256
    cells[:, 3, 2, 1] = 0.5
    return cells


def energies(rows: int, first: int = 0) -> np.ndarray:
    """Incident energies in GeV that tell the row: 10 + i / 1000, shape (rows, 1)."""
    return (10 + np.arange(first, first + rows) / 1000).astype(np.float32)[:, None]


def write_lcd(path: Path, rows: int, first: int = 0, chunk: int | None = 32, **data_sets: Any) -> Path:
    """An LCD file; keyword arguments replace data sets (None leaves one out) or give options of ECAL.

    Options of ECAL begin with ``ecal_``, such as ``ecal_compression="gzip"``.
    """
    options = {name[5:]: value for name, value in data_sets.items() if name.startswith("ecal_")}
    written = {"ECAL": showers(rows, first), "energy": energies(rows, first)}
    written |= {name: value for name, value in data_sets.items() if not name.startswith("ecal_")}
    with h5py.File(path, "w") as file:
        for name, values in written.items():
            if name == "ECAL" and values is not None:
                chunks = (min(chunk, len(values)), *values.shape[1:]) if chunk else None
                file.create_dataset(name, data=values, **({"chunks": chunks} | options))
            elif values is not None:
                file.create_dataset(name, data=values)
    return path


def rows_of(cells: np.ndarray) -> np.ndarray:
    """Which rows showers made by `showers` are."""
    return (256 * cells[:, 0, 0, 0]).astype(np.int64) - 1
