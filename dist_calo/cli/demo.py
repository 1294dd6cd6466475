"""Show the whole service in a few minutes (``dist-calo demo``): train on two ranks, generate, compare with Geant4."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dist_calo.cli.command_line import run_command
from dist_calo.documents import load_yaml
from dist_calo.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, TrainingError
from dist_calo.launching.local import forwarding, start
from dist_calo.masking import hidden
from dist_calo.resources import recipe

RANKS = 2
CONFIG = "configs/demo.yaml"


def main(arguments: Sequence[str]) -> int:
    """Run the demo; further arguments override settings of its training."""
    began = time.monotonic()
    out = Path("demo") / time.strftime("%Y%m%d-%H%M%S")
    checkpoints = out / "checkpoints"
    config = recipe(CONFIG)
    store = hidden(load_yaml(config).get("tracking", {}).get("uri", "sqlite:///mlflow.db"))
    say(f"Training with {RANKS} ranks; settings in {config}")
    training = [sys.executable, "-m", "dist_calo.train", "--config", config, "--launch", str(RANKS)]
    where = [f"--checkpoint.dir={checkpoints}", f"--data.ledger={out / 'ledger'}"]
    process = start([*training, *where, *map(hidden, arguments)])
    with forwarding([process]):
        code = process.wait()
    if code:
        return _stopped("training", code)

    say("Generating 1,000 showers")
    from dist_calo.cli.generate import main as generate

    generated = out / "generated.h5"
    asked = ["--n", "1000", "--energy", "10:100"]
    if code := generate(["--checkpoint", str(checkpoints), *asked, "--out", str(generated)]):
        return _stopped("generating", code)

    say("Comparing with Geant4 showers that training never saw")
    from dist_calo.cli.evaluate import main as evaluate

    report = out / "evaluation"
    if code := evaluate(["--checkpoint", str(checkpoints), "--out", str(report)]):
        return _stopped("the evaluation", code)

    say(f"Done in {time.monotonic() - began:.0f} s")
    print(f"report       {report / 'report.html'}: open it in a browser\nshowers      {generated}")
    print(
        f"MLflow       {store}: `mlflow ui --backend-store-uri {store}` shows the run, its curves and pictures"
    )
    return 0


def _stopped(what: str, code: int) -> int:
    """Return the exit code of a part that was asked to stop.

    Raises:
        TrainingError: if it ended for another reason.
    """
    if code in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
        return code
    raise TrainingError(f"{what} ended with exit code {code}; its last lines above say why")


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command("dist-calo demo", main, sys.argv[1:]))
