"""A run ends after its steps, epochs, time, or patience; its best checkpoint is better by more than an error."""

import json
import math
from dataclasses import replace

import pytest

from dist_calo.cli.status import main as status
from dist_calo.config import RunConfig, TrainConfig
from dist_calo.data.loader import training_order
from dist_calo.data.manifest import build_manifest
from dist_calo.physics.metrics.half_sample_bootstrap import Measured
from dist_calo.physics.metrics.metric_definitions import SCORE_DEFINITION
from dist_calo.train import main as train
from dist_calo.training.checkpoint import Checkpoint
from dist_calo.training.setup import with_known_steps
from dist_calo.training.trainer import Trainer, TrainState
from tests.support.small_runs import final_state, own_run, write_showers

AGAIN = "--checkpoint.resume=auto"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_showers(tmp_path_factory.mktemp("data"))


def test_without_a_better_score_a_run_ends_in_order(data, tmp_path, capsys):
    impatient = [
        "--data.validation_fraction=0.3",
        "--train.validate_every_steps=1",
        "--train.patience=2",
        "--train.max_steps=50",
    ]
    # Weights that hardly move: all scores are equal within their errors, and the first one stays the best.
    run = own_run(data, tmp_path, *impatient, "--optimizer.learning_rate=1e-12")
    assert train(run) == 0
    printed = capsys.readouterr().out
    assert "step 3 is the last one: no better score in 2 validations (train.patience=2)" in printed
    assert "the best is of step 1" in printed
    state = final_state(tmp_path)
    assert (state["step"], state["best_step"], state["validations_since_best"]) == (3, 1, 2)
    assert state["score_definition"] == SCORE_DEFINITION
    assert state["best_floor"] > state["best_error"] > 0
    beside = json.loads((tmp_path / "checkpoints" / "step-00000003.json").read_text())
    assert beside["best_score"] == state["best_score"]
    assert status([str(tmp_path / "checkpoints")]) == 0
    assert "no better score in 2 validations" in capsys.readouterr().out
    assert train([*run, AGAIN]) == 0
    assert "nothing is left to train: no better score" in capsys.readouterr().out
    assert final_state(tmp_path)["step"] == 3


def test_the_time_of_all_starts_ends_a_run(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "_elapsed", lambda trainer: 10.0 * trainer.state.step)
    limited = own_run(data, tmp_path, "--train.max_steps=50", "--train.max_time=25s")
    assert train(limited) == 0
    # Over when step 4 began, which is then the last one.
    assert "step 4 is the last one: the time is over (train.max_time=25s)" in capsys.readouterr().out
    state = final_state(tmp_path)
    assert (state["step"], state["train_seconds"], state["best_step"]) == (4, 40.0, 4)
    monkeypatch.undo()
    assert train([*limited, AGAIN]) == 0
    assert "nothing is left to train: the time is over" in capsys.readouterr().out
    longer = ["--train.max_time=1h", "--train.max_steps=5", "--train.patience=1"]
    assert train([*limited, AGAIN, *longer, "--train.validation_showers=5"]) == 0
    assert "train.patience=1 never ends this run: a score needs 10 showers" in capsys.readouterr().out
    assert final_state(tmp_path)["step"] == 5
    assert final_state(tmp_path)["train_seconds"] >= 40.0


@pytest.mark.parametrize(("epochs", "steps"), [(2.0, 32), (0.5, 8), (1e-3, 1)])
def test_epochs_are_so_many_steps(data, epochs, steps):
    config = RunConfig(train=TrainConfig(max_epochs=epochs, global_batch_size=6))
    config = replace(config, data=replace(config.data, path=data, test_fraction=0.0))
    manifest = build_manifest(config.data)
    order = training_order(manifest, config.data, config.train.seed, 6)
    assert order.steps_per_epoch == 16
    assert with_known_steps(config, manifest).train.max_steps == steps


def noted(best, score, error=0.01):
    """Whether a score is noted as the best one beside this state, and the state then."""
    state = replace(best, step=20)
    measured = Measured(value=score, error=error, floor=math.nan, spread=math.nan, sigmas=math.nan)
    return state.note(measured), state


@pytest.mark.parametrize(
    ("score", "error", "better"),
    [
        (0.241, 0.01, False),
        (0.235, 0.01, True),
        (0.249, math.nan, True),
        (0.26, 0.01, False),
        (math.inf, math.nan, False),
    ],
)
def test_a_best_score_is_better_beyond_its_error(score, error, better):
    before = TrainState(best_score=0.25, best_step=10, validations_since_best=4)
    found, state = noted(before, score, error)
    assert found is better
    # A validation without a score says nothing.
    since = 5 if math.isfinite(score) else 4
    assert (state.best_step, state.validations_since_best) == ((20, 0) if better else (10, since))


def test_a_score_of_an_earlier_version_is_not_compared():
    earlier = TrainState.of(Checkpoint(step=10, best_score=0.001, best_step=5))
    assert (earlier.best_score, earlier.best_step) == (None, 5)
    found, state = noted(earlier, 0.2)
    assert found
    assert (state.best_score, state.best_step, state.score_definition) == (0.2, 20, SCORE_DEFINITION)
    ours = Checkpoint(step=10, best_score=0.3, best_step=5, score_definition=SCORE_DEFINITION)
    assert TrainState.of(ours).best_score == 0.3
