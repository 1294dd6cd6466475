"""A checkpoint is whole or absent, and reading one never runs code."""

import json
import os
import pickle
import socket
import time

import pytest
import torch

from dist_calo.errors import CheckpointError
from dist_calo.training.checkpoint import (
    ABANDONED_AFTER_S,
    CheckpointFolder,
    find_checkpoint,
    load_checkpoint,
)


def state(step):
    return {"step": step, "model": {"weight": torch.full((3,), float(step))}, "run_id": None}


def test_what_is_saved_is_loaded(tmp_path):
    path = CheckpointFolder(tmp_path / "new" / "folder").save(state(5), {"step": 5})
    loaded = load_checkpoint(path)
    assert loaded["step"] == 5
    assert torch.equal(loaded["model"]["weight"], torch.full((3,), 5.0))
    assert json.loads(path.with_suffix(".json").read_text()) == {"step": 5}


def test_the_newest_and_the_best_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (10, 20, 30, 40):
        folder.save(state(step), {}, best=step == 10)
    assert folder.steps() == [30, 40]
    assert folder.newest()["step"] == 40
    assert find_checkpoint(tmp_path)["step"] == 10
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [
            "best.pt",
            "best.json",
            *(f"step-000000{step}{suffix}" for step in (30, 40) for suffix in (".pt", ".json")),
        ]
    )


def test_a_write_cut_short_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path)
    folder.save(state(1), {})

    def full(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="No space left"):
        folder.save(state(2), {})
    assert folder.newest()["step"] == 1
    assert sorted(os.listdir(tmp_path)) == ["step-00000001.json", "step-00000001.pt", "step-00000002.json"]


def test_what_a_kill_left_half_written_is_removed_at_the_next_start(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(state(1), {})
    old, young = tmp_path / ".step-00000002.pt.node1.123.tmp", tmp_path / ".step-00000002.pt.node2.7.tmp"
    for left in (old, young):
        left.write_bytes(b"half of it")
    past = time.time() - 2 * ABANDONED_AFTER_S
    os.utime(old, (past, past))
    folder.require_writable()
    assert sorted(os.listdir(tmp_path)) == [young.name, "step-00000001.json", "step-00000001.pt"]


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be written"):
        CheckpointFolder(tmp_path / "file").require_writable()
    CheckpointFolder(tmp_path / "new").require_writable()
    assert not list((tmp_path / "new").iterdir())


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    folder = CheckpointFolder(tmp_path)
    folder.save(state(1), {})
    path = folder.save(state(2), {})
    os.truncate(path, path.stat().st_size // 2)
    assert folder.newest()["step"] == 1
    assert "step-00000002.pt cannot be read" in capsys.readouterr().err
    os.truncate(folder.path(1), 10)
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints"):
        folder.newest()


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/dist_calo_evil",)


def test_loading_runs_no_code(tmp_path):
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    torch.save({"format": 1, "evil": Evil()}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not os.path.exists("/tmp/dist_calo_evil")


def test_what_is_missing_or_foreign_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    torch.save({"format": 99}, tmp_path / "future.pt")
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(tmp_path / "future.pt")
    assert CheckpointFolder(tmp_path / "nowhere").newest() is None


def test_going_on_from_an_older_one_sets_the_later_ones_aside_and_keeps_the_new(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=3)
    for step in (200, 300, 400):
        folder.save(state(step), {}, best=step == 300)
    folder.set_aside_after(200)
    assert folder.steps() == [200]
    assert not (tmp_path / "best.pt").exists()
    assert len(list((tmp_path / "abandoned").glob("*.pt"))) == 3
    folder.save(state(250), {})
    assert folder.steps() == [200, 250]
    assert folder.best == folder.path(250)


def test_the_one_just_written_is_never_forgotten(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(state(400), {})
    folder.save(state(250), {})
    assert folder.steps() == [250]


def test_a_folder_is_written_by_one_job_at_a_time(tmp_path):
    folder = CheckpointFolder(tmp_path / "run")
    with folder.written_alone():
        said = rf"another job trains there \(.*/lock, held by {socket.gethostname()}"
        with pytest.raises(CheckpointError, match=said), folder.written_alone():
            pass
    assert not folder.folder.exists()
    with folder.written_alone():
        assert [path.name for path in folder.folder.iterdir()] == ["lock"]
        folder.save(state(1), {})
    assert sorted(os.listdir(folder.folder)) == ["step-00000001.json", "step-00000001.pt"]


def test_going_back_twice_keeps_what_was_abandoned_first(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=9)
    for score in (1.0, 2.0):
        for step in (1, 2):
            folder.save({"step": step, "score": score}, {})
        folder.set_aside_after(1)
    assert sorted(path.name for path in (tmp_path / "abandoned").glob("*.pt")) == [
        "step-00000002.2.pt",
        "step-00000002.pt",
    ]
    assert load_checkpoint(tmp_path / "abandoned" / "step-00000002.pt")["score"] == 1.0
