"""Recipes for the CaloChallenge's data sets: its thresholds, its cells, and its metrics of a trained model."""

import json
from fnmatch import fnmatch
from pathlib import Path

import h5py
import numpy as np
import pytest

from dist_calo.cli.command_line import build_config, config_parser
from dist_calo.cli.evaluate import main as evaluate
from dist_calo.errors import EXIT_USER
from dist_calo.physics.observables.layered_cells import hit_threshold
from dist_calo.train import main as train
from tests.support.calochallenge_files import VOXELS, binning, parametrised_voxels, write_calochallenge
from tests.support.ranks import ROOT


def recipe(name: str) -> Path:
    return ROOT / "configs" / f"calo{name.replace('dataset', 'challenge')}.yaml"


@pytest.mark.parametrize("name", VOXELS)
def test_recipes_have_the_thresholds_and_names_of_the_challenge(name):
    parser = config_parser("test", "a test")
    config = build_config(parser, parser.parse_args([f"--config={recipe(name)}"]))
    assert config.transform.threshold == pytest.approx(hit_threshold(binning(name)))
    assert fnmatch(f"{name}_1.hdf5", Path(str(config.data.path)).name)
    assert not fnmatch(f"{name}_4.hdf5", Path(str(config.data.path)).name)


def files(folder, name, rows):
    """Write a file to train on and one to compare with; a third of the cells' energies are below the threshold."""
    cells = binning(name)
    for number in (1, 2):
        data = parametrised_voxels(cells, rows, seed=number)
        faint = 0.3 * 1000 * hit_threshold(cells)
        data["showers"] = np.where(data["showers"] == 0, faint, data["showers"])
        write_calochallenge(folder / f"{name}_{number}.hdf5", VOXELS[name], **data)


def test_a_recipe_trains_and_is_measured_as_the_challenge_does(tmp_path):
    name = "dataset_1_photons"
    files(tmp_path, name, 220)
    settings = {
        "data.path": tmp_path / f"{name}_1.hdf5",
        "checkpoint.dir": tmp_path / "checkpoints",
        "tracking.uri": "none",
        "train.global_batch_size": 64,
        "train.max_steps": 3,
        "train.validate_every_steps": 3,
    }
    assert train([f"--config={recipe(name)}", *(f"--{key}={value}" for key, value in settings.items())]) == 0
    options = ["--checkpoint", str(tmp_path / "checkpoints"), "--real", str(tmp_path / f"{name}_2.hdf5")]
    assert evaluate([*options, "--no-report", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    for metric in ("separation/layer_energy", "separation/width_r", "separation/sparsity"):
        assert any(each.startswith(metric) for each in found), metric
    for metric in ("fpd/observables", "kpd/observables"):
        assert np.isfinite(found[metric]["value"])
    # Faint cells count neither in generated showers nor in those that they are compared with.
    assert abs(found["relative_error/sparsity"]["value"]) < 0.5


def test_a_threshold_holds_for_both_samples(tmp_path):
    name = "dataset_1_photons"
    files(tmp_path, name, 60)
    with h5py.File(tmp_path / f"{name}_2.hdf5") as real, h5py.File(tmp_path / "cut.hdf5", "w") as cut:
        showers = real["showers"][:]
        cut["showers"] = np.where(showers < 1.0, 0.0, showers)
        cut["incident_energies"] = real["incident_energies"][:]
    options = ["--real", str(tmp_path / f"{name}_2.hdf5"), "--fake", str(tmp_path / "cut.hdf5")]
    options += ["--no-report", "--tracking-uri", "none"]
    differences = {}
    for threshold in ("0", "0.001"):
        out = tmp_path / threshold
        assert evaluate([*options, "--out", str(out), "--threshold", threshold]) == 0
        differences[threshold] = json.loads((out / "metrics.json").read_text())["score"]
    assert differences["0.001"] == 0 < differences["0"]


def test_a_negative_threshold_is_refused(tmp_path, capsys):
    assert evaluate(["--real", "a.h5", "--fake", "b.h5", "--threshold", "-1"]) == EXIT_USER
    assert "--threshold -1" in capsys.readouterr().err
