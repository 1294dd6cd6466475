"""Simulate showers: ``dist-calo simulate --detector lcd25 --n 10000 --energy 10:100 --out FILE``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from dist_calo.cli.command_line import one_line_parser, parse_range, run_command
from dist_calo.cli.rank_runner import RankCommand, on_ranks
from dist_calo.generation.simulated import EngineName, SimulationRequest
from dist_calo.simulation.detectors import DETECTORS

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator

DESCRIPTION = """Simulate electron showers, on one rank or many.

Starts one rank, or is one of the ranks that a launcher started. A rank computes with one thread: start as many as there
are cores (--launch 8). The showers depend on the options and the seed alone, and are the same bit for bit on any number
of ranks of one kind of machine.

--engine parametrised: thousands a second, after Grindhammer and Peters, with constants fitted to Geant4.
--engine geant4: some a second, by Geant4 with electromagnetic physics that needs no data sets (docs/geant4.md).

Finished parts are kept in OUT.parts until all are joined. The same command given again after a kill makes what is
missing, on any number of ranks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate showers into a file and return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return on_ranks("dist_calo.cli.simulate", given, _read, _run)


def _read(arguments: Sequence[str]) -> RankCommand[SimulationRequest]:
    options = _parser().parse_args(list(arguments))
    request = SimulationRequest(
        detector=options.detector,
        out=Path(options.out),
        engine=options.engine,
        n=options.n,
        energy=parse_range("--energy", options.energy) if options.energy else None,
        theta=parse_range("--theta", options.theta) if options.theta else None,
        seed=options.seed,
        force=options.force,
    )
    return RankCommand(options=request, ranks=options.launch)


def _run(request: SimulationRequest, communicator: "Communicator") -> int:
    from dist_calo.generation.simulated import simulate_sample

    return simulate_sample(request, communicator)


def _parser() -> argparse.ArgumentParser:
    parser = one_line_parser("dist-calo simulate", DESCRIPTION)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--detector", required=True, choices=tuple(DETECTORS), help="read-out of the showers")
    add("--engine", choices=get_args(EngineName), default="parametrised", help="(default parametrised)")
    add(
        "--n",
        "--showers",
        type=int,
        default=1000,
        help="number of showers (default 1000); horovodrun and torchrun take --n for an option of theirs: write "
        "--showers there",
    )
    add("--energy", help="GeV, one number or LOW:HIGH (default: as the parametrisation was fitted)")
    add("--theta", help="rad, one angle or LOW:HIGH (default: normal incidence)")
    add("--out", required=True, help="HDF5 file to write, in the schema that training reads")
    add(
        "--force",
        action="store_true",
        help="replace the file if it exists, and parts begun with other options",
    )
    add("--seed", type=int, default=0, help="the same seed gives the same showers (default 0)")
    add(
        "--launch",
        "--processes",
        type=int,
        default=1,
        help="start so many ranks here, without a launcher (default 1)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command("dist-calo simulate", main, sys.argv[1:]))
