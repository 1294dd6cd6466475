"""A checkpoint is whole or absent, and reading one never runs code."""

import errno
import json
import math
import os
import pickle
import shutil
import socket
import time
from pathlib import Path

import pytest
import torch

from dist_calo.errors import CheckpointError
from dist_calo.files import is_sound
from dist_calo.training import checkpoint
from dist_calo.training.checkpoint import checkpoint_bytes, load_checkpoint
from dist_calo.training.checkpoint_folder import ABANDONED_AFTER_S, CheckpointFolder, find_checkpoint
from tests.support.small_runs import small_disk


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


def test_a_write_cut_short_leaves_the_older_checkpoint(tmp_path, capsys):
    folder = CheckpointFolder(tmp_path)
    folder.save(state(1), {}, best=True)
    said = r"step-00000002.pt cannot be written .*File too large"
    with small_disk(room=1000), pytest.raises(CheckpointError, match=said):  # room for the words beside it
        folder.save(state(2), {}, best=True)
    assert folder.newest()["step"] == 1
    assert folder.best()[1]["step"] == 1
    assert sorted(os.listdir(tmp_path)) == [
        "best.json",
        "best.pt",
        "step-00000001.json",
        "step-00000001.pt",
    ]


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
    assert "step-00000002.pt is damaged" in capsys.readouterr().err
    os.truncate(folder.path(1), 10)
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints"):
        folder.newest()


def test_no_bit_flips_unseen():
    whole = checkpoint_bytes(state(1))
    assert is_sound(whole) is True
    damaged = bytearray(whole)
    for bit in range(8 * len(whole)):
        damaged[bit // 8] ^= 1 << bit % 8
        assert is_sound(bytes(damaged)) is False, f"bit {bit}"
        damaged[bit // 8] ^= 1 << bit % 8
    # Without the seal, and nothing else, it is what an earlier version wrote.
    short = {length for length in range(len(whole)) if is_sound(whole[:length]) is not False}
    assert short == {whole.index(b"\ndist_calo: SHA-256")}


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda content, _: content[:99] + bytes([content[99] ^ 64]) + content[100:], id="bit"),
        pytest.param(lambda content, _: content[:500] + bytes(len(content) - 500), id="zeros"),
        pytest.param(lambda content, _: content[: len(content) // 2], id="truncated"),
        pytest.param(lambda content, _: content + b"more", id="longer"),
        pytest.param(lambda content, _: b"", id="empty"),
        pytest.param(lambda content, _: b"no checkpoint at all", id="foreign"),
        pytest.param(lambda _, before: before, id="swapped"),
        pytest.param(lambda content, _: content.replace(b"archive", b"Archive", 1), id="header"),
    ],
)
def test_what_is_damaged_is_said_and_the_newest_sound_one_is_used(spoil, tmp_path, capsys):
    folder = CheckpointFolder(tmp_path, keep=9)
    for step in (1, 2, 3):
        folder.save(state(step), {}, best=step == 3)
    damaged = spoil(folder.path(3).read_bytes(), folder.path(2).read_bytes())
    folder.path(3).write_bytes(damaged)
    assert folder.newest()["step"] == 2
    said = capsys.readouterr().err
    assert f"dist_calo: checkpoint {folder.path(3)} " in said
    assert len(said.splitlines()) == 1
    with pytest.raises(CheckpointError, match=r"step-00000003.pt (is damaged|holds step 2)"):
        find_checkpoint(folder.path(3))
    (tmp_path / "best.pt").write_bytes(damaged)
    assert find_checkpoint(tmp_path)["step"] == 2
    folder.set_aside_after(2)
    folder.save(state(3), {})
    assert (folder.steps(), folder.newest()["step"]) == ([1, 2, 3], 3)


def test_what_is_whole_and_cannot_be_read_here_is_refused(tmp_path, monkeypatch, capsys):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2):
        folder.save(state(step), {}, best=step == 2)
    saved = folder.path(2).read_bytes()
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", checkpoint.FORMAT_VERSION + 1)
    newer = checkpoint.checkpoint_bytes(state(2))
    monkeypatch.undo()
    folder.path(2).write_bytes(newer)
    with pytest.raises(
        CheckpointError, match=r"step-00000002.pt has format 3, .*: use the version of dist_calo that"
    ):
        folder.newest()
    (tmp_path / "best.pt").write_bytes(newer)
    for read in (folder.best, lambda: folder.set_aside_after(1)):
        with pytest.raises(CheckpointError, match=r"best\.pt has format 3"):
            read()
    folder.path(2).write_bytes(saved)

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(checkpoint, "open_ordinary", refuse)
    with pytest.raises(
        CheckpointError, match=r"step-00000002.pt cannot be read \(Permission denied\): make it read"
    ):
        folder.newest()
    assert folder.steps() == [1, 2]
    assert not capsys.readouterr().err


def test_a_checkpoint_without_a_checksum_is_read_with_a_word(tmp_path, capsys):
    path = CheckpointFolder(tmp_path).path(4)
    torch.save({"format": 1, **state(4)}, path)
    assert CheckpointFolder(tmp_path).newest()["step"] == 4
    assert f"{path} has no checksum" in capsys.readouterr().err
    content = path.read_bytes()
    value = content.index(state(4)["model"]["weight"].numpy().tobytes())
    path.write_bytes(content[:value] + b"\1" + content[value + 1 :])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"model": {"norm.running_var": torch.tensor([1.0, math.inf])}}, "model.norm.running_var"),
        ({"average": {"generator": {"weight": torch.tensor(math.nan)}}}, "average.generator.weight"),
        (
            {"optimizers": {"critic": {"state": {0: {"exp_avg": torch.tensor(-math.inf).bfloat16()}}}}},
            "optimizers.critic.state.0.exp_avg",
        ),
        (
            {"optimizers": {"critic": {"param_groups": [{"lr": math.nan}]}}},
            "optimizers.critic.param_groups.0.lr",
        ),
        ({"objective": {"center": torch.tensor(math.nan)}}, "objective.center"),
    ],
)
def test_what_is_not_finite_is_neither_saved_nor_loaded(part, name, tmp_path, capsys):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(state(1), {})
    with pytest.raises(CheckpointError, match=rf"not finite \({name}\)"):
        folder.save(state(2) | part, {}, best=True)
    assert sorted(os.listdir(tmp_path)) == ["step-00000001.json", "step-00000001.pt"]
    torch.save({"format": 1} | state(2) | part, folder.path(2))
    assert folder.newest()["step"] == 1
    assert f"step 2 has weights that are not finite ({name})" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=rf"not finite \({name}\)"):
        load_checkpoint(folder.path(2))


def test_nothing_older_is_given_up_for_a_file_that_does_not_read_back(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(state(1), {})
    monkeypatch.setattr(shutil, "copyfileobj", lambda source, file: file.write(source.read()[:-1] + b"?"))
    with pytest.raises(CheckpointError, match="reads back otherwise"):
        folder.save(state(2), {})
    assert sorted(os.listdir(tmp_path)) == ["step-00000001.json", "step-00000001.pt"]


def test_an_older_one_that_cannot_be_removed_costs_nothing(tmp_path, monkeypatch, capsys):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(state(1), {})

    def unlink(path, missing_ok=False):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", unlink)
    folder.save(state(2), {})
    assert folder.steps() == [1, 2]
    assert "step-00000001.pt is kept: it cannot be removed (" in capsys.readouterr().err


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
    assert folder.best()[0] == folder.path(250)


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
