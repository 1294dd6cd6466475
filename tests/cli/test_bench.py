"""``dist-calo bench generate``: every row that was asked for, its score beside it, and Geant4's own time."""

import json

import h5py
import numpy as np
import pytest

from dist_calo.cli.bench import main as bench
from dist_calo.cli.command_line import run_command
from dist_calo.config import DataConfig, RunConfig
from dist_calo.data.manifest import build_manifest
from dist_calo.deployment import benchmark
from dist_calo.deployment.benchmark_table import show_table
from dist_calo.deployment.exporting import programs
from dist_calo.deployment.runtimes import threads_of_torch
from dist_calo.deployment.timing import LEAST_TIMINGS, Score, time_generation
from dist_calo.errors import DataError, MissingComponentError
from dist_calo.generation.incident_conditions import requested_conditions
from dist_calo.randomness import Draws
from dist_calo.simulation.geant4 import process
from dist_calo.simulation.geant4.reference import recorded_seconds, simulated_seconds
from dist_calo.training.checkpoint import Checkpoint, load_checkpoint
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.restore import restore_generator
from tests.support.small_runs import write_showers
from tests.support.untrained import untrained_state

SAMPLE_DETECTOR = {"kind": "voxel_grid", "shape": (25, 25, 25), "cell_size": (5.1, 5.1, 5.1)}
RUNTIMES = ("PyTorch", "ONNX Runtime fp32", "ONNX Runtime int8")


