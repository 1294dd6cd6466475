"""``dist-calo evaluate`` from its command line: files and checkpoints, one rank and several, good and bad input."""

import json
import re
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from dist_calo.cli.evaluate import main as evaluate
from dist_calo.cli.generate import main as generate
from dist_calo.config import RunConfig, TrackingConfig
from dist_calo.data.formats import ShowerWriter
from dist_calo.data.manifest import manifest_of
from dist_calo.errors import EXIT_USER, ConfigError
from dist_calo.evaluation.evaluate import _in_another_unit
from dist_calo.geometry import VoxelGrid
from dist_calo.tracking.store import quiet_mlflow
from dist_calo.training.checkpoint import load_checkpoint
from dist_calo.training.checkpoint_folder import CheckpointFolder
from tests.support.mlflow_store import made_store
from tests.support.ranks import run_ranks
from tests.support.small_runs import SAMPLE
from tests.support.untrained import untrained_state

GRID = VoxelGrid(shape=(25, 25, 25))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two halves of some Geant4 showers."""
    folder = tmp_path_factory.mktemp("showers")
    with h5py.File(sorted(SAMPLE.glob("*.h5"))[0]) as sample:
        for name, first, last in (("real", 0, 251), ("fake", 251, 500)):
            with ShowerWriter(folder / f"{name}.h5", GRID) as writer:
                writer.append(sample["ECAL"][first:last], sample["energy"][first:last])
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, files):
    """A checkpoint of an untrained model, whose data are those of ``files``."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    config = RunConfig(tracking=TrackingConfig(uri="none"))
    manifest = manifest_of([str(files / "real.h5")])
    state = untrained_state(GRID, run_id=None, epoch=1, config=config.to_dict(), manifest=manifest.to_dict())
    CheckpointFolder(folder).save(state, {})
    return str(folder)


def options(files, out, *more):
    return ["--real", str(files / "real.h5"), "--fake", str(files / "fake.h5"), "--out", str(out), *more]


@pytest.fixture(scope="module")
def evaluated(files, tmp_path_factory):
    """The evaluation of the two halves on one rank, recorded in a store."""
    folder = tmp_path_factory.mktemp("evaluated")
    assert evaluate(options(files, folder / "out", "--tracking-uri", made_store(folder))) == 0
    return folder


def test_metrics_have_values_errors_and_floors(evaluated):
    found = json.loads((evaluated / "out" / "metrics.json").read_text())
    assert found["showers"] == {"real": 251, "fake": 249}
    assert 0 < found["score"] < 0.5
    number = found["metrics"]["separation/depth"]
    assert set(number) == {"value", "error", "floor", "spread", "sigmas"}
    assert 0 < number["value"] < 1
    assert abs(number["sigmas"]) < 4
    for kind in ("fpd", "kpd", "precision", "recall", "density", "coverage"):
        assert f"{kind}/observables" in found["metrics"]
    assert "10-25 GeV" in found["bins"]


def test_report_and_metrics_are_in_mlflow(evaluated):
    quiet_mlflow()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=made_store(evaluated))
    (run,) = client.search_runs([client.get_experiment_by_name("dist_calo").experiment_id])
    names = {file.path for file in client.list_artifacts(run.info.run_id, "evaluation")}
    assert names == {"evaluation/metrics.json", "evaluation/report.html"}
    found = json.loads((evaluated / "out" / "metrics.json").read_text())
    assert run.data.metrics["evaluation/score"] == pytest.approx(found["score"])
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("ranks", [3])
def test_ranks_together_find_what_one_rank_finds(files, evaluated, tmp_path, ranks):
    command = [sys.executable, "-m", "dist_calo.cli.evaluate"]
    given = options(files, tmp_path / "out", "--tracking-uri", "none", "--no-report")
    run_ranks([*command, *given], ranks, "local", timeout=200).check()
    one, many = (
        json.loads((folder / "out" / "metrics.json").read_text()) for folder in (evaluated, tmp_path)
    )
    assert one["metrics"].keys() == many["metrics"].keys()
    for name, number in one["metrics"].items():
        for part in ("value", "error", "floor"):
            expected = number[part]
            if expected is None:
                assert many["metrics"][name][part] is None
            else:
                assert many["metrics"][name][part] == pytest.approx(expected, rel=1e-5, abs=1e-8), (
                    name,
                    part,
                )
    assert one["bins"].keys() == many["bins"].keys()


