"""Train families of models for the same time and compare them with held-out Geant4 showers, for docs/results.md.

    python benchmarks/families.py layers --seconds 240 --out results/layers
    python benchmarks/families.py signals --seconds 150 --out results/signals

Each entry is one configuration with overrides, trained on one rank with one thread for the time given (after a short
measurement of its speed, which decides the number of steps), several at once. Prints a Markdown table; the folder
keeps the numbers (JSON), the pictures and the checkpoints. The floor is the same comparison between two halves of the
held-out real showers, so a model can lie below it: it is compared with all of them.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROBE_STEPS = 12
PUBLISHED = ("signals_shapes_amplitudes", "signals_full", "signals_simplified")
NETWORKS = ("linear", "lstm", "cnn")
OBJECTIVES = ("vanilla", "wgan", "wgan_gp")
LAYER_COLUMNS = {
    "mean_error/layer_energy": "mean",
    "separation/layer_energy": "separation",
    "correlation/layer_energy": "correlations",
}
SIGNAL_COLUMNS = {
    "wasserstein/amplitude": "amplitudes [counts]",
    "wasserstein/time": "times [ns]",
    "correlation/amplitude": "corr. amplitudes",
    "correlation/time": "corr. times",
    "fraction/time": "without time",
}


def entries(table: str) -> dict[str, list[str]]:
    """Names of the rows and the trainer's arguments of each."""
    if table == "layers":
        names = ("layers_gan", "layers_vae", "layers_vae_plain")
        return {name: [f"--config={ROOT}/configs/{name}.yaml"] for name in names}
    rows = {
        f"{family[8:]} {network} {objective}": [
            f"--config={ROOT}/configs/{family}.yaml",
            f"--model.options.network={network}",
            f"--objective.name={objective}",
        ]
        for family, network, objective in itertools.product(PUBLISHED, NETWORKS, OBJECTIVES)
    }
    return rows | {"factorised": [f"--config={ROOT}/configs/signals_factorised.yaml"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables of families of models, trained for the same time.")
    parser.add_argument("table", choices=("layers", "signals"))
    parser.add_argument("--seconds", type=float, default=150.0, help="training time of each (default 150)")
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder of what is left (default results)"
    )
    parser.add_argument("--at-once", type=int, default=2, help="entries trained side by side (default 2)")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = {name: given for name, given in entries(options.table).items() if options.only in name}
    if options.worker:
        numbers = train_and_compare(
            rows[options.worker], options.seconds, folder_of(options.out, options.worker)
        )
        (folder_of(options.out, options.worker) / "numbers.json").write_text(
            json.dumps(numbers, indent=2) + "\n"
        )
        return
    with ThreadPoolExecutor(options.at_once) as pool:
        found = dict(zip(rows, pool.map(lambda name: in_process(name, options), rows), strict=True))
    print(table_of(found, SIGNAL_COLUMNS if options.table == "signals" else LAYER_COLUMNS))


def folder_of(out: Path, name: str) -> Path:
    return out.resolve() / name.replace(" ", "_")


def in_process(name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Train one row in a process of its own, for torch's threads are set once in a process; None if it failed."""
    folder = folder_of(options.out, name)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = folder / "numbers.json"
    if not numbers.exists():
        given = [
            options.table,
            "--seconds",
            str(options.seconds),
            "--out",
            str(options.out),
            "--worker",
            name,
        ]
        with open(folder / "log.txt", "w") as log:
            subprocess.run(
                [sys.executable, __file__, *given],
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
    print(f"{name}: {'done' if numbers.exists() else f'failed, see {folder}/log.txt'}", file=sys.stderr)
    result: dict[str, Any] | None = json.loads(numbers.read_text()) if numbers.exists() else None
    return result


def train_and_compare(arguments: list[str], seconds: float, folder: Path) -> dict[str, Any]:
    """Train for so long and compare the last weights with the test split."""
    from dist_calo.physics.panels import save_png

    from dist_calo.comm.protocol import World
    from dist_calo.comm.single import SingleCommunicator
    from dist_calo.command_line import build_config, config_parser
    from dist_calo.config import CheckpointConfig, RunConfig
    from dist_calo.training.checkpoint import CheckpointFolder, load_checkpoint
    from dist_calo.training.held_out import held_out_validator
    from dist_calo.training.setup import build_run

    parser = config_parser("families", "")
    config = build_config(parser, parser.parse_args([*arguments, "--comm.threads=1", "--tracking.uri=none"]))
    alone = SingleCommunicator(World())

    def train(steps: int, where: str) -> tuple[RunConfig, float]:
        every = {"validate_every_steps": steps, "log_every_steps": max(steps // 20, 1)}
        settings = replace(
            config,
            train=replace(config.train, max_steps=steps, **every),
            checkpoint=CheckpointConfig(dir=str(folder / where), every_steps=steps),
            data=replace(config.data, validation_fraction=0.0, test_fraction=held_out_fraction),
        )
        with build_run(settings, alone) as trainer:
            began = time.perf_counter()
            trainer.fit()
            return settings, time.perf_counter() - began

    # Nothing here is tuned while it trains, so what the configuration keeps for validation is held out as well.
    held_out_fraction = config.data.validation_fraction + config.data.test_fraction
    probe = f"probe-{time.time_ns()}"
    _, warm = train(PROBE_STEPS, f"{probe}/a")
    _, longer = train(3 * PROBE_STEPS, f"{probe}/b")
    steps = max(1, round(seconds * 2 * PROBE_STEPS / (longer - warm)))
    _, took = train(steps, f"run-{time.time_ns()}")
    newest = max(folder.glob("run-*"), key=lambda path: path.name)
    checkpoints = CheckpointFolder(newest)
    validator = held_out_validator(load_checkpoint(checkpoints.path(checkpoints.steps()[-1])))
    result = validator.run()
    for name, draw in result.pictures().items():
        save_png(draw(), folder / f"{name}.png")
    return {
        "steps": steps,
        "seconds": round(took, 1),
        "showers": result.real.count,
        "numbers": {name.removeprefix("validation/"): value for name, value in result.metrics.items()},
        "floor": validator.floor(),
    }


def table_of(found: dict[str, dict[str, Any] | None], columns: dict[str, str]) -> str:
    """The Markdown table; per-layer numbers are told one by one."""
    done = {name: result for name, result in found.items() if result}
    if not done:
        return "nothing was trained"
    known = next(iter(done.values()))
    titles: dict[str, str] = {}
    for column, title in columns.items():
        parts = sorted(key for key in known["floor"] if key.startswith(f"{column}/"))
        one_by_one = parts if "layer_energy" in column else []
        titles |= {key: f"{title} {key.rsplit('/', 1)[1]}" for key in one_by_one} or {column: title}
    lines = ["| | steps | time [s] | " + " | ".join(titles.values()) + " |", "|---" * (len(titles) + 3) + "|"]
    for name, result in found.items():
        if result is None:
            lines.append(f"| {name} | failed |")
            continue
        values = " | ".join(f"{result['numbers'].get(key, float('nan')):.4g}" for key in titles)
        lines.append(f"| {name} | {result['steps']:,} | {result['seconds']:.0f} | {values} |")
    floor = " | ".join(f"{known['floor'][key]:.4g}" for key in titles)
    lines.append(f"| *floor: halves of {known['showers']:,} real* | | | {floor} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
