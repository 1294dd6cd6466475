"""Train families of models for the same time and compare them with held-out Geant4 showers, for docs/results.md.

    python benchmarks/families.py layers --seconds 150 --out results/layers --pictures
    python benchmarks/families.py signals --seconds 45 --out results/signals
    python benchmarks/families.py signals --seconds 150 --out results/longer --pictures --only factorised

Each entry is one configuration with overrides, trained on one rank with one thread for so many seconds of processor
time, whatever else the machine does: a short measurement of its speed decides the number of steps. Several entries are
trained side by side. The last weights are then compared with the test split, which neither training nor the choice of
settings has seen: each number is the mean of several comparisons, each with one generated shower for each real one. For
layers two fifths of the showers are held out. The floor is the same comparison between two halves of the real showers
of the split.

Prints a Markdown table; the folder keeps the numbers (JSON), the pictures and the checkpoints. What is there already is
not trained again; remove ``numbers.json`` to compare anew.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROBE_STEPS = 10
PUBLISHED = ("signals_shapes_amplitudes", "signals_full", "signals_simplified")
NETWORKS = ("linear", "lstm", "cnn")
OBJECTIVES = ("vanilla", "wgan", "wgan_gp")
LAYER_COLUMNS = {
    "score": "score",
    "shift/layer_energy": "mean",
    "separation/layer_energy": "separation",
    "correlation/layer_energy": "correlations",
}
SIGNAL_COLUMNS = {
    "score": "score",
    "wasserstein/amplitude": "amplitudes [counts]",
    "wasserstein/time": "times [ns]",
    "correlation/amplitude": "corr. amplitudes",
    "correlation/time": "corr. times",
    "missing/time": "without time",
}


def entries(table: str) -> dict[str, list[str]]:
    """Names of the rows and the trainer's arguments of each."""
    if table == "layers":
        # The last layer's mean needs all showers there are: as many are trained on as the configurations say.
        held_out = ["--data.validation_fraction=0", "--data.test_fraction=0.4"]
        names = ("layers_gan", "layers_vae", "layers_vae_plain")
        return {name: [f"--config={ROOT}/configs/{name}.yaml", *held_out] for name in names}
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
    parser.add_argument(
        "--only", default="", help="rows whose name holds one of these texts, separated by commas"
    )
    parser.add_argument("--pictures", action="store_true", help="draw each comparison as well")
    parser.add_argument(
        "--generations", type=int, default=5, help="comparisons that are averaged (default 5)"
    )
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    all_rows = entries(options.table)
    if options.worker:
        folder = folder_of(options.out, options.worker)
        work(
            all_rows[options.worker], options.seconds, folder, options.generations, pictures=options.pictures
        )
        return
    rows = {
        name: all_rows[name] for name in all_rows if any(text in name for text in options.only.split(","))
    }
    with ThreadPoolExecutor(options.at_once) as pool:
        found = dict(zip(rows, pool.map(lambda name: in_process(name, options), rows), strict=True))
    print(table_of(found, SIGNAL_COLUMNS if options.table == "signals" else LAYER_COLUMNS))


def work(arguments: list[str], seconds: float, folder: Path, generations: int, *, pictures: bool) -> None:
    """Train one row unless that has been done with these settings, and compare it."""
    settings = {"arguments": arguments, "seconds": seconds}
    record = folder / "trained.json"
    if not record.exists():
        trained = train(arguments, seconds, folder / "checkpoints")
        record.write_text(json.dumps(settings | trained, indent=2) + "\n")
    trained = json.loads(record.read_text())
    if any(trained[name] != value for name, value in settings.items()):
        raise SystemExit(
            f"{record}: was trained with other settings: name another --out or remove the folder"
        )
    (folder / "numbers.json").write_text(
        json.dumps(trained | compare(folder, generations, pictures=pictures), indent=2) + "\n"
    )


def folder_of(out: Path, name: str) -> Path:
    return out.resolve() / name.replace(" ", "_")


