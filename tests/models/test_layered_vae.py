"""The autoencoders of layers: closed forms of their losses, sampling from the trained likelihood, explicit energies."""

import math
import re

import numpy as np
import pytest
import torch

from dist_calo.config import ModelConfig, ObjectiveConfig, TransformConfig
from dist_calo.errors import ConfigError
from dist_calo.geometry import VoxelGrid
from dist_calo.models import build_model
from dist_calo.models.autoencoder import divergence, widths
from dist_calo.models.layered.vae import gamma_numbers
from dist_calo.objectives import build_objective
from dist_calo.randomness import Draws
from dist_calo.transforms import Transform
from tests.support.layers_showers import AMPLITUDES, GRID, RINGS, layer_energies, layered_showers

NAMES = ("layers_vae", "layers_vae_plain")
SMALL = {
    "layers_vae": {"latent": 4, "hidden": 12, "modes": 2},
    "layers_vae_plain": {"latent": 3, "hidden": 12},
}
TERMS = {
    "layers_vae": {"total_energy", "layer_fractions", "cell_fractions"},
    "layers_vae_plain": {"cells"},
}


def small_vae(name, geometry, statistics=None, **options):
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name, options={**SMALL[name], **options}), geometry)
    if statistics is not None:
        model.calibrate(statistics)
    return model


def generate(model, energies, step=0, first=0):
    conditions = torch.as_tensor(energies, dtype=torch.float32)[:, None]
    with torch.no_grad():
        return model.generate(conditions, Draws(5, step, np.arange(first, first + len(conditions))))


def elbo_of(model, statistics, chosen=slice(0, 64)):
    showers = torch.from_numpy(statistics["network_units"][chosen])
    conditions = torch.from_numpy(statistics["energy"][chosen, None])
    return model.elbo(showers, conditions, Draws(3, 1, np.arange(len(statistics["energy"]))[chosen]))


@pytest.fixture(scope="module")
def statistics():
    return layered_showers(GRID)


def test_the_divergence_is_that_of_two_normal_distributions():
    mean, log_variance = (
        torch.tensor([[0.0, 0.0], [1.0, -2.0]]),
        torch.tensor([[0.0, 0.0], [0.0, math.log(4.0)]]),
    )
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()), torch.distributions.Normal(0.0, 1.0)
    ).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance), exact)
    assert divergence(mean, log_variance)[0] == 0.0


def test_the_published_widths():
    assert widths(1500, 50) == [1500, 1000, 500, 100]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("geometry", [GRID, RINGS], ids=lambda geometry: geometry.kind)
@pytest.mark.parametrize("fitted", [True, False])
def test_showers_and_losses_of_any_layers_are_finite(name, geometry, fitted):
    statistics = layered_showers(geometry)
    model = small_vae(name, geometry, statistics if fitted else None)
    showers = generate(model, np.linspace(1.0, 80.0, 40))
    assert showers.shape == (40, geometry.cells)
    assert showers.min() >= 0.0
    assert torch.isfinite(showers).all()
    elbo = elbo_of(model, statistics)
    assert set(elbo.reconstruction) == TERMS[name]
    for term in (*elbo.reconstruction.values(), elbo.kl):
        assert term.shape == (64,)
        assert torch.isfinite(term).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("geometry", [GRID, RINGS], ids=lambda geometry: geometry.kind)
