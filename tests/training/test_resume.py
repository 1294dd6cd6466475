"""A run that is killed or asked to stop goes on as if nothing had happened."""

import shutil
import signal
import sys

import pytest

from dist_calo.data.ledger import read_ledger
from dist_calo.errors import EXIT_PREEMPTED, EXIT_USER
from dist_calo.train import main as train
from tests.support.ranks import run_ranks
from tests.support.runs_in_a_row import own_arguments, row_program, train_in_a_row
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


@pytest.fixture(scope="module")
def left_behind(data, tmp_path_factory):
    """The folder of a run on 2 ranks that was killed in step 11 or later, and a copy of it as it was then."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    assert stop_at(11, train_command(data, folder, STEPS, OFTEN, "--launch=2"), signal.SIGKILL) != 0
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    return folder, copy


@pytest.fixture
def killed(left_behind):
    """The folder of the killed run, where nothing has happened since."""
    folder, copy = left_behind
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    return folder


def test_killed_and_resumed_is_bit_for_bit_the_run_that_was_never_killed(data, never_killed, killed):
    assert final_state(killed)["step"] == 10
    assert max(step for _, step in read_ledger(killed / "ledger")) >= 11
    run_ranks([*train_command(data, killed, STEPS, OFTEN, "--launch=2"), AGAIN], 1, "single").check()
    resumed, whole = final_state(killed), final_state(never_killed)
    for part in ("model", "optimizers", "average", "objective"):
        assert same_bits(resumed[part], whole[part]), part
    assert (resumed["step"], resumed["epoch"], resumed["samples_seen"]) == (
        whole["step"],
        whole["epoch"],
        whole["samples_seen"],
    )
    assert ledger_sets(killed) == ledger_sets(never_killed)
    metrics, runs = logged_metrics(killed)
    expected, _ = logged_metrics(never_killed)
    assert metrics == expected
    assert runs == 1


def test_resumed_on_another_number_of_ranks_repeats_and_leaves_out_nothing(data, never_killed, killed):
    assert final_state(killed)["step"] == 10
    run_ranks([*train_command(data, killed, STEPS, OFTEN), AGAIN], 3).check()
    assert ledger_sets(killed) == ledger_sets(never_killed)


def test_asked_to_stop_it_checkpoints_leaves_with_75_and_goes_on(data, never_killed, tmp_path, capfd):
    numbers = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT
    commands = {number: train_command(data, tmp_path / number.name, STEPS) for number in numbers}
    # One start for all of them: each run ends at its signal, and the next one begins in the same processes.
    row = row_program(list(commands.values()))
    launch = [sys.executable, "-m", "dist_calo", "launch", "-n", "2", "--", *row]
    assert stop_at(7, launch, *numbers) == EXIT_PREEMPTED
    said = capfd.readouterr().out
    assert said.count(f"run ended with {EXIT_PREEMPTED}\n") == 2 * len(numbers)
    for number in numbers:
        assert f"{number.name}: stopped after step" in said
        assert 7 <= final_state(tmp_path / number.name)["step"] < 23, number.name
    train_in_a_row([[*command, AGAIN] for command in commands.values()], 2)
    for folder in (tmp_path / number.name for number in numbers):
        assert same_bits(final_state(folder)["model"], final_state(never_killed)["model"]), folder.name
        assert ledger_sets(folder) == ledger_sets(never_killed), folder.name
        assert logged_metrics(folder)[1] == 1, folder.name


def test_a_folder_with_checkpoints_is_not_overwritten(data, never_killed, capfd):
    assert train(own_arguments(train_command(data, never_killed, STEPS))) == EXIT_USER
    assert "holds checkpoints up to step 23" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("--train.global_batch_size=8", "train.global_batch_size=8: the run to continue was started with 6"),
        ("--train.seed=4", "train.seed=4: the run to continue was started with 3"),
        ("--data.path=data/sample/*.h5", "other data"),
    ],
)
def test_another_run_is_not_continued(data, never_killed, changed, message, capfd):
    command = train_command(data, never_killed, STEPS)
    assert train([*own_arguments(command), AGAIN, changed]) == EXIT_USER
    said = capfd.readouterr()
    assert message in said.err
    assert "Traceback" not in said.out + said.err
