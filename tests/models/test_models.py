import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from dist_calo.config import ModelConfig
from dist_calo.errors import ConfigError
from dist_calo.geometry import VoxelGrid
from dist_calo.models import MODELS, build_model
from dist_calo.models.gan import GanModel
from dist_calo.models.interfaces import Verdict
from dist_calo.models.nn.blocks import Dropout
from dist_calo.models.nn.requirements import column, require_grid, require_sizes
from dist_calo.randomness import Draws
from tests.support.flops import forward_flops
from tests.support.geometries import ANGLED, GRID, geometry_of


class TinyGenerator(nn.Module):
    latent = 3

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 8)

    def forward(self, conditions, noise):
        return self.dense(torch.cat([conditions, noise], 1)).view(-1, 2, 2, 2)


class TinyDiscriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 5, 2)

    def forward(self, showers, conditions, draws):
        return Verdict(score=self.conv(showers.unsqueeze(1)).flatten(1).sum(1))


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return GanModel(VoxelGrid(shape=(2, 2, 2)), TinyGenerator(), TinyDiscriminator())


def test_an_unknown_model_lists_the_choices():
    with pytest.raises(
        ConfigError, match=re.escape("model.name=lcd_fats: ") + ".*lcd_3dgan, lcd_3dgan_angle, lcd_fast"
    ):
        build_model(ModelConfig(name="lcd_fats"), GRID)


def test_an_unknown_option_lists_the_choices():
    with pytest.raises(ConfigError, match=r"model\.options\.latnet=3: .*its options are latent, dropout"):
        build_model(ModelConfig(name="lcd_3dgan", options={"latnet": 3}), GRID)


@pytest.mark.parametrize("value", ["200", 2.5, True, None])
def test_an_option_of_the_wrong_type_names_the_right_one(value):
    with pytest.raises(ConfigError, match=re.escape(f"model.options.latent={value!r}: must be of type int")):
        build_model(ModelConfig(name="lcd_3dgan", options={"latent": value}), GRID)


def test_a_whole_number_is_taken_where_a_float_is_wanted():
    model = build_model(ModelConfig(name="lcd_3dgan", options={"dropout": 0}), GRID)
    dropouts = [layer for layer in model.modules() if isinstance(layer, Dropout)]
    assert [layer.probability for layer in dropouts] == [0.0] * 4


def test_networks_share_nothing(tiny):
    ids = [{id(p) for p in network.parameters()} for network in tiny.networks.values()]
    assert not ids[0] & ids[1]
    assert sum(map(len, ids)) == len(list(tiny.parameters()))


def test_a_shower_is_made_from_the_draws_of_its_sample(tiny):
    conditions = torch.tensor([[10.0], [20.0], [30.0]])
    together = tiny.generate(conditions, Draws(5, 1, [0, 1, 2]))
    alone = tiny.generate(conditions[2:], Draws(5, 1, [2]))
    torch.testing.assert_close(together[2:], alone)
    assert not torch.allclose(alone, tiny.generate(conditions[2:], Draws(5, 2, [2])))


def test_no_generator_of_torch_is_touched(tiny):
    before = torch.get_rng_state()
    draws = Draws(0, 0, [0])
    tiny.discriminator(tiny.generate(torch.ones(1, 1), draws), torch.ones(1, 1), draws)
    assert torch.equal(torch.get_rng_state(), before)


def test_flops_are_two_for_each_multiplication_and_addition(tiny):
    # Dense: 4 x 8 products; convolution: 5 kernels of 8 weights at one place.
    assert forward_flops(tiny) == {"generator": 2 * 4 * 8, "discriminator": 2 * 5 * 8}
    assert tiny.training


def test_a_model_refuses_other_grids_and_missing_conditions():
    require_grid("m", ANGLED, (51, 51, 25), ("energy", "theta"))
    with pytest.raises(
        ConfigError, match=r"model.name=m: the data have 25x25x25 cells, this model is for 51x51x25"
    ):
        require_grid("m", GRID, (51, 51, 25), ("energy",))
    with pytest.raises(ConfigError, match=r"the data have no theta \(only energy\)"):
        require_grid("m", GRID, (25, 25, 25), ("energy", "theta"))


def test_a_column_of_the_conditions_is_found_by_name():
    conditions = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert column(conditions, ANGLED, "theta").tolist() == [2.0, 4.0]
    with pytest.raises(ConfigError, match="'theta' is needed, but the data have only energy"):
        column(conditions, GRID, "theta")


@pytest.mark.parametrize("name", [name for name in MODELS if geometry_of(name).conditions == ("energy",)])
def test_a_model_refuses_a_condition_that_it_would_ignore(name):
    geometry = replace(geometry_of(name), conditions=("energy", "theta"))
    message = rf"model\.name={name}: the data have theta, which this model ignores .*choose data without"
    with pytest.raises(ConfigError, match=message):
        build_model(ModelConfig(name=name), geometry)


def test_sizes_have_a_least_value():
    require_sizes(least=2, latent=2, hidden=3)
    with pytest.raises(ConfigError, match=r"model\.options\.hidden=1: must be at least 2"):
        require_sizes(least=2, latent=2, hidden=1)
