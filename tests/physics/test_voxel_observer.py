import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.geometry import VoxelGrid
from dist_calo.objectives.auxiliary import measured_angle
from dist_calo.physics.observables.observer import Observed, observer_of
from dist_calo.physics.observables.spectrum import CellSpectrum, cells_above
from dist_calo.physics.observables.voxel_grid import VoxelObserver
from tests.support.observed import check_described

SMALL = VoxelGrid(shape=(5, 4, 3), cell_size=(10.0, 6.0, 2.0))
TILTED = VoxelGrid(shape=(51, 51, 25), conditions=("energy", "theta"))


def observed(geometry, cells, conditions=(10.0,)) -> tuple[dict[str, np.ndarray], Observed]:
    """The features by group and all that is observed of one shower with these energies in these cells."""
    shower = np.zeros((1, *geometry.shape), dtype=np.float32)
    for place, energy in cells.items():
        shower[(0, *place)] = energy
    return by_group(observer_of(geometry), observer_of(geometry).observe(shower, np.array([conditions])))


def by_group(observer, seen) -> tuple[dict[str, np.ndarray], Observed]:
    groups: dict[str, list[float]] = {}
    for feature, column in zip(observer.features, seen.columns.T, strict=True):
        values = groups.setdefault(feature.group, [])
        assert feature.index == len(values) + (2 if feature.group == "cells_above" else 0)
        values.append(column[0])
    return {group: np.squeeze(values) for group, values in groups.items()}, seen


def random_showers(geometry, count, seed=0) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(seed)
    lit = numbers.random((count, *geometry.shape)) < 0.3
    showers = (numbers.exponential(1e-3, lit.shape) * lit).astype(np.float32)
    return showers, numbers.uniform(0.9, 2.2, (count, len(geometry.conditions)))


def test_a_single_cell():
    values, _ = observed(SMALL, {(4, 1, 2): 0.5})
    assert values["response"] == pytest.approx(0.05)
    assert values["shower_max"] == values["depth"] == values["hottest_layer"] == 2
    assert values["mean_x"] == pytest.approx(20.0)  # the last of 5 columns of 10 mm
    assert values["mean_y"] == pytest.approx(-3.0)
    for width in ("width_x", "width_y", "depth_width"):
        assert values[width] == pytest.approx(0.0, abs=1e-5)
    np.testing.assert_allclose(values["layer_fraction"], [0, 0, 1])
    np.testing.assert_allclose(values["layer_width"], [np.nan, np.nan, 0.0], atol=1e-5)
    assert values["hits"] == 1
    assert values["sparsity"] == pytest.approx(59 / 60)
    assert (values["hottest_x"], values["hottest_y"]) == (4, 1)
    assert values["leading_fraction"] == pytest.approx(1.0)
    assert "angle" not in values


def test_two_cells():
    # 3 and 1 parts: means divide the distance 1 : 3 and widths are its sqrt(3) / 4.
    values, _ = observed(SMALL, {(1, 0, 0): 3.0, (3, 3, 2): 1.0})
    part = math.sqrt(3) / 4
    assert values["mean_x"] == pytest.approx(-10.0 + 20.0 / 4)
    assert values["mean_y"] == pytest.approx(-9.0 + 18.0 / 4)
    assert values["depth"] == pytest.approx(0.5)
    assert values["width_x"] == pytest.approx(20.0 * part)
    assert values["width_y"] == pytest.approx(18.0 * part)
    assert values["depth_width"] == pytest.approx(2.0 * part)
    assert values["leading_fraction"] == pytest.approx(0.75)
    assert values["core_fraction"] == 0.0  # columns 1 to 3, rows 1 and 2
    values, _ = observed(SMALL, {(1, 1, 0): 3.0, (3, 2, 2): 2.0, (0, 2, 1): 1.0, (2, 3, 1): 4.0})
    assert values["core_fraction"] == pytest.approx(0.5)
    values, _ = observed(SMALL, {(1, 0, 1): 1.0, (3, 3, 1): 1.0})
    assert values["layer_width"][1] == pytest.approx(math.hypot(10.0, 9.0))


