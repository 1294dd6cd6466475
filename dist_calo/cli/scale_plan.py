"""Plan a scaling experiment: ``dist-calo scale plan``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.cli.command_line import build_config, config_parser, parse_choices, parse_numbers

if TYPE_CHECKING:
    from dist_calo.scaling.plan import Axes

DESCRIPTION = """Cross nodes, ranks, threads, backends, wire formats and batches into a plan in the folder RESULTS.

Lists are separated by commas. All settings of the trainer may be given as well, as to dist-calo train.
"""
LISTS = (
    ("--nodes", "1", "numbers of nodes, such as 1,2,4"),
    ("--ranks", "1,2", "ranks on each node"),
    ("--threads", "1", "compute threads of a rank"),
    ("--backends", "torch", "of torch,mpi,horovod (default torch)"),
    ("--wires", "fp32", "of fp32,bf16,fp16"),
    ("--overlap", "on,off", "of on,off; a prediction needs off (default on,off)"),
    ("--batch", "16", "showers of a rank in weak studies"),
    ("--global-batch", "64", "showers of all ranks in strong studies"),
)
NUMBERS = (
    ("--repeats", 3, "of each point"),
    ("--warmup", 5, "steps before the clock starts"),
    ("--steps", 32, "steps that are measured"),
)


def plan(arguments: Sequence[str]) -> int:
    """Write the plan that the command line asks for and return the exit code."""
    from dist_calo.scaling.experiment import plan_experiment
    from dist_calo.scaling.plan import Measurement, described

    parser = config_parser("dist-calo scale plan", DESCRIPTION)
    add = parser.add_argument
    add("results", help="folder to make, on a file system that all nodes share")
    add("--mode", choices=("weak", "strong", "both"), default="weak", help="what stays the same")
    for name, words, text in LISTS:
        add(name, default=words, help=text)
    for name, number, text in NUMBERS:
        add(name, type=int, default=number, help=text)
    add("--no-end-to-end", action="store_true", help="without a validation and a checkpoint in each repeat")
    values = parser.parse_args(list(arguments))
    config, results = build_config(parser, values), Path(values.results)
    measurement = Measurement(
        repeats=values.repeats,
        warmup_steps=values.warmup,
        steps=values.steps,
        end_to_end=not values.no_end_to_end,
    )
    print(described(plan_experiment(results, _axes(values), config, measurement), results))
    return 0


def _axes(values: argparse.Namespace) -> "Axes":
    from dist_calo.scaling.plan import BACKENDS, WIRES, Axes

    def numbers(option: str) -> list[int]:
        return sorted(parse_numbers(option, getattr(values, option[2:].replace("-", "_"))))

    return Axes(
        nodes=numbers("--nodes"),
        ranks_per_node=numbers("--ranks"),
        threads=numbers("--threads"),
        backends=parse_choices("--backends", values.backends, BACKENDS),
        wires=parse_choices("--wires", values.wires, WIRES),
        overlap=[word == "on" for word in parse_choices("--overlap", values.overlap, ("on", "off"))],
        weak_batches=[] if values.mode == "strong" else numbers("--batch"),
        strong_batches=[] if values.mode == "weak" else numbers("--global-batch"),
    )
