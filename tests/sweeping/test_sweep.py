"""Sweeps from the command line: trials are ordinary runs, and no rank's death or bad setting ends the search."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from dist_calo.cli.command_line import run_command
from dist_calo.cli.sweep import main
from dist_calo.sweeping.study import Study
from dist_calo.sweeping.table import summary
from dist_calo.sweeping.trial_results import Results
from dist_calo.train import main as train
from dist_calo.training.checkpoint_folder import CheckpointFolder
from tests.support.ranks import ROOT
from tests.support.small_runs import tensors, write_part
from tests.support.sweeps import RATE, write_tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    source = ROOT / "data" / "signals" / "signals_electrons.h5"
    return write_part(source, tmp_path_factory.mktemp("data"), rows=(60,))


@pytest.fixture
def as_rank(monkeypatch) -> None:
    """Let this process be the only rank, so that commands train in it."""
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("DIST_CALO_LAUNCHER", "local")
    # A rank ends its process, which is that of the tests here.
    monkeypatch.setattr("dist_calo.comm.leave_in_order", lambda code: None)


def test_trials_are_ordinary_runs_and_a_diverging_one_ends_nothing(tmp_path, data, as_rank, capsys):
    rates = [1e-3, 1e30, 1e38]
    settings = {"tracking.uri": "none", "comm.backend": "single", "train.max_bad_steps": 1}
    entries = {"sampler": "grid", "trials": None, "parameters": {RATE: rates}, "steps": 4}
    file = write_tiny(tmp_path / "tiny.yaml", data, settings=settings, **entries)
    folder = tmp_path / "study"
    assert main(["run", str(file), "--study", str(folder)]) == 0
    study = Study.read(folder)
    found = {trial.params[RATE]: trial for trial in study.trials}
    assert {rate: trial.state.name for rate, trial in found.items()} == {
        1e-3: "COMPLETE",
        1e30: "FAIL",
        1e38: "FAIL",
    }
    assert "were not finite" in found[1e30].user_attrs["reason"]
    assert "RuntimeError: value cannot be converted" in found[1e38].user_attrs["reason"]
    assert "3 of 3 finished" in capsys.readouterr().out
    assert main(["run", str(file), "--study", str(folder)]) == 0
    assert f"no trial is left to train\n{summary(study)}\n" in capsys.readouterr().out

    same = study.sweep.arguments(found[1e-3].params)
    assert train([*same, f"--checkpoint.dir={tmp_path / 'alone'}"]) == 0
    trial, alone = (
        CheckpointFolder(where).newest()
        for where in (study.trial_folder(found[1e-3].number) / "checkpoints", tmp_path / "alone")
    )
    assert found[1e-3].value == alone["best_score"]
    one, other = tensors(trial["model"]), tensors(alone["model"])
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"objective": "validation/scor"},
            "validations have no such number; the nearest is validation/score",
        ),
        ({"parameters": {"model.options.latnt": [4]}}, "the model signals_simplified has no such option"),
        ({"parameters": {"objective.name": ["wgangp"]}}, "objective.name=wgangp: there is no such objective"),
    ],
    ids=["objective", "option", "name"],
)
def test_what_no_trial_could_do_ends_the_sweep_at_once(tmp_path, data, as_rank, capsys, entries, message):
    settings = {"tracking.uri": "none", "comm.backend": "single"}
    file = write_tiny(tmp_path / "tiny.yaml", data, settings=settings, **entries)
    assert run_command("dist-calo sweep", main, ["run", str(file), "--study", str(tmp_path / "study")]) == 2
    assert message in capsys.readouterr().err


def test_a_trial_taken_over_is_not_written_to_any_more(tmp_path, data, as_rank, monkeypatch, capsys):
    settings = {"tracking.uri": "none", "comm.backend": "single"}
    file = write_tiny(tmp_path / "tiny.yaml", data, settings=settings, trials=1, abandoned_after_s=1)
    report, seen = Results.report, []

    def report_and_lose(study, task, step, value, *, last):
        said = report(study, task, step, value, last=last)
        if not seen:
            replace(task.owner, machine="another", host="another").write(task.folder)
        else:
            assert seen != [2] or not CheckpointFolder(task.folder / "checkpoints").steps()
        seen.append(step)
        return said

    monkeypatch.setattr(Results, "report", report_and_lose)
    assert main(["run", str(file), "--study", str(tmp_path / "study")]) == 0
    said = capsys.readouterr().out
    assert said.count("taken over by another worker\n") == said.count(" goes on: ") == 1
    assert seen == [2, 2, 4]
    assert [trial.state.name for trial in Study.read(tmp_path / "study").trials] == ["COMPLETE"]


def test_a_killed_rank_costs_no_trial(tmp_path, data):
    file = write_tiny(tmp_path / "tiny.yaml", data, settings={"tracking.uri": "none"})
    folder = tmp_path / "study"
    command = [
        sys.executable,
        "-m",
        "dist_calo",
        "sweep",
        "run",
        str(file),
        "--study",
        str(folder),
        "--launch",
        "2",
    ]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    lines = []
    assert run.stdout is not None
    try:
        for line in run.stdout:
            lines.append(line)
            if "step 2: validation" in line and not any("anew" in earlier for earlier in lines):
                psutil.Process(run.pid).children()[1].send_signal(signal.SIGKILL)
        code = run.wait(60)
    finally:
        run.kill()
        run.stdout.close()
    said = "".join(lines)
    assert code == 0, said
    assert said.count("the ranks start anew") == said.count(" goes on: ") == 1
    study = Study.read(folder)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    assert all(sorted(trial.intermediate_values) == [2, 4] for trial in study.trials)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["go"], "there is no such verb; the verbs are run, show, plot"),
        (["run", "none.yaml"], "No such file"),
        (
            ["run", "tiny.yaml", "--", "train.max_steps=3"],
            "settings of the trainer after -- read --NAME=VALUE",
        ),
        (["run", "tiny.yaml", "--", "--train.max_stps=3"], "the nearest is train.max_steps"),
        (["run", "tiny.yaml", "--trial", "3"], "unrecognized arguments"),
        (["show", "none"], "holds no study"),
        (["plot", "none", "--out", "a.gif"], "must end in .png, .svg, .pdf"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_told_in_a_line(tmp_path, monkeypatch, capsys, line, message):
    write_tiny(tmp_path / "tiny.yaml", "none.h5")
    monkeypatch.chdir(tmp_path)
    assert run_command("dist-calo sweep", main, line) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert message in said


def test_help_names_the_verbs(capsys):
    assert main(["--help"]) == 0
    assert {"run", "show", "plot"} <= set(capsys.readouterr().out.split())


def test_sweep_files_are_found_from_the_checkout():
    for path in (ROOT / "configs" / "sweeps").glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        names = values["parameters"].get("config", [values.get("config")])
        assert all((ROOT / Path(name)).is_file() for name in names)