def test_gradient_reaches_every_parameter(name, geometry):
    statistics = layered_showers(geometry)
    model = small_vae(name, geometry, statistics)
    elbo = elbo_of(model, statistics)
    (sum(term.sum() for term in elbo.reconstruction.values()) + elbo.kl.sum()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_empty_shares_of_a_batch_have_gradients_of_zero(name, statistics):
    model = small_vae(name, GRID, statistics)
    assert generate(model, []).shape == (0, GRID.cells)
    elbo = elbo_of(model, statistics, slice(0, 0))
    (sum(term.sum() for term in elbo.reconstruction.values()) + elbo.kl.sum()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_is_a_pure_function_of_its_draws(name, statistics):
    model = small_vae(name, GRID, statistics)
    energies = np.linspace(2.0, 50.0, 12)
    together = generate(model, energies)
    parts = [
        generate(model, energies[cut], first=cut.start) for cut in (slice(0, 1), slice(1, 7), slice(7, 12))
    ]
    torch.testing.assert_close(together, torch.cat(parts), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, generate(model, energies, step=1))
    whole, part = elbo_of(model, statistics, slice(0, 8)), elbo_of(model, statistics, slice(5, 8))
    torch.testing.assert_close(whole.kl[5:], part.kl)
    for term, values in part.reconstruction.items():
        torch.testing.assert_close(whole.reconstruction[term][5:], values, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss(name, statistics):
    model = small_vae(name, GRID)
    objective = build_objective(ObjectiveConfig(name="vae"), model, AMPLITUDES)
    objective.calibrate(statistics)
    showers = torch.from_numpy(statistics["network_units"][:128])
    conditions = torch.from_numpy(statistics["energy"][:128, None])
    (update,) = objective.updates
    optimizer = torch.optim.Adam(model.networks[update.network].parameters(), lr=3e-3)
    losses = []
    for step in range(1, 41):
        optimizer.zero_grad()
        loss = objective.losses(update, showers, conditions, Draws(0, step, np.arange(128), update.name), 128)
        loss["total"].backward()
        optimizer.step()
        losses.append(float(loss["total"].detach()))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_the_parts_of_the_loss_add_up_with_the_weight_of_the_divergence(statistics):
    model = small_vae("layers_vae", GRID, statistics)
    objective = build_objective(
        ObjectiveConfig(name="vae", kl_weight=0.5, kl_warmup_steps=10), model, AMPLITUDES
    )
    showers = torch.from_numpy(statistics["network_units"][:16])
    conditions = torch.from_numpy(statistics["energy"][:16, None])
    losses = objective.losses(objective.updates[0], showers, conditions, Draws(0, 5, np.arange(16)), 16)
    parts = sum(losses[name] for name in TERMS["layers_vae"])
    assert float(losses["total"].detach()) == pytest.approx(float(parts + 0.25 * losses["kl"]), rel=1e-5)


def test_a_censored_energy_costs_the_chance_of_an_empty_layer(statistics):
    model = small_vae("layers_vae", GRID, statistics)
    net = model.autoencoder
    with torch.no_grad():
        for network in net.normal:
            network[-1].weight.zero_()
            network[-1].bias.zero_()
    empty = statistics["showers"][:, GRID.layer_slices[2]].sum(1) == 0
    elbo = elbo_of(model, statistics, slice(None))
    incident = torch.from_numpy(statistics["energy"])
    layers = net.energies.of_cells(torch.from_numpy(statistics["network_units"]) ** 2)
    normal = net.energies.normal(layers, incident)
    assert torch.equal(normal.high[:, 2], torch.from_numpy(empty))
    expected = 0.5 * normal.values[:, 1] ** 2 - (1.0 - torch.special.ndtr(normal.highest[:, 2])).log()
    torch.testing.assert_close(
        elbo.reconstruction["layer_fractions"][empty], expected[empty], rtol=1e-3, atol=1e-3
    )


def test_the_likelihood_of_a_cell_is_a_probability(statistics):
    model = small_vae("layers_vae", GRID, statistics)
    log_energies = torch.linspace(-9.0, 4.5, 20_000)
    squares = torch.cat([torch.zeros(1), log_energies.exp()])[:, None].expand(-1, GRID.cells)
    for hits in (0.05, 1.0, 8.0):
        log_hits = torch.full(squares.shape, math.log(hits))
        losses = model._cells(squares, log_hits, torch.zeros(GRID.cells))[:, 0].detach()
        empty, densities = (-losses[0]).exp(), (-losses[1:]).exp()
        assert float(empty) == pytest.approx(math.exp(-hits), rel=1e-4)
        assert float(empty + torch.trapezoid(densities, log_energies)) == pytest.approx(1.0, abs=1e-3)
        mean = torch.trapezoid(densities * log_energies.exp(), log_energies)
        assert float(mean) == pytest.approx(hits, rel=0.01)


@pytest.mark.parametrize("shape", [0.3, 1.0, 4.0, 200.0])
def test_numbers_of_the_gamma_distribution(shape):
    numbers = gamma_numbers(torch.full((200, 200), shape), Draws(0, 0, np.arange(200))).double()
    assert float(numbers.mean()) == pytest.approx(shape, rel=0.02)
    assert float(numbers.var()) == pytest.approx(shape, rel=0.05)
    assert numbers.min() >= 0.0
    below = float((numbers < shape).double().mean())
    assert below == pytest.approx(
        float(torch.special.gammainc(torch.tensor(shape), torch.tensor(shape))), abs=0.01
    )


def test_the_sum_of_a_layers_cells_is_its_explicit_energy(statistics):
    model = small_vae("layers_vae", GRID, statistics)
    explicit = []
    hook = model.autoencoder.energies.register_forward_hook(lambda _, __, layers: explicit.append(layers))
    showers = generate(model, np.linspace(2.0, 50.0, 200))
    hook.remove()
    torch.testing.assert_close(
        model.autoencoder.energies.of_cells(showers**2), explicit[0], rtol=1e-5, atol=1e-6
    )


def test_standard_normal_coordinates_have_the_layer_energies_of_the_data(statistics):
    model = small_vae("layers_vae", GRID, statistics)
    with torch.no_grad():
        for network in model.autoencoder.normal:
            network[-1].weight.zero_()
            network[-1].bias.zero_()
    made = layer_energies(
        GRID, AMPLITUDES.inverse(generate(model, np.repeat(statistics["energy"], 5))).numpy()
    )
    real = layer_energies(GRID, statistics["showers"])
    assert made.mean(0) == pytest.approx(real.mean(0), rel=0.06)
    assert (made == 0).mean(0) == pytest.approx((real == 0).mean(0), abs=0.02)
    hits = [
        (generate(model, statistics["energy"])[:, cut] > 0).float().sum(1).mean() for cut in GRID.layer_slices
    ]
    data = [(statistics["showers"][:, cut] > 0).sum(1).mean() for cut in GRID.layer_slices]
    assert hits == pytest.approx(data, rel=0.15)


def test_other_network_units_are_refused_by_the_factorised_one_alone(statistics):
    units = Transform.from_config(TransformConfig(power=1.0)).forward(statistics["showers"])
    others = {**statistics, "network_units": units}
    with pytest.raises(
        ConfigError, match=re.escape("model.name=layers_vae: its network units are the square root")
    ):
        small_vae("layers_vae", GRID, others)
    assert torch.isfinite(elbo_of(small_vae("layers_vae_plain", GRID, others), others).kl).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ["latent", "hidden"])
def test_sizes_that_are_too_small_are_refused(name, option):
    with pytest.raises(ConfigError, match=re.escape(f"model.options.{option}=0: must be at least 1")):
        small_vae(name, GRID, **{option: 0})


@pytest.mark.parametrize("name", NAMES)
def test_showers_on_a_grid_are_refused(name):
    with pytest.raises(ConfigError, match="kind voxel_grid, this model is for layers or cylinder"):
        small_vae(name, VoxelGrid(shape=(5, 5, 5)))
