"""Geant4 itself, in a process that can be used for nothing else: it builds a detector and simulates numbered showers.

The active plates are divided into cells by replicas, and the deposits are summed in C++: read-out costs little. Every
shower begins with its own seeds, made from the sample's seed and its number, so it is the same whatever came before.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.randomness import derived_seed
from dist_calo.simulation.beam import Beam
from dist_calo.simulation.detectors import Detector
from dist_calo.simulation.geant4.physics import PRODUCTION_CUT_MM, Symbols, add_processes

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

START_MM = -1.0
"""Depth at which particles start, in front of the calorimeter."""


@dataclass(frozen=True, kw_only=True)
class Primary:
    """Electron that starts a shower.

    Attributes:
        energy: in GeV.
        theta: polar angle in rad.
        impact: place in x and y in mm where its line crosses the front, or the pivot's depth where it is tilted.
        seeds: of Geant4's random numbers, two of 32 bits, not 0.
    """

    energy: float
    theta: float
    impact: tuple[float, float]
    seeds: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Simulated shower, small enough for a pipe.

    Attributes:
        primary: its electron.
        cells: flat numbers of the cells that were hit, int64 with shape (H,), ascending.
        energies: of these cells in GeV, float64 with shape (H,).
        seconds: processor time that it took.
    """

    primary: Primary
    cells: np.ndarray
    energies: np.ndarray
    seconds: float


def draw_primary(detector: Detector, beam: Beam, seed: int, number: int) -> Primary:
    """Draw the electron of a shower, a function of the sample's seed and the shower's number alone."""
    # Detectors that differ in their window alone see the same showers.
    word = derived_seed(seed, "geant4", detector.constants, number)
    numbers = np.random.Generator(np.random.SFC64(derived_seed(word, "primary")))
    uniform, normal = numbers.random(4), numbers.standard_normal(2)
    # Rounded as the file stores them.
    energy, theta = (
        float(np.float32(low + (high - low) * u))
        for (low, high), u in zip((beam.energy, beam.theta), uniform, strict=False)
    )
    x, y = detector.impact * (uniform[2:] - 0.5) + detector.spot * normal
    high, low = divmod(word, 2**32)
    return Primary(
        energy=energy,
        theta=theta,
        impact=(float(np.float32(x)), float(np.float32(y))),
        # A seed of 0 ends the list of seeds.
        seeds=(max(high, 1), max(low, 1)),
    )


