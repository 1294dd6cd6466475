"""Geant4's own time for a shower: as recorded with the data, or measured with the ``geant4-pybind`` wheel.

The detector of the sample showers is built in: 25 layers of 3.4 mm tungsten, 0.5 mm silicon and 1.2 mm air, with
electromagnetic physics and a production cut of 0.7 mm. No cell is read out, so the time is that of transport alone.

The standard physics lists of Geant4 need its data sets, which no package index has. Those models that compute instead
of looking up (Urban multiple scattering, Møller-Bhabha, relativistic bremsstrahlung, Klein-Nishina,
Bethe-Heitler with LPM effect, photo-electric effect by Sandia tables) have no Python binding in the wheel; they are
made through the C++ symbols of its library, which is why the version matters. All this happens in a process of its own.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dist_calo.errors import ConfigError, DataError, MissingComponentError

ATTRIBUTE = "seconds_per_shower"
"""Attribute of a shower file: seconds on one core that Geant4 took for a shower, on average."""
VERSION = "0.1.3"
LAYERS, PITCH_MM = 25, 5.1
MATERIALS = (("G4_W", 3.4), ("G4_Si", 0.5), ("G4_AIR", 1.2))
"""Of a layer, in mm."""
HALF_WIDTH_MM = 130.05
TIMEOUT_S = 600.0
_ELECTROMAGNETIC = 2
"""Geant4's number of that kind of process."""
_OBJECT_BYTES = 2**15
"""More than any process or model needs."""


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
    layers = geometry.get("shape", (0,))[-1]
    pitch = geometry.get("cell_size", (0.0,))[-1]
    if geometry["kind"] != "voxel_grid" or layers != LAYERS or not math.isclose(pitch, PITCH_MM):
        raise ConfigError(
            f"not measured: the detector that is built in has {LAYERS} layers of {PITCH_MM} mm, not this one; give "
            "Geant4's time with --geant4-seconds"
        )
    if (found := _installed()) != VERSION:
        raise MissingComponentError(
            f"not measured: needs geant4-pybind {VERSION}, found {found or 'none'}: pip install "
            f"geant4-pybind=={VERSION}, or give Geant4's time with --geant4-seconds"
        )
    values = _run(showers, energies)
    return values["seconds"], (
        f"{values['seconds']:.3g} s a shower on one core: {showers} electrons of {energies[0]:.3g} to "
        f"{energies[1]:.3g} GeV, {values['mean_energy']:.3g} on average, in {LAYERS} layers of tungsten and silicon, "
        f"production cut 0.7 mm, nothing read out; geant4-pybind {VERSION}, without data sets"
    )


def _installed() -> str | None:
    try:
        return version("geant4-pybind")
    except PackageNotFoundError:
        return None


