"""Interface of a reader of one file schema, and the rules for every shower.

Readers give showers in GeV as float32, independent of the file. Only readers know schemas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from dist_calo.geometry import CONDITIONS, Geometry

if TYPE_CHECKING:
    import h5py

EMPTY_SHOWER = "the shower has no energy in any cell"
NEGATIVE_CELL = "a cell has negative energy"
REMEDIES = {
    EMPTY_SHOWER: ", dist-calo data convert --min-sum 0 --out NEW.h5 leaves such showers out",
    NEGATIVE_CELL: ", dist-calo data convert --cut 1e-9 --out NEW.h5 sets such cells to 0",
}
"""Remedies for rows that break rules."""
_INFINITY_BITS = 0x7F800000
"""Bit pattern of float32 infinity: finite numbers that are not negative lie below, all others at or above."""


Unit = Literal["auto", "GeV", "MeV", "keV"]
"""Unit of energies in a file; ``auto`` goes by the file's attributes, else by its schema."""
UNITS = {"GeV": 1.0, "MeV": 1e-3, "keV": 1e-6}
"""Energy units, in GeV."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options for what files do not say themselves; see `dist_calo.config.DataConfig`."""

    cell_unit: Unit = "auto"
    energy_unit: Unit = "auto"
    binning: str | None = None
    """File that defines the cells of cylindrical layers."""
    as_found: bool = False
    """True if showers may break the rules below and have any energies: the caller checks them."""


AS_FILES_SAY = ReadOptions()
"""Options that leave everything to the files."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Description of a shower file, known without reading its showers."""

    rows: int
    geometry: Geometry
    chunk_rows: int | None
    """Showers of an HDF5 chunk; None where the file is not chunked."""
    storage: str
    """Compression of the showers, such as ``gzip`` or ``none``."""
    particle: str | None
    """Incident particle, such as ``e-``; None where the file does not say."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """First row of a data set that breaks a rule."""

    data_set: str
    row: int
    rule: str

    @property
    def advice(self) -> str:
        """Remedy in words."""
        return f"dist-calo data validate lists all problems{REMEDIES.get(self.rule, '')}"

    def __str__(self) -> str:
        return f"data set {self.data_set}, row {self.row}: {self.rule}"


class ShowerRows(Protocol):
    """Rows of one open file."""

    data_sets: tuple[tuple[str, ...], tuple[str, ...]]
    """The data sets that are read: those of the cells and those of the conditions."""
    cells_factor: float
    """Factor on the cells of the file."""
    energy_source: str
    """Description of the incident energy in the file, such as ``target[:, 0, 1] in GeV``."""

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read contiguous rows.

        Returns:
            Showers in GeV (waveforms: in their own unit above the baseline), float32 with shape
            (n, *geometry.shape), and conditions, float32 with shape (n, len(geometry.conditions)).

        Raises:
            DataError: if the file is damaged.
        """

    def place(
        self, rows: np.ndarray, showers: np.ndarray, conditions: np.ndarray, places: np.ndarray
    ) -> None:
        """Read rows into ``showers[places]`` and ``conditions[places]``.

        Args:
            rows: the rows, ascending, shape (n,); those between the first and the last may be read too.
            showers: float32 with shape (m, *geometry.shape), contiguous.
            conditions: float32 with shape (m, len(geometry.conditions)).
            places: where each row goes, shape (n,).

        Raises:
            DataError: if the file is damaged.
        """

    def conditions(self, start: int, stop: int) -> np.ndarray:
        """Read the conditions of contiguous rows, as `read` does, without the showers.

        Raises:
            DataError: if the file is damaged.
        """

    def problems(self, showers: np.ndarray, conditions: np.ndarray, first_row: int) -> list[Problem]:
        """Return the rules broken by contiguous rows that were read, each with its first bad row."""


class Format(Protocol):
    """Schema of shower files."""

    name: str
    needs: str
    """The data sets that make a file this schema, in words."""
    in_cell_unit: tuple[str, ...]
    """Data sets that are not read and hold energies in the unit of the cells."""

    def recognises(self, file: "h5py.File") -> bool:
        """Return whether the file's data sets look like this schema."""

    def describe(
        self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY, known: Geometry | None = None
    ) -> Layout:
        """Return rows, geometry and chunks of a file, from the shapes and attributes of its data sets.

        Args:
            file: an open file.
            options: what it may leave unsaid.
            known: the geometry found before; what of it lies in other files is not looked for again if the numbers of
                cells agree.

        Raises:
            DataError: if a data set is missing or has the wrong shape, or their row counts differ.
        """

    def check(self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY) -> None:
        """Check on a few showers that the units of a file that `describe` accepts are plausible.

        Raises:
            DataError: if the energies contradict the units that the file or the options tell.
        """

    def rows(self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY) -> ShowerRows:
        """Return the rows of a file that `describe` accepts; valid as long as the file is open."""


def rows_are_good(
    showers: np.ndarray,
    conditions: np.ndarray,
    signed: bool = False,
    names: Sequence[str] = tuple(CONDITIONS),
) -> bool:
    """Return whether all rows keep the rules of `broken_rules`, in one fast pass over the cells.

    Read as integers, the bits of float32 numbers that are not negative are ordered like the numbers
    themselves and negative numbers and NaN come after infinity: so the largest bit pattern of a shower tells
    that all its cells are finite and not negative, and that at least one is hit. A negative zero fails here;
    `broken_rules` lets it pass. Signed numbers need only be finite: NaN and infinity show in the extremes.
    """
    if not len(showers):
        return True
    if signed:
        good = np.isfinite(showers.max()) and np.isfinite(showers.min())
    else:
        bits = showers.reshape(len(showers), -1).view(np.uint32).max(axis=1)
        good = bits.min() > 0 and bits.max() < _INFINITY_BITS
    return bool(
        good
        and all(
            CONDITIONS[name].allows(found).all() for name, found in zip(names, conditions.T, strict=False)
        )
    )


def broken_rules(
    showers: np.ndarray,
    conditions: np.ndarray,
    first_row: int,
    cells: Mapping[str, slice],
    columns: tuple[str, ...],
    signed: bool = False,
) -> list[Problem]:
    """Return every rule that some row breaks, with the first such row.

    Args:
        showers: energies of cells in GeV, or signed samples, float32 with shape (n, ...).
        conditions: float32 with shape (n, C), the incident energy in GeV first.
        first_row: row of the file that the first shower is.
        cells: the file's data sets of cells, and where in a row of all cells each one's lie.
        columns: the file's names for the conditions.
        signed: whether values below 0 and showers of nothing but zeros are right, as they are for waveforms.
    """
    cell_rows = showers.reshape(len(showers), -1)
    rules = []
    for name, part in cells.items():
        found = cell_rows[:, part]
        kind = "sample" if signed else "cell"
        rules.append((name, ~np.isfinite(found).all(axis=1), f"a {kind} is NaN or infinite"))
        if not signed:
            rules.append((name, (found < 0).any(axis=1), NEGATIVE_CELL))
    if not signed:
        rules.append((" and ".join(cells), ~cell_rows.any(axis=1), EMPTY_SHOWER))
    for column, name in enumerate(columns):
        known, found = CONDITIONS[name if column else "energy"], conditions[:, column]
        rules.append((name, ~np.isfinite(found), "the value is NaN or infinite"))
        rules.append(
            (name, np.isfinite(found) & ~known.allows(found), f"the {known.name} is not {known.rule}")
        )
    return [
        Problem(data_set=data_set, row=first_row + int(np.argmax(bad)), rule=rule)
        for data_set, bad, rule in rules
        if bad.any()
    ]
