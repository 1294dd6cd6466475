"""Geant4's own time for a shower: as recorded with the data, or measured."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dist_calo.errors import ConfigError, DataError
from dist_calo.simulation.beam import Beam
from dist_calo.simulation.detectors import find_detector
from dist_calo.simulation.geant4.physics import PRODUCTION_CUT_MM
from dist_calo.simulation.geant4.process import VERSION, Geant4Process, require_wheel

ATTRIBUTE = "seconds_per_shower"
"""Attribute of a shower file: seconds on one core that Geant4 took for a shower, on average."""


def recorded_seconds(files: Sequence[str]) -> float | None:
    """Return the mean recorded seconds for a shower over the files that have them; None where none does.

    Raises:
        DataError: if one is not a number above 0.
    """
    import h5py

    found = []
    for path in files:
        with h5py.File(path) as file:
            if ATTRIBUTE in file.attrs:
                value = file.attrs[ATTRIBUTE]
                try:
                    seconds = float(value)
                except (TypeError, ValueError):
                    seconds = math.nan
                if not 0 < seconds < math.inf:
                    raise DataError(
                        f"{path}: attribute {ATTRIBUTE}={value} must be a number of seconds above 0"
                    )
                found.append(seconds)
    return sum(found) / len(found) if found else None


def simulated_seconds(
    geometry: Mapping[str, Any], energies: tuple[float, float], showers: int
) -> tuple[float, str]:
    """Run Geant4 in a process of its own and measure its time.

    Args:
        geometry: read-out of a checkpoint.
        energies: range of the electrons' energies in GeV, uniform.
        showers: number of electrons.

    Returns:
        Processor seconds a shower, and what was done, in words.

    Raises:
        MissingComponentError: if the wheel is not installed, or in another version.
        ConfigError: if the detector is not the one that is built in.
        DataError: if Geant4 fails.
    """
    detector = find_detector("lcd51")
    layers, pitch = detector.cells.shape[-1], detector.pitch
    found = geometry.get("shape", (0,))[-1], geometry.get("cell_size", (0.0,))[-1]
    if geometry["kind"] != "voxel_grid" or found[0] != layers or not math.isclose(found[1], pitch):
        raise ConfigError(
            f"not measured: the detector that is built in has {layers} layers of {pitch:g} mm, not this one; give "
            "Geant4's time with --geant4-seconds"
        )
    require_wheel("not measured: ", ", or give Geant4's time with --geant4-seconds")
    try:
        with Geant4Process(detector, Beam(energy=energies), seed=0) as process:
            events = list(process.simulate(range(showers)))
    except DataError as error:
        raise DataError(f"not measured: {error}") from error
    seconds = sum(event.seconds for event in events) / showers
    mean = sum(event.primary.energy for event in events) / showers
    return seconds, (
        f"{seconds:.3g} s a shower on one core: {showers} electrons of {energies[0]:.3g} to {energies[1]:.3g} GeV, "
        f"{mean:.3g} on average, in {layers} layers of tungsten and silicon, production cut {PRODUCTION_CUT_MM:g} mm; "
        f"geant4-pybind {VERSION}, without data sets"
    )