def test_a_checkpoint_is_compared_with_the_test_split_of_its_data(checkpoints, tmp_path, capsys):
    given = ["--checkpoint", checkpoints, "--out", str(tmp_path / "out")]
    assert evaluate([*given, "--no-report"]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["showers"]["real"] == found["showers"]["fake"] < 100
    assert found["facts"]["Model"]["training step"] == "7"
    assert "test split" in found["facts"]["Evaluation"]["Geant4"]
    assert any("need at least" in note for note in found["notes"])
    assert not (tmp_path / "out" / "report.html").exists()
    assert "score" in capsys.readouterr().out


@pytest.mark.slow
def test_ranks_generate_and_draw_what_one_rank_does(checkpoints, files, tmp_path):
    given = ["--checkpoint", checkpoints, "--real", str(files / "real.h5"), "--showers", "120"]
    assert evaluate([*given, "--out", str(tmp_path / "one"), "--no-report"]) == 0
    command = [sys.executable, "-m", "dist_calo.cli.evaluate", *given, "--out", str(tmp_path / "two")]
    run_ranks(command, 2, "local", timeout=250).check()
    one, two = (
        json.loads((tmp_path / name / "metrics.json").read_text())["metrics"] for name in ("one", "two")
    )
    # Batches differ, so that rounding may move a cell over the threshold.
    for name in ("separation/depth", "shift/response", "profile_error/longitudinal"):
        assert two[name]["value"] == pytest.approx(one[name]["value"], rel=0.02, abs=1e-3)
    assert (tmp_path / "two" / "report.html").stat().st_size > 500_000


def test_files_of_single_energies_have_their_bins_wherever_they_stand(tmp_path):
    with h5py.File(sorted(SAMPLE.glob("*.h5"))[0]) as sample:
        cells, energies = sample["ECAL"][:200], np.full((200, 1), 20.0, np.float32)
        for name, energy in (("a_low", 20.0), ("b_high", 80.0)):
            with ShowerWriter(tmp_path / f"{name}.h5", GRID) as writer:
                writer.append(cells * np.float32(energy / 40.0), energies * np.float32(energy / 20.0))
    path = str(tmp_path / "*.h5")
    given = ["--real", path, "--fake", path, "--tracking-uri", "none", "--no-report"]
    assert evaluate([*given, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(found["bins"]) == 2


def test_a_folder_that_cannot_be_written_to_is_told_before_any_work(files, capsys):
    assert evaluate(options(files, "/proc/nowhere", "--tracking-uri", "none")) == EXIT_USER
    assert "/proc/nowhere" in line_of(capsys)


def test_an_old_report_does_not_stand_beside_new_numbers(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.html").write_text("old")
    assert evaluate(options(files, tmp_path, "--showers", "50", "--no-report", "--force")) == 0
    assert not (tmp_path / "report.html").exists()
    # By default the store is beside: a relative path.
    assert "in sqlite:///mlflow.db" in capsys.readouterr().out


def test_sums_are_exchanged_on_the_processor_whatever_generates(files, tmp_path, monkeypatch):
    devices = []

    def connect(backend, world, *, device, **limits):
        devices.append(device)
        raise ConfigError("far enough")

    monkeypatch.setattr("dist_calo.comm.connect", connect)
    assert evaluate(options(files, tmp_path, "--device", "cuda")) == EXIT_USER
    assert devices == ["cpu"]


@pytest.mark.parametrize("command", [evaluate, generate])
def test_a_gpu_that_is_not_there_is_one_line(command, checkpoints, files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    real = ["--real", str(files / "real.h5"), "--tracking-uri", "none"] if command is evaluate else []
    given = ["--checkpoint", checkpoints, *real, "--out", str(tmp_path / "out"), "--device", "cuda"]
    assert command(given) == EXIT_USER
    said = line_of(capsys)
    assert "--device cuda" in said
    assert "sees no GPU: use --device cpu" in said


def test_weights_that_are_not_numbers_are_refused(checkpoints, files, tmp_path, capsys):
    state = load_checkpoint(CheckpointFolder(checkpoints).path(7))
    next(iter(state["average"]["generator"].values())).fill_(float("nan"))
    torch.save(state, tmp_path / "bad.pt")
    given = ["--checkpoint", str(tmp_path / "bad.pt"), "--real", str(files / "real.h5")]
    assert evaluate([*given, "--out", str(tmp_path / "out")]) == EXIT_USER
    assert "the checkpoint of step 7 has weights that are not finite" in line_of(capsys)


def test_energies_that_differ_are_told(files, tmp_path):
    with h5py.File(files / "fake.h5") as sample, ShowerWriter(tmp_path / "low.h5", GRID) as writer:
        low = sample["energy"][:, 0] < 50
        writer.append(sample["ECAL"][:][low], sample["energy"][:][low])
    given = ["--real", str(files / "real.h5"), "--fake", str(tmp_path / "low.h5"), "--tracking-uri", "none"]
    assert (
        evaluate([*given, "--out", str(tmp_path / "out"), "--energy-edges", "10,50,100", "--no-report"]) == 0
    )
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert any("different incident energies" in note for note in found["notes"])
    assert list(found["bins"]) == ["10-50 GeV", "50-100 GeV"]


def test_a_store_that_is_away_costs_nothing_but_a_line(files, tmp_path, capsys):
    given = options(
        files, tmp_path / "out", "--tracking-uri", "http://127.0.0.1:9", "--showers", "60", "--no-report"
    )
    assert evaluate(given) == 0
    assert "not logged to MLflow: http://127.0.0.1:9" in capsys.readouterr().err
    assert (tmp_path / "out" / "metrics.json").exists()


def line_of(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give either --fake FILES or --checkpoint DIR"),
        (["--fake", "x.h5"], "--real is missing"),
        (["--fake", "x.h5", "--checkpoint", "y"], "give either --fake FILES or --checkpoint DIR"),
        (["--real", "nowhere.h5", "--fake", "x.h5"], "nowhere.h5"),
        (["--checkpoint", "/nowhere"], "/nowhere"),
        (["--real", "r", "--fake", "f", "--rows", "0"], "--rows 0: must be at least 1"),
        (["--real", "r", "--fake", "f", "--energy-edges", "10;20"], "--energy-edges 10;20: give numbers in GeV"),
        (["--real", "r", "--fake", "f", "--energy-edges", "20,10"], "two increasing energies"),
        (["--real", "r", "--fake", "f", "--tracking-uri", "ftp://x"], "tracking.uri=ftp://x"),
        (["--real", "r", "--fake", "f", "--classifier", "best"], "invalid choice: 'best'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_left(given, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate(given) == EXIT_USER
    assert message in line_of(capsys)
    assert not (tmp_path / "evaluation" / "metrics.json").exists()


def test_bins_without_showers_are_refused(files, tmp_path, capsys):
    given = options(files, tmp_path / "out", "--energy-edges", "200,300", "--tracking-uri", "none")
    assert evaluate(given) == EXIT_USER
    assert "--energy-edges 200 to 300 GeV: none of the showers" in capsys.readouterr().err


def test_an_evaluation_is_not_overwritten_unasked(files, evaluated, capsys):
    assert evaluate(options(files, evaluated / "out")) == EXIT_USER
    assert "add --force to replace it" in line_of(capsys)


def test_showers_of_two_detectors_are_not_compared(files, tmp_path, capsys):
    with ShowerWriter(tmp_path / "small.h5", VoxelGrid(shape=(51, 51, 25))) as writer:
        cells = np.zeros((40, 51, 51, 25), np.float32)
        cells[:, 20:30, 20:30, 5:15] = 1e-3
        writer.append(cells, np.full((40, 1), 50.0, np.float32))
    given = ["--real", str(files / "real.h5"), "--fake", str(tmp_path / "small.h5"), "--tracking-uri", "none"]
    assert evaluate([*given, "--out", str(tmp_path / "out")]) == EXIT_USER
    assert "compare showers of one detector" in capsys.readouterr().err


@pytest.mark.parametrize("sample", ["layers", "signals"])
def test_other_readouts_have_their_observables(sample, tmp_path):
    (path,) = (SAMPLE.parent / sample).glob("*.h5")
    given = [
        "--real",
        str(path),
        "--fake",
        str(path),
        "--showers",
        "300",
        "--tracking-uri",
        "none",
        "--no-report",
    ]
    assert evaluate([*given, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    names = {"layers": "separation/layer_energy", "signals": "separation/amplitude"}
    assert found[names[sample]]["value"] == 0.0


@pytest.mark.parametrize("says", [None, "GeV"])
def test_advice_on_the_units_of_the_reference_is_true(says, files, tmp_path, capsys):
    with h5py.File(files / "real.h5") as sample, h5py.File(tmp_path / "real.h5", "w") as file:
        file["ECAL"], file["energy"] = sample["ECAL"][:30] * 1000, sample["energy"][:30]
        if says:
            file.attrs["cell_units"] = says
    given = [
        "--real",
        str(tmp_path / "real.h5"),
        "--fake",
        str(files / "fake.h5"),
        "--showers",
        "30",
        "--no-report",
    ]
    given += ["--out", str(tmp_path / "out"), "--tracking-uri", "none"]
    assert evaluate(given) == EXIT_USER
    said = line_of(capsys)
    if says:
        assert "set the attribute cell_units of the file to MeV" in said
        with h5py.File(tmp_path / "real.h5", "a") as file:
            file.attrs["cell_units"] = "MeV"
    else:
        assert "set --cell-unit MeV" in said
        # The generated showers' file tells its own unit.
        given += ["--cell-unit", "MeV"]
    assert evaluate(given) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert abs(found["metrics"]["response/mean"]["value"]) < 0.1


@pytest.mark.parametrize(
    ("cells", "energy", "words"),
    [
        (
            1020.0,
            1.0,
            "its cells are about 1,000 times the reference's, as MeV are beside GeV; .* cell_units",
        ),
        (1.0, 0.001, "its incident energies are about 0.001 times the reference's, as GeV .* energy_units"),
        (1.5, 1.0, "^$"),
        (0.0, 1.0, "^$"),
    ],
)
def test_energies_in_another_unit_are_told_by_their_size(cells, energy, words):
    real, fake = (
        SimpleNamespace(sums={"image": np.full(3, 2.0 * c), "energy": np.full(2, 50.0 * e)}, count=10)
        for c, e in ((1.0, 1.0), (cells, energy))
    )
    assert re.search(words, _in_another_unit(real, fake))
