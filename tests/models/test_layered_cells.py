"""Sharing of a layer's energy: what the calibration finds of showers made from known constants; cells' places."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from dist_calo.config import ModelConfig
from dist_calo.geometry import LayeredGrid
from dist_calo.models import build_model
from dist_calo.models.layered import shape_calibration as fit
from dist_calo.models.layered.energies import probability
from dist_calo.models.layered.layout import Mirrors, Picture, pictures
from dist_calo.randomness import Draws
from tests.support.layers_showers import GRID, RINGS, layered_showers

NUMBERS = np.random.default_rng(3)


def test_the_normal_distribution_function_is_right_in_both_tails():
    x = torch.linspace(-8.0, 8.0, 1001)
    torch.testing.assert_close(
        probability(x).double(), torch.from_numpy(ndtr(x.double().numpy())), rtol=2e-5, atol=0.0
    )


@pytest.mark.parametrize("closed", [False, True])
def test_neighbours_are_correlated_and_all_numbers_standard_normal(closed):
    picture = Picture(rows=5, columns=4, closed=closed)
    normal = torch.from_numpy(NUMBERS.standard_normal((40_000, 20))).float()
    made = picture.correlated(normal, torch.tensor([0.2, 0.3])).numpy()
    expected = np.zeros((5, 4, 5, 4))
    unit = [np.eye(5), np.eye(4)]
    for axis, (size, weight) in enumerate(((5, 0.2), (4, 0.3))):
        for cell in range(size):
            for other in (cell - 1, cell + 1):
                if 0 <= other < size or (closed and axis == 0):
                    unit[axis][cell, other % size] += weight
        unit[axis] /= np.sqrt((unit[axis] ** 2).sum(1, keepdims=True))
    rows, columns = (one @ one.T for one in unit)
    expected = np.kron(rows, columns)
    assert np.cov(made.T) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.2])
def test_the_correlation_of_neighbours_is_found_from_their_hits(weight):
    picture = Picture(rows=6, columns=12, closed=False)
    normal = torch.from_numpy(NUMBERS.standard_normal((6_000, 72))).float()
    hidden = picture.correlated(normal, torch.tensor([0.0, weight])).numpy()
    expected = np.broadcast_to(np.linspace(0.1, 2.0, 72), hidden.shape)
    found = fit.neighbour_weights(ndtr(-hidden) < -np.expm1(-expected), expected, picture)
    assert found == pytest.approx([0.0, weight], abs=0.03)


def test_the_power_of_a_hits_energy_is_found():
    expected = np.full((4_000, 10), 0.05)
    hits = NUMBERS.random(expected.shape) < 0.05
    cells = 0.7 * NUMBERS.exponential(size=expected.shape) ** 1.2 * hits
    assert fit.hit_power(cells, expected, np.full(10, 0.7)) == pytest.approx(1.2, abs=0.05)


def test_both_kinds_of_fluctuations_are_found():
    """The point of impact, on one of two sides, moves all showers alike; a second mode falls with the hits."""
    count, cells = 4_000, 12
    hits = np.repeat(NUMBERS.uniform(300.0, 10_000.0, count)[:, None], cells, axis=1)
    mean = np.full((count, cells), 1.0 / cells)
    side, tilt = np.linspace(-1.0, 1.0, cells), np.cos(np.linspace(0.0, 2.0 * np.pi, cells))
    amount = np.sign(NUMBERS.standard_normal(count)) * NUMBERS.normal(0.95, 0.2, count)
    falling = NUMBERS.standard_normal(count) / np.sqrt(hits[:, 0])
    logs = 0.3 * amount[:, None] * side + 6.0 * falling[:, None] * tilt
    shares = np.exp(logs)
    shares = NUMBERS.poisson(shares / shares.sum(1, keepdims=True) * 2.0 * hits) / (2.0 * hits)
    levels = np.linspace(0.01, 0.99, 33)
    found = fit.fluctuations(shares, mean, hits, (2, 2), levels)
    along = found.modes[0] @ side / (side @ side)
    # A floor of 3e-3 on shares of 1/12 takes 3.5 % from each mode.
    assert abs(along) == pytest.approx(0.3 / 1.035, rel=0.08)
    assert np.quantile(np.abs(found.amounts[0]), 0.1) > 0.5
    assert abs(found.sampling[0] @ tilt / (tilt @ tilt)) == pytest.approx(6.0 / 1.035, rel=0.15)


@pytest.mark.parametrize("geometry", [GRID, RINGS], ids=lambda geometry: geometry.kind)
def test_mirror_images_are_four_orders_of_the_cells_that_undo_themselves(geometry):
    images = Mirrors(geometry).images
    same = torch.arange(geometry.cells)
    assert torch.equal(images[0], same)
    assert len({tuple(image.tolist()) for image in images}) == 4
    for image in images:
        assert torch.equal(image[image], same)
    assert torch.equal(images[1][images[2]], images[3])
    for cut in geometry.layer_slices:
        assert torch.equal(images[:, cut].sort(1).values, same[cut].expand(4, -1))


def test_a_grid_is_mirrored_in_eta_and_in_phi():
    grid = LayeredGrid(layers=((2, 3),))
    shower = torch.arange(6.0).view(2, 3)
    images = [shower, shower.flip(0), shower.flip(1), shower.flip(0, 1)]
    made = Mirrors(grid)(shower.flatten().expand(400, -1), Draws(0, 1, np.arange(400)))
    counts = [int((made == image.flatten()).all(1).sum()) for image in images]
    assert sum(counts) == 400
    assert min(counts) > 70


def test_places_of_layers_that_are_not_read_out_are_left_out():
    assert [picture.rows * picture.columns for picture in pictures(RINGS)] == [
        cells for cells in RINGS.layer_cells if cells
    ]


@pytest.mark.parametrize("name", ["layers_gan", "layers_vae"])
def test_constants_that_an_earlier_checkpoint_lacks_change_nothing(name):
    options = {"latent": 8, "hidden": 12, "modes": 2}
    statistics = layered_showers(GRID)
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name, options=options), GRID)
    model.calibrate(statistics)
    cells = next(module for key, module in model.named_modules() if key.endswith("cells"))
    later = ("amounts", "products", "sampling", "usual", "rates", "power", "neighbours")
    state = {key: value for key, value in model.state_dict().items() if key.rsplit(".", 1)[-1] not in later}
    again = build_model(ModelConfig(name=name, options=options), GRID)
    again.load_state_dict(state)
    with torch.no_grad():
        fluctuations = next(m for k, m in again.named_modules() if k.endswith("cells")).fluctuations(
            torch.ones(1, 8), torch.ones(2, len(cells.sizes)), torch.ones(1, len(cells.sizes))
        )
    torch.testing.assert_close(fluctuations[0], cells.modes.sum(0))
    uniform = torch.rand(5, GRID.cells, generator=torch.Generator().manual_seed(1))
    kept = next(m for k, m in again.named_modules() if k.endswith("cells")).correlated(uniform)
    torch.testing.assert_close(kept, uniform, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("geometry", [GRID, RINGS], ids=lambda geometry: geometry.kind)
def test_a_mirrored_gan_makes_all_images_alike(geometry):
    torch.manual_seed(0)
    options = {"latent": 8, "hidden": 12, "modes": 2, "discriminator_width": 6, "mirrored": True}
    model = build_model(ModelConfig(name="layers_gan", options=options), geometry)
    model.calibrate(layered_showers(geometry))
    with torch.no_grad():
        made = model.generate(torch.full((4_000, 1), 30.0), Draws(1, 1, np.arange(4_000)))
    means = made.mean(0)
    for image in Mirrors(geometry).images:
        assert (means[image] - means).abs().max() < 0.08 * means.max() + 0.02
