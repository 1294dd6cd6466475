"""How fast showers are made, and how good those are: ``dist-calo bench generate --checkpoint DIR``."""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_calo.cli.command_line import add_model_options, one_line_parser, run_command
from dist_calo.errors import ConfigError, UserError
from dist_calo.files import write_whole

if TYPE_CHECKING:
    from dist_calo.deployment.timing import Scorer

MISSING = "–"
BUSY = 0.9
"""Share of a core that a measurement should have had, at least."""


def main(arguments: Sequence[str]) -> int:
    """Measure as the command line says and return the exit code."""
    options = _parser().parse_args(list(arguments))
    batches, threads = _batches(options.batch), _threads(options.threads)
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

    from dist_calo.deployment.benchmark import Bench
    from dist_calo.training.model_sources import state_of
    from dist_calo.training.restore import restore_generator

    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no GPU that torch can use; take auto or cpu")
    state = state_of(options.checkpoint, options.tracking_uri)
    generator = restore_generator(state)
    bench = Bench(state, generator, _scorer(state, options), options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        bench.prepare(Path(folder), cuda=options.device != "cpu" and torch.cuda.is_available())
        for count in threads if options.device != "cuda" else []:
            for batch in batches:
                bench.measure_cpu(batch, count)
        for batch in batches:
            bench.measure_cuda(batch)
    geant4 = _geant4(options, state, bench.scorer)
    result = {
        "checkpoint": options.checkpoint,
        "step": state["step"],
        "model": state["config"]["model"]["name"],
        "geometry": generator.geometry.described,
        "machine": _machine(),
        "geant4": geant4,
        **bench.result(),
    }
    if geant4["seconds_per_shower"] is not None:
        for row in result["rows"]:
            if "ms_per_shower" in row:
                row["speed_up"] = 1e3 * geant4["seconds_per_shower"] / row["ms_per_shower"]
                row["speed_up_cpu"] = 1e3 * geant4["seconds_per_shower"] / row["cpu_ms_per_shower"]
    if options.out is not None:
        _write(Path(options.out), result)
    show(result)
    return 0


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['model']}, step {result['step']}: {result['geometry']}")
    for column in ("runtime", "device"):
        table.add_column(column)
    for column in ("threads", "batch", "ms/shower", "quartiles", "CPU ms", "score", "speed-up"):
        table.add_column(column, justify="right")
    notes = []
    for row in result["rows"]:
        if "ms_per_shower" not in row:
            notes.append(f"{row['runtime']}: {row['note']}")
        if row.get("at_a_time", row["batch"]) < row["batch"]:
            notes.append(
                f"a batch of {row['batch']} is computed {row['at_a_time']} at a time, to bound memory"
            )
        if row["device"] == "cpu" and row["threads"] == 1 and row.get("cores", 1.0) < BUSY:
            notes.append(
                "other programs kept the cores busy: ms/shower holds waiting for them, the processor's own time "
                "(CPU ms) does not"
            )
        if not row.get("usable", True):
            notes.append(
                f"{row['runtime']} is not usable: its score is worse than PyTorch's beyond the spread"
            )
        table.add_row(*_cells(row))
    console = Console(width=None if sys.stdout.isatty() else 118)
    console.print(table)
    if "sample" in result["score"]:
        notes.append(
            f"score: least is best; against {result['score']['sample']}, half of them against the other half "
            f"{result['score']['floor']:.3g}"
        )
    else:
        notes.append(f"no score: {result['score']['note']}")
    notes.append(f"Geant4: {result['geant4']['source']}")
    for note in dict.fromkeys(notes):
        console.print(note, soft_wrap=True, markup=False, highlight=False)


def _cells(row: dict[str, Any]) -> list[str]:
    start = [row["runtime"], row["device"], str(row["threads"]), str(row["batch"])]
    if "ms_per_shower" not in row:
        return [*start, *[MISSING] * 5]
    score = MISSING
    if "score" in row:
        score = f"{row['score']:.4f} ± {row['spread']:.4f}" + ("" if row["usable"] else " ✗")
    return [
        *start,
        f"{row['ms_per_shower']:.3g}",
        f"{row['ms_low']:.3g}–{row['ms_high']:.3g}",
        f"{row['cpu_ms_per_shower']:.3g}",
        score,
        f"{row['speed_up']:.3g} ×" if "speed_up" in row else MISSING,
    ]


def _scorer(state: dict[str, Any], options: argparse.Namespace) -> "Scorer | str":
    """What scores; where the showers of the checkpoint's training are gone, why there is no score."""
    from dist_calo.deployment.timing import Scorer

    try:
        return Scorer(state, options.score_showers, options.real)
    except UserError as error:
        if options.real is not None:
            raise
        return f"{error} (--real FILE names other showers)"


def _geant4(options: argparse.Namespace, state: dict[str, Any], scorer: "Scorer | str") -> dict[str, Any]:
    """Geant4's time of a shower and where it comes from: the command line, the data, or a run of Geant4."""
    from dist_calo.simulation.geant4_reference import recorded_seconds, simulated_seconds

    if options.geant4_seconds is not None:
        seconds, source = options.geant4_seconds, f"{options.geant4_seconds:g} s a shower, --geant4-seconds"
        return {"seconds_per_shower": seconds, "source": source}
    files = [] if isinstance(scorer, str) else scorer.files
    seconds = recorded_seconds(files)
    if seconds is not None:
        return {
            "seconds_per_shower": seconds,
            "source": f"{seconds:.3g} s a shower on one core, as the data record it",
        }
    energies = state.get("condition_ranges", {}).get("energy", (10.0, 100.0))
    try:
        seconds, source = simulated_seconds(state["geometry"], energies, options.geant4_showers)
    except UserError as error:
        return {"seconds_per_shower": None, "source": str(error)}
    return {"seconds_per_shower": seconds, "source": source}


def _machine() -> dict[str, Any]:
    import torch

    versions: dict[str, str | None] = {}
    for package in ("torch", "onnxruntime", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "processor": _processor(),
        "cores": _cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **versions,
    }


def _processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    from dist_calo.comm.threads import available_cores

    return len(available_cores())


def _batches(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"--batch {text}: give numbers of showers such as 1,100,10000")
    return list(dict.fromkeys(found))


def _threads(text: str) -> list[int]:
    try:
        found = [_cores() if part == "all" else int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1 or max(found) > _cores():
        raise ConfigError(f"--threads {text}: give numbers from 1 to {_cores()}, or all, such as 1,all")
    return list(dict.fromkeys(found))


def _write(path: Path, result: dict[str, Any]) -> None:
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")


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


if __name__ == "__main__":
    sys.exit(run_command("dist_calo.cli.bench", main, sys.argv[1:]))
