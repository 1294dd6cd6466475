"""Measure how fast showers are made, and how good they are: ``dist-calo bench generate --checkpoint DIR``."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from dist_calo.cli.command_line import add_model_options, one_line_parser, parse_numbers
from dist_calo.errors import ConfigError
from dist_calo.files import write_text


def main(arguments: Sequence[str]) -> int:
    """Measure as the command line says and return the exit code."""
    options = _parser().parse_args(list(arguments))
    batches = parse_numbers("--batch", options.batch, "numbers of showers such as 1,100,10000")
    threads = _threads(options.threads)
    if not options.seconds > 0 or min(options.score_showers, options.geant4_showers) < 1:
        raise ConfigError(
            f"--seconds {options.seconds} --score-showers {options.score_showers} --geant4-showers "
            f"{options.geant4_showers}: all must be above 0"
        )
    if options.geant4_seconds is not None and not options.geant4_seconds > 0:
        raise ConfigError(f"--geant4-seconds {options.geant4_seconds}: a time is above 0 s")
    if options.out is not None and not Path(options.out).absolute().parent.is_dir():
        raise ConfigError(f"--out {options.out}: there is no such folder; make it or name another")

    import torch

    from dist_calo.deployment.benchmark import BenchRequest, measure
    from dist_calo.deployment.benchmark_table import show_table
    from dist_calo.training.model_sources import state_of

    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no GPU that torch can use; take auto or cpu")
    request = BenchRequest(
        batches=batches,
        threads=threads if options.device != "cuda" else [],
        cuda=options.device != "cpu" and torch.cuda.is_available(),
        seconds=options.seconds,
        real=options.real,
        score_showers=options.score_showers,
        geant4_seconds=options.geant4_seconds,
        geant4_showers=options.geant4_showers,
    )
    measured = measure(state_of(options.checkpoint, options.tracking_uri), request)
    result = {"checkpoint": options.checkpoint, **measured}
    if options.out is not None:
        write_text(options.out, json.dumps(result, indent=2) + "\n")
    show_table(result)
    return 0


def _threads(text: str) -> list[int]:
    from dist_calo.comm.threads import available_cores

    cores = len(available_cores())
    wanted = f"numbers from 1 to {cores}, or all, such as 1,all"
    words = [str(cores) if part == "all" else part for part in text.split(",")]
    found = parse_numbers("--threads", ",".join(words), wanted)
    if max(found) > cores:
        raise ConfigError(f"--threads {text}: give {wanted}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = one_line_parser("dist-calo bench", "Measure how fast showers are made, and how good those are.")
    parser.add_argument("what", choices=("generate",), help="what to measure")
    add_model_options(parser)
    parser.add_argument(
        "--batch", default="1,100,10000", help="showers asked for at a time (default 1,100,10000)"
    )
    parser.add_argument("--threads", default="1,all", help="threads on the processor (default 1,all)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: the GPU too if there is one"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="for each row, at least three timings (default 5)"
    )
    parser.add_argument(
        "--real", help="showers that the score compares with (default: test split of the training data)"
    )
    parser.add_argument("--score-showers", type=int, default=500, help="most of them (default 500)")
    parser.add_argument("--geant4-seconds", type=float, help="Geant4's time for a shower, if you know it")
    parser.add_argument(
        "--geant4-showers", type=int, default=20, help="electrons that Geant4 is run with (default 20)"
    )
    parser.add_argument("--out", help="JSON file to write")
    return parser
