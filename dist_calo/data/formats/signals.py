"""Waveforms of detectors side by side.

Data sets, N rows each:

* ``signals`` (N, channels, samples), integers or floats: ADC counts or volts, on a baseline.
* ``energy`` (N, 1) or (N,): incident energy in GeV.
* ``edep`` (N, layers, rows, columns), optional: energy deposited in each layer of each detector in GeV, the truth
  behind the signals.
* others, such as ``t0``, are not read.

Attributes of ``signals``:

* ``sample_ns``: time between two samples in ns, and ``noise`` (or ``noise_counts``): standard deviation of a sample's
  noise in the samples' unit. Both are required: neither can be determined reliably from the samples.
* ``baseline``: value of a sample without signal, subtracted by the reader; 0 if not given.
* ``units``: the samples' unit, ``ADC counts`` if not given.
* ``channels``: rows x columns of detectors, such as ``3x3 row-major [x, y]``; if not given, a square, or one row
  if the channels make none.
"""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.data.formats.data_sets import (
    FileRows,
    column,
    compression_of,
    named_object,
    numbers,
    require_equal_rows,
    text_attribute,
)
from dist_calo.data.formats.lcd import particle_of
from dist_calo.data.formats.protocol import AS_FILES_SAY, Layout, ReadOptions
from dist_calo.data.formats.rows import RowReader
from dist_calo.data.formats.stored import require_stored
from dist_calo.data.formats.units import (
    HIGHEST_RESPONSE,
    LOWEST_RESPONSE,
    Units,
    require_plausible,
    units_of,
)
from dist_calo.data.formats.whole_files import why_unreadable
from dist_calo.errors import DataError
from dist_calo.geometry import Geometry, Waveforms

if TYPE_CHECKING:
    import h5py

ENERGIES = (0.05, 1e3)
"""Incident energies that a data set may have in the median, in GeV: without deposits there is no other check of the
unit."""

SAMPLE_NS = (1e-3, 1e3)
"""Times between two samples that a digitiser may have, in ns: less are seconds, more are picoseconds or Hz."""


class SignalsFormat:
    """Reader of files of waveforms."""

    name = "signals"
    needs = "signals and energy"
    in_cell_unit: tuple[str, ...] = ()

    def recognises(self, file: "h5py.File") -> bool:
        return "signals" in file

    def describe(
        self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY, known: Geometry | None = None
    ) -> Layout:
        signals = _signals(file)
        require_equal_rows(signals, column(file, "energy"))
        if options.cell_unit != "auto":
            raise DataError(
                f"{file.filename}: data.cell_unit={options.cell_unit}, but waveforms are no energies: leave it at auto"
            )
        rows, columns = _array(signals)
        _baseline(signals)
        return Layout(
            rows=signals.shape[0],
            geometry=Waveforms(
                rows=rows,
                columns=columns,
                samples=signals.shape[2],
                sample_ns=_required(signals, "sample_ns", "the time between two samples in ns", SAMPLE_NS),
                noise=_required(signals, "noise", "the standard deviation of a sample's noise"),
                unit=text_attribute(signals, "units") or "ADC counts",
            ),
            chunk_rows=signals.chunks[0] if signals.chunks else None,
            storage=compression_of(signals),
            particle=particle_of(file),
        )

    def check(self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY) -> None:
        units, count = self._units(file, options), len(file["energy"])
        deposits = _deposits(file, count)
        rows = self.rows(file, options)
        if deposits is not None:
            rows = FileRows(
                file,
                [deposits],
                shape=deposits.shape[1:],
                columns=("energy",),
                energy_unit=units.energy,
            )
        require_plausible(
            file.filename,
            rows,
            count,
            units,
            responses=None if deposits is None else (LOWEST_RESPONSE, HIGHEST_RESPONSE),
            energies=ENERGIES,
            cells="the deposits edep",
            other_cells=(),
        )

    def rows(self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY) -> FileRows:
        signals = _signals(file)
        return FileRows(
            file,
            [signals],
            shape=signals.shape[1:],
            columns=("energy",),
            energy_unit=self._units(file, options).energy,
            offset=_baseline(signals),
            signed=True,
        )

    def _units(self, file: "h5py.File", options: ReadOptions) -> Units:
        return units_of(file, options, cells="GeV", energy="GeV")


