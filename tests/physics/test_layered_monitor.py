import math

import numpy as np
import pytest

from dist_calo.geometry import CylindricalLayers, LayeredGrid
from dist_calo.physics.monitors.layered import LayerMonitor
from dist_calo.physics.monitors.monitor import monitor_of
from dist_calo.physics.observables.layered_cells import cell_positions, hit_threshold
from tests.support.layer_samples import GRID, two_samples

CYLINDER = CylindricalLayers(r_edges=((0.0, 2.0, 6.0), (), (0.0, 10.0)), sectors=(4, 0, 1))
ENERGY = np.array([10.0])


def seen(geometry, **cells) -> dict[str, float]:
    """Features of one shower with these energies in these cells, given as c7=0.5."""
    shower = np.zeros((1, geometry.cells), dtype=np.float32)
    for name, energy in cells.items():
        shower[0, int(name[1:])] = energy
    view = LayerMonitor(geometry)
    values = view.observe(shower, ENERGY)[0]
    return dict(zip([feature.name for feature in view.features], values.tolist(), strict=True))


def test_cells_of_a_grid_have_their_pitch_about_the_middle():
    geometry = LayeredGrid(layers=((2, 3), (1, 1)), cell_sizes=((10.0, 4.0), (1.0, 1.0)))
    x, y, square = cell_positions(geometry).T
    np.testing.assert_allclose(x, [-4, 0, 4, -4, 0, 4, 0])  # phi, the faster index
    np.testing.assert_allclose(y, [-5, -5, -5, 5, 5, 5, 0])
    np.testing.assert_allclose(square, x**2 + y**2)


def test_cells_without_sizes_are_in_units_of_the_layer():
    x, y, _ = cell_positions(LayeredGrid(layers=((1, 4),))).T
    np.testing.assert_allclose(x, [-0.375, -0.125, 0.125, 0.375])
    np.testing.assert_allclose(y, 0.0)


def test_cells_of_a_cylinder_are_at_the_middle_of_their_sector():
    x, y, square = cell_positions(CYLINDER).T
    half = math.sqrt(0.5)
    # sector by sector, rings of mean radius 1 and 4 in each
    np.testing.assert_allclose(x[:8], np.outer([1, -1, -1, 1], [half, 4 * half]).ravel())
    np.testing.assert_allclose(y[:8], np.outer([1, 1, -1, -1], [half, 4 * half]).ravel())
    np.testing.assert_allclose(square, [1, 16, 1, 16, 1, 16, 1, 16, 25])
    assert np.isnan([x[8], y[8]]).all()


def test_one_cell_hit_is_the_centre_without_a_width():
    values = seen(GRID, c1=0.5)
    assert values["layer_energy/0"] == pytest.approx(0.5)
    assert (values["centre_x/0"], values["centre_y/0"]) == (pytest.approx(0.0), pytest.approx(-5.0))
    assert values["width/0"] == pytest.approx(0.0, abs=1e-6)
    assert values["hit_share/0"] == pytest.approx(1 / 6)
    assert values["response/0"] == pytest.approx(0.05)
    assert (values["depth/0"], values["depth_width/0"]) == (0.0, 0.0)
    assert values["share/0"] == 0.0


def test_two_cells_have_their_centre_between_them():
    values = seen(GRID, c0=0.3, c2=0.1)
    assert values["centre_x/0"] == pytest.approx((-4 * 0.3 + 4 * 0.1) / 0.4, abs=1e-6)
    # distances of 2 and 6 mm from the centre
    assert values["width/0"] == pytest.approx(math.sqrt((0.3 * 2**2 + 0.1 * 6**2) / 0.4), abs=1e-5)


def test_energy_in_two_layers():
    values = seen(GRID, c0=0.3, c6=0.1)
    assert values["share/0"] == pytest.approx(math.log10(0.75), abs=1e-6)
    assert values["share/1"] == pytest.approx(math.log10(0.25), abs=1e-6)
    assert values["depth/0"] == pytest.approx(0.25)
    assert values["depth_width/0"] == pytest.approx(math.sqrt(0.25 * 0.75))


def test_an_empty_layer_has_no_share_centre_or_width():
    values = seen(GRID, c0=0.3)
    assert values["layer_energy/1"] == 0.0
    assert values["hit_share/1"] == 0.0
    assert np.isnan([values[f"{name}/1"] for name in ("share", "centre_x", "centre_y", "width")]).all()
    dark = seen(GRID)
    assert dark["response/0"] == 0.0
    assert np.isnan([dark["depth/0"], dark["depth_width/0"]]).all()


def test_cells_below_the_threshold_are_no_hits():
    assert seen(GRID, c0=9e-6, c1=2e-5)["hit_share/0"] == pytest.approx(1 / 6)
    assert seen(CYLINDER, c0=0.9e-3, c1=1.1e-3)["hit_share/0"] == pytest.approx(1 / 8)


