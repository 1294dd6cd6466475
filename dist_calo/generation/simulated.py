"""Samples of simulated showers, parametrised or by Geant4, on all ranks.

A shower depends on the seed and its number (parametrised: its block's number) alone, so the number of ranks changes no
bit of the file. On each rank Geant4 runs in a process of its own, of some 100 MB.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from dist_calo import __version__
from dist_calo.data.formats import ShowerWriter
from dist_calo.data.formats.schema import StoredArray
from dist_calo.errors import EXIT_PREEMPTED, ConfigError
from dist_calo.generation.partial_output import CHUNK_ROWS, Partition, part_rows
from dist_calo.generation.parts_on_ranks import PartMaker, Sample, make_file
from dist_calo.geometry import CONDITIONS
from dist_calo.simulation.beam import Beam
from dist_calo.simulation.detectors import Detector, find_detector
from dist_calo.simulation.geant4.physics import DESCRIPTION, MANTISSA_BITS, PRODUCTION_CUT_MM
from dist_calo.simulation.geant4.process import VERSION, Geant4Process, require_wheel, rows_of
from dist_calo.simulation.seeded_blocks import BLOCK, simulate_block

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator
    from dist_calo.generation.shared_progress import SharedProgress

EngineName = Literal["parametrised", "geant4"]
Batch = tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]
"""Showers, their conditions and extra data sets."""
LEAST_ANGLE, LARGEST_ANGLE = 0.5, 2.6416
"""Polar angles in rad between which the axis crosses the layers steeply enough."""
PARAMETRISED_RANGE = 4.0
"""The parametrisation may be taken this factor beyond the energies it was fitted to."""
GEANT4_ENERGIES = (0.1, 1000.0)
"""Energies in GeV: below, a cell sees few particles and the cuts matter; above, nuclear reactions do."""
MOST_PARTS = 16_384


@dataclass(frozen=True, kw_only=True)
class SimulationRequest:
    """The sample to simulate, as the command line asks for it.

    Raises:
        ConfigError: if a value breaks a rule.
        MissingComponentError: if Geant4 is asked for and not installed.
    """

    detector: str
    out: Path
    engine: EngineName = "parametrised"
    n: int = 1000
    energy: tuple[float, float] | None = None
    """Lowest and highest incident energy in GeV; None for those of the parametrisation."""
    theta: tuple[float, float] | None = None
    """Lowest and highest polar angle in rad; None for normal incidence."""
    seed: int = 0
    force: bool = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"--n {self.n}: must be at least 1")
        if self.engine not in get_args(EngineName):
            raise ConfigError(f"--engine {self.engine}: choose from {', '.join(get_args(EngineName))}")
        detector = find_detector(self.detector)
        for name, bounds in (("energy", self.energy), ("theta", self.theta)):
            if bounds:
                CONDITIONS[name].require(f"--{name} {_text(bounds)}", *bounds)
        if self.energy:
            self._check_energy(detector, self.energy)
        if self.theta:
            self._check_theta(detector, self.theta)
        if self.engine == "geant4":
            require_wheel("--engine geant4: ")

    def _check_energy(self, detector: Detector, energy: tuple[float, float]) -> None:
        if self.engine == "geant4":
            (low, high), reason = GEANT4_ENERGIES, "its models here are meant for electromagnetic showers"
        else:
            low, high = detector.parametrisation.energies
            reason = f"{detector.name} was fitted from {low:g} to {high:g} GeV"
            low, high = low / PARAMETRISED_RANGE, high * PARAMETRISED_RANGE
        if energy[0] < low or energy[1] > high:
            raise ConfigError(f"--energy {_text(energy)}: {reason}; stay between {low:g} and {high:g}")

    def _check_theta(self, detector: Detector, theta: tuple[float, float]) -> None:
        if not LEAST_ANGLE <= theta[0] <= theta[1] <= LARGEST_ANGLE:
            raise ConfigError(
                f"--theta {_text(theta)}: angles lie between {LEAST_ANGLE} and {LARGEST_ANGLE} rad; normal is 1.5708"
            )
        if detector.chain is not None:
            raise ConfigError(
                f"--theta {_text(theta)}: showers of {detector.name} come at normal incidence only"
            )

    @property
    def beam(self) -> Beam:
        """Return the energies and angles."""
        energy = self.energy or find_detector(self.detector).parametrisation.energies
        return Beam(energy=energy, theta=self.theta) if self.theta else Beam(energy=energy)


def simulate_sample(request: SimulationRequest, communicator: "Communicator") -> int:
    """Simulate the sample on all ranks; collective.

    Returns:
        The exit code: 0, or EXIT_PREEMPTED if a signal stopped the ranks; the complete parts are kept then.

    Raises:
        UserError: if the file exists, Geant4 fails, or the disk is full.
    """
    made = make_file(
        request.out,
        communicator,
        partial(_set_up, request),
        partial(_maker, request),
        unit="shower",
        force=request.force,
    )
    if made is None:
        return EXIT_PREEMPTED
    if communicator.world.rank == 0:
        low, high = request.beam.energy
        print(f"{request.out}: {request.n} showers of {request.detector}, {low:g} to {high:g} GeV")
        first, last = find_detector(request.detector).parametrisation.energies
        if request.engine == "parametrised" and not first <= low <= high <= last:
            print(f"energies outside {first:g}:{last:g} GeV are extrapolated: nothing was fitted there")
    return 0


def _set_up(request: SimulationRequest) -> Sample[dict[str, Any]]:
    """Return the attributes of the file, and how it is divided; on rank 0."""
    detector, beam = find_detector(request.detector), request.beam
    if request.engine == "geant4":
        versions = f"geant4, geant4-pybind {VERSION}, dist_calo {__version__}"
        # Geant4 takes a second for some showers: small parts, so that a kill costs little and ranks end together.
        rows = CHUNK_ROWS * math.ceil(request.n / (CHUNK_ROWS * MOST_PARTS))
        attributes = {
            "generator": f"Geant4 by geant4-pybind {VERSION}",
            "detector": detector.name,
            "geometry": detector.description,
            "physics": DESCRIPTION,
            "production_cut_mm": PRODUCTION_CUT_MM,
            "scored": "energy deposited in the active material; no noise, no threshold, no calibration",
            "mantissa_bits": MANTISSA_BITS,
        }
    else:
        versions = f"parametrised, dist_calo {__version__}"
        rows = part_rows(request.n, BLOCK)
        attributes = {
            "generator": "dist_calo, parametrised after Grindhammer and Peters (hep-ex/0001020)",
            "fitted_to": detector.parametrisation.source,
        }
    return Sample(
        inputs=attributes | {"particle": "e-", "seed": request.seed},
        partition=Partition(samples=request.n, rows=rows),
        settings={
            "engine": versions,
            "detector": detector.name,
            "n": request.n,
            "energy": _text(beam.energy),
            "theta": _text(beam.theta),
            "seed": request.seed,
        },
    )


@contextmanager
def _maker(request: SimulationRequest, attributes: dict[str, Any]) -> Iterator[PartMaker]:
    """Start the engine and make parts with it."""
    detector, beam = find_detector(request.detector), request.beam
    if request.engine == "geant4":
        with Geant4Process(detector, beam, request.seed) as process:
            batches = partial(_geant4_batches, process, request)
            yield partial(_make_part, request, attributes, batches, _geant4_extras(detector))
    else:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            yield partial(_make_part, request, attributes, partial(_parametrised_batches, request), ())


def _make_part(
    request: SimulationRequest,
    attributes: dict[str, Any],
    batches: Callable[[range], Iterator[Batch]],
    extras: tuple[StoredArray, ...],
    rows: range,
    path: Path,
    progress: "SharedProgress",
) -> None:
    geometry = find_detector(request.detector).geometry(request.beam.conditions)
    with ShowerWriter(path, geometry, attributes, chunk_rows=CHUNK_ROWS, extras=extras) as writer:
        for showers, conditions, others in batches(rows):
            writer.append(showers, conditions, others)
            progress.add(len(showers))


def _parametrised_batches(request: SimulationRequest, rows: range) -> Iterator[Batch]:
    for start in range(rows.start, rows.stop, BLOCK):
        showers, conditions = simulate_block(request.detector, request.beam, request.seed, start // BLOCK)
        yield showers[: rows.stop - start], conditions[: rows.stop - start], {}


def _geant4_batches(process: Geant4Process, request: SimulationRequest, rows: range) -> Iterator[Batch]:
    detector, wanted = find_detector(request.detector), len(request.beam.conditions)
    for number, event in zip(rows, process.simulate(rows), strict=True):
        primary = event.primary
        conditions = np.array([[primary.energy, primary.theta]], dtype=np.float32)[:, :wanted]
        showers, extras = rows_of(event, detector, request.seed, number)
        yield showers, conditions, extras


def _geant4_extras(detector: Detector) -> tuple[StoredArray, ...]:
    """Return the data sets that Geant4's showers have besides."""
    found = (StoredArray(name="impact", shape=(2,), cells=False, attributes={"units": "mm"}),)
    if detector.chain is None:
        return found
    deposits = StoredArray(name="edep", shape=detector.chain.deposit_shape, cells=True)
    return (*found, deposits, StoredArray(name="t0", shape=(1,), cells=False))


def _text(bounds: tuple[float, float]) -> str:
    """Return a range as the command line has it."""
    low, high = bounds
    return f"{low:g}" if low == high else f"{low:g}:{high:g}"
