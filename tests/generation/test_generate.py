"""Showers from a checkpoint: readable by the readers, and a function of the seed alone."""

import math
import os
from dataclasses import replace

import h5py
import numpy as np
import pytest

from dist_calo.cli.generate import main as generate
from dist_calo.data.formats import ShowerWriter
from dist_calo.data.manifest import manifest_of, scan_rows
from dist_calo.errors import EXIT_USER, CheckpointError, ConfigError
from dist_calo.generation.incident_conditions import RangeConditions, parse_range
from dist_calo.geometry import CylindricalLayers, LayeredGrid, VoxelGrid, Waveforms
from dist_calo.randomness import Draws
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.model_sources import state_of
from tests.support.mlflow_store import made_store
from tests.support.untrained import untrained_state


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    state = untrained_state(VoxelGrid(shape=(25, 25, 25)))
    CheckpointFolder(folder).save(state, {})
    return str(folder)


def made(checkpoints, path, *options):
    assert generate(["--checkpoint", checkpoints, "--out", str(path), *options]) == 0
    with h5py.File(path) as file:
        return file["ECAL"][:], file["energy"][:, 0], dict(file.attrs)


def test_the_readers_read_what_was_generated(checkpoints, tmp_path):
    path = tmp_path / "fake.h5"
    cells, energies, attributes = made(checkpoints, path, "--n", "37", "--energy", "20:60")
    manifest = manifest_of([str(path)])
    scan_rows(manifest)
    assert manifest.rows == len(cells) == 37
    assert manifest.geometry.shape == cells.shape[1:]
    assert energies.min() >= 20
    assert energies.max() <= 60
    assert np.ptp(energies) > 20
    assert "step 7" in attributes["generator"]
    assert "abc" in attributes["generator"]
    assert attributes["particle"] == "e-"


