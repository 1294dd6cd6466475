from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest

from dist_calo.physics.figures import voxel_grid
from dist_calo.physics.observables.shower_summary import Bins, ShowerSummary
from tests.support.pictures import contrast

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "EleEscan_lcd25_0.h5"
GRID = (25, 25, 25)
COMPARISONS = (voxel_grid.profiles_figure, voxel_grid.response_figure, voxel_grid.spectrum_figure)


@cache
def halves():
    """Two hundred Geant4 showers and another two hundred that stand for generated ones."""
    with h5py.File(SAMPLE) as file:
        showers, energies = file["ECAL"][:400], file["energy"][:400, 0]
    return (showers[:200], energies[:200]), (showers[200:], energies[200:])


@cache
def summaries():
    real, fake = halves()
    return ShowerSummary(GRID).update(*real), ShowerSummary(GRID).update(*fake)


def few(count: int) -> ShowerSummary:
    showers, energies = halves()[1]
    return ShowerSummary(GRID).update(showers[:count], energies[:count])


@pytest.mark.parametrize(("cell_size", "unit"), [(None, "cell"), ((5.1, 5.1, 5.1), "mm")])
def test_profiles(cell_size, unit, tmp_path):
    real, fake = summaries()
    figure = voxel_grid.profiles_figure(real, fake, cell_size=cell_size)
    panels = figure.axes
    assert len(panels) == 6
    assert [panel.get_ylabel() for panel in panels[:3]] == [
        "mean energy of a layer [MeV]",
        "mean energy of a column [MeV]",
        "mean energy of a row [MeV]",
    ]
    assert [panel.get_xlabel() for panel in panels[3:]] == [
        "layer",
        f"x from the centre [{unit}]",
        f"y from the centre [{unit}]",
    ]
    assert panels[3].get_ylabel() == "generated / Geant4"
    assert [panel.get_yscale() for panel in panels] == ["linear", "log", "log", "linear", "linear", "linear"]
    assert figure.get_suptitle() == "200 Geant4 and 200 generated showers"
    assert contrast(figure, tmp_path) > 0.05


def test_profiles_show_the_numbers_of_the_summaries():
    real, fake = summaries()
    panels = voxel_grid.profiles_figure(real, fake, cell_size=(5.1, 5.1, 5.1)).axes
    for panel, name in zip(panels, ("longitudinal", "x", "y"), strict=False):
        drawn, points = panel.patches[0].get_data(), panel.containers[0].lines[0]
        expected = real.compute().profiles[name].value[-1] * 1000
        np.testing.assert_allclose(drawn.values, expected)
        np.testing.assert_allclose(points.get_ydata(), fake.compute().profiles[name].value[-1] * 1000)
    np.testing.assert_allclose(panels[0].patches[0].get_data().edges, np.arange(26) - 0.5)
    np.testing.assert_allclose(panels[1].patches[0].get_data().edges[[0, -1]], [-63.75, 63.75])


def test_response(tmp_path):
    real, fake = summaries()
    figure = voxel_grid.response_figure(real, fake, labels=("full", "fast"))
    response, resolution = figure.axes
    assert response.get_ylabel() == "response  E$_{vis}$ / E$_{inc}$ [%]"
    assert resolution.get_ylabel() == "resolution  σ / mean [%]"
    assert resolution.get_xlabel() == "incident energy E$_{inc}$ [GeV]"
    assert [text.get_text() for text in response.get_legend().get_texts()] == ["full", "fast"]
    points = response.containers[0].lines[0]
    np.testing.assert_allclose(points.get_ydata(), real.compute().response.value[:-1] * 100)
    np.testing.assert_allclose(points.get_xdata(), real.compute().energy[:-1])
    assert resolution.get_ylim()[0] == 0.0
    assert contrast(figure, tmp_path) > 0.05


def test_spectrum(tmp_path):
    real, fake = summaries()
    figure = voxel_grid.spectrum_figure(real, fake)
    main, ratio = figure.axes
    assert (main.get_xscale(), main.get_yscale()) == ("log", "log")
    assert (ratio.get_xscale(), ratio.get_yscale()) == ("log", "linear")
    assert main.get_ylabel() == "cells of a shower per decade of energy"
    assert ratio.get_xlabel() == "energy of a cell [MeV]"
    assert ratio.get_ylabel() == "generated / Geant4"
    drawn = main.patches[0].get_data()
    seen = real.compute()
    np.testing.assert_allclose(drawn.edges, seen.spectrum_edges * 1000)
    # the area over the decades is the number of cells
    np.testing.assert_allclose(
        np.sum(drawn.values * np.diff(np.log10(drawn.edges))), seen.spectrum.value[-1].sum()
    )
    assert contrast(figure, tmp_path) > 0.05


def test_equal_samples_have_ratio_one():
    real, _ = summaries()
    for ratio in voxel_grid.profiles_figure(real, real).axes[3:]:
        points = ratio.containers[0].lines[0]
        np.testing.assert_allclose(points.get_ydata(), np.ones(25))


