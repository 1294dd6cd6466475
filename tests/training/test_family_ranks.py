"""Coverage, equality and resume for every family of models: the promises of the main job, on the real data of each."""

import shutil
from pathlib import Path

import pytest

from dist_calo.train import main as train
from dist_calo.training.checkpoint import load_checkpoint
from dist_calo.training.checkpoint_folder import CheckpointFolder
from tests.support.mlflow_store import Store, made_store
from tests.support.ranks import ROOT, launcher_params
from tests.support.runs_in_a_row import own_arguments, train_in_a_row
from tests.support.small_runs import (
    final_state,
    ledger_sets,
    logged_metrics,
    parameters,
    same_bits,
    train_command,
    training_ids,
    write_part,
)

pytestmark = pytest.mark.timeout(600)  # the first test trains all families twice

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
ROWS, BATCH, STEPS = (31, 17), 10, 10
KEPT = STEPS // 2
SETTINGS = [
    f"--train.global_batch_size={BATCH}",
    f"--train.max_steps={STEPS}",
    f"--checkpoint.every_steps={KEPT}",
    "--data.validation_fraction=0.1",
    # As in test_training_ranks.py: steps whose length does not depend on the rounding of small gradients.
    "--optimizer.name=sgd",
    "--optimizer.learning_rate=2e-4",
    "--optimizer.clip_norm=1",
]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The folder of each family: in data/ a few of its showers, in whole/ a run of two epochs on two ranks.

    In resumed/ is what a kill after the last step would leave of that run if only half of its steps had been kept in a
    checkpoint, resumed on two ranks.
    """
    folders = {name: tmp_path_factory.mktemp(name) for name in FAMILIES}
    for name, folder in folders.items():
        write_part(FAMILIES[name][0], folder / "data", ROWS)
    # A run keeps its place: the whole one is what is copied.
    commands = [
        command(name, folder, folder / "resumed", f"--tracking.log_pictures={name in PICTURED}")
        for name, folder in folders.items()
    ]
    train_in_a_row(commands, 2)
    for folder in folders.values():
        logged_metrics(folder / "resumed")  # which sends what a busy machine may have left
        shutil.copytree(folder / "resumed", folder / "whole")
        for file in (folder / "resumed" / "checkpoints").glob(f"*{STEPS}.*"):
            file.unlink()
        assert final_state(folder / "resumed")["step"] == KEPT
    train_in_a_row([[*given, "--checkpoint.resume=auto"] for given in commands], 2)
    return folders


@pytest.fixture(params=FAMILIES)
def family(request, two_ranks):
    """A family's name and its folder."""
    return request.param, two_ranks[request.param]


def command(name, folder, out, *settings):
    data = str(folder / "data" / "part_*.h5")
    return train_command(data, out, *SETTINGS, *FAMILIES[name][1], *settings, model=name)


def state_after(folder, step):
    return load_checkpoint(CheckpointFolder(folder / "checkpoints").path(step))


def assert_same_parameters(one, other):
    """The networks of two runs are equal to rounding after the last step, and moved alike in their second half."""
    states = [[state_after(folder, step) for step in (KEPT, STEPS)] for folder in (one, other)]
    for network in states[0][0]["optimizers"]:
        (first, last), (other_first, other_last) = ([parameters(s, network) for s in pair] for pair in states)
        difference = float((last - other_last).norm() / last.norm())
        moved = float(((last - first) - (other_last - other_first)).norm() / (last - first).norm())
        print(f"{network}: parameters differ by {difference:.1e}, their way by {moved:.1e}")
        assert difference < 1e-5, network
        assert moved < 0.05, network


@pytest.mark.slow
def test_two_ranks_use_the_batches_of_one_and_end_with_its_parameters(family, tmp_path):
    name, folder = family
    assert train(own_arguments(command(name, folder, tmp_path, "--tracking.uri=none"))) == 0
    ledger = ledger_sets(folder / "whole")
    assert ledger == ledger_sets(tmp_path)
    for number in (0, 1):
        used = [sample for (epoch, _), ids in ledger.items() if epoch == number for sample in ids]
        assert sorted(used) == training_ids(str(folder / "data" / "part_*.h5"), validation_fraction=0.1)
    assert_same_parameters(tmp_path, folder / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("family", PICTURED, indirect=True)
def test_a_run_ends_with_its_pictures_and_its_model(family):
    folder = family[1] / "whole"
    store = Store(made_store(folder))
    files = store.files(store.only_run("dist_calo").info.run_id)
    assert any(file.startswith("pictures/") and file.endswith(".png") for file in files), files
    assert any(file.startswith("model/") and file.endswith(".pt") for file in files), files


OTHERWISE: dict[tuple[int, str], dict[str, list[str]]] = {
    (3, "mpirun"): {"layers_gan": [], "layers_vae": ["--train.accumulation=2"]},
    (2, "horovodrun"): {"signals_factorised": []},
}
"""The families that are trained on these ranks, in the same processes, and how."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "launcher"),
    [
        pytest.param(*start, marks=param.marks, id=f"{start[0]}-{start[1]}")
        for start in OTHERWISE
        for param in launcher_params(start[1])
    ],
)
def test_other_launchers_and_micro_batches_end_with_the_same_parameters(two_ranks, ranks, launcher, tmp_path):
    given = {
        name: command(name, two_ranks[name], tmp_path / name, "--tracking.uri=none", *settings)
        for name, settings in OTHERWISE[ranks, launcher].items()
    }
    train_in_a_row(list(given.values()), ranks, launcher)
    for name in given:
        whole = two_ranks[name] / "whole"
        assert ledger_sets(tmp_path / name) == ledger_sets(whole), name
        assert_same_parameters(tmp_path / name, whole)


@pytest.mark.slow
def test_resumed_half_way_is_bit_for_bit_the_run_that_never_stopped(family):
    resumed, whole = (final_state(family[1] / name) for name in ("resumed", "whole"))
    for part in ("model", "optimizers", "average", "objective"):
        assert same_bits(resumed[part], whole[part]), part
    assert ledger_sets(family[1] / "resumed") == ledger_sets(family[1] / "whole")
    assert logged_metrics(family[1] / "resumed") == logged_metrics(family[1] / "whole")