def test_a_gaussian_blob_has_its_means_and_widths():
    geometry = VoxelGrid(shape=(31, 35, 29), cell_size=(2.0, 3.0, 4.0))
    middles = [
        (np.arange(cells) + 0.5 - cells / 2) * pitch
        for cells, pitch in zip(geometry.shape, geometry.cell_size, strict=True)
    ]
    x, y, z = (
        np.exp(-0.5 * ((place - mean) / width) ** 2)
        for place, mean, width in zip(middles, (1.3, -4.0, 8.0), (6.0, 9.0, 10.0), strict=True)
    )
    shower = np.einsum("x,y,z->xyz", x, y, z)[None]
    values, _ = by_group(VoxelObserver(geometry), VoxelObserver(geometry).observe(shower, np.array([[1.0]])))
    expected = {
        "mean_x": 1.3,
        "mean_y": -4.0,
        "width_x": 6.0,
        "width_y": 9.0,
        "depth_width": 2.5,
        "depth": 16.0,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=2e-2)
    np.testing.assert_allclose(values["layer_width"], math.hypot(6.0, 9.0), rtol=2e-2)
    assert values["shower_max"] == values["hottest_layer"] == 16


@pytest.mark.parametrize("theta", [math.pi / 2, 1.2, 2.0])
def test_a_line_of_cells_has_its_angle(theta):
    # The barycentre of each layer lies on a line in the y-z plane, between two cells.
    y = 25.5 + (np.arange(25) - 12) / math.tan(theta)
    below = np.floor(y - 0.5).astype(int)
    cells = {}
    for layer, (row, share) in enumerate(zip(below, y - 0.5 - below, strict=True)):
        cells[25, row, layer], cells[25, row + 1, layer] = 1.0 - share, share
    values, _ = observed(TILTED, cells, conditions=(10.0, theta + 0.004))
    # At the barycentre itself, in layer 12 of weight 12.5 among 312.5, the slope is undefined and counts as 0.
    missing = 12.5 / 312.5 * (math.pi / 2 - theta)
    assert values["angle"] == pytest.approx(1e3 * missing - 4.0, abs=0.01)


def test_the_angle_is_that_which_training_measures():
    showers, conditions = random_showers(TILTED, 4)
    showers[:, :, :, 3] = 0.0
    observer = VoxelObserver(TILTED)
    column = [feature.group for feature in observer.features].index("angle")
    expected = measured_angle(torch.from_numpy(showers), TILTED.cell_size).numpy() - conditions[:, 1]
    np.testing.assert_allclose(
        observer.observe(showers, conditions).columns[:, column], 1e3 * expected, atol=0.05
    )


def test_hits_and_cells_above_thresholds():
    values, seen = observed(SMALL, {(0, 0, 0): 9e-6, (1, 0, 0): 1.1e-5, (2, 0, 0): 0.5, (3, 0, 0): 20.0})
    assert values["hits"] == 3
    observer = VoxelObserver(SMALL)
    assert seen.profiles["spectrum"].sum() == 3  # 20 GeV are beyond it
    above, thresholds = seen.profiles["hits_above"][0], observer.profiles["hits_above"].edges
    assert above.shape == thresholds.shape
    energies = np.array([9e-6, 1.1e-5, 0.5, 20.0], dtype=np.float32)
    np.testing.assert_array_equal(above, (energies >= thresholds[:, None]).sum(axis=1))


def test_profiles_of_two_cells_lie_in_their_bins():
    _, seen = observed(SMALL, {(1, 0, 0): 3.0, (3, 3, 2): 1.0})
    np.testing.assert_allclose(seen.profiles["longitudinal"], [[3, 0, 1]])
    np.testing.assert_allclose(seen.profiles["x"], [[0, 3, 0, 1, 0]])
    np.testing.assert_allclose(seen.profiles["y"], [[3, 0, 0, 1]])
    profiles = VoxelObserver(SMALL).profiles
    np.testing.assert_allclose(profiles["longitudinal"].edges, [-0.5, 0.5, 1.5, 2.5])
    np.testing.assert_allclose(profiles["y"].edges, [-12, -6, 0, 6, 12])