def _run(showers: int, energies: tuple[float, float], scored: bool = False) -> dict[str, float]:
    """Start the process that simulates; see `_simulate` for what it returns."""
    low, high = energies
    with tempfile.TemporaryDirectory() as folder:
        # Geant4 asks for the table of nuclides, of which electromagnetic physics needs none.
        (Path(folder) / "ENSDFSTATE.dat").touch()
        # Set but empty, this keeps the wheel from asking whether to download the data sets.
        environment = {**os.environ, "GEANT4_DATA_DIR": "", "G4ENSDFSTATEDATA": folder}
        command = [sys.executable, "-m", __name__, str(showers), str(low), str(high), str(int(scored))]
        try:
            done = subprocess.run(
                command,
                env=environment,
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise DataError(
                f"not measured: Geant4 took longer than {TIMEOUT_S:g} s; ask for fewer with --geant4-showers"
            ) from None
    last = (done.stdout.splitlines() or [""])[-1]
    if done.returncode != 0 or not last.startswith("{"):
        words = " ".join((done.stderr or done.stdout).split())[-200:]
        raise DataError(f"not measured: Geant4 ended with {done.returncode} ({words})")
    values: dict[str, float] = json.loads(last)
    return values


class _Symbols:
    """Functions of the wheel's C++ library, by their mangled names."""

    def __init__(self, path: str) -> None:
        import ctypes

        self._ctypes, self._library = ctypes, ctypes.CDLL(path)
        self._new = ctypes.CDLL("libstdc++.so.6")._Znwm
        self._new.restype, self._new.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        self._kept: list[Any] = []

    def call(self, name: str, *arguments: int | None) -> int:
        """Call a function of addresses and small numbers that returns an address or nothing."""
        function = getattr(self._library, name)
        function.restype = self._ctypes.c_void_p
        function.argtypes = [self._ctypes.c_void_p] * len(arguments)
        return int(function(*arguments) or 0)

    def make(self, constructor: str, *arguments: int | None) -> int:
        """Construct an object on the C++ heap, which Geant4 may delete."""
        place = int(self._new(_OBJECT_BYTES))
        self._ctypes.memset(place, 0, _OBJECT_BYTES)
        self.call(constructor, place, *arguments)
        return place

    def string(self, text: str) -> int:
        """Return the address of a ``std::string`` as libstdc++ lays it out: characters, length, capacity."""
        characters = self._ctypes.create_string_buffer(text.encode())
        address = self._ctypes.addressof(characters)
        layout = (self._ctypes.c_size_t * 4)(address, len(text), len(text), 0)
        self._kept += [characters, layout]
        return self._ctypes.addressof(layout)


def _add_processes(symbols: _Symbols) -> None:
    """Add transport and the electromagnetic processes of electrons, positrons and photons."""
    helper = symbols.call("_ZN19G4PhysicsListHelper20GetPhysicsListHelperEv")
    symbols.call("_ZN19G4PhysicsListHelper17AddTransportationEv", helper)
    electron = symbols.call("_ZN10G4Electron10DefinitionEv")
    positron = symbols.call("_ZN10G4Positron10DefinitionEv")
    photon = symbols.call("_ZN7G4Gamma10DefinitionEv")

    def add(process: int, particle: int) -> None:
        symbols.call(
            "_ZN19G4PhysicsListHelper15RegisterProcessEP10G4VProcessP20G4ParticleDefinition",
            helper,
            process,
            particle,
        )

    for particle in (electron, positron):
        add(symbols.make("_ZN21G4eMultipleScatteringC1ERK8G4String", symbols.string("msc")), particle)
        add(symbols.make("_ZN13G4eIonisationC1ERK8G4String", symbols.string("eIoni")), particle)
        bremsstrahlung = symbols.make("_ZN17G4eBremsstrahlungC1ERK8G4String", symbols.string("eBrem"))
        for place in (0, 1):  # below and above 1 GeV; the default below is a table
            model = symbols.make(
                "_ZN25G4eBremsstrahlungRelModelC1EPK20G4ParticleDefinitionRK8G4String",
                None,
                symbols.string("eBremLPM"),
            )
            symbols.call("_ZN20G4VEnergyLossProcess10SetEmModelEP10G4VEmModeli", bremsstrahlung, model, place)
        add(bremsstrahlung, particle)
    add(symbols.make("_ZN19G4eplusAnnihilationC1ERK8G4String", symbols.string("annihil")), positron)
    for constructor, name in (
        ("_ZN21G4PhotoElectricEffectC1ERK8G4String13G4ProcessType", "phot"),
        ("_ZN19G4ComptonScatteringC1ERK8G4String13G4ProcessType", "compt"),
    ):
        add(symbols.make(constructor, symbols.string(name), _ELECTROMAGNETIC), photon)
    conversion = symbols.make(
        "_ZN17G4GammaConversionC1ERK8G4String13G4ProcessType", symbols.string("conv"), _ELECTROMAGNETIC
    )
    for place in (0, 1):
        model = symbols.make(
            "_ZN24G4PairProductionRelModelC1EPK20G4ParticleDefinitionRK8G4String",
            None,
            symbols.string("BetheHeitlerLPM"),
        )
        symbols.call("_ZN12G4VEmProcess10SetEmModelEP10G4VEmModeli", conversion, model, place)
    add(conversion, photon)


def _simulate(showers: int, low: float, high: float, scored: bool) -> dict[str, float]:
    """Simulate electrons along the axis; the process cannot be used for anything else afterwards.

    Returns:
        ``seconds`` (processor seconds a shower), ``mean_energy`` in GeV, and ``fraction``, the energy in the silicon
        over the incident energy, which is 0 unless `scored`, as scoring in Python takes most of the time.
    """
    import time

    import geant4_pybind as g4

    symbols = _Symbols(g4.__file__)
    seen = {"energy": 0.0, "silicon": 0.0}

    class Physics(g4.G4VUserPhysicsList):
        def ConstructParticle(self) -> None:
            for particle in (g4.G4Electron, g4.G4Positron, g4.G4Gamma, g4.G4Proton):
                particle.Definition()

        def ConstructProcess(self) -> None:
            _add_processes(symbols)

        def SetCuts(self) -> None:
            self.SetDefaultCutValue(0.7 * g4.mm)
            self.SetCutsWithDefault()

    class Calorimeter(g4.G4VUserDetectorConstruction):
        def Construct(self) -> Any:
            world, placed = self._box("G4_Galactic", 2 * HALF_WIDTH_MM, LAYERS * PITCH_MM, None, 0.0)
            front = 0.0
            for material, thickness in LAYERS * MATERIALS:
                self._box(material, HALF_WIDTH_MM, thickness / 2, world, front + thickness / 2)
                front += thickness
            return placed

        def _box(self, material: str, half_width: float, half_depth: float, mother: Any, z: float) -> Any:
            solid = g4.G4Box(material, half_width * g4.mm, half_width * g4.mm, half_depth * g4.mm)
            matter = g4.G4NistManager.Instance().FindOrBuildMaterial(material)
            volume = g4.G4LogicalVolume(solid, matter, material)
            place = g4.G4ThreeVector(0, 0, z * g4.mm)
            return volume, g4.G4PVPlacement(None, place, volume, material, mother, False, 0, False)

    class Gun(g4.G4VUserPrimaryGeneratorAction):
        def __init__(self) -> None:
            super().__init__()
            self.gun = g4.G4ParticleGun(1)
            self.gun.SetParticleDefinition(g4.G4Electron.Definition())
            self.gun.SetParticleMomentumDirection(g4.G4ThreeVector(0, 0, 1))
            self.gun.SetParticlePosition(g4.G4ThreeVector(0, 0, -1 * g4.mm))

        def GeneratePrimaries(self, event: Any) -> None:
            energy = low + (high - low) * g4.G4UniformRand()
            seen["energy"] += energy
            self.gun.SetParticleEnergy(energy * g4.GeV)
            self.gun.GeneratePrimaryVertex(event)

    class Scoring(g4.G4UserSteppingAction):
        def UserSteppingAction(self, step: Any) -> None:
            if step.GetPreStepPoint().GetTouchable().GetVolume().GetName() == "G4_Si":
                seen["silicon"] += step.GetTotalEnergyDeposit() / g4.GeV

    manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.SerialOnly)
    parts = [Calorimeter(), Physics()]  # kept: Geant4 does not own what Python has made
    for part in parts:
        manager.SetUserInitialization(part)
    actions = [Gun(), *([Scoring()] if scored else [])]
    for action in actions:
        manager.SetUserAction(action)
    manager.Initialize()
    manager.BeamOn(1)  # builds the tables
    seen.update(energy=0.0, silicon=0.0)
    begin = time.process_time()
    manager.BeamOn(showers)
    seconds = (time.process_time() - begin) / showers
    return {
        "seconds": seconds,
        "mean_energy": seen["energy"] / showers,
        "fraction": seen["silicon"] / seen["energy"],
    }


if __name__ == "__main__":
    shots, lowest, highest, with_scores = sys.argv[1:]
    print(
        f"\n{json.dumps(_simulate(int(shots), float(lowest), float(highest), with_scores == '1'))}",
        flush=True,
    )
    # Geant4's own end may fail over objects that Python has deleted, after the work is done.
    os._exit(0)
