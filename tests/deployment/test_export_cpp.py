"""The C++ example builds against ONNX Runtime and makes showers from an exported file alone."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from dist_calo.deployment.exporting import export_onnx
from dist_calo.geometry import VoxelGrid
from dist_calo.randomness import Draws
from tests.deployment.test_export import RANGES, calibrated
from tests.support.components import onnx_runtime_headers
from tests.support.ranks import ROOT

LIBRARY = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"), None)
ENERGY, SHOWERS = 40.0, 200


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpp") / "onnx"
    shutil.copytree(ROOT / "examples" / "onnx", folder)
    command = [
        "make",
        "-B",
        f"INCLUDE={onnx_runtime_headers()}",
        f"LIBRARY={LIBRARY}",
        "CXXFLAGS=-Wall -Wextra -Werror",
    ]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert built.returncode == 0, built.stderr
    return folder / "generate"


def printed(program, *arguments):
    ran = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    values = {line[0]: float(line[1]) for line in lines if line[0] in ("visible", "hits")}
    return values, np.array([float(line[2]) for line in lines if line[0] == "layer"]), ran.stderr


@pytest.mark.requires("onnxruntime-c++")
@pytest.mark.parametrize("name", ["lcd_fast", "layers_vae_plain"])
def test_the_program_makes_the_showers_of_the_model(program, tmp_path, name):
    generator = calibrated(name)
    path = tmp_path / "model.onnx"
    export_onnx(generator, path, ranges=RANGES, check=0)
    values, profile, _ = printed(program, path, ENERGY, SHOWERS)
    conditions = torch.full((SHOWERS, 1), ENERGY)
    cells = generator.generate(conditions, Draws(0, 0, range(SHOWERS), "generate")).double()
    if isinstance(generator.geometry, VoxelGrid):
        layers = cells.sum((1, 2))
    else:
        layers = torch.stack([cells[:, cut].sum(1) for cut in generator.geometry.layer_slices], dim=1)

    def compatible(found, sample):
        """Whether two means of samples of this size are within 5 standard deviations."""
        error = sample.std(0) * (2.0 / SHOWERS) ** 0.5
        return np.all(np.abs(found - sample.mean(0).numpy()) < 5 * error.numpy() + 1e-9)

    assert compatible(values["visible"], cells.flatten(1).sum(1))
    assert compatible(values["hits"], (cells > 0).flatten(1).sum(1).double())
    assert compatible(profile, layers)
    assert profile.sum() == pytest.approx(values["visible"], rel=1e-5)
    if name == "lcd_fast":
        again = printed(program, path, ENERGY, SHOWERS)[0]
        assert again == values
        assert printed(program, path, ENERGY, SHOWERS, 2)[0] != values
        assert "outside" in printed(program, path, 500, 1)[2]


@pytest.mark.requires("onnxruntime-c++")
def test_a_file_that_is_none_is_one_line(program, tmp_path):
    (tmp_path / "model.onnx").write_text("nothing")
    ran = subprocess.run([program, tmp_path / "model.onnx", "40"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr.startswith("generate: ")
    assert len(ran.stderr.splitlines()) == 1
