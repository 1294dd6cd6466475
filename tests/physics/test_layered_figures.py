from functools import cache

import numpy as np
import pytest

from dist_calo.geometry import CylindricalLayers, LayeredGrid
from dist_calo.physics.figures import layered
from dist_calo.physics.observables.examples import Examples
from tests.support.layer_samples import GRID, two_samples
from tests.support.pictures import contrast

DEEP = CylindricalLayers(r_edges=((0.0, 1.0, 3.0),) * 12, sectors=(2,) * 12)
RINGS = CylindricalLayers(r_edges=((0.0, 2.0, 6.0), (), (0.0, 10.0)), sectors=(4, 0, 1))
NO_SIZES = LayeredGrid(layers=((2, 3),))
NAMES = ("Geant4", "generated")


@cache
def examples_of(geometry, count=4):
    """Showers of two samples, and their incident energies."""
    (real, energies), (fake, _) = two_samples(geometry)
    return Examples(real=real[:count], fake=fake[:count], energies=energies[:count])


@cache
def means_of(geometry):
    """The mean showers of two samples in GeV."""
    return tuple(showers.mean(axis=0, dtype=np.float64) for showers, _ in two_samples(geometry))


@pytest.mark.parametrize("geometry", [GRID, DEEP, RINGS, NO_SIZES], ids=["grid", "deep", "rings", "no_sizes"])
def test_every_geometry_has_its_pictures(geometry, tmp_path):
    assert contrast(layered.cells_figure(geometry, means_of(geometry), "title", NAMES), tmp_path) > 0.03
    assert contrast(layered.showers_figure(geometry, examples_of(geometry), NAMES), tmp_path) > 0.03


def test_of_many_layers_six_are_shown_from_the_first_to_the_last():
    figure = layered.cells_figure(DEEP, means_of(DEEP), "title", NAMES)
    titles = [panel.get_title() for panel in figure.axes if panel.get_title()]
    assert titles == [f"layer {layer}" for layer in layered.spread(12, 6)]
    assert layered.spread(12, 6) == [0, 2, 4, 7, 9, 11]
    assert layered.spread(45, 6)[-1] == 44
    assert layered.spread(3, 6) == [0, 1, 2]
    assert layered.spread(1, 6) == [0]


def test_dark_examples_cause_no_warnings(tmp_path):
    dark = Examples(real=np.zeros((1, 10)), fake=np.zeros((1, 10)), energies=np.array([5.0]))
    assert contrast(layered.showers_figure(GRID, dark, NAMES), tmp_path) > 0.01


def test_mean_cells_are_drawn_where_they_are():
    real, fake = means_of(GRID)
    figure = layered.cells_figure(GRID, (real, fake), "title", NAMES)
    panels = [panel for panel in figure.axes if panel.collections and panel.get_aspect() == 1.0]
    assert len(panels) == 6
    mesh = panels[0].collections[0]
    np.testing.assert_allclose(mesh.get_array().ravel(), real[:6] * 1000)
    np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], [-6, -2, 2, 6])  # phi
    np.testing.assert_allclose(mesh.get_coordinates()[:, 0, 1], [-10, 0, 10])  # eta
    ratio = fake[6:] / real[6:]
    np.testing.assert_allclose(panels[5].collections[0].get_array().ravel(), ratio)
    assert [panel.get_title() for panel in panels[:2]] == ["layer 0", "layer 1"]
    assert panels[4].get_xlabel() == "φ [mm]"


def test_sectors_are_drawn_around_the_axis():
    real, fake = means_of(RINGS)
    mesh = layered.cells_figure(RINGS, (real, fake), "title", NAMES).axes[0].collections[0]
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(np.hypot(*corners[5].T), [0.0, 2.0, 6.0])
    parts = (len(corners) - 1) // 4
    np.testing.assert_allclose(corners[parts, 2], [0.0, 6.0], atol=1e-12)  # a quarter turn on
    values = mesh.get_array().reshape(4, parts, 2)
    np.testing.assert_allclose(values[:, 0].ravel(), real[:8] * 1000)


def test_single_showers_are_shown_real_above_generated_by_energy():
    examples = examples_of(GRID)
    figure = layered.showers_figure(GRID, examples, NAMES)
    *panels, colours = figure.axes
    assert len(panels) == 4 * 2 * 2
    assert colours.get_ylabel() == "energy of a cell [MeV]"
    order = np.argsort(examples.energies)
    assert panels[0].texts[0].get_text() == f"E$_{{inc}}$ = {examples.energies[order[0]]:.3g} GeV"
    assert [panels[0].get_ylabel(), panels[2].get_ylabel()] == ["Geant4", "generated"]
    for panel, showers in ((panels[0], examples.real), (panels[2], examples.fake)):
        np.testing.assert_allclose(
            panel.collections[0].get_array().ravel(), showers[order[0], :6] * 1000, rtol=1e-6
        )


def test_no_example_is_refused():
    nothing = Examples(real=np.empty((0, 10)), fake=np.empty((0, 10)), energies=np.empty(0))
    with pytest.raises(ValueError, match="at least one example"):
        layered.showers_figure(GRID, nothing, NAMES)
