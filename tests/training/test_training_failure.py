"""A rank that fails ends the whole job, with its own message, under every launcher."""

import h5py
import numpy as np
import pytest

from dist_calo.errors import EXIT_USER
from tests.support.ranks import launcher_params, run_ranks
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


def test_a_bad_row_is_found_at_start_before_anything_is_written(data, tmp_path):
    spoil(data, row=45, value=-1.0)
    run = run_ranks(train_command(data, tmp_path, "--train.max_steps=5", new_store(tmp_path)), 1, "single")
    assert run.returncode == EXIT_USER
    assert "row 45" in run.output
    assert "negative" in run.output
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--data.path=nowhere/*.h5", "no file matches"),
        ("--model.name=lcd_slow", "lcd_fast"),
        ("--model.options.latentt=3", "latent"),
        ("--objective.name=wgam", "wgan_gp"),
        ("--train.global_batch_size=1", "too few for 2 ranks"),
        ("--tracking.uri=ftp://x", "ftp"),
        ("--train.device=cuda", "train.device=cuda"),
        ("--checkpoint.resume=/nowhere.pt", "/nowhere.pt"),
        ("--checkpoint.dir=/proc/nowhere", "/proc/nowhere"),
    ],
)
def test_a_setting_that_cannot_work_is_one_line_and_exit_code_2(data, tmp_path, override, message):
    settings = ("--train.max_steps=5", "--launch=2", new_store(tmp_path), override)
    command = train_command(data, tmp_path, *settings)
    run = run_ranks(command, 1, "single")
    lines = [line for line in run.output.splitlines() if message in line]
    assert run.returncode == EXIT_USER
    assert len(lines) == 1, run.output
    assert "Traceback" not in run.output
    assert not list(tmp_path.glob("checkpoints/*"))
    assert not (tmp_path / "new.db").exists()
