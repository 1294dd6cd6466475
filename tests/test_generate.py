"""Showers from a checkpoint: readable by the readers, and a function of the seed alone."""

import h5py
import numpy as np
import pytest
import torch

from dist_calo.command_line import parse_range
from dist_calo.config import ModelConfig, RunConfig
from dist_calo.data.shards import manifest_of, scan_rows
from dist_calo.data.transforms import Transform
from dist_calo.errors import CheckpointError, ConfigError
from dist_calo.generate import main as generate
from dist_calo.geometry import VoxelGrid
from dist_calo.models import build_model
from dist_calo.training.checkpoint import CheckpointFolder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    geometry = VoxelGrid(shape=(25, 25, 25))
    torch.manual_seed(0)
    model = build_model(ModelConfig(), geometry)
    state = {
        "step": 7,
        "run_id": "abc",
        "config": RunConfig().to_dict(),
        "geometry": geometry.to_dict(),
        "manifest": {"particle": "e-"},
        "transform": Transform(scale=1000.0, power=0.5).to_dict(),
        "model": model.state_dict(),
        "average": {"generator": model.generator.state_dict()},
        "condition_ranges": {"energy": [15.0, 60.0]},
    }
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
    ("options", "error", "message"),
    [
        (["--n", "0"], ConfigError, "--n 0"),
        (["--energy", "0:10"], ConfigError, "above 0 GeV"),
        (["--energy", "ten"], ConfigError, "--energy ten"),
        (["--energy", "60:20"], ConfigError, "lower bound comes first"),
        (["--checkpoint", "/nowhere"], CheckpointError, "/nowhere"),
        (["--speed", "9"], ConfigError, "--speed"),
        (["--device", "tpu"], ConfigError, "--device"),
    ],
)
def test_wrong_options_are_refused_and_leave_no_file(checkpoints, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        generate(["--checkpoint", checkpoints, "--out", str(tmp_path / "x.h5"), *options])
    assert not list(tmp_path.iterdir())


def test_energies_are_those_of_training_unless_asked_for(checkpoints, tmp_path, capsys):
    _, energies, _ = made(checkpoints, tmp_path / "default.h5", "--n", "50")
    assert energies.min() >= 15
    assert energies.max() <= 60
    assert "extrapolated" not in capsys.readouterr().err
    made(checkpoints, tmp_path / "beyond.h5", "--n", "2", "--energy", "20:90")
    assert "--energy: training saw 15 to 60 GeV; showers beyond are extrapolated" in capsys.readouterr().err


def test_an_angle_is_refused_by_a_model_without(checkpoints, tmp_path):
    with pytest.raises(ConfigError, match=r"--theta 1\.2: this model knows no theta, only energy"):
        generate(["--checkpoint", checkpoints, "--theta", "1.2", "--out", str(tmp_path / "fake.h5")])


def test_ranges():
    assert parse_range("--energy", "10:100") == (10.0, 100.0)
    assert parse_range("--energy", "50") == (50.0, 50.0)


def test_an_existing_file_is_replaced_only_when_asked(checkpoints, tmp_path):
    path = tmp_path / "fake.h5"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="--force"):
        generate(["--checkpoint", checkpoints, "--n", "2", "--out", str(path)])
    assert path.read_text() == "precious"
    assert len(made(checkpoints, path, "--n", "2", "--force")[0]) == 2
