"""A run that is killed or asked to stop goes on as if nothing had happened."""

import signal

import pytest

from dist_calo.data.ledger import read_ledger
from dist_calo.errors import EXIT_PREEMPTED, EXIT_USER
from tests.support.ranks import run_ranks
from tests.support.small_runs import (
    final_state,
    ledger_sets,
    logged_metrics,
    same_bits,
    stop_at,
    train_command,
    write_showers,
)

STEPS = "--train.max_steps=23"
OFTEN = "--checkpoint.every_steps=10"
AGAIN = "--checkpoint.resume=auto"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_showers(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def never_killed(data, tmp_path_factory):
    """The folder of a run on 2 ranks that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    run_ranks(train_command(data, folder, STEPS, OFTEN, "--launch=2"), 1, "single").check()
    return folder


def test_killed_and_resumed_is_bit_for_bit_the_run_that_was_never_killed(data, never_killed, tmp_path):
    command = train_command(data, tmp_path, STEPS, OFTEN, "--launch=2")
    assert stop_at(11, command, signal.SIGKILL) != 0
    assert final_state(tmp_path)["step"] == 10
    assert max(step for _, step in read_ledger(tmp_path / "ledger")) >= 11
    run_ranks([*command, AGAIN], 1, "single").check()
    resumed, whole = final_state(tmp_path), final_state(never_killed)
    for part in ("model", "optimizers", "average", "objective"):
        assert same_bits(resumed[part], whole[part]), part
    assert (resumed["step"], resumed["epoch"], resumed["samples_seen"]) == (
        whole["step"],
        whole["epoch"],
        whole["samples_seen"],
    )
    assert ledger_sets(tmp_path) == ledger_sets(never_killed)
    metrics, runs = logged_metrics(tmp_path)
    expected, _ = logged_metrics(never_killed)
    assert metrics == expected
    assert runs == 1


def test_resumed_on_another_number_of_ranks_repeats_and_leaves_out_nothing(data, never_killed, tmp_path):
    command = train_command(data, tmp_path, STEPS, OFTEN, "--launch=2")
    assert stop_at(11, command, signal.SIGKILL) != 0
    assert final_state(tmp_path)["step"] == 10
    run_ranks([*train_command(data, tmp_path, STEPS, OFTEN), AGAIN], 3).check()
    assert ledger_sets(tmp_path) == ledger_sets(never_killed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_asked_to_stop_it_checkpoints_leaves_with_75_and_goes_on(data, never_killed, tmp_path, number, capfd):
    command = train_command(data, tmp_path, STEPS, "--launch=2")
    assert stop_at(7, command, number) == EXIT_PREEMPTED
    assert f"{number.name}: stopped after step" in capfd.readouterr().out
    stopped = final_state(tmp_path)["step"]
    assert 7 <= stopped < 23
    run_ranks([*command, AGAIN], 1, "single").check()
    assert same_bits(final_state(tmp_path)["model"], final_state(never_killed)["model"])
    assert ledger_sets(tmp_path) == ledger_sets(never_killed)
    assert logged_metrics(tmp_path)[1] == 1


def test_a_folder_with_checkpoints_is_not_overwritten(data, never_killed):
    run = run_ranks(train_command(data, never_killed, STEPS), 1, "single")
    assert run.returncode == EXIT_USER
    assert "holds checkpoints up to step 23" in run.output


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("--train.global_batch_size=8", "train.global_batch_size=8: the run to continue was started with 6"),
        ("--train.seed=4", "train.seed=4: the run to continue was started with 3"),
        ("--data.path=data/sample/*.h5", "other data"),
    ],
)
def test_another_run_is_not_continued(data, never_killed, changed, message):
    run = run_ranks([*train_command(data, never_killed, STEPS), AGAIN, changed], 1, "single")
    assert run.returncode == EXIT_USER
    assert message in run.output
    assert "Traceback" not in run.output
