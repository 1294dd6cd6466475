"""The whole service in a few minutes, as ``make demo`` runs it: train on two ranks, generate, compare with Geant4."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from dist_calo.command_line import run_command
from dist_calo.errors import CheckpointError, TrainingError

if TYPE_CHECKING:
    from dist_calo.physics.observables import Estimate, Observables

RANKS = 2
CONFIG = Path("configs/demo.yaml")
ENERGY_EDGES = (10.0, 40.0, 70.0, 100.0)
"""Bins of incident energy in GeV in which the response is shown."""


def main(arguments: Sequence[str]) -> int:
    """Run the demo; further arguments override settings of its training."""
    began = time.monotonic()
    out = Path("demo") / time.strftime("%Y%m%d-%H%M%S")
    checkpoints = out / "checkpoints"
    store = yaml.safe_load(CONFIG.read_text()).get("tracking", {}).get("uri", "sqlite:///mlflow.db")
    say(f"Training with {RANKS} ranks; settings in {CONFIG}")
    training = [sys.executable, "-m", "dist_calo.train", "--config", str(CONFIG), "--launch", str(RANKS)]
    where = [f"--checkpoint.dir={checkpoints}", f"--data.ledger={out / 'ledger'}"]
    code = subprocess.run([*training, *where, *arguments], check=False).returncode
    if code:
        raise TrainingError(f"training ended with exit code {code}; its last lines above say why")

    say("Generating 1,000 showers")
    from dist_calo.generate import main as generate

    generated = out / "generated.h5"
    asked = ["--n", "1000", "--energy", "10:100"]
    if code := generate(["--checkpoint", str(checkpoints), *asked, "--out", str(generated)]):
        raise CheckpointError(f"generating ended with exit code {code}; its last lines above say why")

    say("Comparing with Geant4 showers that training never saw")
    run_id = compare(checkpoints, out)
    say(f"Done in {time.monotonic() - began:.0f} s")
    print(f"MLflow run   {run_id} in {store}: `make ui` shows it")
    print(f"pictures     {out / 'pictures'}\nshowers      {generated}")
    return 0


def compare(checkpoints: Path, out: Path) -> str | None:
    """Draw and print how the best checkpoint's showers compare with the test split; return the run that made it."""
    from dist_calo.geometry import VoxelGrid, geometry_from_dict
    from dist_calo.physics.observables import Bins
    from dist_calo.physics.panels import save_png
    from dist_calo.physics.voxels import VoxelView
    from dist_calo.training.checkpoint import find_checkpoint
    from dist_calo.training.held_out import held_out_validator

    state = find_checkpoint(checkpoints)
    geometry = geometry_from_dict(state["geometry"])
    assert isinstance(geometry, VoxelGrid), "the demo trains on a voxel grid"
    result = held_out_validator(state, view=VoxelView(geometry, Bins(energy=ENERGY_EDGES))).run()
    for name, draw in result.pictures().items():
        save_png(draw(), out / f"{name}.png")
    numbers = {name.removeprefix("validation/"): value for name, value in result.metrics.items()}
    (out / "results.json").write_text(json.dumps({"step": state["step"], **numbers}, indent=2) + "\n")
    show(result.real.compute(), result.fake.compute(), numbers, state["step"])
    run_id: str | None = state["run_id"]
    return run_id


def show(real: "Observables", fake: "Observables", numbers: dict[str, float], step: int) -> None:
    """Print errors of the profiles beside what the statistics of both samples alone would give, and the response."""
    print(f"{int(real.count[-1])} held-out showers, weights of step {step}")
    print("mean relative error, and in brackets what statistics alone would give")
    for name, label in (
        ("longitudinal", "longitudinal profile"),
        ("x", "transverse profile x"),
        ("y", "transverse profile y"),
    ):
        error, floor = (
            numbers[f"profile_error/{name}"],
            expected_error(real.profiles[name], fake.profiles[name]),
        )
        print(f"  {label}  {100 * error:4.1f} %  ({100 * floor:.1f} %)")
    for place, (low, high) in enumerate(pairwise(ENERGY_EDGES)):
        sides = [
            f"{100 * s.response.value[place]:.3f} +- {100 * s.response.error[place]:.3f} %"
            for s in (fake, real)
        ]
        print(f"  response at {low:.0f}-{high:.0f} GeV  {sides[0]}, Geant4 {sides[1]}")


def expected_error(real: "Estimate", fake: "Estimate") -> float:
    """Mean relative error of two equal profiles with these statistical errors: sqrt(2 / pi) sigma in each bin."""
    import numpy as np

    seen = real.value[-1] > 0
    sigma = np.hypot(real.error[-1], fake.error[-1])[seen] / real.value[-1][seen]
    return float(np.sqrt(2 / np.pi) * sigma.mean())


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command("dist_calo.demo", main, sys.argv[1:]))
