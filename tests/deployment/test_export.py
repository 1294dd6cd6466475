"""Exported programs make the showers of PyTorch, tell what they are, and are not left behind where they do not."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from dist_calo.cli.export import main as export
from dist_calo.config import ModelConfig, RunConfig
from dist_calo.deployment.exporting import compare, export_onnx, export_torch, physical_module
from dist_calo.deployment.exporting.operators import (
    exponential_less_one,
    inverse_error_function,
    log_of_one_more,
    logistic,
    normal_probability,
    normal_quantile,
    places,
)
from dist_calo.errors import CheckpointError, ConfigError
from dist_calo.models import MODELS, build_model
from dist_calo.randomness import Draws
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.restore import TrainedGenerator
from dist_calo.transforms import Transform
from tests.models.test_model_contract import transform_of
from tests.support.geometries import GRID, geometry_of, rough_showers

RANGES = {"energy": (10.0, 90.0), "theta": (1.2, 1.8)}
ODD = {"lcd_fast": 1e-6}
"""A threshold below which the cells of a model are cut."""


def calibrated(name, **options):
    """A generator with random weights that has seen showers."""
    geometry, transform = geometry_of(name), transform_of(name)
    transform = Transform(**{**transform.to_dict(), "threshold": ODD.get(name, transform.threshold)})
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name, options=options), geometry)
    showers, conditions = rough_showers(geometry, 64)
    model.calibrate(
        {
            "energy": conditions[:, 0],
            "energy_sum": showers.reshape(64, -1).sum(axis=1, dtype=np.float64),
            "showers": showers,
            "network_units": transform.forward(showers),
        }
    )
    return TrainedGenerator(model=model.eval(), transform=transform, geometry=geometry, step=7, run_id="abc")


@pytest.fixture(scope="module", params=MODELS)
def generator(request):
    return calibrated(request.param)


def test_the_module_makes_what_the_generator_makes(generator):
    physical = physical_module(generator)
    conditions = torch.tensor([[20.0, 1.4], [50.0, 1.6]])[:, : len(generator.geometry.conditions)]
    draws = Draws(3, 5, [4, 9], "generate")
    inputs = physical.inputs_from_draws(conditions, draws)
    assert [len(values) for values in inputs] == [2] * len(physical.input_names)
    assert torch.equal(physical(*inputs), generator.generate(conditions, draws))


def test_torchscript_takes_any_batch(generator, tmp_path):
    report = export_torch(generator, tmp_path / "model.pt", ranges=RANGES, check=0)
    files = {"description.json": ""}
    with pytest.warns(DeprecationWarning, match=r"jit\.load"):
        script = torch.jit.load(report.path, _extra_files=files)
    physical = physical_module(generator)
    assert b"geometry.shape" in files["description.json"]
    for batch in (1, 2):
        inputs = physical.example_inputs(batch)
        torch.testing.assert_close(script(*inputs), physical(*inputs), rtol=1e-5, atol=1e-6)


QUICK = ("layers_vae_plain",)
CHECKED = {"lcd_3dgan": 10, "lcd_3dgan_angle": 5}
"""Showers that are compared; two models take a second of a core for each."""
OPERATORS = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow, id=name) for name in MODELS]


@pytest.mark.parametrize("name", OPERATORS)
def test_onnx_makes_the_showers_of_pytorch(name, tmp_path):
    report = export_onnx(
        calibrated(name), tmp_path / "model.onnx", ranges=RANGES, check=CHECKED.get(name, 50)
    )
    assert report.agreement.visible < 1e-4
    assert report.agreement.cell < 1e-4
    assert report.size == (tmp_path / "model.onnx").stat().st_size


def test_onnx_makes_the_showers_of_a_finer_fit(tmp_path):
    generator = calibrated("lcd_fast", start="factors", latent=40)
    report = export_onnx(generator, tmp_path / "model.onnx", ranges=RANGES, check=50)
    assert report.agreement.visible < 1e-4
    assert report.agreement.cell < 1e-4


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    generator = calibrated("lcd_fast")
    state = {
        "step": 7,
        "run_id": "abc",
        "config": RunConfig().to_dict(),
        "geometry": GRID.to_dict(),
        "manifest": {"particle": "e-"},
        "transform": generator.transform.to_dict(),
        "model": generator.model.state_dict(),
        "average": {"generator": generator.model.generator.state_dict()},
        "condition_ranges": {"energy": [15.0, 60.0]},
    }
    CheckpointFolder(folder).save(state, {})
    return str(folder)


@pytest.fixture(scope="module")
def onnx_file(checkpoints, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert export(["--checkpoint", checkpoints, "--out", str(path), "--check", "20"]) == 0
    return path


def test_the_file_says_what_it_is(onnx_file):
    model = onnx.load(onnx_file)
    said = {part.key: part.value for part in model.metadata_props}
    assert said["model"] == "lcd_fast"
    assert said["particle"] == "e-"
    assert said["dist_calo.step"] == "7"
    assert said["dist_calo.mlflow_run_id"] == "abc"
    assert said["geometry.shape"] == "[25, 25, 25]"
    assert said["geometry.cell_size.mm"] == "[5.1, 5.1, 5.1]"
    assert said["training.energy.GeV"] == "15 60"
    assert said["output.unit"] == "GeV"
    assert float(said["threshold"]) == ODD["lcd_fast"]
    shapes = {
        part.name: [size.dim_param or size.dim_value for size in part.type.tensor_type.shape.dim]
        for part in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "energy": ["batch", 1],
        "normal": ["batch", 32],
        "uniform": ["batch", 15628],
        "cells": ["batch", 25, 25, 25],
    }


def test_the_file_keeps_no_trace_of_the_machine(onnx_file):
    assert b"/dist_calo/" not in onnx_file.read_bytes()


ALONE = """
import sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
said = session.get_modelmeta().custom_metadata_map
source = np.random.default_rng(0)
numbers = {
    "energy": np.full((5, 1), 40.0),
    "normal": source.normal(size=(5, int(said["inputs.normal"]))),
    "uniform": source.random((5, int(said["inputs.uniform"]))),
}
(cells,) = session.run(None, {name: part.astype(np.float32) for name, part in numbers.items()})
assert not {"torch", "dist_calo"} & set(sys.modules)
print(cells.sum() / 5)
"""


def test_the_file_alone_is_enough(onnx_file):
    command = [sys.executable, "-I", "-c", ALONE, str(onnx_file)]
    made = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
    # The rough showers deposit 2 % of the incident energy.
    assert float(made.stdout) == pytest.approx(0.02 * 40.0, rel=0.2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--checkpoint", "/nowhere"], CheckpointError, "/nowhere"),
        (["--opset", "9"], ConfigError, "--opset 9"),
        (["--opset", "18", "--format", "torch"], ConfigError, "TorchScript has none"),
        (["--tolerance", "0"], ConfigError, "--tolerance 0"),
        (["--check", "-1"], ConfigError, "--check -1"),
        (["--format", "hls"], ConfigError, "--format"),
    ],
)
def test_wrong_options_are_refused_and_leave_no_file(checkpoints, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        export(["--checkpoint", checkpoints, "--out", str(tmp_path / "x.onnx"), *options])
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_replaced_only_when_asked(checkpoints, tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("precious")
    command = ["--checkpoint", checkpoints, "--format", "torch", "--check", "4", "--out", str(path)]
    with pytest.raises(ConfigError, match="--force"):
        export(command)
    assert path.read_text() == "precious"
    assert export([*command, "--force"]) == 0
    assert path.stat().st_size > 1e5


def test_a_program_that_makes_other_showers_is_refused():
    physical = physical_module(calibrated("layers_vae_plain"))

    def off_by(factor):
        return lambda arrays: physical(*map(torch.from_numpy, arrays)).numpy() * np.float32(factor)

    with torch.no_grad():
        same = compare(physical, off_by(1.0), ranges=RANGES, showers=10)
        assert (same.visible, same.cell, same.beyond, same.decided) == (0, 0, 0, 0)
        with pytest.raises(CheckpointError, match="visible energy differs by up to 1"):
            compare(physical, off_by(1.001), ranges=RANGES, showers=10)


def test_replaced_operators_are_those_of_torch():
    chances = torch.cat([torch.logspace(-30, -0.31, 500), 1 - torch.logspace(-6, -0.31, 500)])
    values = torch.cat([-torch.logspace(-8, 0.5, 500), torch.logspace(-8, 0.5, 500)])
    small = values[values.abs() < 0.999]
    cases = [
        (normal_quantile, torch.special.ndtri, chances),
        (normal_probability, lambda x: 0.5 * torch.erfc(-x / 2**0.5), torch.linspace(-8, 8, 1001)),
        (inverse_error_function, torch.erfinv, small),
        (log_of_one_more, torch.log1p, small),
        (exponential_less_one, torch.expm1, values),
        (logistic, torch.sigmoid, torch.linspace(-30, 30, 1001)),
    ]
    for ours, torchs, given in cases:
        torch.testing.assert_close(ours(given), torchs(given.double()).float(), rtol=5e-6, atol=1e-30)
    levels = torch.tensor([-1.0, 0.0, 2.0])
    given = torch.tensor([[-3.0, -1.0], [0.5, 2.0], [2.5, 0.0]])
    for right in (False, True):
        assert torch.equal(places(levels, given, right=right), torch.searchsorted(levels, given, right=right))
