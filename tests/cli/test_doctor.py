"""The doctor finds what would stop the main job, and says what to do about it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_calo.cli.doctor import main
from dist_calo.comm.single import SingleCommunicator
from dist_calo.config import CommConfig, DataConfig, RunConfig, TrackingConfig, TrainConfig
from dist_calo.data.manifest import build_manifest
from dist_calo.diagnostics import machine
from dist_calo.diagnostics.nodes import Check
from dist_calo.launching.environment import World
from dist_calo.training.checkpoint_folder import CheckpointFolder
from tests.support.ranks import run_ranks
from tests.support.small_runs import write_showers


@pytest.fixture(autouse=True)
def keep_threads(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_showers(tmp_path_factory.mktemp("showers"))


@pytest.fixture
def own_folders(tmp_path: Path) -> list[str]:
    return [f"--tracking.uri=sqlite:///{tmp_path}/mlflow.db", f"--checkpoint.dir={tmp_path}/checkpoints"]


@pytest.fixture
def settings(own_folders: list[str], showers: str) -> list[str]:
    return [*own_folders, f"--data.path={showers}"]


@pytest.fixture
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_library", lambda *_: iter(()))


def lines(text: str) -> dict[str, str]:
    """Status of each line by its name."""
    return {line[5:16].strip(): line[:5].strip() for line in text.splitlines()[:-1]}


def test_a_machine_that_can_train(own_folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(own_folders) == 0
    shown = capsys.readouterr().out
    found = lines(shown)
    for name in (
        "python",
        "torch",
        "h5py",
        "mlflow",
        "data",
        "model",
        "batches",
        "tracking",
        "checkpoint",
        "launcher",
        "backend",
        "threads",
    ):
        assert found[name] == "ok"
    assert "1500 showers of 25 x 25 x 25 cells" in shown
    assert shown.endswith("The trainer would run here.\n")


@pytest.mark.usefixtures("no_libraries")
@pytest.mark.parametrize(
    ("setting", "name", "advice"),
    [
        ("--data.path=/no/such.h5", "data", "give the path of a shower file"),
        ("--tracking.uri=/some/folder", "tracking", "use sqlite:///FILE"),
        ("--checkpoint.dir=/dev/null/x", "checkpoint", "name another folder"),
        ("--checkpoint.resume=none.pt", "resume", "there is no such file"),
        ("--model.name=lcd_4dgan", "model", "there is no such model"),
        ("--objective.name=squared", "model", "there is no such objective"),
        ("--train.global_batch_size=100000 --data.remainder=drop", "batches", "lower the batch size"),
    ],
)
def test_what_stops_the_job_is_named(
    settings: list[str], capsys: pytest.CaptureFixture[str], setting: str, name: str, advice: str
) -> None:
    assert main([*settings, *setting.split()]) == 1
    shown = capsys.readouterr().out
    assert lines(shown)[name] == "FAIL"
    assert advice in next(line for line in shown.splitlines() if line.startswith(f"FAIL {name}"))
    assert shown.endswith("The trainer would not run here.\n")


@pytest.mark.usefixtures("no_libraries")
def test_contradicting_launcher_variables_stop_the_job(
    settings: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(settings) == 1
    assert "WORLD_SIZE=4" in capsys.readouterr().out


@pytest.mark.usefixtures("no_libraries")
def test_a_folder_that_holds_checkpoints(
    settings: list[str], showers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig(data=DataConfig(path=showers))
    manifest = build_manifest(config.data)
    state = {"step": 40, "config": config.to_dict(), "manifest": manifest.to_dict()}
    path = CheckpointFolder(tmp_path / "checkpoints").save(state, {})
    assert main(settings) == 0
    shown = capsys.readouterr().out
    assert lines(shown)["checkpoint"] == "--"
    assert "holds checkpoints up to step 40: continue with --checkpoint.resume=auto" in shown
    assert main([*settings, "--train.seed=9"]) == 1
    assert "of another run: name another folder (train.seed=9" in capsys.readouterr().out
    for resume in ("auto", path):
        assert main([*settings, f"--checkpoint.resume={resume}"]) == 0
        assert "the job would go on after step 40" in capsys.readouterr().out
    assert main([*settings, "--checkpoint.resume=auto", "--train.seed=9"]) == 1
    assert lines(capsys.readouterr().out)["resume"] == "FAIL"
    moved = path.rename(tmp_path / path.name)
    CheckpointFolder(tmp_path / "checkpoints").save(state, {})
    assert main([*settings, f"--checkpoint.resume={moved}"]) == 1
    assert "is not one of them: name another folder" in capsys.readouterr().out


def test_more_ranks_than_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(
        machine._tried(
            "ranks", lambda: machine._Ranks().check(RunConfig(train=TrainConfig(global_batch_size=1)))
        )
    )
    assert found[-1].status == "ok"
    monkeypatch.setattr(
        "dist_calo.launching.environment.find_world", lambda _: World(size=4, launcher="mpirun")
    )
    monkeypatch.setattr("dist_calo.comm.choose_backend", lambda *_: "single")
    monkeypatch.setattr("dist_calo.comm.connect", lambda *_: SingleCommunicator(World()))
    config = RunConfig(train=TrainConfig(global_batch_size=3))
    found = list(machine._tried("ranks", lambda: machine._Ranks().check(config)))
    assert found[-1].status == "FAIL"
    assert "too few for 4 ranks" in found[-1].text


def test_a_missing_backend_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_calo.comm.is_installed", lambda backend: backend != "horovod")
    config = RunConfig(comm=CommConfig(backend="horovod"))
    found = list(machine._tried("ranks", lambda: machine._Ranks().check(config)))
    assert found[-1].status == "FAIL"
    assert "dist-calo horovod build" in found[-1].text


def test_a_gpu_that_is_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [check.status for check in machine._gpus(RunConfig())] == ["--"]
    assert [check.status for check in machine._gpus(RunConfig(train=TrainConfig(device="cuda")))] == ["FAIL"]


@pytest.mark.parametrize(("backend", "status"), [("auto", "--"), ("mpi", "FAIL")])
def test_a_library_that_kills_its_process_does_not_kill_the_doctor(
    monkeypatch: pytest.MonkeyPatch, backend: Any, status: str
) -> None:
    def crashed(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, -6, stdout="", stderr="MPI_Init failed\nlocal abort")

    monkeypatch.setattr(subprocess, "run", crashed)
    config = RunConfig(comm=CommConfig(backend=backend))
    (check,) = machine._library(config, "numpy", "mpi", "Open MPI")
    assert check.status == status
    assert "local abort" in check.text


def test_a_server_that_is_away_is_told_but_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_calo.tracking.store.why_unreachable", lambda uri: "connection refused")
    (check,) = machine._tracking(RunConfig(tracking=TrackingConfig(uri="http://localhost:5000")))
    assert check.status == "--"
    assert "connection refused" in check.text
    assert "runs sync" in check.text
    monkeypatch.setattr("dist_calo.tracking.store.why_unreachable", lambda uri: None)
    (check,) = machine._tracking(RunConfig(tracking=TrackingConfig(uri="http://localhost:5000")))
    assert check.status == "ok"
    assert machine._tracking(RunConfig(tracking=TrackingConfig(uri="none"))).__next__().status == "--"


def test_a_probe_that_breaks_is_a_finding() -> None:
    def broken() -> Any:
        yield Check("ok", "first", "fine")
        raise ZeroDivisionError("oops")

    first, second = machine._tried("name", broken)
    assert (first.status, second.status, second.name) == ("ok", "FAIL", "name")
    assert "ZeroDivisionError: oops" in second.text


def test_damaged_data(tmp_path: Path) -> None:
    (tmp_path / "e.h5").write_bytes(b"not HDF5")
    found = list(
        machine._tried("data", lambda: machine._data(RunConfig(data=DataConfig(path=str(tmp_path / "e.h5")))))
    )
    assert [check.status for check in found] == ["FAIL"]
    assert "e.h5" in found[0].text


def test_under_a_launcher_one_rank_reports_for_all(settings: list[str]) -> None:
    run = run_ranks([sys.executable, "-m", "dist_calo", "doctor", *settings], 2, "torchrun").check()
    assert "torchrun: rank 0 of 2" in run.ranks[0]
    assert "torch, 2 of 2 ranks answer" in run.ranks[0]
    assert run.ranks.get(1, "") == ""
