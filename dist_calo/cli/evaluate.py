"""Compare generated with Geant4 showers: ``dist-calo evaluate --real FILES --fake FILES``, or ``--checkpoint DIR``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.cli.command_line import MODEL_SOURCES, add_store_option, one_line_parser, run_command
from dist_calo.cli.rank_runner import RankCommand, add_launch_option, on_ranks
from dist_calo.config import DataConfig
from dist_calo.evaluation.request import EvaluationRequest, parse_edges, require_free

if TYPE_CHECKING:
    import argparse

    from dist_calo.comm.protocol import Communicator

DESCRIPTION = """Compare generated with Geant4 showers, on one rank or many.

Writes metrics.json and report.html into a folder and logs both to MLflow.
"""
LEVELS: dict[str, tuple[str, ...]] = {"none": (), "high": ("high",), "low": ("low",), "both": ("high", "low")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says and return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return on_ranks("dist_calo.cli.evaluate", given, _read, _run)


def _read(arguments: Sequence[str]) -> RankCommand[EvaluationRequest]:
    options = _parser().parse_args(list(arguments))
    reading = DataConfig(
        format=options.format,
        cell_unit=options.cell_unit,
        energy_unit=options.energy_unit,
        binning=options.binning,
        validate="quick",
    )
    request = EvaluationRequest(
        real=options.real,
        fake=options.fake,
        checkpoint=options.checkpoint,
        reading=reading,
        showers=options.showers,
        edges=None if options.energy_edges is None else parse_edges(options.energy_edges),
        rows=options.rows,
        levels=LEVELS[options.classifier],
        seed=options.seed,
        device=options.device,
        tracking_uri=options.tracking_uri,
        names=(options.real_name, options.fake_name),
        out=Path(options.out),
        report=not options.no_report,
        threshold=options.threshold,
    )
    require_free(request.out, force=options.force)
    # Showers are generated on the device, sums are exchanged on the processor: the communicator is not told of it.
    return RankCommand(options=request, ranks=options.launch)


def _run(request: EvaluationRequest, communicator: "Communicator") -> int:
    from dist_calo.evaluation.evaluate import evaluate
    from dist_calo.evaluation.record import summary_lines

    evaluation = evaluate(request, communicator)
    if evaluation is not None:
        files = [request.out / name for name in ("metrics.json", "report.html")[: 1 + request.report]]
        print(*summary_lines(evaluation), *files, sep="\n")
    return 0


def _parser() -> "argparse.ArgumentParser":
    parser = one_line_parser("dist-calo evaluate", DESCRIPTION)
    add = parser.add_argument
    real = "Geant4 shower file or glob (default with --checkpoint: the test split of its training)"
    add("--real", help=real)
    add("--fake", help="generated shower file or glob")
    made = "one shower is generated for each Geant4 one, of the same energy"
    add("--checkpoint", help=f"{MODEL_SOURCES}: {made}")
    add("--out", default="evaluation", help="folder to write to (default evaluation)")
    add("--force", action="store_true", help="replace an evaluation that lies there")
    add("--no-report", action="store_true", help="write metrics.json alone, which is quicker")
    add("--showers", type=int, help="take the first so many of each sample only")
    cut = "GeV: cells below count as empty, in both samples (default: what the checkpoint's training left out, or 0)"
    add("--threshold", type=float, help=cut)
    add("--energy-edges", help="GeV, edges of the bins of incident energy such as 10,30,50,100")
    classifier = (
        "train the CaloChallenge's classifier on observables (high), cells (low) or both: minutes to hours"
    )
    add("--classifier", choices=tuple(LEVELS), default="none", help=classifier)
    rows = "showers of each sample for KPD, precision and recall, and the classifier (default 5000)"
    add("--rows", type=int, default=5000, help=rows)
    add("--seed", type=int, default=0, help="of the generated showers (default 0)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to generate (default cpu)")
    add_store_option(parser, "MLflow store, or none (default: that of the training)")
    add("--real-name", default="Geant4", help="what the report calls the reference (default Geant4)")
    add("--fake-name", default="generated", help="what it calls the other sample (default generated)")
    add("--format", default="auto", help="schema of the files (default: recognised)")
    for name in ("cell", "energy"):
        choices = ("auto", "GeV", "MeV", "keV")
        add(f"--{name}-unit", choices=choices, default="auto", help="where the files do not say it")
    add("--binning", help="the CaloChallenge's XML file, where it is not known")
    add_launch_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command("dist-calo evaluate", main, sys.argv[1:]))