def in_process(name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Train one row in a process of its own, for torch's threads are set once in a process; None if it failed."""
    folder = folder_of(options.out, name)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = folder / "numbers.json"
    if not numbers.exists():
        given = [options.table, "--seconds", str(options.seconds), "--out", str(options.out)]
        given += [
            "--generations",
            str(options.generations),
            "--worker",
            name,
            *["--pictures"] * options.pictures,
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


def train(arguments: list[str], seconds: float, folder: Path) -> dict[str, Any]:
    """Train for so many seconds of processor time; returns the steps taken and the time."""
    from dist_calo.cli.command_line import build_config, config_parser
    from dist_calo.comm.single import SingleCommunicator
    from dist_calo.config import CheckpointConfig
    from dist_calo.launching.environment import World
    from dist_calo.training.setup import build_run

    parser = config_parser("families", "")
    config = build_config(parser, parser.parse_args([*arguments, "--comm.threads=1", "--tracking.uri=none"]))

    def fit(steps: int, where: Path) -> float:
        settings = replace(
            config,
            # No validation but the one at the end, which is the same for all.
            train=replace(
                config.train, max_steps=steps, validate_every_steps=0, log_every_steps=max(steps // 20, 1)
            ),
            checkpoint=CheckpointConfig(dir=str(where), every_steps=steps),
        )
        with build_run(settings, SingleCommunicator(World())) as trainer:
            began = time.process_time()
            trainer.fit()
            return time.process_time() - began

    with tempfile.TemporaryDirectory() as scratch:
        fit(2, Path(scratch) / "warm")
        short, longer = (fit(steps, Path(scratch) / str(steps)) for steps in (PROBE_STEPS, 3 * PROBE_STEPS))
    if longer <= short:
        raise SystemExit(
            f"{3 * PROBE_STEPS} steps took {longer:.2f} s, {PROBE_STEPS} took {short:.2f} s: measure again"
        )
    steps = max(1, round(seconds * 2 * PROBE_STEPS / (longer - short)))
    return {"steps": steps, "trained_s": round(fit(steps, folder), 1)}


def compare(folder: Path, generations: int, *, pictures: bool) -> dict[str, Any]:
    """The last weights beside the test split, and the floor."""
    import numpy as np

    from dist_calo.comm.single import SingleCommunicator
    from dist_calo.launching.environment import World
    from dist_calo.training.checkpoint import Checkpoint, load_checkpoint
    from dist_calo.training.checkpoint_folder import CheckpointFolder
    from dist_calo.training.restore import restore_generator
    from dist_calo.training.validation import Validator
    from dist_calo.training.validation import pictures as drawn

    checkpoints = CheckpointFolder(folder / "checkpoints")
    checkpoint = Checkpoint.from_dict(load_checkpoint(checkpoints.path(checkpoints.steps()[-1])))
    generator, alone = restore_generator(checkpoint), SingleCommunicator(World())
    validator = Validator(checkpoint.reading, checkpoint.data, generator, alone, split="test")
    results = [validator.run(repeat) for repeat in range(generations)]
    if pictures:
        for name, draw in drawn(results[0]).items():
            path = folder / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            draw().savefig(path, dpi=120)
    each = [{name: number.value for name, number in result.numbers.items()} for result in results]
    return {
        "showers": validator.samples,
        "numbers": {name: float(np.mean([values[name] for values in each])) for name in each[0]},
        "spread": {name: float(np.std([values[name] for values in each], ddof=1)) for name in each[0]},
        "floor": {name: number.floor for name, number in results[0].numbers.items()},
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
    lines = [
        "| | steps | CPU time [s] | " + " | ".join(titles.values()) + " |",
        "|---" * (len(titles) + 3) + "|",
    ]
    for name, result in found.items():
        if result is None:
            lines.append(f"| {name} | failed |")
            continue
        values = " | ".join(f"{result['numbers'].get(key, float('nan')):.4g}" for key in titles)
        lines.append(f"| {name} | {result['steps']:,} | {result['trained_s']:.0f} | {values} |")
    floor = " | ".join(f"{known['floor'][key]:.4g}" for key in titles)
    lines.append(f"| *floor: halves of {known['showers']:,} real* | | | {floor} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
