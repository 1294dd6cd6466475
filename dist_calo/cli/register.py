"""Put a trained generator into MLflow's model registry: ``dist-calo register --checkpoint DIR --name NAME``."""

import argparse
import shlex
from collections.abc import Sequence

from dist_calo.cli.command_line import add_store_option, one_line_parser
from dist_calo.masking import MASK


def main(arguments: Sequence[str]) -> int:
    """Register the generator of a checkpoint and return the exit code."""
    options = _parser().parse_args(list(arguments))

    from dist_calo.deployment.registry import check_names, read_metrics, register, require_evaluated
    from dist_calo.training.checkpoint import Checkpoint
    from dist_calo.training.checkpoint_folder import find_checkpoint
    from dist_calo.training.restore import require_parts

    check_names(options.name, options.alias)
    metrics = None if options.metrics is None else read_metrics(options.metrics)
    state = find_checkpoint(options.checkpoint)
    require_parts(state, options.checkpoint)
    checkpoint = Checkpoint.from_dict(state)
    if metrics is not None:
        require_evaluated(checkpoint, metrics, options.metrics)
    registered = register(
        checkpoint, options.name, tracking_uri=options.tracking_uri, metrics=metrics, aliases=options.alias
    )
    uri = f"models:/{options.name}/{registered.version}"
    score = None if metrics is None else metrics["score"]
    scored = "" if score is None else f", score {score:.4g}"
    named = "".join(f", {alias}" for alias in options.alias)
    print(f"{uri}{named}: the generator of step {checkpoint.step}{scored}, in {options.tracking_uri}")
    print(f"load: mlflow.pyfunc.load_model({uri!r})")
    serve = shlex.join(["mlflow", "models", "serve", "-m", uri, "--env-manager", "local"])
    note = f" (with its password for {MASK})" if MASK in options.tracking_uri else ""
    print(f"serve: MLFLOW_TRACKING_URI={shlex.quote(options.tracking_uri)} {serve}{note}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = one_line_parser("dist-calo register", "Put a trained generator into MLflow's model registry.")
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint file, or folder: its best checkpoint is taken"
    )
    parser.add_argument("--name", required=True, help="registered model; a new version of it if there is one")
    add_store_option(
        parser, "MLflow store or server (default sqlite:///mlflow.db)", default="sqlite:///mlflow.db"
    )
    parser.add_argument("--metrics", help="metrics.json of dist-calo evaluate: become tags and metrics")
    parser.add_argument(
        "--alias",
        action="append",
        default=[],
        help="name for this version, such as champion; several are allowed",
    )
    return parser
