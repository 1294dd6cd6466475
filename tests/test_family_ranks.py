"""Coverage, equality and resume for every family of models: the promises of the main job, on the real data of each."""

import signal

import pytest

from dist_calo.training.checkpoint import CheckpointFolder, load_checkpoint
from tests.ranks import ROOT, run_ranks
from tests.small_runs import (
    final_state,
    ledger_sets,
    logged_metrics,
    parameters,
    same_bits,
    stop_at,
    train_command,
    write_part,
)

LAYERS, SIGNALS = (ROOT / "data" / name / f"{name}_electrons.h5" for name in ("layers", "signals"))
FAMILIES = {
    "layers_gan": LAYERS,
    "layers_vae": LAYERS,
    "layers_vae_plain": LAYERS,
    "signals_shapes_amplitudes": SIGNALS,
    "signals_full": SIGNALS,
    "signals_simplified": SIGNALS,
    "signals_factorised": SIGNALS,
}
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


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A family's name and a glob of a few of its showers."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, write_part(FAMILIES[request.param], folder / "data"), folder


@pytest.fixture(scope="module")
def two_ranks(family):
    """The folder of a run of two epochs on two ranks."""
    name, data, folder = family
    run_ranks(
        train_command(data, folder, *SETTINGS, "--launch=2", model=name), 1, "single", timeout=200
    ).check()
    return folder


def state_after(folder, step):
    return load_checkpoint(CheckpointFolder(folder / "checkpoints").path(step))


@pytest.mark.slow
def test_two_ranks_use_the_batches_of_one_and_end_with_its_parameters(family, two_ranks, tmp_path):
    name, data, _ = family
    run_ranks(
        train_command(data, tmp_path, *SETTINGS, "--tracking.uri=none", model=name), 1, "single"
    ).check()
    ledger = ledger_sets(two_ranks)
    assert ledger == ledger_sets(tmp_path)
    epochs = [
        [id_ for (epoch, _), ids in ledger.items() if epoch == number for id_ in ids] for number in (0, 1)
    ]
    assert len(epochs[0]) == len(set(epochs[0])) > 80
    assert sorted(epochs[0]) == sorted(epochs[1])
    alone, several = ([state_after(folder, step) for step in (10, STEPS)] for folder in (tmp_path, two_ranks))
    for network in alone[0]["optimizers"]:
        (first, last), (other_first, other_last) = (
            [parameters(state, network) for state in states] for states in (alone, several)
        )
        difference = float((last - other_last).norm() / last.norm())
        moved = float(((last - first) - (other_last - other_first)).norm() / (last - first).norm())
        print(f"{name} {network}: parameters differ by {difference:.1e}, their way by {moved:.1e}")
        assert difference < 1e-5, network
        assert moved < 0.05, network


@pytest.mark.slow
def test_killed_and_resumed_is_bit_for_bit_the_run_that_was_never_killed(family, two_ranks, tmp_path):
    name, data, _ = family
    command = train_command(data, tmp_path, *SETTINGS, "--launch=2", model=name)
    assert stop_at(11, command, signal.SIGKILL) != 0
    assert final_state(tmp_path)["step"] == 10
    run_ranks([*command, "--checkpoint.resume=auto"], 1, "single", timeout=200).check()
    resumed, whole = final_state(tmp_path), final_state(two_ranks)
    for part in ("model", "optimizers", "average", "objective"):
        assert same_bits(resumed[part], whole[part]), part
    assert ledger_sets(tmp_path) == ledger_sets(two_ranks)
    assert logged_metrics(tmp_path) == logged_metrics(two_ranks)
