"""Training with checkpoints that were damaged, or with weights that diverge: the last good one is what goes on."""

import re
import shutil
import sys

import pytest
import torch

from dist_calo.cli.evaluate import main as evaluate
from dist_calo.cli.generate import main as generate
from dist_calo.errors import EXIT_USER
from dist_calo.train import main as train
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.learner import Learner
from tests.support.ranks import run_ranks
from tests.support.small_runs import same_bits, train_command, write_showers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The checkpoints of steps 2 and 4 of a run that has ended, and the command line that made them elsewhere."""
    folder = tmp_path_factory.mktemp("run")
    data = write_showers(folder / "data")

    def settings(where, *more):
        given = [
            "--train.max_steps=4",
            "--checkpoint.every_steps=2",
            "--tracking.uri=none",
            "--comm.threads=1",
        ]
        return train_command(data, where, *given, "--data.validation_fraction=0", *more)[3:]

    assert train(settings(folder)) == 0
    return folder / "checkpoints", settings


def spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_said_and_the_run_ends_as_if_it_had_not_been(run, tmp_path, capsys):
    whole, settings = run
    shutil.copytree(whole, tmp_path / "checkpoints")
    files = CheckpointFolder(tmp_path / "checkpoints")
    spoil(files.path(4))
    assert train(settings(tmp_path, f"--checkpoint.resume={files.path(4)}")) == EXIT_USER
    assert capsys.readouterr().err.count(f"checkpoint {files.path(4)} is damaged") == 1
    assert train(settings(tmp_path, "--checkpoint.resume=auto")) == 0
    said = capsys.readouterr()
    assert f"checkpoint {files.path(4)} is damaged" in said.err
    assert "continuing after step 2" in said.out
    assert same_bits(files.newest(), CheckpointFolder(whole).newest())


def test_a_run_that_diverges_saves_nothing_of_it_and_names_what_is_good(run, tmp_path, capsys, monkeypatch):
    _, settings = run
    learn = Learner.learn

    def diverge(self, batch, step):
        learn(self, batch, step)
        if step == 3:  # no loss and no weight shows it for now
            next(iter(self.optimizers["generator"].state.values()))["exp_avg_sq"].view(-1)[0] = float("inf")

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", diverge)
        assert train(settings(tmp_path, "--checkpoint.keep=1")) == EXIT_USER
    said = capsys.readouterr().err
    files = CheckpointFolder(tmp_path / "checkpoints")
    assert "step 4: optimizers.generator.state.0.exp_avg_sq is not finite on 1 of 1 ranks" in said
    assert f"continue from {files.path(2)} with a lower optimizer.learning_rate" in said
    assert "Traceback" not in said
    assert files.steps() == [2]
    more = f"--checkpoint.resume={files.path(2)}", "--optimizer.learning_rate=1e-5"
    assert train(settings(tmp_path, *more)) == 0
    assert files.newest()["step"] == 4


ONE_RANK_DIVERGES = """
import os, sys
from dist_calo.train import main
from dist_calo.training.learner import Learner
learn = Learner.learn
def diverge(self, batch, step):
    learn(self, batch, step)
    if step == 3 and os.environ["RANK"] == "1":
        next(iter(self.optimizers["generator"].state.values()))["exp_avg"].fill_(float("nan"))
Learner.learn = diverge
sys.exit(main(sys.argv[1:]))
"""


def test_what_one_rank_alone_has_stops_all_before_rank_0_saves(run, tmp_path):
    done = run_ranks([sys.executable, "-c", ONE_RANK_DIVERGES, *run[1](tmp_path)], 2)
    assert done.returncode == EXIT_USER
    assert done.killed == 0
    assert re.search(r"step 4: model\.generator\.\S+ is not finite on 1 of 2 ranks", done.output)
    assert "Traceback" not in done.output
    assert CheckpointFolder(tmp_path / "checkpoints").steps() == [2]


@pytest.mark.parametrize("command", [generate, evaluate])
def test_a_damaged_model_makes_no_showers(command, run, tmp_path, capsys):
    bad = tmp_path / "bad.pt"
    bad.write_bytes(CheckpointFolder(run[0]).path(4).read_bytes())
    spoil(bad)
    assert command(["--checkpoint", str(bad), "--out", str(tmp_path / "out")]) == EXIT_USER
    assert "bad.pt is damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["step", "model", "average", "geometry", "transform", "manifest", "config"])
def test_a_checkpoint_without_a_part_is_refused_in_one_line(part, run, tmp_path, capsys):
    bad = tmp_path / "bad.pt"
    whole = CheckpointFolder(run[0]).newest()
    for spoilt in ({k: v for k, v in whole.items() if k != part}, {**whole, part: [1.0]}):
        torch.save(spoilt, bad)
        assert generate(["--checkpoint", str(bad), "--out", str(tmp_path / "out")]) == EXIT_USER
        assert train(run[1](tmp_path, f"--checkpoint.resume={bad}")) == EXIT_USER
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert [f"{bad}: {part} is missing or damaged" in line for line in errors] == [True] * 2
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_is_told_from_what_is_missing(tmp_path, capsys):
    weights, link = tmp_path / "weights.pt", tmp_path / "link.pt"
    torch.save({"layer.weight": torch.ones(3)}, weights)
    link.symlink_to("gone.pt")
    for file, word in (
        (weights, "is not a checkpoint of dist_calo"),
        (link, "is a link to gone.pt, which does not exist"),
    ):
        assert generate(["--checkpoint", str(file), "--out", str(tmp_path / "out.h5")]) == EXIT_USER
        assert f"{file}: {word}" in capsys.readouterr().err
