"""The small GAN: sizes, fits, pure functions of the sample, and that adversarial training improves what was fitted."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dist_calo.config import ModelConfig, ObjectiveConfig, TransformConfig
from dist_calo.errors import ConfigError
from dist_calo.geometry import VoxelGrid
from dist_calo.models import build_model
from dist_calo.models.nn.blocks import SpectralNorm
from dist_calo.models.voxels.lcd_fast.factor_fit import DEGREES, _sharing, legendre, transverse
from dist_calo.models.voxels.lcd_fast.factors import FactorGenerator
from dist_calo.models.voxels.lcd_fast.generator import COMPOUND_POISSON
from dist_calo.models.voxels.lcd_fast.model import lcd_fast
from dist_calo.models.voxels.lcd_fast.orientation import oriented
from dist_calo.objectives import build_objective
from dist_calo.randomness import Draws
from dist_calo.transforms import Transform
from tests.support.flops import forward_flops

GRID = VoxelGrid(shape=(25, 25, 25))
SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "EleEscan_lcd25_0.h5"
AMPLITUDES = Transform.from_config(TransformConfig(scale=1000.0, power=0.5))


def statistics(showers, energy, transform=AMPLITUDES):
    sums = showers.reshape(len(showers), -1).sum(axis=1)
    return {
        "showers": showers,
        "energy": energy,
        "energy_sum": sums,
        "network_units": transform.forward(showers),
    }


@pytest.fixture(scope="module")
def sample():
    with h5py.File(SAMPLE) as file:
        return statistics(file["ECAL"][:300], file["energy"][:300, 0])


FACTORS = {"start": "factors", "latent": 40}


@pytest.fixture(scope="module", params=[{}, FACTORS], ids=["modes", "factors"])
def calibrated(sample, request):
    torch.manual_seed(0)
    model = build_model(ModelConfig(options=request.param), GRID)
    model.calibrate(sample)
    return model


@pytest.fixture(scope="module")
def fitted(sample):
    torch.manual_seed(0)
    model = build_model(ModelConfig(options=FACTORS), GRID)
    model.calibrate(sample)
    return model


def generate(model, energies, step=0, first=0):
    conditions = torch.as_tensor(energies, dtype=torch.float32)[:, None]
    with torch.no_grad():
        return model.generate(conditions, Draws(5, step, np.arange(first, first + len(conditions))))


@pytest.mark.parametrize("start", ["modes", "factors"])
@pytest.mark.parametrize("shape", [(25, 25, 25), (51, 51, 25), (7, 10, 6)])
def test_showers_of_any_grid_are_not_negative_and_mostly_empty(shape, start):
    torch.manual_seed(0)
    model = lcd_fast(VoxelGrid(shape=shape), latent=34, width=2, discriminator_width=2, start=start)
    showers = generate(model, [10.0, 55.0, 100.0])
    verdict = model.discriminator(showers, torch.full((3, 1), 50.0), Draws(0, 0, [0, 1, 2]))
    assert showers.shape == (3, *shape)
    assert showers.min() == 0.0
    assert verdict.score.shape == verdict.energy.shape == (3,)
    assert torch.isfinite(showers).all()
    assert torch.isfinite(verdict.score).all()


def test_at_most_a_tenth_of_the_arithmetic_of_the_3dgan():
    fast = forward_flops(build_model(ModelConfig(), GRID))
    published = forward_flops(build_model(ModelConfig(name="lcd_3dgan"), GRID))
    assert fast["generator"] <= 0.1 * published["generator"]
    assert fast["discriminator"] <= 0.1 * published["discriminator"]


def test_every_sample_is_a_pure_function_of_its_draws(calibrated):
    energies = np.linspace(10.0, 100.0, 6)
    together = generate(calibrated, energies)
    apart = torch.cat([generate(calibrated, energies[:1]), generate(calibrated, energies[1:], first=1)])
    assert torch.equal(together, generate(calibrated, energies))
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, generate(calibrated, energies, step=1))


def test_verdict_does_not_depend_on_the_rest_of_the_batch(calibrated, sample):
    showers = torch.from_numpy(sample["network_units"][:5])
    conditions = torch.from_numpy(sample["energy"][:5, None])
    together = calibrated.discriminator(showers, conditions, Draws(0, 1, np.arange(5))).score
    last = calibrated.discriminator(showers[4:], conditions[4:], Draws(0, 1, [4])).score
    torch.testing.assert_close(together[4:], last, rtol=1e-4, atol=1e-4)


def test_empty_shares_of_a_batch_have_gradients_of_zero(calibrated):
    none = torch.empty(0, 1)
    draws = Draws(0, 0, [])
    calibrated.discriminator(calibrated.generate(none, draws), none, draws).score.sum().backward()
    grads = [p.grad for p in calibrated.parameters() if p.grad is not None]
    assert grads
    assert all((grad == 0).all() for grad in grads)
    calibrated.zero_grad()


def test_gradient_reaches_every_parameter(calibrated):
    conditions = torch.linspace(10.0, 100.0, 8)[:, None]
    draws = Draws(0, 0, np.arange(8))
    verdict = calibrated.discriminator(calibrated.generate(conditions, draws), conditions, draws)
    (verdict.score.sum() + verdict.energy.log().sum()).backward()
    for name, parameter in calibrated.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    calibrated.zero_grad()


def test_spectral_norm_divides_by_the_largest_singular_value():
    torch.manual_seed(1)
    weight = torch.randn(6, 3, 3, 3, dtype=torch.float64)
    assert torch.linalg.matrix_norm(SpectralNorm()(weight).flatten(1), 2) == pytest.approx(1.0)
    assert torch.equal(SpectralNorm()(weight), SpectralNorm()(weight))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_the_spectral_norm_of_weights_that_ran_away_is_not_a_number(value: float) -> None:
    weight = torch.ones(3, 4)
    weight[0, 0] = value
    assert SpectralNorm()(weight).isnan().all()


def test_orientations_keep_the_energy_of_layers_and_are_equally_frequent():
    shower = torch.arange(2 * 3 * 3 * 2, dtype=torch.float32).reshape(2, 3, 3, 2)[:1].expand(4000, -1, -1, -1)
    turned = oriented(shower, Draws(0, 0, np.arange(4000)))
    torch.testing.assert_close(turned.sum((1, 2)), shower.sum((1, 2)))
    kinds, counts = torch.unique(turned.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 8
    assert counts.min() > 400
    assert len(torch.unique(oriented(shower[:, :, :2], Draws(0, 0, np.arange(4000))).flatten(1), dim=0)) == 4


@pytest.mark.parametrize("hits", [0.05, 0.5, 2.0, 10.0, 100.0])
def test_cells_fluctuate_as_the_sum_of_a_poisson_number_of_exponential_hits(hits):
    uniform = (torch.arange(50_000).reshape(1, 40, 50, 25) + 0.5) / 50_000
    uniform = uniform[:, :, torch.arange(50)].flatten()[torch.randperm(50_000)].view(1, 40, 50, 25)
    expected = torch.full_like(uniform, hits).log()
    generator = lcd_fast(VoxelGrid(shape=(40, 50, 25))).generator
    with torch.no_grad():
        energies = generator._sampled(expected, uniform).square().double()
    assert generator.cell[:, 0].tolist() == pytest.approx(COMPOUND_POISSON)
    assert energies.mean() == pytest.approx(hits, rel=0.12)
    assert energies.std() == pytest.approx((2 * hits) ** 0.5, rel=0.12)
    if hits < 1:
        assert (energies > 0).double().mean() == pytest.approx(1 - np.exp(-hits), rel=0.01)


def test_calibration_takes_response_and_profile_from_the_showers(calibrated, sample):
    generator = calibrated.generator
    assert generator.scale == pytest.approx(1000.0, rel=1e-4)
    if isinstance(generator, FactorGenerator):
        assert generator.means[0, 0].exp() == pytest.approx(0.0204, rel=0.02)
        assert generator.spreads[0, 0].exp() == pytest.approx(
            0.2 / np.sqrt(np.exp(np.log(sample["energy"]).mean())), rel=0.2
        )
    else:
        assert generator.response[0] == pytest.approx(
            sample["energy_sum"].sum() / sample["energy"].sum(), rel=1e-5
        )
        assert generator.response[1] == pytest.approx(0.2, rel=0.2)
    assert 2e-4 < generator.hit / 1000 < 5e-4
    assert torch.isfinite(calibrated.discriminator.means).all()
    torch.testing.assert_close(generator.template, generator.template.transpose(0, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(generator.template, generator.template.flip(0), rtol=1e-5, atol=1e-5)


def test_calibration_is_deterministic(fitted, sample):
    torch.manual_seed(0)
    again = build_model(ModelConfig(options=FACTORS), GRID)
    again.calibrate(sample)
    state = fitted.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    "transform", [TransformConfig(power=1.0), TransformConfig(scale=10.0, power=0.5, log=True)]
)
def test_other_network_units_are_refused(sample, transform):
    other = statistics(sample["showers"][:8], sample["energy"][:8], Transform.from_config(transform))
    with pytest.raises(ConfigError, match=re.escape("set transform.power=0.5 and transform.log=false")):
        build_model(ModelConfig(), GRID).calibrate(other)


def test_the_fit_has_the_fluctuations_of_single_layers(calibrated, sample):
    """Principal modes alone leave what a layer does by itself out; factors have it, and how the layers go together."""
    layers = [
        values.sum(axis=(1, 2))
        for values in (
            AMPLITUDES.inverse(generate(calibrated, sample["energy"])).numpy(),
            sample["showers"],
        )
    ]
    e = np.log(sample["energy"])
    line = np.stack([np.ones_like(e), e, e**2], axis=1)
    left = []
    for values in layers:
        shares = np.sqrt(values[:, 3:18] / values.sum(axis=1, keepdims=True))
        left.append(shares - line @ np.linalg.lstsq(line, shares, rcond=None)[0])
    single = [np.diff(values, 2, axis=1).std() for values in left]
    together = np.abs(np.subtract(*(np.corrcoef(values.T) for values in left))).mean()
    if isinstance(calibrated.generator, FactorGenerator):
        assert single[0] == pytest.approx(single[1], rel=0.1)
        assert together < 0.09
    else:
        assert single[0] < 0.7 * single[1]


@pytest.mark.parametrize("shape", [(5, 5, 2), (6, 6, 2), (4, 5, 2)])
def test_the_fit_of_shapes_finds_how_they_depend_on_the_impact_point(shape):
    numbers = np.random.default_rng(0)
    point = numbers.uniform(-1.0, 1.0, (4000, 2))
    places = [np.arange(n) - (n - 1) / 2 for n in shape[:2]]
    logs = 0.5 * (point[:, 0, None, None] * places[0][:, None] + point[:, 1, None, None] * places[1])
    hits = numbers.poisson(4.0 * np.exp(logs)[..., None].repeat(shape[2], axis=3))
    _, modes = transverse(hits.astype(np.float32), legendre(point), np.zeros(shape), 1.0)
    along_x, along_y = modes[DEGREES.index((1, 0))], modes[DEGREES.index((0, 1))]
    slopes = along_x - along_x.mean(axis=(0, 1)), along_y - along_y.mean(axis=(0, 1))
    np.testing.assert_allclose(slopes[0], np.broadcast_to(0.5 * places[0][:, None, None], shape), atol=0.2)
    np.testing.assert_allclose(slopes[1], np.broadcast_to(0.5 * places[1][:, None], shape), atol=0.2)
    np.testing.assert_allclose(
        modes[:, ::-1], modes * np.array([(-1.0) ** i for i, _ in DEGREES])[:, None, None, None], atol=1e-5
    )


def test_neighbours_share_as_many_hits_as_their_correlation_says(fitted):
    generator = fitted.generator
    before = generator.sharing.clone()
    generator.sharing.copy_(torch.from_numpy(_sharing(0.1, 0.03)))
    uniform = Draws(0, 0, np.arange(200)).uniform("cells", GRID.cells).view(-1, *GRID.shape)
    decides, copies = generator._shared(uniform, uniform)
    generator.sharing.copy_(before)
    hit = (decides > 0.7).double() - 0.3
    for axes, expected in (((1,), 0.1), ((2,), 0.1), ((1, 2), 0.03), ((3,), 0.0)):
        other = hit.roll([-1] * len(axes), axes)
        assert (hit * other).mean() / 0.21 == pytest.approx(expected, abs=0.006)
    assert (uniform == decides)[copies == 0].all()


def test_a_layer_with_energy_has_a_hit(fitted):
    showers = generate(fitted, np.full(64, 10.0))
    layers = showers.square().sum((1, 2))
    assert ((showers > 0.01).sum((1, 2)) > 0)[layers > 0.01].all()


def test_an_unknown_start_is_refused():
    with pytest.raises(ConfigError, match=re.escape("model.options.start=mode: choose from modes, factors")):
        build_model(ModelConfig(options={"start": "mode"}), GRID)


@pytest.mark.parametrize(
    ("start", "layers", "latent"), [("modes", 25, 32), ("factors", 6, 32), ("factors", 25, 33)]
)
def test_there_are_as_many_normal_numbers_as_the_start_needs(start, layers, latent):
    assert lcd_fast(VoxelGrid(shape=(5, 5, layers)), start=start).generator.latent == latent


@pytest.mark.parametrize("shape", [(2, 3, 2), (3, 2, 2), (3, 3, 1)])
def test_grids_that_are_too_small_for_factors_can_have_modes(shape, sample):
    with pytest.raises(ConfigError, match=r"start=factors: the data have \dx\dx\d cells, .*start=modes"):
        lcd_fast(VoxelGrid(shape=shape), start="factors")
    for start, size in (("modes", shape), ("factors", (3, 3, 2))):
        x, y, z = size
        window = np.ascontiguousarray(sample["showers"][:, 12 : 12 + x, 12 : 12 + y, 8 : 8 + z])
        model = lcd_fast(VoxelGrid(shape=size), start=start)
        model.calibrate(statistics(window, sample["energy"]))
        assert torch.isfinite(generate(model, [10.0, 55.0, 100.0])).all()


@pytest.mark.parametrize(("option", "value"), [("latent", 10), ("width", 0), ("hidden", 0), ("patterns", 0)])
def test_sizes_that_are_too_small_are_refused(option, value):
    with pytest.raises(ConfigError, match=re.escape(f"model.options.{option}={value}: ")):
        build_model(ModelConfig(options={option: value}), GRID)


def hit_cells(showers):
    """Cells above 10 keV of each shower, given in GeV."""
    return (showers > 1e-5).sum(axis=(1, 2, 3))


def distance(one, other):
    """Wasserstein distance of two samples of equal size."""
    return np.abs(np.sort(one) - np.sort(other)).mean()


def test_a_few_steps_of_adversarial_training_bring_the_number_of_hits_nearer(sample):
    torch.manual_seed(0)
    model = build_model(ModelConfig(options={"width": 2, "discriminator_width": 4}), GRID)
    objective = build_objective(ObjectiveConfig(name="hinge"), model, AMPLITUDES)
    objective.calibrate(sample)
    with torch.no_grad():
        model.get_parameter("generator.log_hit").fill_(-0.5)  # start with too many, too small hits

    def remaining():
        generated = AMPLITUDES.inverse(generate(model, sample["energy"][:100])).numpy()
        return distance(hit_cells(generated), hit_cells(sample["showers"][:100]))

    before = remaining()
    optimizers = {
        name: torch.optim.Adam(net.parameters(), 1e-2, (0.0, 0.99)) for name, net in model.networks.items()
    }
    for step in range(25):
        rows = np.arange(8 * step, 8 * step + 8) % 300
        showers, conditions = sample["network_units"][rows], sample["energy"][rows, None]
        for update in objective.updates:
            draws = Draws(0, step, np.arange(8), update.name)
            optimizers[update.network].zero_grad()
            objective.losses(update, torch.from_numpy(showers), torch.from_numpy(conditions), draws, 8)[
                "total"
            ].backward()
            optimizers[update.network].step()
    assert remaining() < 0.7 * before
