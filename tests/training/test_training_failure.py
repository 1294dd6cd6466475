"""A rank that fails ends the whole job, with its own message, under every launcher."""

import h5py
import numpy as np
import pytest

from dist_calo.errors import EXIT_USER
from dist_calo.train import main as train
from tests.support.ranks import launcher_params, run_ranks
from tests.support.runs_in_a_row import own_arguments
from tests.support.small_runs import train_command, write_showers

QUICK = ("--data.validate=quick", "--tracking.uri=none", "--train.max_steps=40")


@pytest.fixture
def data(tmp_path):
    return write_showers(tmp_path / "data")


def new_store(folder):
    return f"--tracking.uri=sqlite:///{folder}/new.db"


def spoil(data, row=30, value=np.nan):
    with h5py.File(data.replace("*", "0"), "r+") as file:
        cells = file["ECAL"][row]
        cells[12, 12, 8] = value
        file["ECAL"][row] = cells


@pytest.mark.parametrize(
    "launcher", launcher_params("local", "torchrun", "mpirun", "horovodrun", "horovodrun-mpi")
)
def test_a_bad_row_that_one_rank_meets_while_training_ends_all_ranks(data, tmp_path, launcher):
    spoil(data)
    run = run_ranks(train_command(data, tmp_path, *QUICK), 2, launcher, timeout=120)
    assert run.returncode != 0
    assert run.killed == 0
    assert "EleEscan_0.h5" in run.output
    assert "row 30" in run.output
    # torchrun and horovodrun add tracebacks of their own.
    assert not any("Traceback" in said for said in run.ranks.values())


def test_a_bad_row_is_found_at_start_before_anything_is_written(data, tmp_path, capfd):
    spoil(data, row=45, value=-1.0)
    command = train_command(data, tmp_path, "--train.max_steps=5", new_store(tmp_path))
    assert train(own_arguments(command)) == EXIT_USER
    said = capfd.readouterr().err
    assert "row 45" in said
    assert "negative" in said
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("ranks", "override", "message"),
    [
        (1, "--data.path=nowhere/*.h5", "no file matches"),
        (1, "--model.name=lcd_slow", "lcd_fast"),
        (2, "--model.options.latentt=3", "latent"),
        (1, "--objective.name=wgam", "wgan_gp"),
        (2, "--train.global_batch_size=1", "too few for 2 ranks"),
        (1, "--tracking.uri=ftp://x", "ftp"),
        (1, "--train.device=cuda", "train.device=cuda"),
        (1, "--checkpoint.resume=/nowhere.pt", "/nowhere.pt"),
        (2, "--checkpoint.dir=/proc/nowhere", "/proc/nowhere"),
    ],
)
def test_a_setting_that_cannot_work_is_one_line_and_exit_code_2(
    data, tmp_path, capfd, ranks, override, message
):
    """Two ranks where all of them meet it before they know each other, all at once in set-up, or rank 0 alone."""
    settings = ("--train.max_steps=5", f"--launch={ranks}", new_store(tmp_path), override)
    code = train(own_arguments(train_command(data, tmp_path, *settings)))
    said = capfd.readouterr()
    output = said.out + said.err
    lines = [line for line in output.splitlines() if message in line]
    assert code == EXIT_USER
    assert len(lines) == 1, output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("checkpoints/*"))
    assert not (tmp_path / "new.db").exists()
