import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from dist_calo.errors import ConfigError
from dist_calo.simulation.beam import NORMAL_INCIDENCE, Beam
from dist_calo.simulation.detectors import DETECTORS, find_detector
from dist_calo.simulation.parametrised import deposit_in_cells, simulate
from dist_calo.simulation.seeded_blocks import BLOCK, simulate_block

DATA = Path(__file__).resolve().parents[2] / "data"


def showers_of(name, energies, seed=0, tilt=0.0, constants=None):
    detector = find_detector(name)
    numbers, parts = np.random.default_rng(seed), []
    for some in np.array_split(energies, -(-len(energies) // BLOCK)):
        theta = np.full(len(some), NORMAL_INCIDENCE - tilt)
        parts.append(simulate(detector, constants or detector.parametrisation, some, theta, numbers))
    return np.concatenate(parts).astype(np.float64)


def measured_angle(showers, pitch=5.1):
    """Angle as in Khattak et al.: pi/2 - atan(slope) of each layer's centroid, weighted by depth."""
    x, y, z = (pitch * (np.arange(n) + 0.5) for n in showers.shape[1:])
    layers, total = showers.sum((1, 2)), showers.sum((1, 2, 3))[:, None]
    safe = np.where(layers > 0, layers, 1.0)
    along_x, along_y = np.einsum("nxyz,x->nz", showers, x), np.einsum("nxyz,y->nz", showers, y)
    dx = along_x / safe - along_x.sum(1, keepdims=True) / total
    dy = along_y / safe - along_y.sum(1, keepdims=True) / total
    dz = z - (layers @ z)[:, None] / total
    slope = np.where(dz < 0, -dy, dy) / np.hypot(dx, dz)
    weight = z * (layers > 1e-6 * total)
    return ((math.pi / 2 - np.arctan(slope)) * weight).sum(1) / weight.sum(1)


def share_of_bins(simulated, real, held=0.95):
    """Largest relative deviation of the bins that hold most of the energy."""
    order = np.argsort(-real)
    kept = order[: np.searchsorted(np.cumsum(real[order]) / real.sum(), held) + 1]
    return np.abs(simulated[kept] / real[kept] - 1.0).max()


def lcd_sample():
    files = [h5py.File(path) for path in sorted((DATA / "sample").glob("*.h5"))]
    return tuple(np.concatenate([file[name][:] for file in files]) for name in ("ECAL", "energy"))


def test_the_profiles_of_the_lcd_sample_are_met():
    real, energies = lcd_sample()
    fake = showers_of("lcd25", np.tile(energies[:, 0], 2))
    assert share_of_bins(fake.sum((1, 2)).mean(0), real.sum((1, 2)).mean(0)) < 0.05
    for axes in ((2, 3), (1, 3)):
        assert share_of_bins(fake.sum(axes).mean(0), real.sum(axes).mean(0)) < 0.05
    response = fake.sum() / (2 * energies.sum()), real.sum() / energies.sum()
    assert response[0] == pytest.approx(response[1], rel=0.01)


def test_the_fluctuations_of_the_lcd_sample_are_met():
    real, energies = lcd_sample()
    fake = showers_of("lcd25", energies[:, 0], seed=1)
    depth = np.arange(25) + 0.5
    for statistic in (
        lambda showers: showers.sum((1, 2, 3)) / energies[:, 0],
        lambda showers: showers.sum((1, 2)) @ depth / showers.sum((1, 2, 3)),
    ):
        assert statistic(fake).std() == pytest.approx(statistic(real).std(), rel=0.1)


def test_the_sections_of_the_layered_calorimeter_are_met():
    with h5py.File(DATA / "layers" / "layers_electrons.h5") as file:
        energies = file["energy"][:512, 0]
        real = np.stack([file[f"layer_{number}"][:512].sum((1, 2)) for number in range(3)], axis=1)
    detector = find_detector("layers")
    fake = showers_of("layers", energies)
    slices = detector.geometry().layer_slices
    found = np.stack([fake[:, cells].sum(1) for cells in slices], axis=1)
    np.testing.assert_allclose(found.mean(0)[:2], real.mean(0)[:2], rtol=0.05)
    assert (found.sum(1) / energies).mean() == pytest.approx((real.sum(1) / energies).mean(), rel=0.01)


def test_the_deposits_of_the_scintillator_array_are_met():
    with h5py.File(DATA / "signals" / "signals_electrons.h5") as file:
        energies, real = file["energy"][:1024, 0], file["edep"][:1024].astype(np.float64)
    fake = showers_of("signals", energies)
    assert fake.sum() == pytest.approx(real.sum(), rel=0.01)
    assert fake[:, :, 1, 1].sum() / fake.sum() == pytest.approx(real[:, :, 1, 1].sum() / real.sum(), abs=0.02)
    depth = np.arange(66)
    fake_depth, real_depth = (np.sum(some.sum((0, 2, 3)) * depth) / some.sum() for some in (fake, real))
    assert fake_depth == pytest.approx(real_depth, rel=0.03)


def test_energy_in_a_window_without_bounds_is_the_sum_of_the_spots():
    cells = find_detector("lcd25").cells
    numbers = np.random.default_rng(0)
    deposits = numbers.random(1000)
    place = numbers.uniform(-60.0, 60.0, (2, 1000))
    layer = numbers.integers(0, 25, 1000)
    shower = numbers.integers(0, 3, 1000)
    found = deposit_in_cells(cells, 3, layer, shower * 15625 + layer, *place, deposits)
    assert found.sum() == pytest.approx(deposits.sum())
    np.testing.assert_allclose(found.sum((1, 2, 3)), np.bincount(shower, deposits), rtol=1e-5)
    np.testing.assert_allclose(found.sum((0, 1, 2)), np.bincount(layer, deposits), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "x", "y", "number"),
    [
        ("lcd25", 5.1, -5.1, (13 * 25 + 11) * 25 + 2),
        ("layers", 20.0, -100.0, 288 + 144 + 3 * 6 + 3),
        ("signals", 40.0, -40.0, (2 * 3 + 2) * 3),
    ],
)
def test_a_spot_falls_into_its_cell_and_beside_the_window_it_is_lost(name, x, y, number):
    cells = find_detector(name).cells
    base = cells.first[2]
    place = np.array([x, 1e4]), np.array([y, 0.0])
    found = deposit_in_cells(cells, 1, np.array([2, 2]), np.array([base, base]), *place, np.ones(2))
    assert np.flatnonzero(found).tolist() == [number]


@pytest.mark.parametrize("tilt", [-0.4, -0.2, 0.2, 0.4])
def test_the_measured_angle_is_that_asked_for(tilt):
    showers = showers_of("lcd51", np.full(256, 80.0), tilt=tilt)
    assert measured_angle(showers).mean() == pytest.approx(NORMAL_INCIDENCE - tilt, abs=0.02)
    assert measured_angle(showers).std() < 0.1


def test_a_tilted_shower_is_shallower_by_the_sine_of_its_angle():
    energies, depth = np.full(512, 30.0), np.arange(25) + 0.5
    straight, tilted = (showers_of("lcd51", energies, tilt=tilt).sum((1, 2)) for tilt in (0.0, 0.5))
    depths = [float((layers @ depth).sum() / layers.sum()) for layers in (straight, tilted)]
    assert depths[1] == pytest.approx(depths[0] * math.cos(0.5), rel=0.03)


def test_more_and_smaller_spots_fluctuate_less():
    constants = find_detector("lcd25").parametrisation
    fine = replace(constants, spot_energy=constants.spot_energy / 4)
    energies = np.full(256, 20.0)
    spreads = [
        showers_of("lcd25", energies, constants=some).sum((1, 2, 3)).std() for some in (constants, fine)
    ]
    assert spreads[1] < 0.7 * spreads[0]


def test_a_block_is_a_function_of_the_seed_and_its_number():
    beam = Beam(energy=(10.0, 100.0))
    first, again = (simulate_block("lcd25", beam, 3, 1) for _ in range(2))
    for values, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(values, same)
    for seed, block in ((3, 2), (4, 1)):
        assert not np.array_equal(first[1], simulate_block("lcd25", beam, seed, block)[1])


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_blocks_have_the_shape_of_the_geometry(name):
    showers, conditions = simulate_block(name, Beam(energy=(10.0, 20.0)), 0, 0)
    assert showers.shape == (BLOCK, *find_detector(name).geometry().shape)
    assert showers.dtype == conditions.dtype == np.float32
    assert conditions.shape == (BLOCK, 1)
    assert 10.0 <= conditions.min() <= conditions.max() <= 20.0


def test_an_unknown_detector_is_refused():
    with pytest.raises(ConfigError, match="choose from lcd25, lcd51, layers, signals"):
        find_detector("atlas")
