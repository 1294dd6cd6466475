"""A disk that is full or fails, under every file that a command writes: one line, exit code 2, nothing half-written."""

import errno
import os
import sys

import pytest

from dist_calo.__main__ import main as dist_calo
from dist_calo.errors import EXIT_USER
from dist_calo.geometry import VoxelGrid
from dist_calo.train import main as train
from dist_calo.training.checkpoint_folder import CheckpointFolder
from tests.support.ranks import run_ranks
from tests.support.small_runs import small_disk, train_command, write_showers
from tests.support.untrained import untrained_state

COMMANDS = {
    "simulate": "simulate --detector lcd25 --n 40 --out {out}/fake.h5",
    "convert": "data convert {data} --out {out}/converted/",
    "split": "data split {data} --out {out}/parts",
    "manifest": "data validate {data} --manifest {out}/manifest.json",
    "generate": "generate --checkpoint {checkpoint} --n 20 --out {out}/fake.h5",
    "export": "export --format torch --checkpoint {checkpoint} --check 0 --out {out}/model.pt",
    "evaluate": "evaluate --real {data} --fake {data} --no-report --tracking-uri none --out {out}/evaluation",
    "plan": "scale plan {out}/scaling --config configs/lcd_fast.yaml --ranks 1 --data.path={data} --tracking.uri=none",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A glob of shower files and a checkpoint."""
    folder = tmp_path_factory.mktemp("inputs")
    state = untrained_state(VoxelGrid(shape=(25, 25, 25)))
    checkpoint = CheckpointFolder(folder / "checkpoints").save(state, {})
    return {"data": write_showers(folder / "data", (20, 10)), "checkpoint": checkpoint}


def files_below(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def refuse(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_which_file_and_why_and_works_once_there_is_room(
    command, inputs, tmp_path, capsys, monkeypatch
):
    given = COMMANDS[command].format(out=tmp_path, **inputs).split()
    refusals = [(small_disk(), errno.EFBIG)]
    refusals += [(monkeypatch.context(), number) for number in (errno.EIO, errno.EROFS)]
    for refusal, number in refusals:
        with refusal as patch:
            if patch is not None:
                patch.setattr(os, "fsync" if number != errno.EROFS else "replace", refuse(number))
            assert dist_calo(given) == EXIT_USER
        said = [
            line for line in capsys.readouterr().err.splitlines() if "cannot be" in line or "no room" in line
        ]
        assert len(said) == 1, said
        assert str(tmp_path) in said[0]
        assert os.strerror(number) in said[0] or "no room is left" in said[0]
        # What generate has begun is kept, and said so.
        assert set(files_below(tmp_path)) <= {"lock", "request.json"}
    assert dist_calo(given) == 0
    assert not [name for name in files_below(tmp_path) if name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("lock", errno.ENOSPC),
        ("begun.json", errno.EDQUOT),
        ("run.json", errno.EIO),
        ("rank-00000.tsv", errno.ESTALE),
        ("step-00000002.pt", errno.ENOSPC),
        ("step-00000002.json", errno.EROFS),
    ],
)
def test_training_names_the_file_and_its_checkpoints_stay(
    name, number, inputs, tmp_path, capsys, monkeypatch
):
    settings = [
        "--train.max_steps=2",
        "--checkpoint.every_steps=1",
        "--tracking.uri=none",
        "--comm.threads=1",
    ]
    given = train_command(inputs["data"], tmp_path, *settings, "--data.validation_fraction=0")[3:]
    sync, sign = os.fsync, os.pwrite

    def of(handle, call, *more):
        if f"{name}" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        return call(handle, *more)

    monkeypatch.setattr(os, "fsync", lambda handle: of(handle, sync))
    monkeypatch.setattr(os, "pwrite", lambda handle, *more: of(handle, sign, *more))
    assert train(given) == EXIT_USER
    # MLflow's threads of an earlier test in this process may still tell of their store.
    said = [line for line in capsys.readouterr().err.splitlines() if " INFO mlflow" not in line]
    named = name if "step" not in name else "step-00000002.pt"
    assert [line for line in said if f"{named} cannot be written ({os.strerror(number)})" in line] == said
    files = CheckpointFolder(tmp_path / "checkpoints")
    assert files.steps() == ([1] if "step" in name else [])
    monkeypatch.undo()
    assert train([*given, "--checkpoint.resume=auto"]) == 0
    assert files.newest()["step"] == 2
    assert not [name for name in files_below(tmp_path) if name.endswith(".tmp")]


FULL = """
import os, resource, sys
if os.environ["RANK"] == "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from dist_calo.train import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_rank_whose_disk_is_full_speaks_for_all(inputs, tmp_path):
    settings = ["--train.max_steps=40", "--checkpoint.every_steps=1", "--tracking.uri=none"]
    given = train_command(inputs["data"], tmp_path, *settings, "--data.validation_fraction=0")[3:]
    run = run_ranks([sys.executable, "-c", FULL, *given], 2)
    assert run.returncode == EXIT_USER
    assert run.killed == 0
    assert "[rank 0 of 2 on" in run.output
    assert "step-00000001.pt cannot be written (File too large)" in run.output
    assert "Traceback" not in run.output
    assert not [name for name in files_below(tmp_path) if name.endswith((".tmp", ".pt"))]
