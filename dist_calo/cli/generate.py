"""Make showers with a trained network: ``dist-calo generate --checkpoint DIR --n 1000 --energy 10:100 --out FILE``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from dist_calo.cli.command_line import add_model_options, one_line_parser, run_command
from dist_calo.cli.rank_runner import RankCommand, add_launch_option, on_ranks
from dist_calo.data.formats.schema import SchemaName
from dist_calo.generation.generate import DEFAULT_SHOWERS, GenerationRequest
from dist_calo.generation.incident_conditions import parse_range

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator

DESCRIPTION = """Make showers with a trained network, on one rank or many.

Starts one rank, or is one of the ranks that horovodrun, mpirun, srun or torchrun started. A rank computes with one
thread: start as many as there are cores (--launch 8), or one for each GPU.

The showers depend on the checkpoint, the seed and the conditions. With the same --batch-size they are the same bit for
bit on any number of ranks of one kind of machine; with another --batch-size the same to the rounding of float32, so
that a cell at the threshold may appear or vanish.

Finished parts are kept in OUT.parts until all are joined, for which the disk must hold the showers twice. The same
command given again after a kill makes what is missing, on any number of ranks."""

SCHEMA_HELP = """native: that which training reads for this detector; calochallenge: data sets showers (N, cells) and
incident_energies (N, 1) in MeV. For detectors that are not the challenge's a reader needs the file's attributes shape
(cells in x, y and layer; of layered detectors, of each layer) and order: a row is the array in that shape, the last
index the fastest"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate showers as the command line says and return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return on_ranks("dist_calo.cli.generate", given, _read, _run)


def _read(arguments: Sequence[str]) -> RankCommand[GenerationRequest]:
    options = _parser().parse_args(list(arguments))
    asked = {"energy": options.energy, "theta": options.theta}
    request = GenerationRequest(
        checkpoint=options.checkpoint,
        out=Path(options.out),
        n=options.n,
        ranges={name: parse_range(f"--{name}", text) for name, text in asked.items() if text is not None},
        conditions=options.conditions,
        schema=options.schema,
        seed=options.seed,
        batch_size=options.batch_size,
        device=options.device,
        tracking_uri=options.tracking_uri,
        force=options.force,
    )
    return RankCommand(options=request, ranks=options.launch)


def _run(request: GenerationRequest, communicator: "Communicator") -> int:
    from dist_calo.generation.generate import make_showers

    return make_showers(request, communicator)


def _parser() -> argparse.ArgumentParser:
    parser = one_line_parser("dist-calo generate", DESCRIPTION)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model_options(parser)
    add = parser.add_argument
    add(
        "--n",
        "--showers",
        type=int,
        help=f"number of showers (default {DEFAULT_SHOWERS}, or those of --conditions); horovodrun and torchrun "
        "take --n for an option of theirs: write --showers there",
    )
    add(
        "--energy",
        help="GeV: one number, LOW:HIGH (uniform), or A,B,C (in turn) (default: as in training)",
    )
    add("--theta", help="rad, in the same forms, for models with angle (default: as in training)")
    add(
        "--conditions",
        metavar="FILE",
        help="take the conditions of this shower file, or glob, row by row, from the first again after the last",
    )
    add("--out", required=True, help="HDF5 file to write")
    add("--schema", choices=get_args(SchemaName), default="native", help=SCHEMA_HELP)
    add(
        "--force",
        action="store_true",
        help="replace the file if it exists, and parts begun with other options",
    )
    add("--seed", type=int, default=0, help="the same seed gives the same showers (default 0)")
    add("--batch-size", type=int, default=100, help="showers made at a time (default 100)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default cpu)")
    add_launch_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command("dist-calo generate", main, sys.argv[1:]))
