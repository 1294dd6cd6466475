import math
from pathlib import Path

import pytest
import torch
from torch import nn

from dist_calo.cli.command_line import build_config, config_parser
from dist_calo.config import ModelConfig
from dist_calo.errors import ConfigError
from dist_calo.geometry import VoxelGrid
from dist_calo.models import build_model
from dist_calo.models.nn.batch_norm import SyncBatchNorm
from dist_calo.objectives import build_objective
from dist_calo.randomness import Draws
from tests.support.flops import forward_flops

GEOMETRIES = {
    "lcd_3dgan": VoxelGrid(shape=(25, 25, 25)),
    "lcd_3dgan_angle": VoxelGrid(shape=(51, 51, 25), conditions=("energy", "theta")),
}
CONFIGS = Path(__file__).parents[2] / "configs"


def build(name, **options):
    torch.manual_seed(0)
    return build_model(ModelConfig(name=name, options=options), GEOMETRIES[name])


@pytest.fixture(scope="module", params=GEOMETRIES)
def named_model(request):
    return request.param, build(request.param)


@pytest.fixture(scope="module")
def fixed():
    return build("lcd_3dgan")


@pytest.fixture(scope="module")
def angled():
    return build("lcd_3dgan_angle")


def trained(module):
    return sum(parameter.numel() for parameter in module.parameters())


def counts(network):
    """Trained parameters of each layer that has any, in order."""
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv3d | SyncBatchNorm)]
    return [(type(layer).__name__, trained(layer)) for layer in layers]


PUBLISHED = {
    ("lcd_3dgan", "generator"): (
        872_808,
        [
            ("Linear", 200 * 3136 + 3136),
            ("Conv3d", 6 * 6 * 8 * 8 * 64 + 64),
            ("SyncBatchNorm", 2 * 64),
            ("Conv3d", 6 * 5 * 8 * 64 * 6 + 6),
            ("SyncBatchNorm", 2 * 6),
            ("Conv3d", 3 * 3 * 8 * 6 * 6 + 6),
            ("Conv3d", 2 * 2 * 2 * 6),
        ],
    ),
    ("lcd_3dgan", "discriminator"): (
        73_402,
        [
            ("Conv3d", 5**3 * 32 + 32),
            ("Conv3d", 5**3 * 32 * 8 + 8),
            ("SyncBatchNorm", 2 * 8),
            *[("Conv3d", 5**3 * 8 * 8 + 8), ("SyncBatchNorm", 2 * 8)] * 2,
            ("Linear", 10_648 + 1),
            ("Linear", 10_648 + 1),
        ],
    ),
    ("lcd_3dgan_angle", "generator"): (
        1_364_983,
        [
            ("Linear", 256 * 5184 + 5184),
            ("Conv3d", 6 * 6 * 8 * 8 * 8 + 8),
            ("SyncBatchNorm", 2 * 8),
            ("Conv3d", 4 * 4 * 6 * 8 * 6 + 6),
            ("SyncBatchNorm", 2 * 6),
            *[("Conv3d", 4 * 4 * 6 * 6 * 6 + 6), ("SyncBatchNorm", 2 * 6)] * 2,
            ("Conv3d", 3 * 3 * 5 * 6 * 6 + 6),
            ("SyncBatchNorm", 2 * 6),
            ("Conv3d", 3 * 3 * 3 * 6 * 6 + 6),
            ("Conv3d", 2 * 2 * 2 * 6 + 1),
        ],
    ),
    ("lcd_3dgan_angle", "discriminator"): (
        87_354,
        [
            ("Conv3d", 5 * 6 * 6 * 16 + 16),
            ("Conv3d", 5 * 6 * 6 * 16 * 8 + 8),
            ("SyncBatchNorm", 2 * 8),
            *[("Conv3d", 5 * 6 * 6 * 8 * 8 + 8), ("SyncBatchNorm", 2 * 8)] * 2,
            ("Linear", 19_152 + 1),
            ("Linear", 19_152 + 1),
        ],
    ),
}


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_parameters_are_those_published_layer_by_layer(named_model, network):
    name, model = named_model
    total, layers = PUBLISHED[name, network]
    assert counts(model.networks[network]) == layers
    assert trained(model.networks[network]) == total


def test_arithmetic_of_the_fixed_angle(fixed):
    # Places of the output x weights seen from each, x 2; the generator's last layers work on 26^3 and 25^3 cells.
    generator = 200 * 3136 + 7 * 7 * 8 * 147_456 + 13 * 14 * 9 * 92_160 + 26**3 * 2592 + 25**3 * 48
    discriminator = 25**3 * (4000 + 32_000 + 8000) + 23**3 * 8000 + 2 * 10_648
    assert forward_flops(fixed) == {"generator": 2 * generator, "discriminator": 2 * discriminator}


def test_arithmetic_of_the_variable_angle(angled):
    flops = forward_flops(angled)
    assert flops["generator"] / 1e9 == pytest.approx(6.1, abs=0.05)
    judged = [
        51 * 51 * 25 * 2880,
        47 * 46 * 22 * 23_040,
        43 * 41 * 19 * 11_520,
        39 * 36 * 14 * 11_520,
        2 * 19_152,
    ]
    assert flops["discriminator"] == 2 * sum(judged)