def test_ratios_out_of_range_are_marked_at_the_edge():
    showers, energies = halves()[0]
    brighter = ShowerSummary(GRID).update(showers * np.float32(3), energies)
    ratio = voxel_grid.profiles_figure(summaries()[0], brighter).axes[3]
    above, below = (line for line in ratio.lines if line.get_marker() in "^v")
    np.testing.assert_array_equal(above.get_ydata(), np.full(25, 1.5))
    assert np.isnan(below.get_ydata()).all()


@pytest.mark.parametrize("draw", COMPARISONS)
@pytest.mark.parametrize("counts", [(200, 2), (2, 0), (0, 2), (0, 0)])
def test_comparisons_with_empty_bins_cause_no_warnings(draw, counts, tmp_path):
    pair = [few(count) for count in counts]
    assert contrast(draw(*pair), tmp_path) > 0.01


@pytest.mark.parametrize("draw", COMPARISONS)
def test_other_grids_and_bins(draw, tmp_path):
    numbers = np.random.default_rng(0)
    bins = Bins(energy=(1.0, 2.0), cell_energy=(1e-3, 1e-2))
    pair = [
        ShowerSummary((1, 3, 9), bins).update(numbers.random((5, 1, 3, 9)), np.full(5, 1.5)) for _ in "ab"
    ]
    assert contrast(draw(*pair), tmp_path) > 0.01


@pytest.mark.parametrize(
    ("real_count", "fake_count"), [(200, 200), (1, 1), (2, 2), (3, 3), (4, 4), (2, 3), (9, 1)]
)
def test_showers(real_count, fake_count, tmp_path):
    (real, real_energies), (fake, fake_energies) = halves()
    figure = voxel_grid.showers_figure(
        real[:real_count], real_energies[:real_count], fake[:fake_count], fake_energies[:fake_count]
    )
    columns = min(4, real_count, fake_count)
    *panels, colours = figure.axes
    assert len(panels) == 4 * columns
    assert colours.get_ylabel() == "energy summed along the line of sight [MeV]"
    assert colours.get_yscale() == "log"
    side, along = panels[0], panels[2 * columns]
    assert (side.get_xlabel(), side.get_ylabel()) == ("layer", "x [cell]")
    assert (along.get_xlabel(), along.get_ylabel()) == ("x [cell]", "y [cell]")
    assert [panel.get_aspect() for panel in (side, along)] == ["auto", 1.0]
    named = [panel.get_title().split(",")[0] for panel in panels[::columns]]
    assert named == ["Geant4", "generated", "Geant4", "generated"]
    assert contrast(figure, tmp_path) > 0.05


def test_sections_have_their_axes_where_they_say():
    shower = np.zeros((1, 3, 4, 5))
    shower[0, 2, 1, 4] = 0.007
    energy = np.array([10.0])
    side, _, along, _, _ = voxel_grid.showers_figure(shower, energy, shower, energy).axes
    from_side, from_front = (panel.images[0].get_array() for panel in (side, along))
    assert from_side.shape == (3, 5)  # x upwards, layers to the right
    assert from_side[2, 4] == pytest.approx(7.0)
    assert from_front.shape == (4, 3)  # y upwards, x to the right
    assert from_front[1, 2] == pytest.approx(7.0)


def test_showers_without_energy_cause_no_warnings(tmp_path):
    dark, energies = np.zeros((2, *GRID)), np.array([10.0, 20.0])
    assert contrast(voxel_grid.showers_figure(dark, energies, dark, energies), tmp_path) > 0.01


def test_arguments_of_showers_in_another_order_are_refused():
    (real, real_energies), (fake, fake_energies) = halves()
    with pytest.raises(ValueError, match=r"Geant4 showers \(4, 25, 25, 25\) with energies \(4, 25, 25, 25\)"):
        voxel_grid.showers_figure(real[:4], fake[:4], real_energies[:4], fake_energies[:4])
    with pytest.raises(ValueError, match=r"generated showers \(4, 25, 25, 25\) with energies \(5,\)"):
        voxel_grid.showers_figure(real[:4], real_energies[:4], fake[:4], fake_energies[:5])
    with pytest.raises(ValueError, match="N > 0"):
        voxel_grid.showers_figure(real[:0], real_energies[:0], fake, fake_energies)


def test_showers_of_like_energies_are_matched():
    real, fake = np.array([90.0, 10.0, 50.0, 30.0]), np.array([52.0, 88.0, 12.0])
    assert voxel_grid.matching_showers(real, fake, 3) == [(1, 2), (2, 0), (0, 1)]
    assert voxel_grid.matching_showers(real, fake, 4) == voxel_grid.matching_showers(real, fake, 3)
    assert voxel_grid.matching_showers(real, fake, 0) == []
    assert voxel_grid.matching_showers(np.full(4, 5.0), np.full(4, 5.0), 4) == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
    ]