def test_a_shower_without_energy_has_no_shape_and_gives_no_warning():
    values, seen = observed(TILTED, {}, conditions=(10.0, 1.5))
    assert (values["response"], values["hits"], values["sparsity"]) == (0.0, 0.0, 1.0)
    assert not values["cells_above"].any()
    known = ("response", "hits", "sparsity", "cells_above")
    others = [np.ravel(column) for name, column in values.items() if name not in known]
    assert np.isnan(np.concatenate(others)).all()
    assert not any(profile.any() for profile in seen.profiles.values())


def test_diverged_showers_give_no_warning():
    showers, conditions = random_showers(SMALL, 4)
    showers[0, 0, 0, 0], showers[1, 1, 1, 1], showers[2], showers[3] = np.nan, np.inf, -1.0, 3e38
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VoxelObserver(SMALL).observe(showers, conditions)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 7), max_size=3),
)
def test_any_grid_any_batches(shape, seed, cuts):
    geometry = VoxelGrid(shape=shape)
    observer = VoxelObserver(geometry)
    showers, conditions = random_showers(geometry, 7, seed)
    before = showers.copy()
    seen = observer.observe(showers, conditions)
    np.testing.assert_array_equal(showers, before)
    assert seen.columns.shape == (7, len(observer.features))
    groups = np.array([feature.group for feature in observer.features])
    visible = showers.sum(axis=(1, 2, 3), dtype=np.float64)
    fractions = seen.columns[:, groups == "layer_fraction"].sum(axis=1)
    np.testing.assert_allclose(fractions, np.where(visible > 0, 1.0, np.nan), rtol=1e-6)
    for name in ("longitudinal", "x", "y"):
        np.testing.assert_allclose(seen.profiles[name].sum(axis=1), visible, rtol=1e-5)
    assert {name: values.shape[1] for name, values in seen.profiles.items()} == {
        name: profile.width for name, profile in observer.profiles.items()
    }
    edges = [0, *sorted(cuts), 7]
    parts = [
        observer.observe(showers[low:high], conditions[low:high]) for low, high in itertools.pairwise(edges)
    ]
    np.testing.assert_allclose(np.concatenate([part.columns for part in parts]), seen.columns, rtol=1e-12)


def test_scaled_and_mirrored_showers():
    showers, conditions = random_showers(TILTED, 3)
    observer = VoxelObserver(TILTED)
    groups = np.array([feature.group for feature in observer.features])
    whole = observer.observe(showers, conditions).columns
    scaled = observer.observe(4 * showers, conditions).columns
    energies = np.isin(groups, ["response", "hits", "sparsity", "cells_above"])
    np.testing.assert_allclose(scaled[:, ~energies], whole[:, ~energies], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scaled[:, groups == "response"], 4 * whole[:, groups == "response"])
    mirrored = observer.observe(showers[:, ::-1], conditions).columns
    signs = np.where(groups == "mean_x", -1.0, 1.0)
    moved = groups == "hottest_x"
    np.testing.assert_allclose(mirrored[:, ~moved], (whole * signs)[:, ~moved], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mirrored[:, moved], 50 - whole[:, moved])


@pytest.mark.parametrize("geometry", [SMALL, TILTED])
def test_what_is_observed_is_described(geometry):
    observer = VoxelObserver(geometry)
    check_described(observer, geometry)
    groups = {feature.group for feature in observer.features}
    assert ("angle" in groups) == ("theta" in geometry.conditions)


def test_showers_that_do_not_fit_are_refused():
    for showers, conditions in (((2, 5, 4, 4), (2, 1)), ((2, 5, 4, 3), (2,)), ((2, 5, 4, 3), (2, 2))):
        with pytest.raises(ValueError, match=r"expected \(2, 5, 4, 3\) and \(2, 1\)"):
            VoxelObserver(SMALL).observe(np.zeros(showers), np.ones(conditions))


def test_a_spectrum_counts_what_lies_above_its_bins():
    spectrum = CellSpectrum(1e-2, 1.0)
    cells = np.array([[0.0, 0.005, 0.02, 0.5, 2.0, 1e30, np.nan, -1.0]], dtype=np.float32)
    counts = spectrum.counts(cells)
    assert counts.shape == (1, len(spectrum.edges))
    assert counts.sum() == 4
    assert counts[0, -1] == 2
    np.testing.assert_array_equal(cells_above(counts)[0, [0, -1]], [4, 2])
