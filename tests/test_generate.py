"""Showers from a checkpoint: readable by the readers, and a function of the seed alone."""

import h5py
import numpy as np
import pytest
import torch

from dist_calo.config import ModelConfig, RunConfig
from dist_calo.data.shards import manifest_of, scan_rows
from dist_calo.data.transforms import Transform
from dist_calo.errors import EXIT_USER
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
    ("options", "message"),
    [
        (["--n", "0"], "--n 0"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--launch", "0"], "--launch 0"),
        (["--energy", "0:10"], "above 0 GeV"),
        (["--energy", "10,0"], "above 0 GeV"),
        (["--energy", "ten"], "--energy ten"),
        (["--energy", "10,20:30"], "a list such as 10,20,50"),
        (["--energy", "10,inf"], "all numbers are finite"),
        (["--energy", "60:20"], "lower bound comes first"),
        (["--energy", "50", "--conditions", "real.h5"], "both tell the energy"),
        (["--conditions", "/nowhere.h5"], "/nowhere.h5"),
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
