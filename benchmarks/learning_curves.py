"""Draw the score of recipes against the processor time of their training, for shares of the data and seeds.

    python benchmarks/learning_curves.py lcd_fast --data train.h5 --test test.h5 --shares 0.25,0.5,1 --seeds 0,1,2 \
        --out results/curves

One rank with one thread trains each recipe on each share of the training showers. Checkpoints at equal distances are
scored on the showers of ``--test``, which no training reads. The floor is the score of one half of them against the
other. Leaves one JSON a run, which is not made again, a Markdown table and ``curves.png`` in the folder.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VALIDATION = 0.1
"""Share of the training file that is kept for validation."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Learning curves of recipes.")
    parser.add_argument("recipes", nargs="+", help="names of configurations in configs/")
    parser.add_argument("--data", required=True, help="showers to train on")
    parser.add_argument("--test", required=True, help="showers to score with, of other seeds")
    parser.add_argument("--shares", default="1", help="shares of the training showers, such as 0.25,0.5,1")
    parser.add_argument("--seeds", default="0", help="seeds, such as 0,1,2")
    parser.add_argument("--points", type=int, default=5, help="points of a curve (default 5)")
    parser.add_argument(
        "--set", default="", help="other settings, such as train.max_steps=300,train.ema_decay=0.98"
    )
    parser.add_argument("--out", type=Path, default=Path("results/curves"), help="folder of what is left")
    parser.add_argument("--worker", nargs=3, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        recipe, share, seed = options.worker
        record = run(options, recipe, float(share), int(seed))
        path_of(options.out, recipe, share, seed).write_text(json.dumps(record, indent=2) + "\n")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    records = []
    for recipe in options.recipes:
        for share in options.shares.split(","):
            for seed in options.seeds.split(","):
                path = path_of(options.out, recipe, share, seed)
                if not path.exists():  # torch's threads are set once in a process
                    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                    command = [sys.executable, __file__, *sys.argv[1:], "--worker", recipe, share, seed]
                    subprocess.run(command, check=True, env=environment)
                records.append(json.loads(path.read_text()))
    table = table_of(records)
    (options.out / "table.md").write_text(table + "\n")
    draw(records, options.out / "curves.png")
    print(table)


def path_of(out: Path, recipe: str, share: str, seed: str) -> Path:
    return out / f"{recipe}-{share}-{seed}.json"


def run(options: argparse.Namespace, recipe: str, share: float, seed: int) -> dict[str, Any]:
    """Train once and score the checkpoints; steps, processor seconds and scores with errors."""
    from dist_calo.cli.command_line import build_config, config_parser
    from dist_calo.comm.single import SingleCommunicator
    from dist_calo.config import CheckpointConfig
    from dist_calo.launching.environment import World
    from dist_calo.training.checkpoint import Checkpoint, load_checkpoint
    from dist_calo.training.checkpoint_folder import CheckpointFolder
    from dist_calo.training.dataset import shared_manifest
    from dist_calo.training.restore import restore_generator
    from dist_calo.training.setup import build_run
    from dist_calo.training.validation import Validator

    alone, folder = (
        SingleCommunicator(World()),
        path_of(options.out, recipe, str(share), str(seed)).with_suffix(""),
    )
    parser = config_parser("learning_curves", "")
    given = [f"--config={ROOT}/configs/{recipe}.yaml", f"--data.path={options.data}", f"--train.seed={seed}"]
    given += [
        f"--data.validation_fraction={VALIDATION}",
        f"--data.test_fraction={(1 - VALIDATION) * (1 - share):.6f}",
    ]
    given += [f"--{setting}" for setting in options.set.split(",") if setting]
    config = build_config(parser, parser.parse_args([*given, "--comm.threads=1", "--tracking.uri=none"]))
    every = max(1, config.train.max_steps // options.points)
    config = replace(
        config,
        train=replace(config.train, validate_every_steps=0),
        checkpoint=CheckpointConfig(dir=str(folder), every_steps=every, keep=options.points + 2),
    )
    began = time.process_time()
    with build_run(config, alone) as trainer:
        fitted_s = time.process_time() - began
        trainer.fit()
    trained_s = time.process_time() - began - fitted_s
    test = replace(config.data, path=options.test, validation_fraction=0.0, test_fraction=0.9999)
    manifest = shared_manifest(test, alone)
    points = []
    checkpoints = CheckpointFolder(folder)
    for step in checkpoints.steps():
        generator = restore_generator(Checkpoint.from_dict(load_checkpoint(checkpoints.path(step))))
        score = Validator(replace(config, data=test), manifest, generator, alone, split="test").run().score
        seconds = fitted_s + trained_s * step / config.train.max_steps
        points.append({"step": step, "seconds": seconds, "score": score.value, "error": score.error})
    return {"recipe": recipe, "share": share, "seed": seed, "points": points, "floor": score.floor}


def curves_of(records: list[dict[str, Any]]) -> dict[tuple[str, float], list[dict[str, float]]]:
    """Mean and spread over the seeds of each point of a recipe and a share."""
    together = defaultdict(list)
    for record in records:
        together[record["recipe"], record["share"]].append(record["points"])
    return {
        key: [
            {
                "step": same[0]["step"],
                "seconds": mean(point["seconds"] for point in same),
                "score": mean(point["score"] for point in same),
                "error": stdev(point["score"] for point in same) if len(same) > 1 else same[0]["error"],
            }
            for same in zip(*runs, strict=True)
        ]
        for key, runs in together.items()
    }


def table_of(records: list[dict[str, Any]]) -> str:
    lines = [
        "| recipe | share of the data | step | processor time [s] | score | floor |",
        "|---|---|---|---|---|---|",
    ]
    floors = {record["recipe"]: record["floor"] for record in records}
    for (recipe, share), points in curves_of(records).items():
        lines += [
            f"| `{recipe}` | {share:g} | {point['step']:,} | {point['seconds']:.0f} "
            f"| {point['score']:.3f} ± {point['error']:.3f} | {floors[recipe]:.3f} |"
            for point in points
        ]
    return "\n".join(lines)


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Draw the curves, one panel a recipe, with the floor as a line."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    recipes = list(dict.fromkeys(record["recipe"] for record in records))
    figure, axes = plt.subplots(1, len(recipes), figsize=(5 * len(recipes), 4), squeeze=False)
    for axis, recipe in zip(axes[0], recipes, strict=True):
        for (name, share), points in curves_of(records).items():
            if name == recipe:
                columns = [[point[key] for point in points] for key in ("seconds", "score", "error")]
                axis.errorbar(
                    columns[0], columns[1], columns[2], marker="o", capsize=2, label=f"{share:g} of the data"
                )
        floor = next(record["floor"] for record in records if record["recipe"] == recipe)
        axis.axhline(floor, color="black", linestyle="--", label="floor")
        axis.set(title=recipe, xlabel="processor time [s]", ylabel="score", yscale="log")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