def test_showers_have_the_shape_of_the_grid_and_no_negative_cell(named_model):
    name, model = named_model
    conditions = torch.tensor([[100.0, math.pi / 2], [20.0, 1.2]])[:, : len(GEOMETRIES[name].conditions)]
    with torch.no_grad():
        showers = model.generate(conditions, Draws(0, 0, [0, 1]))
    assert showers.shape == (2, *GEOMETRIES[name].shape)
    assert showers.min() >= 0
    assert showers.max() > 0


def test_no_samples_make_no_showers_and_no_verdicts(named_model):
    name, model = named_model
    draws = Draws(0, 0, [])
    conditions = torch.zeros(0, len(GEOMETRIES[name].conditions))
    showers = model.generate(conditions, draws)
    verdict = model.discriminator(showers, conditions, draws)
    assert showers.shape == (0, *GEOMETRIES[name].shape)
    assert verdict.score.shape == verdict.energy.shape == (0,)


def test_the_fixed_angle_generator_starts_from_noise_times_energy(fixed):
    noise = torch.randn(2, 200)
    start = fixed.generator.start(torch.tensor([[100.0], [25.0]]), noise)
    torch.testing.assert_close(start, noise * torch.tensor([[1.0], [0.25]]))
    assert fixed.generator.latent == 200


def test_the_angle_generator_starts_from_energy_angle_and_noise(angled):
    noise = torch.randn(1, 254)
    start = angled.generator.start(torch.tensor([[150.0, 1.3]]), noise)
    torch.testing.assert_close(start, torch.cat([torch.tensor([[1.5, 1.3]]), noise], dim=1))
    assert angled.generator.latent == 254


def test_the_score_is_a_logit_and_the_energy_is_in_gev(fixed):
    discriminator = build("lcd_3dgan").discriminator
    with torch.no_grad():
        for head, bias in ((discriminator.score, 4.0), (discriminator.energy, 0.5)):
            head.weight.zero_()
            head.bias.fill_(bias)
        verdict = discriminator(torch.rand(2, 25, 25, 25), torch.full((2, 1), 50.0), Draws(0, 0, [0, 1]))
    assert verdict.score.tolist() == [4.0, 4.0]
    assert verdict.energy.tolist() == [50.0, 50.0]


def test_dropout_and_batch_statistics_are_for_training_only(fixed):
    showers = torch.rand(2, 25, 25, 25, generator=torch.Generator().manual_seed(0))
    conditions = torch.full((2, 1), 50.0)

    def score(step, rows=slice(None)):
        samples = range(2)[rows]
        return fixed.discriminator(showers[rows], conditions[rows], Draws(0, step, samples)).score

    with torch.no_grad():
        assert not torch.allclose(score(0), score(1))
        fixed.eval()
        evaluated = score(0)
        torch.testing.assert_close(score(1, slice(1, 2)), evaluated[1:])
        fixed.train()


def test_channels_last_changes_nothing_but_rounding():
    plain, faster = build("lcd_3dgan"), build("lcd_3dgan").to(memory_format=torch.channels_last_3d)
    conditions, draws = torch.full((2, 1), 50.0), Draws(0, 0, [0, 1])
    with torch.no_grad():
        showers = [model.generate(conditions, draws) for model in (plain, faster)]
        torch.testing.assert_close(*showers, rtol=1e-4, atol=5e-5)
        scores = [model.discriminator(showers[0], conditions, draws).score for model in (plain, faster)]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "least"), [("lcd_3dgan", 1), ("lcd_3dgan_angle", 3)])
def test_too_small_a_latent_space_is_refused(name, least):
    assert trained(build(name, latent=least).generator) > 0
    with pytest.raises(ConfigError, match=f"model.options.latent={least - 1}: must be at least {least}"):
        build(name, latent=least - 1)


def test_the_angle_model_refuses_data_without_an_angle():
    with pytest.raises(ConfigError, match=r"model\.name=lcd_3dgan_angle: the data have no theta"):
        build_model(ModelConfig(name="lcd_3dgan_angle"), VoxelGrid(shape=(51, 51, 25)))
    with pytest.raises(ConfigError, match="the data have 51x51x25 cells, this model is for 25x25x25"):
        build_model(ModelConfig(name="lcd_3dgan"), VoxelGrid(shape=(51, 51, 25)))


def test_the_configurations_are_the_published_ones(named_model):
    name, model = named_model
    parser = config_parser("test", "test")
    config = build_config(parser, parser.parse_args(["--config", str(CONFIGS / f"{name}.yaml")]))
    assert config.model.name == name
    objective = build_objective(config.objective, model, transform=None)
    assert [u.name for u in objective.updates] == ["discriminator/0", "generator/0", "generator/1"]
    weights = config.objective
    assert (weights.score_weight, weights.energy_weight, weights.energy_sum_weight) == (
        (2.0, 0.1, 0.1) if name == "lcd_3dgan" else (3.0, 0.1, 0.1)
    )
    assert weights.angle_weight == (25.0 if name == "lcd_3dgan_angle" else 0.0)
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("rmsprop", 1e-3)
