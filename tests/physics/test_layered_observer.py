import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.geometry import CylindricalLayers, LayeredGrid
from dist_calo.physics.observables import layered
from dist_calo.physics.observables.layered import LayerObserver, RadialDensity
from dist_calo.physics.observables.observer import observer_of
from tests.support.layer_samples import GRID, made_up
from tests.support.observed import check_described

CYLINDER = CylindricalLayers(
    r_edges=((0.0, 2.0, 6.0), (), (0.0, 10.0), (0.0, 2.0, 4.0)), sectors=(4, 0, 1, 1)
)
"""A layer with rings and sectors, one that is not read out, a single cell, and rings alone."""
UNSIZED = LayeredGrid(layers=((3, 4), (1, 1)))
GEOMETRIES = [GRID, CYLINDER, UNSIZED]


def seen(geometry, **cells) -> dict[str, float]:
    """Features of one shower of 10 GeV with these energies in these cells, given as c7=0.5."""
    shower = np.zeros((1, geometry.cells), dtype=np.float32)
    for name, energy in cells.items():
        shower[0, int(name[1:])] = energy
    observer = observer_of(geometry)
    values = observer.observe(shower, np.array([[10.0]])).columns[0]
    return dict(zip([feature.name for feature in observer.features], values.tolist(), strict=True))


def test_energies_of_layers_and_their_depth():
    values = seen(GRID, c0=0.3, c6=0.06, c7=0.04)
    assert values["response/0"] == pytest.approx(0.04)
    assert values["layer_fraction/1"] == pytest.approx(0.25)
    assert values["share/1"] == pytest.approx(math.log10(0.25))
    assert values["depth/0"] == pytest.approx(0.25)
    assert values["depth_width/0"] == pytest.approx(math.sqrt(3) / 4)
    assert values["depth_weighted_energy/0"] == pytest.approx(0.1)
    assert values["shower_max/0"] == values["hottest_layer/0"] == 0
    assert values["leading_fraction/0"] == pytest.approx(0.75)
    assert values["hits/0"] == 3
    assert values["sparsity/0"] == pytest.approx(5 / 6)
    assert values["e_ratio/0"] == pytest.approx(1.0)
    assert values["e_ratio/1"] == pytest.approx(0.2)
    assert values["hottest_fraction/1"] == pytest.approx(0.6)
    assert values["cells_above/4"] == 3
    assert values["cells_above/5"] == 1
    assert values["cells_above/6"] == 0


def test_places_in_a_grid():
    # Layer 0 has 2 x 3 cells of 10 x 4 mm (y, x): cells 0 and 5 are opposite corners.
    values = seen(GRID, c0=3.0, c5=1.0)
    assert values["centre_x/0"] == pytest.approx(-2.0)
    assert values["centre_y/0"] == pytest.approx(-2.5)
    assert values["width_x/0"] == pytest.approx(8.0 * math.sqrt(3) / 4)
    assert values["width_y/0"] == pytest.approx(10.0 * math.sqrt(3) / 4)
    assert values["width/0"] == pytest.approx(math.hypot(8.0, 10.0) * math.sqrt(3) / 4)


def test_the_core_is_the_middle_of_a_grid_and_the_innermost_ring():
    wide = LayeredGrid(layers=((5, 6), (2, 2)))
    values = seen(
        wide, c14=1.0, c9=2.0, c0=5.0, c30=1.0
    )  # row 2, column 2; row 1, column 3; a corner; all core
    assert values["core_fraction/0"] == pytest.approx(3 / 8)
    assert "core_fraction/1" not in values
    values = seen(CYLINDER, c0=1.0, c1=3.0, c2=4.0, c8=1.0, c9=3.0, c10=1.0)
    assert values["core_fraction/0"] == pytest.approx(5 / 8)
    assert values["core_fraction/3"] == pytest.approx(3 / 4)
    assert "core_fraction/2" not in values


def test_places_in_rings():
    # Sectors of the first layer: cells 0 and 1 are rings of mean radius 1 and 4 of the first, 4 and 5 opposite.
    values = seen(CYLINDER, c0=1.0, c1=3.0)
    assert values["centre_r/0"] == pytest.approx(3.25)
    assert values["width_r/0"] == pytest.approx(3 * math.sqrt(3) / 4)
    assert values["centre_x/0"] == pytest.approx(3.25 * math.sqrt(0.5))
    values = seen(CYLINDER, c1=1.0, c5=1.0, c9=1.0)
    assert values["centre_r/0"] == pytest.approx(4.0)
    assert values["width_r/0"] == pytest.approx(0.0, abs=1e-5)
    assert values["centre_x/0"] == pytest.approx(0.0, abs=1e-12)
    assert values["width/0"] == pytest.approx(4.0)
    assert values["width_x/0"] == pytest.approx(4.0 * math.sqrt(0.5))
    assert values["width/3"] == pytest.approx(1.0)  # about the axis
    assert {"centre_x/3", "centre_r/2", "width/2", "e_ratio/2", "layer_energy/1"}.isdisjoint(values)


