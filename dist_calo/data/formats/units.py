"""Units of the energies in a file, and the check that the energies are plausible in them.

A wrong unit changes energies by a factor of 1,000. It shows in the response, the sum of a shower's cells over the
incident energy: no calorimeter sees more than the incident energy, and none that the package supports sees less than
a few thousandths of it.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.data.formats.data_sets import text_attribute
from dist_calo.data.formats.protocol import UNITS, ReadOptions, ShowerRows
from dist_calo.errors import DataError
from dist_calo.geometry import CONDITIONS

if TYPE_CHECKING:
    import h5py

USUAL = ("GeV", "MeV")
"""Units that files are in."""
LOWEST_RESPONSE = 1.5e-3
"""Above the response of a fully absorbing calorimeter whose GeV are read as MeV."""
HIGHEST_RESPONSE = 1.1
"""Full response, and a few percent for calibration and resolution."""
ENERGIES = (0.05, 5e3)
"""Incident energies that a data set may have in the median, in GeV: MeV read as GeV give more from 5 GeV on, GeV read
as MeV or MeV read as keV give less up to 50 GeV."""
_PIECES, _PIECE_ROWS = 4, 16


@dataclass(frozen=True, kw_only=True)
class Units:
    """Units in which a file is read."""

    cells: str
    energy: str

    @property
    def cells_factor(self) -> float:
        """Factor on cells, to GeV."""
        return UNITS[self.cells]

    @property
    def energy_factor(self) -> float:
        """Factor on the incident energy, to GeV."""
        return UNITS[self.energy]


def declared_unit(file: "h5py.File", attribute: str) -> str | None:
    """Return the energy unit in an attribute such as ``GeV, mm``, None where it names none.

    Raises:
        DataError: if it names two.
    """
    text = text_attribute(file, attribute)
    found = sorted(set(re.findall(r"\b(?:GeV|MeV|keV)\b", text or "")))
    if len(found) > 1:
        raise DataError(
            f"{file.filename}: attribute {attribute} is {text!r}, names {' and '.join(found)}: set the attribute "
            f"{'cell_units' if attribute == 'units' else attribute} to {' or '.join(found)}, which it is"
        )
    return found[0] if found else None


def units_of(file: "h5py.File", options: ReadOptions, *, cells: str, energy: str) -> Units:
    """Return the units given by the options, else by the file's attributes, else by the schema.

    Attributes are ``cell_units`` or ``units`` for the cells and ``energy_units`` for the incident energy.

    Args:
        file: an open file.
        options: units that the user gives.
        cells: the schema's unit of the cells.
        energy: the schema's unit of the incident energy.

    Raises:
        DataError: if an attribute names two units.
    """
    declared_cells: str | None = options.cell_unit
    if declared_cells == "auto":
        declared_cells = declared_unit(file, "cell_units") or declared_unit(file, "units")
    declared_energy: str | None = options.energy_unit
    if declared_energy == "auto":
        declared_energy = declared_unit(file, "energy_units")
    return Units(cells=declared_cells or cells, energy=declared_energy or energy)


def require_plausible(
    file_name: str,
    rows: ShowerRows,
    count: int,
    units: Units,
    *,
    responses: tuple[float, float] | None = (LOWEST_RESPONSE, HIGHEST_RESPONSE),
    energies: tuple[float, float] = ENERGIES,
    cells: str = "the cells",
    other_cells: tuple[str, ...] = USUAL,
) -> None:
    """Check the units of a file on at most 64 showers, in 4 places spread over it.

    The median response must lie within `responses` and the median incident energy within `energies`: a unit that is
    wrong for cells and incident energies alike leaves the response as it is. What the options say is checked too.

    Args:
        file_name: for the message.
        rows: rows of the file, read with those units.
        count: how many there are.
        units: the units they are read with.
        responses: bounds of the median sum of the cells, in incident energies; None where the sums have no meaning.
        energies: bounds of the median incident energy, in GeV.
        cells: what is summed, for the message.
        other_cells: units of the cells that the message may advise.

    Raises:
        DataError: if not; the message says which units would do.
    """
    sums, conditions = _sampled(rows, count)
    _require_angles(file_name, rows.data_sets[1], conditions)
    response, energy, sampled = _medians(sums, conditions[:, 0], positive=responses is not None)
    if not sampled:
        return
    lowest, highest = responses or (-np.inf, np.inf)
    # Sums without a meaning may be NaN.
    response = response if responses else 0.0

    def plausible(tried: Units) -> bool:
        energy_change = tried.energy_factor / units.energy_factor
        found = response * tried.cells_factor / units.cells_factor / energy_change
        return bool(lowest <= found <= highest and energies[0] <= energy * energy_change <= energies[1])

    if plausible(units):
        return
    if lowest <= response <= highest:
        seen = f"the incident energies of {sampled} sampled showers have median {energy:.3g} GeV"
        rule = f"must be {energies[0]:g} to {energies[1]:g} GeV"
    else:
        seen = (
            f"{cells} of {sampled} sampled showers sum to {response:.3g} times the incident energy (median)"
        )
        rule = f"must be {lowest:g} to {highest:g} times"
    known = dict.fromkeys((units.cells, *other_cells))
    tried = [
        Units(cells=cells_unit, energy=energy_unit)
        for cells_unit, energy_unit in itertools.product(known, USUAL)
    ]
    fitting = [_advice(units, other) for other in tried if plausible(other)]
    fewest = min((len(advice) for advice in fitting), default=0)
    advice = " or ".join(" and ".join(advice) for advice in fitting if len(advice) == fewest)
    known_by = {"cell_unit": "cell_units", "energy_unit": "energy_units"}
    attributes = " and ".join(name for setting, name in known_by.items() if setting in advice)
    several = "s" if " and " in attributes else ""
    raise DataError(
        f"{file_name}: {seen}, {rule}: read with cells in {units.cells} and incident energies in {units.energy}; "
        + (
            f"write the true unit{several} into the file's attribute{several} {attributes}, or set {advice}"
            if advice
            else "GeV and MeV do not help: correct the file"
        )
    )


def _sampled(rows: ShowerRows, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of the cells (n,) and the conditions (n, C) of a few showers over the file, float64."""
    starts = sorted({count * piece // _PIECES for piece in range(_PIECES)})
    after = [*starts[1:], count]
    read = [rows.read(start, min(start + _PIECE_ROWS, end)) for start, end in zip(starts, after, strict=True)]
    sums = [showers.reshape(len(showers), -1).sum(axis=1, dtype=np.float64) for showers, _ in read]
    return np.concatenate(sums), np.concatenate([conditions for _, conditions in read]).astype(np.float64)


def _medians(sums: np.ndarray, energy: np.ndarray, positive: bool) -> tuple[float, float, int]:
    """Return median response, median incident energy in GeV, and the number of showers; bad rows are ignored."""
    good = np.isfinite(energy) & (energy > 0)
    if positive:
        good &= np.isfinite(sums) & (sums > 0)
    if not good.any():
        return 0.0, 0.0, 0
    return (
        float(np.median(sums[good] / energy[good])),
        float(np.median(energy[good])),
        int(np.count_nonzero(good)),
    )


def _require_angles(file_name: str, columns: tuple[str, ...], conditions: np.ndarray) -> None:
    """Check that conditions other than the energy (n, C) are possible for most showers."""
    for name, found in zip(columns[1:], conditions.T[1:], strict=True):
        known, values = CONDITIONS[name], found[np.isfinite(found)]
        if len(values) and not known.allows(median := float(np.median(values))):
            raise DataError(
                f"{file_name}: data set {name}, the {known.name}, has median {median:.4g}, must be {known.rule}: if "
                f'it is in degrees, tell so by h5py.File("{PurePath(file_name).name}", "a")["{name}"].attrs["units"] = '
                '"deg"'
            )


def _advice(units: Units, other: Units) -> list[str]:
    """Return settings that convert one pair of units to the other, for the trainer and ``dist-calo data``."""
    changes = []
    if other.cells != units.cells:
        changes.append(f"data.cell_unit={other.cells} (--cells-unit {other.cells})")
    if other.energy != units.energy:
        changes.append(f"data.energy_unit={other.energy} (--energy-unit {other.energy})")
    return changes
