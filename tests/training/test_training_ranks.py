"""What must hold for any number of ranks, under every launcher: coverage, equality, and one run in MLflow."""

from functools import cache

import numpy as np
import pytest

from dist_calo.data.ledger import read_ledger
from dist_calo.train import main as train
from dist_calo.training.checkpoint import load_checkpoint
from dist_calo.training.checkpoint_folder import CheckpointFolder
from tests.support.ranks import launcher_params
from tests.support.runs_in_a_row import own_arguments, train_in_a_row
from tests.support.small_runs import parameters, train_command, training_ids, write_showers

PLAIN = ["--optimizer.name=sgd", "--optimizer.learning_rate=2e-4", "--optimizer.clip_norm=1"]
"""Gradient steps with momentum. RMSprop and Adam divide a gradient by its own size, so that rounding in one that is
nearly zero becomes a step of full length: float32 and float64 on one rank differ as much after 20 steps."""

MODELS = {"fast": "lcd_fast", "3dgan": "lcd_3dgan"}
KEPT = ["--checkpoint.every_steps=1", "--checkpoint.keep=20"]
TWENTY_STEPS = ["--train.max_steps=20", *KEPT]
SETTINGS = {
    "coverage": ["--train.global_batch_size=10"],
    "fast-adam": TWENTY_STEPS,
    "fast": [*TWENTY_STEPS, *PLAIN],
    "fast-accumulation": [*TWENTY_STEPS, *PLAIN, "--train.accumulation=2"],
    "3dgan": ["--train.max_steps=10", *KEPT, *PLAIN, "--train.global_batch_size=3"],
}
"""The trainings of this file."""
ALONE = {"fast-accumulation": "fast"}
"""What one rank trains instead: it takes whole batches."""
STARTS = {
    (2, "local", "auto"): ["coverage", "fast-adam", "fast", "fast-accumulation"],
    (3, "local", "auto"): ["coverage", "fast", "3dgan"],
    (2, "torchrun", "auto"): ["coverage"],
    (3, "mpirun", "auto"): ["coverage", "fast"],
    (2, "mpirun", "torch"): ["coverage"],
    (2, "horovodrun", "auto"): ["coverage", "fast"],
    (2, "horovodrun-mpi", "auto"): ["coverage", "fast"],
}
"""What is trained on these ranks, one after the other in the same processes: number, launcher, backend."""


def starts(kind):
    """Those that train something whose name begins so, and its names, as parameters of a test."""
    return [
        pytest.param(start, name, marks=param.marks, id="-".join([name, *map(str, start)]))
        for start, names in STARTS.items()
        for name in names
        if name.startswith(kind)
        for param in launcher_params(start[1])
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_showers(tmp_path_factory.mktemp("data"))


def command(data, folder, name, *settings):
    if name == "coverage":
        settings = (*settings, f"--train.max_steps={2 * -(-len(training_ids(data)) // 10)}")
    model = MODELS.get(name.partition("-")[0], "lcd_fast")
    return train_command(data, folder, "--tracking.uri=none", *SETTINGS[name], *settings, model=model)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Start ranks, once for all tests, and return the folder that holds one of each of their trainings."""

    @cache
    def of(start):
        ranks, launcher, backend = start
        folder = tmp_path_factory.mktemp("several")
        commands = [command(data, folder / name, name, f"--comm.backend={backend}") for name in STARTS[start]]
        train_in_a_row(commands, ranks, launcher)
        return folder

    return of


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """Train on one rank, once for all tests, and return the folder."""

    @cache
    def of(name):
        folder = tmp_path_factory.mktemp("one")
        assert train(own_arguments(command(data, folder, name))) == 0
        return folder

    return of


@pytest.mark.parametrize(("start", "name"), starts("coverage"))
def test_an_epoch_holds_each_sample_once_and_batches_are_those_of_one_rank(data, alone, trained, start, name):
    one_rank = read_ledger(alone(name) / "ledger")
    folder = trained(start) / name
    ledger = read_ledger(folder / "ledger")
    assert len(list((folder / "ledger").glob("rank-*.tsv"))) == start[0]
    assert {key: sorted(ids) for key, ids in ledger.items()} == {
        key: sorted(ids) for key, ids in one_rank.items()
    }
    for epoch in (0, 1):
        used = np.concatenate([ids for (number, _), ids in ledger.items() if number == epoch])
        assert sorted(used.tolist()) == training_ids(data)


@pytest.mark.slow
@pytest.mark.parametrize(("start", "name"), [*starts("fast"), *starts("3dgan")])
def test_several_ranks_end_with_the_parameters_of_one(alone, trained, start, name):
    several, one = (
        CheckpointFolder(folder / "checkpoints")
        for folder in (trained(start) / name, alone(ALONE.get(name, name)))
    )
    assert several.steps() == one.steps()
    ends = one.steps()[0], one.steps()[-1]
    states, reference_states = (
        [load_checkpoint(kept.path(step)) for step in ends] for kept in (several, one)
    )
    for network in ("generator", "discriminator"):
        (first, last), (reference_first, reference_last) = (
            [parameters(state, network) for state in pair] for pair in (states, reference_states)
        )
        difference = relative(last - reference_last, reference_last)
        moved = relative(
            (last - first) - (reference_last - reference_first), reference_last - reference_first
        )
        print(f"{network}: parameters differ by {difference:.1e}, their way by {moved:.1e}")
        assert difference < (1e-4 if name == "fast-adam" else 1e-5), network
        assert moved < 0.05, network


def relative(difference, reference):
    return float(difference.norm() / reference.norm())