def test_a_gaussian_layer_has_its_centres_and_widths():
    geometry = LayeredGrid(layers=((81, 61),), cell_sizes=((1.0, 2.0),))
    y, x = np.meshgrid(np.arange(81) - 40.0, 2.0 * np.arange(61) - 60.0, indexing="ij")
    cells = np.exp(-0.5 * ((x - 5.0) / 9.0) ** 2 - 0.5 * ((y + 3.0) / 7.0) ** 2)
    observer = LayerObserver(geometry)
    values = observer.observe(cells.reshape(1, -1), np.ones((1, 1))).columns[0]
    found = {feature.group: value for feature, value in zip(observer.features, values, strict=True)}
    expected = {
        "centre_x": 5.0,
        "centre_y": -3.0,
        "width_x": 9.0,
        "width_y": 7.0,
        "width": math.hypot(9.0, 7.0),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-3)


def test_profiles():
    shower = np.zeros((1, CYLINDER.cells), dtype=np.float32)
    shower[0, [0, 2, 8, 9]] = [1.0, 2.0, 4.0, 2e4]  # two first rings, the single cell, the first ring alone
    profiles = LayerObserver(CYLINDER).observe(shower, np.ones((1, 1))).profiles
    described = LayerObserver(CYLINDER).profiles
    np.testing.assert_allclose(described["longitudinal"].edges, [0, 2, 3])
    np.testing.assert_allclose(profiles["longitudinal"], [[3.0, 4.0, 2e4]])
    np.testing.assert_allclose(described["radial"].edges, [0, 2, 4, 6, 10])
    per_area = 4.0 / (math.pi * 100)
    np.testing.assert_allclose(
        profiles["radial"], [[(3.0 + 2e4) / (math.pi * 4) + per_area, *[per_area] * 3]], rtol=1e-6
    )
    assert profiles["spectrum"].sum() == 3  # 20 TeV are beyond it
    assert profiles["hits_above"][0, 0] == 4
    assert profiles["hits_above"][0, -1] == 1
    assert "radial" not in LayerObserver(GRID).profiles


def test_the_radial_density_holds_all_energy():
    showers, _ = made_up(CYLINDER, 20, 0)
    density = RadialDensity(CYLINDER)
    cells = [showers[:, part] for part in CYLINDER.layer_slices if part.stop > part.start]
    areas = np.pi * np.diff(density.edges**2)
    np.testing.assert_allclose(density.of(cells) @ areas, showers.sum(axis=1, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_shower_without_energy_has_no_shape(geometry):
    values = seen(geometry)
    zero = ("response", "hits", "layer_energy", "depth_weighted_energy", "cells_above")
    for name, value in values.items():
        group = name.split("/")[0]
        assert (
            value == 0.0 if group in zero else value == 1.0 if group == "sparsity" else math.isnan(value)
        ), name


def test_diverged_showers_give_no_warning():
    showers, energies = made_up(CYLINDER, 4, 0)
    showers[0, 0], showers[1, 1], showers[2], showers[3] = np.nan, np.inf, -1.0, 3e38
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LayerObserver(CYLINDER).observe(showers, energies[:, None])


@settings(max_examples=15, deadline=None)
@given(
    geometry=st.sampled_from(GEOMETRIES),
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 9), max_size=3),
)
def test_any_batches_and_any_scale(geometry, seed, cuts):
    observer = LayerObserver(geometry)
    showers, energies = made_up(geometry, 9, seed)
    conditions, before = energies[:, None], showers.copy()
    whole = observer.observe(showers, conditions)
    np.testing.assert_array_equal(showers, before)
    parts = [
        observer.observe(showers[low:high], conditions[low:high])
        for low, high in itertools.pairwise([0, *sorted(cuts), 9])
    ]
    together = np.concatenate([part.columns for part in parts])
    np.testing.assert_allclose(together, whole.columns, rtol=1e-9, atol=1e-9)
    visible = showers.sum(axis=1, dtype=np.float64)
    groups = np.array([feature.group for feature in observer.features])
    fractions = whole.columns[:, groups == "layer_fraction"].sum(axis=1)
    np.testing.assert_allclose(fractions, np.where(visible > 0, 1.0, np.nan))
    np.testing.assert_allclose(whole.profiles["longitudinal"].sum(axis=1), visible)
    scaled = observer.observe(4 * showers, conditions).columns
    factors = np.where(np.isin(groups, ["response", "layer_energy", "depth_weighted_energy"]), 4.0, 1.0)
    shapes = ~np.isin(groups, ["hits", "sparsity", "cells_above"])
    np.testing.assert_allclose(scaled[:, shapes], (whole.columns * factors)[:, shapes], rtol=1e-6, atol=1e-6)


def test_more_showers_than_are_measured_at_once(monkeypatch):
    showers, energies = made_up(GRID, 50, 0)
    whole = LayerObserver(GRID).observe(showers, energies[:, None])
    monkeypatch.setattr(layered, "CELLS_AT_ONCE", 7 * GRID.cells)
    parts = LayerObserver(GRID).observe(showers, energies[:, None])
    np.testing.assert_allclose(parts.columns, whole.columns, rtol=1e-9, atol=1e-9)
    for name, values in whole.profiles.items():
        np.testing.assert_allclose(parts.profiles[name], values)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_is_observed_is_described(geometry):
    check_described(LayerObserver(geometry), geometry)