def read_deposits(path: str | Path, start: int, stop: int) -> np.ndarray:
    """Read the energies deposited in the detectors, the truth for rows of a file's signals.

    Args:
        path: a file that holds ``edep``.
        start: its first row.
        stop: the row after the last.

    Returns:
        Energies in GeV, float32 with shape (n, layers, rows, columns).

    Raises:
        DataError: if the file holds no deposits, or they do not go with its signals.
    """
    from dist_calo.data.formats import open_file

    with open_file(path) as file:
        found = numbers(file, "edep", "(N, layers, rows, columns)", lambda shape: len(shape) == 4)
        if "signals" in file:
            require_equal_rows(_signals(file), found)
        require_stored(found)
        deposits = np.empty((stop - start, *found.shape[1:]), dtype=np.float32)
        try:
            RowReader(found).read(np.arange(start, stop), deposits, np.arange(stop - start))
        except OSError as error:
            raise DataError(
                f"{path}: the deposits of rows {start} to {stop - 1} cannot be read: {why_unreadable(error)}"
            ) from error
    return deposits


def _signals(file: "h5py.File") -> "h5py.Dataset":
    return numbers(
        file, "signals", "(N, channels, samples)", lambda shape: len(shape) == 3 and min(shape[1:]) > 0
    )


def _deposits(file: "h5py.File", count: int) -> "h5py.Dataset | None":
    """Return the deposited energies that belong to the signals, None without any."""
    import h5py

    found = named_object(file, "edep") if "edep" in file else None
    fits = isinstance(found, h5py.Dataset) and found.ndim == 4 and len(found) == count
    if found is None or not fits or found.dtype.kind not in "fiu":
        return None
    require_stored(found)
    return found


def _array(signals: "h5py.Dataset") -> tuple[int, int]:
    """Return the rows and columns of detectors."""
    channels = signals.shape[1]
    declared = text_attribute(signals, "channels")
    if declared is None:
        side = math.isqrt(channels)
        return (side, side) if side * side == channels else (1, channels)
    match = re.match(r"\s*(\d+)\s*x\s*(\d+)", declared)
    if match is None or int(match[1]) * int(match[2]) != channels:
        raise DataError(
            f"{signals.file.filename}: attribute channels of data set signals is {declared!r}, must begin with rows x "
            f"columns that make {channels} channels, such as 1x{channels}; correct or remove it"
        )
    return int(match[1]), int(match[2])


def _baseline(signals: "h5py.Dataset") -> float:
    """Return the value of a sample without signal."""
    declared = _number(signals, "baseline")
    return 0.0 if declared is None else declared


def _number(signals: "h5py.Dataset", name: str) -> float | None:
    """Return a finite number among the attributes, None where it is missing."""
    if name not in signals.attrs:
        return None
    found = np.asarray(signals.attrs[name])
    if found.size != 1 or found.dtype.kind not in "fiu" or not np.isfinite(found).all():
        raise DataError(
            f"{signals.file.filename}: attribute {name} of data set signals is {found.tolist()}, must be a finite "
            "number; correct or remove it"
        )
    return float(found.reshape(-1)[0])


def _required(
    signals: "h5py.Dataset", name: str, meaning: str, bounds: tuple[float, float] = (0.0, math.inf)
) -> float:
    """Return a number within bounds among the attributes, under its name or that name with ``_counts``."""
    found = _number(signals, name)
    if found is None:
        found = _number(signals, f"{name}_counts")
    low, high = bounds
    if found is None or not low < found <= high:
        rule = f"above {low:g}" + ("" if math.isinf(high) else f" and at most {high:g}")
        raise DataError(
            f"{signals.file.filename}: attribute {name} of data set signals, {meaning}, is "
            f"{'missing' if found is None else f'{found:g}'}, must be a number {rule}: set it, as by "
            f'h5py.File("{Path(signals.file.filename).name}", "a")["signals"].attrs["{name}"] = 1.0'
        )
    return found
