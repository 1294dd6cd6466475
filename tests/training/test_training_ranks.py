"""What must hold for any number of ranks, under every launcher: coverage, equality, and one run in MLflow."""

import numpy as np
import pytest

from dist_calo.data.ledger import read_ledger
from dist_calo.training.checkpoint import load_checkpoint
from dist_calo.training.checkpoint_folder import CheckpointFolder
from tests.support.ranks import launcher_params, run_ranks
from tests.support.small_runs import parameters, train_command, training_ids, write_showers

PLAIN = ["--optimizer.name=sgd", "--optimizer.learning_rate=2e-4", "--optimizer.clip_norm=1"]
"""Gradient steps with momentum. RMSprop and Adam divide a gradient by its own size, so that rounding in one that is
nearly zero becomes a step of full length: float32 and float64 on one rank differ as much after 20 steps."""


COVERAGE = ["--train.global_batch_size=10", "--tracking.uri=none"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_showers(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def one_rank(data, tmp_path_factory):
    """Ledger of two epochs on one rank."""
    folder = tmp_path_factory.mktemp("one")
    steps = 2 * -(-len(training_ids(data)) // 10)
    command = train_command(data, folder, *COVERAGE, f"--train.max_steps={steps}")
    run_ranks(command, 1, "single").check()
    return read_ledger(folder / "ledger")


COVERED = [
    *[(n, "local", "auto") for n in (2, 3)],
    (2, "torchrun", "auto"),
    (3, "mpirun", "auto"),
    (2, "mpirun", "torch"),
    (2, "horovodrun", "auto"),
    (2, "horovodrun-mpi", "auto"),
]


@pytest.mark.parametrize(
    ("ranks", "backend", "launcher"),
    [
        pytest.param(n, backend, name, marks=param.marks, id=f"{n}-{name}-{backend}")
        for n, name, backend in COVERED
        for param in launcher_params(name)
    ],
)
def test_an_epoch_holds_each_sample_once_and_batches_are_those_of_one_rank(
    data, one_rank, tmp_path, ranks, backend, launcher
):
    steps = max(step for _, step in one_rank)
    settings = [*COVERAGE, f"--train.max_steps={steps}", f"--comm.backend={backend}"]
    run_ranks(train_command(data, tmp_path, *settings), ranks, launcher, timeout=240).check()
    ledger = read_ledger(tmp_path / "ledger")
    assert len(list((tmp_path / "ledger").glob("rank-*.tsv"))) == ranks
    assert {key: sorted(ids) for key, ids in ledger.items()} == {
        key: sorted(ids) for key, ids in one_rank.items()
    }
    for epoch in (0, 1):
        used = np.concatenate([ids for (number, _), ids in ledger.items() if number == epoch])
        assert sorted(used.tolist()) == training_ids(data)


SYNC_3DGAN = ("lcd_3dgan", ["--train.global_batch_size=3"])
FAST: tuple[str, list[str]] = ("lcd_fast", [])
ACCUMULATED = "--train.accumulation=2"
EQUAL = [
    pytest.param(FAST, [], 2, "local", id="fast-adam"),
    pytest.param(FAST, PLAIN, 2, "local", id="fast-2"),
    pytest.param(FAST, PLAIN, 3, "local", id="fast-3"),
    pytest.param(FAST, [*PLAIN, ACCUMULATED], 2, "local", id="fast-accumulation"),
    *[
        pytest.param(FAST, PLAIN, 2, name, id=f"fast-{name}", marks=param.marks)
        for name in ("mpirun", "horovodrun", "horovodrun-mpi")
        for param in launcher_params(name)
    ],
    pytest.param(SYNC_3DGAN, PLAIN, 3, "local", id="3dgan-sync-3"),
]
_references: dict[tuple[str, ...], list] = {}


def after_20_steps(data, folder, network, settings, ranks, launcher):
    model, own = network
    often = ["--checkpoint.every_steps=1", "--checkpoint.keep=20"]
    given = ["--train.max_steps=20", "--tracking.uri=none", *often, *own, *settings]
    run_ranks(train_command(data, folder, *given, model=model), ranks, launcher, timeout=280).check()
    checkpoints = CheckpointFolder(folder / "checkpoints")
    return [load_checkpoint(checkpoints.path(step)) for step in (1, 20)]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "settings", "ranks", "launcher"), EQUAL)
def test_20_steps_end_with_the_parameters_of_one_rank(data, tmp_path, network, settings, ranks, launcher):
    alone = [setting for setting in settings if setting != ACCUMULATED]
    key = (network[0], *alone)
    if key not in _references:
        _references[key] = after_20_steps(data, tmp_path / "one", network, alone, 1, "single")
    several = after_20_steps(data, tmp_path / "several", network, settings, ranks, launcher)
    for name in ("generator", "discriminator"):
        (first, last), (reference_first, reference_last) = (
            [parameters(state, name) for state in states] for states in (several, _references[key])
        )
        difference = relative(last - reference_last, reference_last)
        moved = relative(
            (last - first) - (reference_last - reference_first), reference_last - reference_first
        )
        print(f"{name}: parameters differ by {difference:.1e}, their way from step 1 to 20 by {moved:.1e}")
        assert difference < (1e-5 if PLAIN[0] in settings else 1e-4), name
        assert moved < 0.05, name


def relative(difference, reference):
    return float(difference.norm() / reference.norm())