def test_the_seed_decides_and_the_batch_size_does_not(checkpoints, tmp_path):
    one = made(checkpoints, tmp_path / "a.h5", "--n", "10", "--batch-size", "10")
    other = made(checkpoints, tmp_path / "b.h5", "--n", "10", "--batch-size", "3")
    np.testing.assert_array_equal(one[1], other[1])
    np.testing.assert_allclose(one[0], other[0], rtol=1e-3, atol=1e-9)
    different = made(checkpoints, tmp_path / "c.h5", "--n", "10", "--seed", "1")
    assert not np.array_equal(one[1], different[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n", "0"], "--n 0"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--launch", "0"], "--launch 0"),
        (["--energy", "0:10"], "above 0 GeV"),
        (["--energy", "10,0"], "above 0 GeV"),
        (["--energy", "2e7"], "at most 1e+06 GeV; 1 MeV is 0.001 GeV"),
        (
            ["--energy", "20000:50000"],
            "training saw 15 to 60 GeV, and these are in GeV: if they were meant in MeV, give",
        ),
        (["--theta", "90"], "--theta 90.0: the polar angle must be 0 to 3.1416 rad; 1 degree is 0.01745 rad"),
        (["--energy", "ten"], "--energy ten"),
        (["--energy", "10,20:30"], "a list such as 10,20,50"),
        (["--energy", "10,inf"], "all numbers are finite"),
        (["--energy", "60:20"], "lower bound comes first"),
        (["--energy", "50", "--conditions", "real.h5"], "both tell the energy"),
        (["--conditions", "/nowhere.h5"], "--conditions /nowhere.h5"),
        (["--out", "/tmp", "--force"], "is a folder"),
        (["--theta", "1.2"], "--theta 1.2: this model knows no theta, only energy"),
        (["--checkpoint", "/nowhere"], "/nowhere"),
        (
            ["--checkpoint", "models:/calo/1", "--tracking-uri", "sqlite:////nowhere/m.db"],
            "no tracking store",
        ),
        (["--schema", "root"], "--schema"),
        (["--speed", "9"], "--speed"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_wrong_options_are_refused_in_one_line_and_leave_no_file(
    checkpoints, tmp_path, capsys, options, message
):
    given = ["--checkpoint", checkpoints, "--out", str(tmp_path / "x.h5"), *options]
    assert generate(given) == EXIT_USER
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_energies_are_those_of_training_unless_asked_for(checkpoints, tmp_path, capsys):
    _, energies, _ = made(checkpoints, tmp_path / "default.h5", "--n", "50")
    assert energies.min() >= 15
    assert energies.max() <= 60
    assert "extrapolated" not in capsys.readouterr().err
    made(checkpoints, tmp_path / "beyond.h5", "--n", "2", "--energy", "20:90")
    assert "--energy: training saw 15 to 60 GeV; showers beyond are extrapolated" in capsys.readouterr().err


def test_an_existing_file_is_replaced_only_when_asked(checkpoints, tmp_path, capsys):
    path = tmp_path / "fake.h5"
    path.write_text("precious")
    assert generate(["--checkpoint", checkpoints, "--n", "2", "--out", str(path)]) == EXIT_USER
    assert "--force" in capsys.readouterr().err
    assert path.read_text() == "precious"
    assert len(made(checkpoints, path, "--n", "2", "--force")[0]) == 2


def write_conditions(path, geometry, conditions):
    """A file of showers of no interest."""
    conditions = np.asarray(conditions, dtype=np.float32)
    showers = np.zeros((len(conditions), *geometry.shape), dtype=np.float32)
    showers.reshape(len(conditions), -1)[:, 0] = 0.02 * conditions[:, 0]
    with ShowerWriter(path, geometry) as writer:
        writer.append(showers, conditions)
    return str(path)


RINGS = CylindricalLayers(r_edges=((0.0, 5.0, 10.0), (0.0, 10.0)), sectors=(4, 1))


@pytest.mark.parametrize(
    "geometry",
    [VoxelGrid(shape=(25, 25, 25)), LayeredGrid(layers=((3, 4), (2, 2))), RINGS, Waveforms(samples=64)],
    ids=lambda geometry: geometry.kind,
)
def test_a_files_conditions_are_taken_row_by_row(checkpoints, tmp_path, geometry):
    """Whatever its schema and units are; from the first row again after the last."""
    wanted = [[20.0], [35.5], [50.0]]
    path = write_conditions(tmp_path / "real.h5", geometry, wanted)
    _, energies, _ = made(checkpoints, tmp_path / "all.h5", "--conditions", path)
    np.testing.assert_allclose(energies, [20.0, 35.5, 50.0], rtol=1e-6)
    _, energies, _ = made(checkpoints, tmp_path / "more.h5", "--conditions", path, "--n", "5")
    np.testing.assert_allclose(energies, [20.0, 35.5, 50.0, 20.0, 35.5], rtol=1e-6)


def test_conditions_that_the_model_does_not_know_are_left_out(checkpoints, tmp_path, capsys):
    geometry = replace(VoxelGrid(shape=(25, 25, 25)), conditions=("energy", "theta"))
    path = write_conditions(tmp_path / "real.h5", geometry, [[20.0, 1.2], [90.0, 1.3]])
    _, energies, _ = made(checkpoints, tmp_path / "fake.h5", "--conditions", path)
    np.testing.assert_array_equal(energies, np.float32([20.0, 90.0]))
    assert "--energy: training saw 15 to 60 GeV" in capsys.readouterr().err


def test_energies_of_a_list_come_in_turn(checkpoints, tmp_path):
    _, energies, _ = made(checkpoints, tmp_path / "fake.h5", "--n", "7", "--energy", "50,20,30")
    np.testing.assert_array_equal(energies, [50, 20, 30, 50, 20, 30, 50])


def test_of_two_lists_all_combinations_come_in_turn():
    ranges = (
        ("energy", parse_range("--energy", "10,20")),
        ("theta", parse_range("--theta", "1.0,1.5,2.0")),
    )
    found = RangeConditions(ranges=ranges).draw(Draws(0, 0, range(12), "generate"))
    assert len({tuple(row) for row in found[:6].tolist()}) == 6
    np.testing.assert_array_equal(found[:6], found[6:])


@pytest.mark.parametrize(
    ("text", "low", "high", "listed"),
    [("10:100", 10, 100, ()), ("50", 50, 50, ()), ("1e1", 10, 10, ()), ("10,5,20", 5, 20, (10, 5, 20))],
)
def test_energies_are_a_number_a_range_or_a_list(text, low, high, listed):
    found = parse_range("--energy", text)
    assert (found.low, found.high, found.listed) == (low, high, listed)
    assert parse_range("--energy", found.text) == found


@pytest.mark.parametrize(
    ("geometry", "shape"),
    [
        (VoxelGrid(shape=(2, 3, 4), conditions=("energy", "theta")), [2, 3, 4]),
        (LayeredGrid(layers=((3, 4), (2, 2))), [[3, 4], [2, 2]]),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_the_calochallenges_schema_tells_how_to_put_cells_back(tmp_path, geometry, shape):
    rng = np.random.default_rng(0)
    showers = rng.random((5, *geometry.shape), dtype=np.float32)
    conditions = rng.random((5, len(geometry.conditions)), dtype=np.float32)
    with ShowerWriter(tmp_path / "a.h5", geometry, schema="calochallenge") as writer:
        writer.append(showers, conditions)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["showers"].shape == (5, math.prod(geometry.shape))
        np.testing.assert_allclose(file["incident_energies"][:], 1000 * conditions[:, :1], rtol=1e-6)
        np.testing.assert_allclose(file["showers"][:].reshape(showers.shape), 1000 * showers, rtol=1e-6)
        assert file.attrs["shape"].tolist() == shape
        assert file.attrs["cell_units"] == file.attrs["energy_units"] == "MeV"
        assert "fastest" in file.attrs["order"]
        assert ("theta" in file) == ("theta" in geometry.conditions)


def test_the_calochallenges_schema_is_native_to_rings_and_has_no_place_for_waveforms(tmp_path):
    with ShowerWriter(tmp_path / "a.h5", RINGS, schema="calochallenge") as writer:
        writer.append(np.ones((2, 9), np.float32), np.ones((2, 1), np.float32))
    with h5py.File(tmp_path / "a.h5") as file:
        assert "binning" in file.attrs
    with pytest.raises(ConfigError, match="9 channels of 1024 samples are no energies of cells"):
        ShowerWriter(tmp_path / "b.h5", Waveforms(), schema="calochallenge")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.fixture(scope="module")
def store(checkpoints, tmp_path_factory):
    """A tracking store with a run that has a model, the same registered, and a run that has none."""
    from dist_calo.tracking.store import quiet_mlflow

    quiet_mlflow()
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    uri = made_store(folder)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("calo", artifact_location=f"file://{folder}/artifacts")
    run = client.create_run(experiment).info.run_id
    client.log_artifact(run, CheckpointFolder(checkpoints).path(7), "model")
    client.create_registered_model("calo")
    client.create_model_version("calo", f"file://{folder}/artifacts/{run}/artifacts/model", run_id=run)
    return uri, run, client.create_run(experiment).info.run_id


def test_models_of_mlflow_are_found(checkpoints, store, tmp_path, monkeypatch):
    uri, run, without = store
    expected = made(checkpoints, tmp_path / "a.h5", "--n", "3")[0]
    found = made("models:/calo/1", tmp_path / "b.h5", "--n", "3", "--tracking-uri", uri)[0]
    np.testing.assert_array_equal(found, expected)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert state_of(f"runs:/{run}/model").step == 7
    for missing in (f"runs:/{without}/model", "models:/calo/2", "models:/other/1"):
        with pytest.raises(CheckpointError, match=missing):
            state_of(missing)


@pytest.mark.parametrize("chosen", [True, False])
def test_looking_for_a_model_leaves_the_stores_of_the_process_alone(store, tmp_path, monkeypatch, chosen):
    """A client that is told a tracking store only looks for models there, unless a registry has been chosen."""
    import mlflow

    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    for name in names:
        monkeypatch.delenv(name, raising=False)
        if chosen:
            monkeypatch.setenv(name, f"sqlite:///{tmp_path}/{name}.db")
    before = [os.environ.get(name) for name in names]
    if chosen:  # another registry, where this model is unknown
        with pytest.raises(CheckpointError, match="calo"):
            state_of("models:/calo/1", store[0])
    else:
        assert state_of("models:/calo/1", store[0]).step == 7
    assert [os.environ.get(name) for name in names] == before
    if chosen:
        assert [mlflow.get_tracking_uri(), mlflow.get_registry_uri()] == before
    else:
        assert mlflow.MlflowClient(tracking_uri=store[0]).get_model_version("calo", "1").run_id == store[1]
