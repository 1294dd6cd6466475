"""The GAN of layers: energies explicit, exact and as frequent as in nature; every objective; any layered read-out."""

import re

import numpy as np
import pytest
import torch

from dist_calo.config import ModelConfig, ObjectiveConfig, TransformConfig
from dist_calo.errors import ConfigError
from dist_calo.geometry import LayeredGrid, VoxelGrid
from dist_calo.models import build_model
from dist_calo.models.layered.energies import LayerEnergies
from dist_calo.objectives import build_objective
from dist_calo.randomness import Draws
from dist_calo.transforms import Transform
from tests.support.layers_showers import AMPLITUDES, GRID, RINGS, layer_energies, layered_showers

SMALL = {"latent": 8, "hidden": 12, "modes": 2, "discriminator_width": 6}


def small_gan(geometry, statistics=None):
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="layers_gan", options=SMALL), geometry)
    if statistics is not None:
        model.calibrate(statistics)
    return model


def generate(model, energies, step=0, first=0):
    conditions = torch.as_tensor(energies, dtype=torch.float32)[:, None]
    with torch.no_grad():
        return model.generate(conditions, Draws(5, step, np.arange(first, first + len(conditions))))


@pytest.fixture(scope="module")
def statistics():
    return layered_showers(GRID)


@pytest.fixture(scope="module")
def calibrated(statistics):
    return small_gan(GRID, statistics)


@pytest.fixture(scope="module")
def started(statistics):
    """Where learning starts from, without the little that the untrained networks add."""
    model = small_gan(GRID, statistics)
    with torch.no_grad():
        for layer in (*model.energies.change, *model.generator.shapes):
            for parameter in layer.parameters():
                parameter.zero_()
    return model


@pytest.mark.parametrize("geometry", [GRID, RINGS], ids=lambda geometry: geometry.kind)
@pytest.mark.parametrize("fitted", [True, False])
def test_showers_of_any_layers_are_finite_and_not_negative(geometry, fitted):
    model = small_gan(geometry, layered_showers(geometry) if fitted else None)
    showers = generate(model, np.linspace(1.0, 80.0, 40))
    verdict = model.discriminator(showers, torch.full((40, 1), 20.0), Draws(0, 0, np.arange(40)))
    assert showers.shape == (40, geometry.cells)
    assert showers.min() == 0.0
    assert verdict.score.shape == (40,)
    for values in (showers, verdict.score):
        assert torch.isfinite(values).all()


def test_energies_survive_the_way_to_normal_numbers_and_back(calibrated, statistics):
    energies = calibrated.energies.energies
    incident = torch.from_numpy(statistics["energy"])
    layers = energies.of_cells(torch.from_numpy(statistics["network_units"]) ** 2)
    normal = energies.normal(layers, incident)
    within = (normal.values.abs() < 3.0).all(1)
    assert within.float().mean() > 0.98
    torch.testing.assert_close(
        energies(normal.values, incident)[within], layers[within], rtol=2e-3, atol=1e-4
    )


def test_real_showers_are_standard_normal_at_every_energy(calibrated, statistics):
    order = np.argsort(statistics["energy"])
    incident = torch.from_numpy(statistics["energy"])
    energies = calibrated.energies.energies
    normal = energies.normal(energies.of_cells(torch.from_numpy(statistics["network_units"]) ** 2), incident)
    for part in np.array_split(order, 3):
        assert normal.values[part, :2].mean(0).abs().max() < 0.2
        assert (normal.values[part, :2].std(0) - 1.0).abs().max() < 0.2


def test_any_normal_numbers_make_energies_that_add_up_to_the_total(calibrated):
    energies = calibrated.energies.energies
    normal = 3.0 * torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    incident = torch.linspace(1.0, 100.0, 500)
    layers = energies(normal, incident)
    alone = energies(torch.cat([normal[:, :1], torch.zeros(500, 2)], dim=1), incident)
    assert layers.min() >= 0.0
    torch.testing.assert_close(layers.sum(1), alone.sum(1), rtol=1e-5, atol=0.0)