def serve(
    connection: "Connection", folder: str, detector: Detector, beam: Beam, seed: int
) -> None:  # pragma: no cover (a process of its own)
    """Answer requests for showers until the other side closes the connection; never returns.

    A request is a range of numbers; each shower is answered by its `Event`. The first answer is None: ready.
    """
    log = os.open(Path(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    # Geant4 asks for the table of nuclides, of which electromagnetic physics needs none.
    Path(folder, "ENSDFSTATE.dat").touch()
    os.environ["G4ENSDFSTATEDATA"] = folder
    # Set but empty, this keeps the wheel from asking whether to download the data sets.
    os.environ["GEANT4_DATA_DIR"] = ""
    code = 0
    try:
        simulator = Simulator(detector)
        connection.send(None)
        while True:
            for number in connection.recv():
                connection.send(simulator.simulate(draw_primary(detector, beam, seed, number)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    # Geant4's own end may fail over objects that Python has deleted, after the work is done.
    os._exit(code)


class Simulator:
    """Geant4 with one detector; one for the life of a process."""

    def __init__(self, detector: Detector) -> None:
        import geant4_pybind as g4

        self._g4 = g4
        self._detector = detector
        self._primary: Primary | None = None
        self._kept: list[Any] = []
        self._manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.SerialOnly)
        for part in self._initialisations():
            self._manager.SetUserInitialization(self._keep(part))
        for action in self._actions():
            self._manager.SetUserAction(self._keep(action))
        self._manager.Initialize()
        # The first run builds the tables.
        self.simulate(Primary(energy=0.001, theta=np.pi / 2, impact=(0.0, 0.0), seeds=(1, 1)))

    def simulate(self, primary: Primary) -> Event:
        """Simulate one shower."""
        began = time.process_time()
        self._primary = primary
        self._manager.BeamOn(1)
        cells, energies = self._found
        order = np.argsort(cells)
        return Event(
            primary=primary,
            cells=cells[order],
            energies=energies[order],
            seconds=time.process_time() - began,
        )

    def _keep(self, made: Any) -> Any:
        """Keep what Geant4 refers to but does not own."""
        self._kept.append(made)
        return made

    def _initialisations(self) -> tuple[Any, Any]:
        g4, build, add_scorers, symbols = self._g4, self._build, self._add_scorers, Symbols(self._g4.__file__)

        class Geometry(g4.G4VUserDetectorConstruction):  # type: ignore[name-defined]
            def Construct(self) -> Any:
                return build()

            def ConstructSDandField(self) -> None:
                add_scorers(self)

        class Physics(g4.G4VUserPhysicsList):  # type: ignore[name-defined]
            def ConstructParticle(self) -> None:
                for particle in (g4.G4Electron, g4.G4Positron, g4.G4Gamma, g4.G4Proton):
                    particle.Definition()

            def ConstructProcess(self) -> None:
                add_processes(symbols)

            def SetCuts(self) -> None:
                self.SetDefaultCutValue(PRODUCTION_CUT_MM * g4.mm)
                self.SetCutsWithDefault()

        return Geometry(), Physics()

    def _actions(self) -> tuple[Any, Any]:
        g4, shoot, read = self._g4, self._shoot, self._read

        class Gun(g4.G4VUserPrimaryGeneratorAction):  # type: ignore[name-defined]
            def GeneratePrimaries(self, event: Any) -> None:
                shoot(event)

        class Reading(g4.G4UserEventAction):  # type: ignore[name-defined]
            def EndOfEventAction(self, event: Any) -> None:
                read(event)

        return Gun(), Reading()

    def _build(self) -> Any:
        """Build the plates in vacuum; return the world."""
        detector, half = self._detector, 0.5 * self._detector.side
        depth = sum(slab.thickness for slab in detector.slabs)
        world, placed = self._plate("G4_Galactic", (2 * half, 2 * half, depth - START_MM), 0.0, None)
        self._cells: list[tuple[int, Any]] = []
        front = 0.0
        for slab in detector.slabs:
            size = (half, half, 0.5 * slab.thickness)
            plate, _ = self._plate(slab.material, size, front + size[2], world)
            if slab.layer is not None:
                self._cells.append((slab.layer, self._divided(plate, size, slab.layer)))
            front += slab.thickness
        return placed

    def _plate(self, material: str, half: tuple[float, float, float], z: float, mother: Any) -> Any:
        g4, keep = self._g4, self._keep
        matter = g4.G4NistManager.Instance().FindOrBuildMaterial(material)
        solid = keep(g4.G4Box(material, *half))
        volume = keep(g4.G4LogicalVolume(solid, matter, material))
        place = g4.G4ThreeVector(0, 0, z)
        return volume, keep(g4.G4PVPlacement(None, place, volume, material, mother, False, 0, False))

    def _divided(self, plate: Any, half: tuple[float, float, float], layer: int) -> Any:
        """Divide a plate into columns along x and those into cells; return the cell's volume."""
        g4, keep, cells = self._g4, self._keep, self._detector.cells
        volume, size = plate, list(half)
        for axis, (name, pitch) in enumerate(
            (("column", float(cells.width[layer])), ("cell", float(cells.height[layer])))
        ):
            copies = round(2 * half[axis] / pitch)
            size[axis] = 0.5 * pitch
            solid = keep(g4.G4Box(name, *size))
            part = keep(g4.G4LogicalVolume(solid, plate.GetMaterial(), name))
            axes = (g4.EAxis.kXAxis, g4.EAxis.kYAxis)
            keep(g4.G4PVReplica(name, part, volume, axes[axis], copies, pitch))
            volume = part
        return volume

    def _across(self, layer: int) -> tuple[int, int]:
        """Return the columns and rows of cells of a whole plate, of which the window is the middle."""
        side, cells = self._detector.side, self._detector.cells
        return round(side / cells.width[layer]), round(side / cells.height[layer])

    def _add_scorers(self, construction: Any) -> None:
        """Sum the deposits in each layer's cells."""
        g4, keep = self._g4, self._keep
        manager = g4.G4SDManager.GetSDMpointer()
        scorers = {}
        for layer, volume in self._cells:
            if layer not in scorers:
                scorers[layer] = keep(g4.G4MultiFunctionalDetector(f"layer{layer}"))
                manager.AddNewDetector(scorers[layer])
                # The depths of copy numbers in the tree of volumes: column, row, plate.
                deposits = keep(g4.G4PSEnergyDeposit3D("deposits", *self._across(layer), 1, 1, 0, 2))
                scorers[layer].RegisterPrimitive(deposits)
            construction.SetSensitiveDetector(volume, scorers[layer])
        self._layers = tuple(scorers)
        self._collections: tuple[int, ...] = ()

    def _shoot(self, event: Any) -> None:
        g4, primary, detector = self._g4, self._primary, self._detector
        assert primary is not None
        g4.G4Random.setTheSeeds([*primary.seeds, 0])
        tilt = float(np.cos(primary.theta) / np.sin(primary.theta))
        x, y = primary.impact
        gun = g4.G4ParticleGun(1)
        gun.SetParticleDefinition(g4.G4Electron.Definition())
        gun.SetParticleMomentumDirection(g4.G4ThreeVector(0, np.cos(primary.theta), np.sin(primary.theta)))
        gun.SetParticlePosition(g4.G4ThreeVector(x, y + (START_MM - detector.pivot) * tilt, START_MM))
        gun.SetParticleEnergy(primary.energy * g4.GeV)
        gun.GeneratePrimaryVertex(event)

    def _read(self, event: Any) -> None:
        """Read the hit cells of the window; Geant4 clears them afterwards."""
        if not self._collections:
            manager = self._g4.G4SDManager.GetSDMpointer()
            self._collections = tuple(
                manager.GetCollectionID(f"layer{layer}/deposits") for layer in self._layers
            )
        collections = event.GetHCofThisEvent()
        cells = self._detector.cells
        numbers, energies = [], []
        for layer, collection in zip(self._layers, self._collections, strict=True):
            hits = list(collections.GetHC(collection))
            if not hits:
                continue
            index, deposit = np.array(hits).T
            columns, rows = self._across(layer)
            column, row = np.divmod(index.astype(np.int64), rows)
            column -= (columns - cells.columns[layer]) // 2
            row -= (rows - cells.rows[layer]) // 2
            inside = (column >= 0) & (column < cells.columns[layer]) & (row >= 0) & (row < cells.rows[layer])
            number = cells.first[layer] + column * cells.step_x[layer] + row * cells.step_y[layer]
            numbers.append(number[inside])
            energies.append(deposit[inside] / self._g4.GeV)
        empty = np.empty(0)
        self._found = (
            np.concatenate(numbers or [empty]).astype(np.int64),
            np.concatenate(energies or [empty]),
        )
