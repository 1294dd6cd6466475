"""Make parametrised showers: ``dist-calo simulate --detector lcd25 --n 10000 --energy 10:100 --out FILE``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.cli.command_line import one_line_parser, parse_range
from dist_calo.errors import ConfigError
from dist_calo.geometry import CONDITIONS

if TYPE_CHECKING:
    from dist_calo.simulation.detectors import Detector

DETECTORS = ("lcd25", "lcd51", "layers", "signals")
LEAST_ANGLE, LARGEST_ANGLE = 0.5, 2.6416
"""Polar angles in rad between which the axis crosses the layers steeply enough."""
RANGE = 4.0
"""The parametrisation may be taken this factor beyond the energies it was fitted to."""


def main(arguments: Sequence[str]) -> int:
    """Simulate showers into a file and return the exit code."""
    options = _parser().parse_args(list(arguments))
    for name in ("n", "processes"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} {getattr(options, name)}: must be at least 1")
    energy = parse_range("--energy", options.energy) if options.energy else None
    theta = parse_range("--theta", options.theta) if options.theta else None
    for name, bounds in (("energy", energy), ("theta", theta)):
        if bounds:
            CONDITIONS[name].require(f"--{name} {getattr(options, name)}", *bounds)
    if theta and not LEAST_ANGLE <= theta[0] <= theta[1] <= LARGEST_ANGLE:
        raise ConfigError(
            f"--theta {options.theta}: angles lie between {LEAST_ANGLE} and {LARGEST_ANGLE} rad; normal is 1.5708"
        )
    if theta and options.detector == "signals":
        raise ConfigError(
            f"--theta {options.theta}: showers of {options.detector} come at normal incidence only"
        )
    if Path(options.out).exists() and not options.force:
        raise ConfigError(f"--out {options.out}: the file exists; name another or add --force to replace it")

    from dist_calo.data.formats import ShowerWriter
    from dist_calo.simulation.detectors import find_detector
    from dist_calo.simulation.seeded_blocks import BLOCK, Beam, simulate_blocks

    detector = find_detector(options.detector)
    energy = energy or detector.parametrisation.energies
    fitted = _check_energies(detector, energy, options.energy)
    beam = Beam(energy=energy, theta=theta) if theta else Beam(energy=energy)
    attributes = {
        "generator": "dist_calo, parametrised after Grindhammer and Peters (hep-ex/0001020)",
        "fitted_to": detector.parametrisation.source,
        "particle": "e-",
        "seed": options.seed,
    }
    with ShowerWriter(options.out, detector.geometry(beam.conditions), attributes=attributes) as writer:
        blocks = range(-(-options.n // BLOCK))
        for showers, conditions in simulate_blocks(
            options.detector, beam, options.seed, blocks, options.processes
        ):
            rows = min(len(showers), options.n - writer.rows)
            writer.append(showers[:rows], conditions[:rows])
    print(f"{options.out}: {options.n} showers of {options.detector}, {energy[0]:g} to {energy[1]:g} GeV")
    if not fitted:
        low, high = detector.parametrisation.energies
        print(f"energies outside {low:g}:{high:g} GeV are extrapolated: nothing was fitted there")
    return 0


def _check_energies(detector: "Detector", energy: tuple[float, float], text: str) -> bool:
    """Tell if all energies are within those that the parametrisation was fitted to.

    Raises:
        ConfigError: if some are too far from them.
    """
    low, high = detector.parametrisation.energies
    if energy[0] < low / RANGE or energy[1] > high * RANGE:
        raise ConfigError(
            f"--energy {text}: {detector.name} was fitted from {low:g} to {high:g} GeV; stay between "
            f"{low / RANGE:g} and {high * RANGE:g}"
        )
    return low <= energy[0] and energy[1] <= high


def _parser() -> argparse.ArgumentParser:
    parser = one_line_parser("dist-calo simulate", "Make parametrised electron showers.")
    parser.add_argument("--detector", required=True, choices=DETECTORS, help="read-out of the showers")
    parser.add_argument("--n", type=int, default=1000, help="number of showers (default 1000)")
    parser.add_argument("--energy", help="GeV, one number or LOW:HIGH (default: as fitted)")
    parser.add_argument("--theta", help="rad, one angle or LOW:HIGH (default: normal incidence)")
    parser.add_argument("--out", required=True, help="HDF5 file to write, in the schema that training reads")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same showers (default 0)"
    )
    parser.add_argument("--processes", type=int, default=1, help="that share the work (default 1)")
    return parser