def test_the_sum_of_a_layers_cells_is_its_explicit_energy(calibrated):
    explicit = []
    hook = calibrated.energies.energies.register_forward_hook(lambda _, __, layers: explicit.append(layers))
    showers = generate(calibrated, np.linspace(2.0, 50.0, 200))
    hook.remove()
    torch.testing.assert_close(
        calibrated.energies.energies.of_cells(showers**2), explicit[0], rtol=1e-5, atol=1e-6
    )


def test_energies_stay_exact_under_autocast(calibrated):
    explicit = []
    hook = calibrated.energies.energies.register_forward_hook(lambda _, __, layers: explicit.append(layers))
    with torch.autocast("cpu", torch.bfloat16):
        showers = generate(calibrated, np.linspace(2.0, 50.0, 50))
    hook.remove()
    exact = generate(calibrated, np.linspace(2.0, 50.0, 50))
    of_cells = calibrated.energies.energies.of_cells
    torch.testing.assert_close(of_cells(showers**2), explicit[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(of_cells(showers**2).sum(1), of_cells(exact**2).sum(1), rtol=1e-3, atol=0.0)


def test_the_start_has_the_layer_energies_of_the_data(started, statistics):
    real = layer_energies(GRID, statistics["showers"])
    made = AMPLITUDES.inverse(generate(started, np.repeat(statistics["energy"], 5)).double()).numpy()
    fake = layer_energies(GRID, made)
    assert fake.mean(0) == pytest.approx(real.mean(0), rel=0.04)
    assert fake.std(0) == pytest.approx(real.std(0), rel=0.06)
    assert np.corrcoef(fake.T) == pytest.approx(np.corrcoef(real.T), abs=0.05)
    for one, other in zip(fake.T, real.T, strict=True):
        levels = np.linspace(0.4, 0.95, 10)
        assert np.quantile(one, levels) == pytest.approx(np.quantile(other, levels), rel=0.1)


def test_layers_are_exactly_empty_as_often_as_in_the_data(started, statistics):
    made = generate(started, np.repeat(statistics["energy"], 5)).numpy()
    real = layer_energies(GRID, statistics["showers"])
    rates = (layer_energies(GRID, made) == 0).mean(0)
    assert rates == pytest.approx((real == 0).mean(0), abs=0.02)
    assert rates[2] > 0.15


def test_cells_of_the_start_are_hit_as_often_as_in_the_data(started, statistics):
    made = generate(started, statistics["energy"]).numpy()
    for cut in GRID.layer_slices:
        hits = (made[:, cut] > 0).sum(1).mean()
        assert hits == pytest.approx((statistics["showers"][:, cut] > 0).sum(1).mean(), rel=0.15)


def test_every_sample_is_a_pure_function_of_its_draws(calibrated):
    energies = np.linspace(2.0, 50.0, 12)
    together = generate(calibrated, energies)
    shares = [
        generate(calibrated, energies[cut], first=cut.start)
        for cut in (slice(0, 1), slice(1, 7), slice(7, 12))
    ]
    assert torch.equal(together, generate(calibrated, energies))
    torch.testing.assert_close(together, torch.cat(shares), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, generate(calibrated, energies, step=1))


def test_verdict_does_not_depend_on_the_rest_of_the_batch(calibrated, statistics):
    showers = torch.from_numpy(statistics["network_units"][:5])
    conditions = torch.from_numpy(statistics["energy"][:5, None])
    together = calibrated.discriminator(showers, conditions, Draws(0, 1, np.arange(5))).score
    last = calibrated.discriminator(showers[4:], conditions[4:], Draws(0, 1, [4])).score
    torch.testing.assert_close(together[4:], last, rtol=1e-4, atol=1e-4)


def test_empty_shares_of_a_batch_have_gradients_of_zero(calibrated):
    none, draws = torch.empty(0, 1), Draws(0, 0, [])
    for game in calibrated.games:
        game.judge(game.generate(none, draws), none, draws).score.sum().backward()
    gradients = [p.grad for p in calibrated.parameters() if p.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)
    calibrated.zero_grad()


@pytest.mark.parametrize("geometry", [GRID, RINGS], ids=lambda geometry: geometry.kind)
def test_gradient_reaches_every_parameter(geometry):
    model = small_gan(geometry, layered_showers(geometry))
    conditions = torch.linspace(2.0, 50.0, 64)[:, None]
    draws = Draws(0, 0, np.arange(64))
    for game in model.games:
        game.judge(game.generate(conditions, draws), conditions, draws).score.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("name", ["vanilla", "hinge", "wgan", "wgan_gp"])
def test_every_objective_takes_a_step(name, statistics):
    model = small_gan(GRID)
    objective = build_objective(ObjectiveConfig(name=name, energy_sum_weight=0.1), model, AMPLITUDES)
    objective.calibrate(statistics)
    showers = torch.from_numpy(statistics["network_units"][:32])
    conditions = torch.from_numpy(statistics["energy"][:32, None])
    for update in objective.updates:
        before = [p.detach().clone() for p in model.networks[update.network].parameters()]
        optimizer = torch.optim.SGD(model.networks[update.network].parameters(), lr=1e-3)
        losses = objective.losses(update, showers, conditions, Draws(0, 1, np.arange(32), update.name), 32)
        losses["total"].backward()
        optimizer.step()
        model.zero_grad()
        assert all(torch.isfinite(loss) for loss in losses.values())
        after = list(model.networks[update.network].parameters())
        assert all(torch.isfinite(p).all() for p in after)
        assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))


