"""The figures draw from real showers, with units, ratio panels and log scales where the field uses them."""

import h5py
import numpy as np
import pytest
from matplotlib.image import imread

from dist_calo.physics import plots
from dist_calo.physics.observables import Bins, ShowerSummary
from tests.small_runs import SAMPLE

SHAPE = (25, 25, 25)


@pytest.fixture(scope="module")
def showers():
    with h5py.File(sorted(SAMPLE.glob("*.h5"))[0]) as file:
        return file["ECAL"][:120], file["energy"][:120, 0]


@pytest.fixture(scope="module")
def halves(showers):
    cells, energies = showers
    return [
        ShowerSummary(SHAPE).update(cells[part], energies[part]) for part in (slice(0, 60), slice(60, 120))
    ]


def drawn(figure, tmp_path):
    """The pixels of a figure, after checking that it is not blank."""
    path = plots.save_png(figure, tmp_path / "new" / "figure.png")
    pixels = imread(path)
    assert pixels[..., :3].std() > 0.02
    return pixels


def labels(figure):
    return {text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel()) if text}


def test_profiles_have_three_panels_with_ratios_units_and_log_transverse_axes(halves, tmp_path):
    figure = plots.profiles_figure(*halves)
    drawn(figure, tmp_path)
    assert len(figure.axes) == 6
    assert {"layer", "mean energy of a layer [MeV]", "generated / Geant4"} <= labels(figure)
    assert [axes.get_yscale() for axes in figure.axes[:3]] == ["linear", "log", "log"]


def test_response_and_resolution_are_against_the_incident_energy(halves, tmp_path):
    figure = plots.response_figure(*halves)
    drawn(figure, tmp_path)
    assert any("GeV" in label for label in labels(figure))
    assert any("resolution" in label and "%" in label for label in labels(figure))


def test_the_spectrum_is_log_log(halves, tmp_path):
    figure = plots.spectrum_figure(*halves)
    drawn(figure, tmp_path)
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "log")


@pytest.mark.parametrize(("real", "fake"), [(8, 8), (4, 4), (1, 1), (2, 7)])
def test_sections_of_few_and_of_unequally_many_showers(showers, tmp_path, real, fake):
    cells, energies = showers
    figure = plots.showers_figure(cells[:real], energies[:real], cells[-fake:], energies[-fake:])
    drawn(figure, tmp_path)
    assert any("MeV" in label for label in labels(figure))


def test_sections_want_an_energy_for_each_shower(showers):
    cells, energies = showers
    with pytest.raises(ValueError, match="expected"):
        plots.showers_figure(cells[:4], energies[:3], cells[:4], energies[:4])


def test_bins_without_showers_are_drawn_as_empty(showers, tmp_path):
    cells, energies = showers
    bins = Bins(energy=(1.0, 5.0, 50.0, 100.0, 200.0))
    sides = [ShowerSummary(SHAPE, bins).update(cells[:20], energies[:20]) for _ in range(2)]
    for figure in (
        plots.profiles_figure(*sides),
        plots.response_figure(*sides),
        plots.spectrum_figure(*sides),
    ):
        drawn(figure, tmp_path)


def test_equal_samples_have_ratio_one(showers):
    cells, energies = showers
    same = [ShowerSummary(SHAPE).update(cells, energies) for _ in range(2)]
    figure = plots.profiles_figure(*same)
    points = [
        np.asarray(line.get_ydata()) for line in figure.axes[3].get_lines() if len(line.get_ydata()) == 25
    ]
    assert points
    assert all(np.allclose(values[np.isfinite(values)], 1.0) for values in points)
