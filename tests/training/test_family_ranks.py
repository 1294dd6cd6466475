"""Coverage, equality and resume for every family of models: the promises of the main job, on the real data of each."""

import signal
from pathlib import Path

import pytest

from dist_calo.training.checkpoint import CheckpointFolder, load_checkpoint
from tests.support.mlflow_store import Store, made_store
from tests.support.ranks import ROOT, launcher_params, run_ranks
from tests.support.small_runs import (
    final_state,
    ledger_sets,
    logged_metrics,
    parameters,
    same_bits,
    stop_at,
    train_command,
    training_ids,
    write_part,
)

LAYERS, SIGNALS = (ROOT / "data" / name / f"{name}_electrons.h5" for name in ("layers", "signals"))
FAMILIES: dict[str, tuple[Path, list[str]]] = {
    "layers_gan": (LAYERS, []),
    "layers_vae": (LAYERS, []),
    "layers_vae_plain": (LAYERS, []),
    "signals_shapes_amplitudes": (SIGNALS, []),
    "signals_full": (SIGNALS, []),
    "signals_simplified": (SIGNALS, ["--objective.name=wgan", "--objective.weight_limit=0.05"]),
    "signals_factorised": (SIGNALS, []),
}
"""The showers of each family, and what differs from its configuration: one of them has clipped critics."""
PICTURED = ("layers_gan", "signals_full")
"""Drawing takes longer than training here: one family of each detector shows that it happens."""
BATCH, STEPS = 10, 20
SETTINGS = [
    f"--train.global_batch_size={BATCH}",
    f"--train.max_steps={STEPS}",
    "--checkpoint.every_steps=10",
    "--data.validation_fraction=0.1",
    # As in test_training_ranks.py: steps whose length does not depend on the rounding of small gradients.
    "--optimizer.name=sgd",
    "--optimizer.learning_rate=2e-4",
    "--optimizer.clip_norm=1",
]


_trained: dict[str, tuple[str, Path]] = {}


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path_factory):
    """A family's name, a glob of a few of its showers, and the folder of a run of two epochs on two ranks."""
    name = request.param
    if name not in _trained:
        folder = tmp_path_factory.mktemp(name)
        data = write_part(FAMILIES[name][0], folder / "data")
        given = command(name, data, folder, f"--tracking.log_pictures={name in PICTURED}")
        run_ranks([*given, "--launch=2"], 1, "single", timeout=200).check()
        _trained[name] = data, folder
    return name, *_trained[name]


def command(name, data, folder, *settings):
    return train_command(data, folder, *SETTINGS, *FAMILIES[name][1], *settings, model=name)


def state_after(folder, step):
    return load_checkpoint(CheckpointFolder(folder / "checkpoints").path(step))


def assert_same_parameters(one, other):
    """The networks of two runs are equal to rounding after the last step, and moved alike since the tenth."""
    states = [[state_after(folder, step) for step in (10, STEPS)] for folder in (one, other)]
    for network in states[0][0]["optimizers"]:
        (first, last), (other_first, other_last) = ([parameters(s, network) for s in pair] for pair in states)
        difference = float((last - other_last).norm() / last.norm())
        moved = float(((last - first) - (other_last - other_first)).norm() / (last - first).norm())
        print(f"{network}: parameters differ by {difference:.1e}, their way by {moved:.1e}")
        assert difference < 1e-5, network
        assert moved < 0.05, network


@pytest.mark.slow
def test_two_ranks_use_the_batches_of_one_and_end_with_its_parameters(family, tmp_path):
    name, data, two_ranks = family
    run_ranks(command(name, data, tmp_path, "--tracking.uri=none"), 1, "single").check()
    ledger = ledger_sets(two_ranks)
    assert ledger == ledger_sets(tmp_path)
    for number in (0, 1):
        used = [sample for (epoch, _), ids in ledger.items() if epoch == number for sample in ids]
        assert sorted(used) == training_ids(data, validation_fraction=0.1)
    assert_same_parameters(tmp_path, two_ranks)


@pytest.mark.slow
@pytest.mark.parametrize("family", PICTURED, indirect=True)
def test_a_run_ends_with_its_pictures_and_its_model(family):
    folder = family[2]
    logged_metrics(folder)  # which sends what a busy machine may have left
    store = Store(made_store(folder))
    files = store.files(store.only_run("dist_calo").info.run_id)
    assert any(file.startswith("pictures/") and file.endswith(".png") for file in files), files
    assert any(file.startswith("model/") and file.endswith(".pt") for file in files), files


OTHERWISE = [
    ("layers_gan", 3, "mpirun", []),
    ("layers_vae", 3, "local", ["--train.accumulation=2"]),
    ("signals_factorised", 2, "horovodrun", []),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "ranks", "launcher", "settings"),
    [
        pytest.param(name, ranks, launcher, settings, marks=param.marks, id=f"{name}-{ranks}-{launcher}")
        for name, ranks, launcher, settings in OTHERWISE
        for param in launcher_params(launcher)
    ],
    indirect=["family"],
)
def test_other_launchers_and_micro_batches_end_with_the_same_parameters(
    family, ranks, launcher, settings, tmp_path
):
    name, data, two_ranks = family
    run_ranks(
        command(name, data, tmp_path, "--tracking.uri=none", *settings), ranks, launcher, timeout=240
    ).check()
    assert ledger_sets(tmp_path) == ledger_sets(two_ranks)
    assert_same_parameters(tmp_path, two_ranks)


@pytest.mark.slow
def test_killed_and_resumed_is_bit_for_bit_the_run_that_was_never_killed(family, tmp_path):
    name, data, two_ranks = family
    again = [*command(name, data, tmp_path), "--launch=2"]
    assert stop_at(11, again, signal.SIGKILL) != 0
    assert final_state(tmp_path)["step"] == 10
    run_ranks([*again, "--checkpoint.resume=auto"], 1, "single", timeout=200).check()
    resumed, whole = final_state(tmp_path), final_state(two_ranks)
    for part in ("model", "optimizers", "average", "objective"):
        assert same_bits(resumed[part], whole[part]), part
    assert ledger_sets(tmp_path) == ledger_sets(two_ranks)
    assert logged_metrics(tmp_path) == logged_metrics(two_ranks)