def test_calibration_is_deterministic(calibrated, statistics):
    again = small_gan(GRID, statistics).state_dict()
    assert all(torch.equal(again[name], value) for name, value in calibrated.state_dict().items())


@pytest.mark.parametrize("latent", [2, 3])
def test_few_normal_numbers_can_be_fitted(latent, statistics):
    model = build_model(ModelConfig(name="layers_gan", options={**SMALL, "latent": latent}), GRID)
    model.calibrate(statistics)
    assert torch.isfinite(generate(model, np.full(20, 20.0))).all()


def test_layers_that_are_always_or_never_empty_are_so_when_generated():
    statistics = layered_showers(GRID, count=200, chance_of_empty=1.0)
    made = layer_energies(GRID, generate(small_gan(GRID, statistics), statistics["energy"]).numpy())
    assert (made[:, 2] == 0).all()
    assert (made[:, :2] > 0).all()


def test_a_single_incident_energy_can_be_fitted():
    statistics = layered_showers(GRID, count=200)
    statistics["energy"][:] = 20.0
    assert torch.isfinite(generate(small_gan(GRID, statistics), np.full(20, 20.0))).all()


def test_a_layer_that_is_not_read_out_has_no_coordinate():
    assert LayerEnergies(RINGS).coordinates == 3


@pytest.mark.parametrize("changes", [{"power": 1.0}, {"power": 0.5, "log": True, "scale": 10.0}])
def test_other_network_units_are_refused(statistics, changes):
    units = Transform.from_config(TransformConfig(**changes)).forward(statistics["showers"])
    with pytest.raises(ConfigError, match=re.escape("set transform.power=0.5 and transform.log=false")):
        small_gan(GRID, {**statistics, "network_units": units})


@pytest.mark.parametrize(
    ("option", "value"), [("latent", 7), ("hidden", 0), ("modes", 0), ("discriminator_width", 1)]
)
def test_sizes_that_are_too_small_are_refused(option, value):
    with pytest.raises(ConfigError, match=re.escape(f"model.options.{option}={value}: ")):
        build_model(ModelConfig(name="layers_gan", options={option: value}), GRID)


def test_showers_on_a_grid_are_refused():
    with pytest.raises(ConfigError, match="kind voxel_grid, this model is for layers or cylinder"):
        build_model(ModelConfig(name="layers_gan"), VoxelGrid(shape=(5, 5, 5)))


def test_a_close_look_tells_the_two_hottest_cells_and_the_second_moments():
    geometry = LayeredGrid(layers=((3, 3), (1, 2)))
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="layers_gan", options={**SMALL, "closely": True}), geometry)
    showers = torch.zeros(1, 11)
    showers[0, [0, 4, 9]] = torch.tensor([0.5, 1.5, 1.0])
    seen = model.discriminator.observables(showers, torch.tensor([10.0]))[0, -8:].exp()
    # Shares of a tenth and nine tenths, the first in a corner; all energy of the second layer in one of two cells.
    expected = torch.tensor([0.9 + 1e-3, 0.1 + 1e-3, 1.0 + 1e-3, 1e-3, 0.11, 0.11, 0.01, 0.26])
    torch.testing.assert_close(seen, expected, rtol=1e-3, atol=1e-4)
