"""Make showers with a trained network: ``dist-calo generate --checkpoint DIR --n 1000 --energy 10:100 --out FILE``."""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_calo.command_line import one_line_parser, parse_range, run_command
from dist_calo.errors import CheckpointError, ConfigError
from dist_calo.geometry import CONDITION_UNITS

if TYPE_CHECKING:
    import numpy as np

    from dist_calo.geometry import Geometry
    from dist_calo.randomness import Draws


def main(arguments: Sequence[str]) -> int:
    """Generate showers into a file and return the exit code."""
    options = _parser().parse_args(list(arguments))
    if options.n < 1 or options.batch_size < 1:
        raise ConfigError(f"--n {options.n} --batch-size {options.batch_size}: both must be at least 1")
    if Path(options.out).exists() and not options.force:
        raise ConfigError(f"--out {options.out}: the file exists; name another or add --force to replace it")
    asked = {
        name: parse_range(f"--{name}", text)
        for name, text in (("energy", options.energy), ("theta", options.theta))
        if text is not None
    }
    if "energy" in asked and asked["energy"][0] <= 0:
        raise ConfigError(f"--energy {options.energy}: incident energies are above 0 GeV")

    import torch

    from dist_calo.data.formats import ShowerWriter
    from dist_calo.randomness import Draws
    from dist_calo.training.checkpoint import find_checkpoint
    from dist_calo.training.restore import restore_generator

    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no GPU that torch can use; take cpu")
    state = find_checkpoint(options.checkpoint)
    generator = restore_generator(state, options.device)
    for name in asked.keys() - set(generator.geometry.conditions):
        raise ConfigError(
            f"--{name} {getattr(options, name)}: this model knows no {name}, only "
            f"{', '.join(generator.geometry.conditions)}; leave it out or take another checkpoint"
        )
    ranges = ranges_of(state, asked)
    attributes = {
        "generator": f"dist_calo, step {generator.step}, MLflow run {generator.run_id}",
        "seed": options.seed,
    }
    if state["manifest"]["particle"]:
        attributes["particle"] = state["manifest"]["particle"]
    empty = 0
    with ShowerWriter(options.out, generator.geometry, attributes=attributes) as writer:
        for start in range(0, options.n, options.batch_size):
            samples = range(start, min(start + options.batch_size, options.n))
            draws = Draws(options.seed, 0, samples, "generate")
            conditions = draw_conditions(generator.geometry, ranges, draws)
            showers = generator.generate(torch.from_numpy(conditions), draws)
            if not bool(torch.isfinite(showers).all()):
                raise CheckpointError(
                    f"checkpoint {options.checkpoint}: step {generator.step} generates cells that are not finite; "
                    "training has diverged: take an earlier checkpoint"
                )
            empty += int((showers.flatten(1) == 0).all(dim=1).sum())
            writer.append(showers.numpy(), conditions)
    low, high = ranges["energy"]
    print(f"{options.out}: {options.n} showers of {low:g} to {high:g} GeV, from step {generator.step}")
    if empty:
        print(
            f"{empty} of them are empty, which readers refuse: train for longer, or take another checkpoint"
        )
    return 0


def ranges_of(
    state: Mapping[str, Any], asked: dict[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """The range of each condition: what is asked for, else what training saw; says where the two do not go together."""
    seen = {name: (low, high) for name, (low, high) in state.get("condition_ranges", {}).items()}
    for name in asked.keys() & seen.keys():
        # A sample of the training showers tells the range: its ends are not sharp.
        margin = 0.01 * (seen[name][1] - seen[name][0])
        if asked[name][0] < seen[name][0] - margin or asked[name][1] > seen[name][1] + margin:
            print(
                f"--{name}: training saw {seen[name][0]:.4g} to {seen[name][1]:.4g} {CONDITION_UNITS[name]}; "
                "showers beyond are extrapolated",
                file=sys.stderr,
            )
    return {"energy": (10.0, 100.0), "theta": (math.pi / 2, math.pi / 2)} | seen | asked


def draw_conditions(
    geometry: "Geometry", ranges: dict[str, tuple[float, float]], draws: "Draws"
) -> "np.ndarray":
    """Conditions uniform in their ranges, shape (B, C), a pure function of seed and sample."""
    import numpy as np

    columns = []
    for name in geometry.conditions:
        low, high = ranges[name]
        columns.append(low + (high - low) * draws.uniform(name).numpy()[:, 0])
    return np.stack(columns, axis=1).astype(np.float32)


def _parser() -> argparse.ArgumentParser:
    parser = one_line_parser("dist-calo generate", "Make showers with a trained network.")
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint file, or folder: its best checkpoint is taken"
    )
    parser.add_argument("--n", type=int, default=1000, help="number of showers (default 1000)")
    parser.add_argument("--energy", help="GeV, one number or LOW:HIGH (default: as in training)")
    parser.add_argument("--theta", help="rad, for models with angle (default: as in training)")
    parser.add_argument("--out", required=True, help="HDF5 file to write, in the schema that training reads")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same showers (default 0)"
    )
    parser.add_argument("--batch-size", type=int, default=100, help="showers made at a time (default 100)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default cpu)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command("dist_calo.generate", main, sys.argv[1:]))
