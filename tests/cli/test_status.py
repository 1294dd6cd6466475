"""Where a run stands, from what lies beside its checkpoints."""

import io
import json
import os
import shutil
import socket

import pytest
import torch

from dist_calo.cli.status import main
from dist_calo.config import RunConfig, TrainConfig
from dist_calo.errors import CheckpointError
from dist_calo.files import seal_of
from dist_calo.physics.metrics.metric_definitions import SCORE_DEFINITION
from dist_calo.training.checkpoint import checkpoint_bytes
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.status import describe, queued

FACTS = {
    "step": 40,
    "epoch": 2,
    "samples_seen": 3,
    "best_score": 0.25,
    "best_step": 30,
    "run_id": "abc",
    "ranks": 4,
    "config": RunConfig().to_dict(),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The checkpoints of a job 12, without SLURM."""
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "12"
    folder.mkdir()
    (folder / "step-00000020.json").write_text(json.dumps(FACTS | {"step": 20}))
    (folder / "step-00000040.json").write_text(json.dumps(FACTS))
    return folder


def queue(tmp_path, line):
    """A squeue that answers with these words of a shell."""
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho {line}\n")
    (tmp_path / "squeue").chmod(0o755)


def test_the_newest_checkpoint_is_described(folder):
    shown = dict(describe(folder))
    assert shown["steps"] == "40 of 1000 at the last checkpoint, epoch 2, global batch 64"
    assert shown["best"] == "step 30, score 0.25 as an earlier version defined it"
    assert "step-00000040.pt" in shown["checkpoint"]
    assert "4 rank(s)" in shown["checkpoint"]
    assert shown["MLflow"] == "run abc in sqlite:///mlflow.db"
    assert f"--checkpoint.dir={folder}" in shown["unfinished"]


def test_the_best_score_stands_with_its_error_and_floor(folder):
    known = {"best_error": 0.0123, "best_floor": 0.0456, "score_definition": SCORE_DEFINITION}
    (folder / "step-00000040.json").write_text(json.dumps(FACTS | known))
    assert dict(describe(folder))["best"] == "step 30, score 0.25 +- 0.012, floor 0.0456"


@pytest.mark.parametrize(
    ("settings", "facts", "reason"),
    [
        ({"patience": 3}, {"validations_since_best": 3}, "no better score in 3 validations"),
        ({"max_time": "2m"}, {"train_seconds": 121.0}, "the time is over (train.max_time=2m)"),
    ],
)
def test_a_run_that_ended_before_its_last_step_says_why(folder, settings, facts, reason):
    config = RunConfig(train=TrainConfig(**settings)).to_dict()
    (folder / "step-00000040.json").write_text(json.dumps(FACTS | facts | {"config": config}))
    shown = dict(describe(folder))
    assert shown["ended"].startswith(reason)
    assert "finished" in shown
    assert "unfinished" not in shown


def test_what_is_damaged_is_said(folder):
    assert "cannot be read: " in dict(describe(folder))["checkpoint"]
    file = folder / "step-00000040.pt"
    content, later = checkpoint_bytes({"step": 40}), io.BytesIO()
    torch.save({"step": 40, "format": 99}, later)
    diverged = io.BytesIO()
    torch.save({"step": 40, "format": 2, "model": {"w": torch.tensor([float("nan")])}}, diverged)
    for spoilt, word in (
        (content, "rank(s)"),
        (content[1:], "DAMAGED"),
        (content[:5], "DAMAGED"),
        (b"", "DAMAGED"),
        (diverged.getvalue() + seal_of(diverged.getvalue()), "DAMAGED"),
        (later.getvalue() + seal_of(later.getvalue()), "cannot be read"),
    ):
        file.write_bytes(spoilt)
        assert word in dict(describe(folder))["checkpoint"].split(": ")[0][-20:]
    assert "has format 99, and this version reads formats 1 to 2" in dict(describe(folder))["checkpoint"]


def test_what_cannot_be_told_is_an_error_after_all_that_can(folder, tmp_path, capsys):
    spoilt, nowhere = tmp_path / "spoilt", tmp_path / "nowhere"
    spoilt.mkdir()
    (spoilt / "step-00000040.json").write_bytes(b"\0" * 99)
    told = "step-00000040.json: is damaged, line 1 is no JSON.*; .*nowhere does not exist"
    with pytest.raises(CheckpointError, match=told):
        main([str(spoilt), str(nowhere), str(folder)])
    assert "unfinished" in capsys.readouterr().out


def test_a_run_that_its_store_has_not_named_is_not_called_sent(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "step-00000040.json").write_text(json.dumps(FACTS | {"run_id": "spool-12"}))
    waiting = "not sent to sqlite:///mlflow.db yet: dist-calo runs sync --spool spool"
    assert dict(describe(folder))["MLflow"] == waiting
    (tmp_path / "spool" / "spool-12").mkdir(parents=True)
    assert dict(describe(folder))["MLflow"] == waiting
    (tmp_path / "spool" / "spool-12").rmdir()
    assert "the run with the tag dist_calo.spool_id=spool-12" in dict(describe(folder))["MLflow"]


def test_a_finished_run_says_what_to_do_with_it(folder):
    (folder / "step-00001000.json").write_text(json.dumps(FACTS | {"step": 1000}))
    assert "dist-calo generate" in dict(describe(folder))["finished"]


def test_a_job_in_the_queue_needs_no_advice(folder, tmp_path, monkeypatch):
    queue(tmp_path, "'12 RUNNING n[1-2]'")
    shown = dict(describe(folder, queued(["12"])["12"]))
    assert shown["job"] == "12 is RUNNING, n[1-2]"
    assert "unfinished" not in shown
    monkeypatch.setenv("SLURM_JOB_ID", "12")  # the job itself, at its end
    assert queued(["12"]) == {}
    assert "unfinished" in dict(describe(folder))


def test_a_job_before_its_first_checkpoint_is_no_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    queue(tmp_path, "'13 PENDING (Priority)'")
    assert main([str(tmp_path / "13")]) == 0
    assert capsys.readouterr().out.split("\n")[:2] == [
        "job          13 is PENDING, (Priority)",
        "checkpoint   none yet",
    ]


def test_a_job_of_any_number_that_trains_there_is_named(folder, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with CheckpointFolder(folder).written_alone():
        shown = dict(describe(folder))
    assert shown["training"] == f"now: {folder}/lock, held by {socket.gethostname()} (job 77)"
    assert "unfinished" not in shown
    assert {"training", "unfinished"} & dict(describe(folder)).keys() == {"unfinished"}


def test_without_a_folder_all_runs_are_shown(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoints in checkpoints or runs/\*"):
        main([])
    folder.rename(tmp_path / "checkpoints")
    shutil.copytree("checkpoints", "runs/12")
    os.utime("runs/12/step-00000040.json", (1, 1))
    (tmp_path / "runs" / "13").mkdir()
    (tmp_path / "runs" / "14").mkdir()
    with CheckpointFolder(tmp_path / "runs" / "14").written_alone():
        assert main([]) == 0
    first, second, third = capsys.readouterr().out.split("\n\n")
    assert "runs/12/step-00000040.pt" in first
    assert "checkpoints/step-00000040.pt" in second
    assert third.startswith("training     now: runs/14/lock, held by")


def test_the_queue_is_asked_once_for_all_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    assert queued(["1"]) == {}
    queue(tmp_path, '"$@"')
    assert queued(["1", "checkpoints", "2", "3"]) == {
        "--noheader": "--noheader is --jobs=1,2, --format=%A %T %R"
    }


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        main([str(tmp_path)])
