"""Showers in rings and sectors around the particle's direction, the schema of the CaloChallenge.

Data sets, N rows each:

* ``incident_energies`` (N, 1) or (N,): incident energy in MeV.
* ``showers`` (N, voxels): energies of the voxels in MeV, in each layer ring by ring, sector by sector: the ring is the
  fastest index, then the sector, then the layer.
* ``theta`` (N, 1) or (N,), optional: polar angle of the incident particle in rad, or in degrees where its attribute
  ``units`` is ``deg``.

A binning file defines the voxels (`dist_calo.data.formats.binning`): the option ``data.binning``; else
the attribute ``binning``, which holds the file's text; else a file ``*.xml`` beside the data; else that of the
challenge's data set with this number of voxels. The attributes ``cell_units`` and ``energy_units`` give other units.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.data.formats.binning import (
    OWN_FILES,
    CellBinning,
    parse_binning,
    read_binning,
    with_voxels,
)
from dist_calo.data.formats.data_sets import (
    FileRows,
    column,
    compression_of,
    numbers,
    require_equal_rows,
    text_attribute,
)
from dist_calo.data.formats.lcd import particle_of
from dist_calo.data.formats.protocol import AS_FILES_SAY, Layout, ReadOptions
from dist_calo.data.formats.units import LOWEST_RESPONSE, Units, require_plausible, units_of
from dist_calo.errors import DataError
from dist_calo.geometry import CylindricalLayers, Geometry

if TYPE_CHECKING:
    import h5py

RESPONSES = (LOWEST_RESPONSE, 1.5)
"""Sum of the voxels over the incident energy: they are calibrated, and low-energy showers may sum to more than there
was."""
ENERGIES = (0.2, 5e3)
"""Median incident energy in GeV: the challenge's data sets go from 0.256 GeV to 4.2 TeV and have about 30 GeV."""


class CaloChallengeFormat:
    """Reader of the CaloChallenge's files."""

    name = "calochallenge"
    needs = "showers and incident_energies"
    in_cell_unit: tuple[str, ...] = ()

    def recognises(self, file: "h5py.File") -> bool:
        return "showers" in file

    def describe(
        self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY, known: Geometry | None = None
    ) -> Layout:
        showers = _showers(file)
        conditions = _conditions(file)
        require_equal_rows(showers, *(column(file, name) for name in conditions))
        self._units(file, options)
        if isinstance(known, CylindricalLayers) and known.cells == showers.shape[1]:
            cells, particle = known, None
        else:
            binning = binning_of(file, options)
            cells, particle = binning.geometry, binning.particle
        return Layout(
            rows=showers.shape[0],
            geometry=replace(cells, conditions=("energy", "theta") if "theta" in file else ("energy",)),
            chunk_rows=showers.chunks[0] if showers.chunks else None,
            storage=compression_of(showers),
            particle=particle_of(file) or particle,
        )

    def check(self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY) -> None:
        require_plausible(
            file.filename,
            self.rows(file, options),
            len(file["showers"]),
            self._units(file, options),
            responses=RESPONSES,
            energies=ENERGIES,
        )

    def rows(self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY) -> FileRows:
        showers = _showers(file)
        units = self._units(file, options)
        return FileRows(
            file,
            [showers],
            shape=showers.shape[1:],
            columns=_conditions(file),
            cells_factor=units.cells_factor,
            energy_unit=units.energy,
        )

    def _units(self, file: "h5py.File", options: ReadOptions) -> Units:
        return units_of(file, options, cells="MeV", energy="MeV")


def binning_of(file: "h5py.File", options: ReadOptions) -> CellBinning:
    """Return the binning of a file's voxels.

    Raises:
        DataError: if no binning, or binnings that differ, have the file's number of voxels; if the binning that the
            option names cannot be read.
    """
    voxels = _showers(file).shape[1]
    declared = text_attribute(file, "binning")
    if options.binning is not None:
        source, found = f"data.binning={options.binning}", read_binning(options.binning)
    elif declared is not None:
        source = "its attribute binning"
        found = parse_binning(declared, f"{file.filename}: attribute binning")
    else:
        beside = with_voxels(_beside(Path(file.filename).parent), voxels)
        if beside:
            return _only(beside, file, "the XML files beside it")
        own = [binning for path in OWN_FILES for binning in read_binning(path)]
        source, found = "the CaloChallenge's data sets", own
    matching = with_voxels(found, voxels)
    if not matching:
        known = ", ".join(str(binning.geometry.cells) for binning in found)
        raise DataError(
            f"{file.filename}: data set showers has {voxels} voxels, but {source} have {known}: name the XML file that "
            "tells these voxels in data.binning (--binning)"
        )
    return _only(matching, file, source)


def _only(matching: list[CellBinning], file: "h5py.File", source: str) -> CellBinning:
    """Return the common binning if all candidates are the same, or the one for the file's particle."""
    particle = particle_of(file)
    of_particle = [
        binning
        for binning in matching
        if particle is not None and particle in (binning.particle, *binning.names)
    ]
    candidates = of_particle or matching
    if any(binning.geometry != candidates[0].geometry for binning in candidates):
        names = ", ".join("/".join(binning.names) or "not named" for binning in candidates)
        raise DataError(
            f"{file.filename}: {source} tell different binnings of {candidates[0].geometry.cells} voxels ({names}): "
            "name one XML file in data.binning (--binning), or the particle in the attribute particle"
        )
    if any(binning.particle != candidates[0].particle for binning in candidates):
        return replace(candidates[0], particle=None)
    return candidates[0]


def _beside(folder: Path) -> list[CellBinning]:
    """Read the binnings in a folder; XML files of other kinds are ignored."""
    found = []
    for path in sorted(folder.glob("*.xml")):
        try:
            found += read_binning(path)
        except DataError:
            continue
    return found


def _showers(file: "h5py.File") -> "h5py.Dataset":
    return numbers(file, "showers", "(N, voxels)", lambda shape: len(shape) == 2 and shape[1] > 0)


def _conditions(file: "h5py.File") -> tuple[str, ...]:
    names = ("incident_energies", "theta")
    return names if "theta" in file else names[:1]
