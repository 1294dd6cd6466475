"""The whole service in a few minutes, as ``make demo`` runs it: train on two ranks, generate, compare with Geant4."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from dist_calo.command_line import run_command
from dist_calo.errors import TrainingError

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
    generate(["--checkpoint", str(checkpoints), "--n", "1000", "--energy", "10:100", "--out", str(generated)])

    say("Comparing with Geant4 showers that training never saw")
    run_id = compare(checkpoints, out)
    say(f"Done in {time.monotonic() - began:.0f} s")
    print(f"MLflow run   {run_id} in {store}: `make ui` shows it")
    print(f"pictures     {out / 'pictures'}\nshowers      {generated}")
    return 0


def compare(checkpoints: Path, out: Path) -> str | None:
    """Draw and print how the best checkpoint's showers compare with the test split; return the run that made it."""
    from dist_calo.comm.protocol import World
    from dist_calo.comm.single import SingleCommunicator
    from dist_calo.config import DataConfig, RunConfig, TrainConfig
    from dist_calo.data.shards import Manifest
    from dist_calo.physics.observables import Bins
    from dist_calo.physics.plots import save_png
    from dist_calo.training.checkpoint import find_checkpoint
    from dist_calo.training.restore import restore_generator
    from dist_calo.training.validation import Validator

    state = find_checkpoint(checkpoints)
    config = RunConfig(
        data=DataConfig(**state["config"]["data"]), train=TrainConfig(**state["config"]["train"])
    )
    generator = restore_generator(state)
    manifest = Manifest.from_dict(state["manifest"])
    communicator = SingleCommunicator(World())
    bins = Bins(energy=ENERGY_EDGES)
    result = Validator(config, manifest, generator, communicator, split="test", bins=bins).run()
    for name, draw in result.pictures().items():
        save_png(draw(), out / f"{name}.png")
    numbers = {name.removeprefix("validation/"): value for name, value in result.metrics.items()}
    (out / "results.json").write_text(json.dumps({"step": state["step"], **numbers}, indent=2) + "\n")
    real, fake = result.real.compute(), result.fake.compute()
    print(f"{int(real.count[-1])} held-out showers, weights of step {state['step']}; mean relative error of")
    print(f"  longitudinal profile  {100 * numbers['profile_error/longitudinal']:.1f} %")
    transverse = (numbers["profile_error/x"] + numbers["profile_error/y"]) / 2
    print(f"  transverse profile    {100 * transverse:.1f} %")
    for place, (low, high) in enumerate(pairwise(ENERGY_EDGES)):
        pair = [100 * side.response.value[place] for side in (fake, real)]
        error = 100 * real.response.error[place]
        print(
            f"  response {low:.0f}-{high:.0f} GeV     {pair[0]:.3f} %, Geant4 {pair[1]:.3f} +- {error:.3f} %"
        )
    return generator.run_id


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command("dist_calo.demo", main, sys.argv[1:]))