def test_thresholds_of_cylinders_are_those_of_the_calochallenge():
    def rings(layers, r, sectors):
        return CylindricalLayers(
            r_edges=(tuple(float(n) for n in range(r + 1)),) * layers, sectors=(sectors,) * layers
        )

    assert hit_threshold(rings(5, 7, 10)) == 1e-3  # as few cells as dataset 1 has
    assert hit_threshold(rings(45, 9, 16)) == hit_threshold(rings(45, 18, 50)) == 1.515e-5  # datasets 2 and 3
    assert hit_threshold(GRID) == 1e-5


def test_layers_of_a_cylinder_that_are_not_read_out_have_no_features():
    values = seen(CYLINDER, c0=0.5, c8=0.5)
    assert [name for name in values if name.startswith("layer_energy")] == [
        "layer_energy/0",
        "layer_energy/2",
    ]
    assert values["depth/0"] == pytest.approx(1.0)  # between the layers 0 and 2


def test_rings_without_sectors_have_a_width_about_the_axis_and_no_centre():
    values = seen(CYLINDER, c8=0.5)
    assert np.isnan([values["centre_x/2"], values["centre_y/2"]]).all()
    assert values["width/2"] == pytest.approx(5.0)


def test_energy_around_the_axis_has_the_radius_as_its_width():
    values = seen(CYLINDER, c1=0.1, c3=0.1, c5=0.1, c7=0.1)
    assert values["centre_x/0"] == pytest.approx(0.0, abs=1e-6)
    assert values["width/0"] == pytest.approx(4.0, abs=1e-6)


def test_both_kinds_of_layers_have_this_view():
    assert isinstance(monitor_of(GRID), LayerMonitor)
    assert isinstance(monitor_of(CYLINDER), LayerMonitor)


def test_bins_are_settled_before_a_summary():
    view = LayerMonitor(GRID)
    assert not view.settled
    with pytest.raises(ValueError, match="bins are not settled"):
        view.summary()
    showers, energies = two_samples(GRID)[0]
    view.settle(view.extremes(showers, energies))
    assert view.settled
    assert view.summary().count == 0


def summaries(geometry, fake=None):
    """The view, the summary of a sample and that of another one, by default the same."""
    real, _ = two_samples(geometry)
    view = LayerMonitor(geometry)
    view.settle(view.extremes(*real))
    return view, view.summary().update(*real), view.summary().update(*(fake or real))


@pytest.mark.parametrize("geometry", [GRID, CYLINDER])
def test_a_sample_differs_from_itself_in_nothing(geometry):
    view, real, same = summaries(geometry)
    numbers = view.numbers(same, real)
    assert {value for value in numbers.values() if math.isfinite(value)} == {0.0}
    assert view.score(numbers) == 0.0
    np.testing.assert_allclose(real.image("cells"), two_samples(geometry)[0][0].mean(axis=0), rtol=1e-6)


def test_spoiled_samples_are_noticed():
    _, (others, energies) = two_samples(GRID)
    scores = {}
    brighter, swapped = others * np.float32(1.5), others.copy()
    swapped[:, :6] = swapped[np.random.default_rng(0).permutation(len(others)), :6]
    for name, fake in {"good": others, "brighter": brighter, "swapped": swapped}.items():
        view, real, seen_fake = summaries(GRID, (fake, energies))
        numbers = view.numbers(seen_fake, real)
        scores[name] = (
            view.score(numbers),
            numbers["correlation/layer_energy"],
            numbers["mean_error/layer_energy/0"],
        )
    assert scores["brighter"][0] > 1.2 * scores["good"][0]
    assert scores["brighter"][2] == pytest.approx(0.5, abs=0.1)
    assert scores["swapped"][1] > 2 * scores["good"][1]
    assert scores["swapped"][0] > scores["good"][0]


def test_an_always_empty_layer_scores_worse_than_rubbish_in_it():
    _, (others, energies) = two_samples(GRID)
    empty, rubbish = others.copy(), others.copy()
    empty[:, :6] = 0.0
    rubbish[:, :6] = np.random.default_rng(0).random((len(others), 6)) * 20
    scores = []
    for fake in (others, rubbish, empty):
        view, real, generated = summaries(GRID, (fake, energies))
        scores.append(view.score(view.numbers(generated, real)))
    assert scores == sorted(scores)
    assert scores[2] > scores[1] + 0.1


def test_dark_showers_score_worst():
    _, (others, energies) = two_samples(GRID)
    view, real, dark = summaries(GRID, (np.zeros_like(others), energies))
    numbers = view.numbers(dark, real)
    assert numbers["separation/share"] == numbers["separation/width"] == 1.0
    assert numbers["correlation/layer_energy"] == pytest.approx(
        np.abs(real.correlation("layer_energy")).mean()
    )
    assert 1.5 < view.score(numbers) < math.inf


def test_a_score_of_nothing_known_is_infinite():
    view, real, _ = summaries(GRID)
    assert view.score(view.numbers(view.summary(), real)) == math.inf
    assert view.score(view.numbers(real, view.summary())) == math.inf