@pytest.fixture(scope="module")
def showers(tmp_path_factory):
    return write_showers(tmp_path_factory.mktemp("showers"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, showers):
    data = DataConfig(path=showers, test_fraction=0.4)
    manifest = build_manifest(data)
    state = untrained_state(
        manifest.geometry, config=RunConfig(data=data).to_dict(), manifest=manifest.to_dict()
    )
    folder = tmp_path_factory.mktemp("run")
    return str(CheckpointFolder(folder).save(state, {}))


def measured(checkpoint, folder, *options):
    """What a bench writes."""
    out = folder / "bench.json"
    quick = ["--seconds", "0.01", "--score-showers", "20", "--geant4-seconds", "0.5", "--device", "cpu"]
    assert bench(["generate", "--checkpoint", checkpoint, "--out", str(out), *quick, *options]) == 0
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def result(checkpoint, tmp_path_factory):
    """A bench of two batch sizes on one core: one export for several tests, as it takes seconds."""
    return measured(checkpoint, tmp_path_factory.mktemp("bench"), "--batch", "1,3", "--threads", "1")


def test_every_row_asked_for_has_its_time_and_its_score(result):
    rows = result["rows"]
    assert [(row["batch"], row["runtime"]) for row in rows] == [
        (n, name) for n in (1, 3) for name in RUNTIMES
    ]
    for row in rows:
        assert row["ms_low"] <= row["ms_per_shower"] <= row["ms_high"]
        assert row["timings"] >= LEAST_TIMINGS
        assert row["score"] > 0
        assert row["error"] > 0
        assert row["speed_up"] == pytest.approx(500 / row["ms_per_shower"])
    assert result["score"]["floor"] > 0
    assert result["geant4"]["seconds_per_shower"] == 0.5
    assert result["bytes"]["ONNX Runtime int8"] < result["bytes"]["ONNX Runtime fp32"]
    assert {"processor", "cores", "torch", "onnxruntime"} <= result["machine"].keys()


def test_single_precision_scores_alike_in_both_runtimes(result):
    pytorch, onnx = result["rows"][:2]
    assert onnx["score"] == pytest.approx(pytorch["score"], rel=1e-2)
    assert onnx["usable"]


def test_the_table_has_all_rows_and_says_what_stands_behind_them(result, capsys):
    worse = {**result["rows"][2], "usable": False}
    show_table(result | {"rows": [*result["rows"][:2], worse]})
    table = capsys.readouterr().out
    assert all(name in table for name in (*RUNTIMES, "ms/shower", "speed-up", "--geant4-seconds"))
    assert "ONNX Runtime int8 is not usable" in table


def test_without_onnx_a_row_says_what_to_install(checkpoint, tmp_path, monkeypatch, capsys):
    def missing(*modules):
        raise MissingComponentError(f"{', '.join(modules)} not installed: pip install 'dist_calo[export]'")

    monkeypatch.setattr(programs, "_require", missing)
    rows = measured(checkpoint, tmp_path, "--batch", "2", "--threads", "1")["rows"]
    assert "ms_per_shower" in rows[0]
    assert all("pip install" in row["note"] and "ms_per_shower" not in row for row in rows[1:])
    assert "ONNX Runtime int8: onnx" in capsys.readouterr().out


def test_without_its_data_a_checkpoint_is_timed_but_not_scored(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "export_onnx", refuse)
    state = load_checkpoint(checkpoint)
    for entry in state["manifest"]["files"]:
        entry["path"] = str(tmp_path / "gone.h5")
    folder = tmp_path / "moved"
    path = str(CheckpointFolder(folder).save(state, {}))
    result = measured(path, tmp_path, "--batch", "1", "--threads", "1")
    assert "gone.h5" in result["score"]["note"]
    assert "score" not in result["rows"][0]
    assert result["rows"][0]["ms_per_shower"] > 0


def test_too_few_showers_for_a_score_are_told(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "export_onnx", refuse)
    result = measured(checkpoint, tmp_path, "--batch=1", "--threads=1", "--score-showers=5")
    assert result["score"]["note"].startswith("too few showers: it needs 10 real ones")
    assert not {"score", "usable"} & set(result["rows"][0])
    assert "no score: too few showers" in capsys.readouterr().out


def refuse(*_, **__):
    raise MissingComponentError("no ONNX in this test")


def test_one_thread_uses_one_core(checkpoint):
    read = Checkpoint.from_dict(load_checkpoint(checkpoint))
    generator = restore_generator(read)
    with threads_of_torch(1):
        timing = time_generation(
            generator, requested_conditions(read, generator.geometry, {}, None), 20, seconds=0.1
        )
    # More processor time than wall time would need a second thread.
    assert timing.cores < 1.1


def test_a_large_batch_is_made_in_parts_that_bound_memory(checkpoint, monkeypatch):
    from dist_calo.deployment import timing

    monkeypatch.setattr(timing, "AT_A_TIME", 4 * 25**3)
    sizes = []

    read = Checkpoint.from_dict(load_checkpoint(checkpoint))

    class Recording:
        geometry = restore_generator(read).geometry

        def generate(self, conditions, draws):
            assert isinstance(draws, Draws)
            sizes.append(len(conditions))

    conditions = requested_conditions(read, Recording.geometry, {}, None)
    found = time_generation(Recording(), conditions, 10_000, seconds=1e-9)
    assert set(sizes) == {4}
    assert (found.batch, found.at_a_time, found.timings) == (10_000, 4, len(sizes) - 1)


@pytest.mark.parametrize(("score", "allowed"), [(0.05, True), (0.061, True), (0.08, False)])
def test_a_precision_is_usable_if_its_score_is_within_the_error(score, allowed):
    fp32 = Score(score=0.05, error=0.012, floor=0.04)
    assert fp32.allows(Score(score=score, error=0.001, floor=0.04)) is allowed


def test_geant4s_time_is_read_from_the_data(tmp_path):
    for number, seconds in enumerate((0.2, 0.4)):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file.attrs["seconds_per_shower"] = seconds
    h5py.File(tmp_path / "silent.h5", "w").close()
    files = [str(tmp_path / name) for name in ("0.h5", "1.h5", "silent.h5")]
    assert recorded_seconds(files) == pytest.approx(0.3)
    assert recorded_seconds(files[2:]) is None


def test_a_recorded_time_must_be_a_time(tmp_path):
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file.attrs["seconds_per_shower"] = np.nan
    with pytest.raises(DataError, match="seconds_per_shower"):
        recorded_seconds([str(tmp_path / "odd.h5")])


def test_geant4_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(process, "installed", lambda: None)
    with pytest.raises(MissingComponentError, match=r"pip install geant4-pybind==0\.1\.3"):
        simulated_seconds(SAMPLE_DETECTOR, (10.0, 100.0), 1)


@pytest.mark.requires("geant4")
def test_geant4s_own_time_is_measured():
    seconds, source = simulated_seconds(SAMPLE_DETECTOR, (1.0, 2.0), 3)
    assert 0 < seconds < 10
    assert "3 electrons of 1 to 2 GeV" in source


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch 0"),
        (["--batch", "many"], "--batch many"),
        (["--threads", "1,9999"], "--threads 1,9999"),
        (["--seconds", "0"], "--seconds 0"),
        (["--geant4-seconds", "-1"], "--geant4-seconds -1"),
        (["--checkpoint", "/nowhere"], "/nowhere"),
        (["--real", "/nowhere.h5"], "/nowhere.h5"),
        (["--out", "/nowhere/bench.json"], "--out /nowhere/bench.json"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_wrong_options_are_one_line(checkpoint, capsys, options, message):
    given = ["generate", "--checkpoint", checkpoint, *options]
    assert run_command("dist-calo bench", bench, given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
