from functools import cache

import numpy as np
import pytest

from dist_calo.geometry import CylindricalLayers, LayeredGrid
from dist_calo.physics.figures import layered
from dist_calo.physics.monitors.layered import LayerMonitor
from dist_calo.physics.observables.examples import Examples
from tests.support.layer_samples import GRID, two_samples
from tests.support.pictures import contrast

DEEP = CylindricalLayers(r_edges=((0.0, 1.0, 3.0),) * 12, sectors=(2,) * 12)
RINGS = CylindricalLayers(r_edges=((0.0, 2.0, 6.0), (), (0.0, 10.0)), sectors=(4, 0, 1))
NO_SIZES = LayeredGrid(layers=((2, 3),))
NAMES = ["layer_energies", "layer_correlations", "layer_shapes", "layer_means", "showers"]


@cache
def compared(geometry, counts=(400, 400), dark=0):
    """A view with two summaries of so many showers and examples of them; the first layer of some is dark."""
    samples = [
        [part[:count] for part in sample] for count, sample in zip(counts, two_samples(geometry), strict=True)
    ]
    view = LayerMonitor(geometry)
    view.settle(view.extremes(*two_samples(geometry)[0]))
    for showers, _ in samples:
        showers[:dark, : geometry.layer_cells[0]] = 0.0
    real, fake = (view.summary().update(*sample) for sample in samples)
    few = slice(0, min(4, max(counts)))
    pair = [two_samples(geometry)[side][0][few] for side in (0, 1)]
    return view, real, fake, Examples(real=pair[0], fake=pair[1], energies=two_samples(geometry)[0][1][few])


def drawn(name, geometry=GRID, **options):
    view, real, fake, examples = compared(geometry, **options)
    return view.pictures(real, fake, examples)[name]()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("geometry", [GRID, DEEP, RINGS, NO_SIZES], ids=["grid", "deep", "rings", "no_sizes"])
def test_every_geometry_has_its_pictures(name, geometry, tmp_path):
    assert contrast(drawn(name, geometry), tmp_path) > 0.03


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("counts", [(400, 1), (2, 0)])
def test_tiny_samples_cause_no_warnings(name, counts, tmp_path):
    assert contrast(drawn(name, counts=counts), tmp_path) > 0.01


@pytest.mark.parametrize("name", NAMES[:4])
def test_empty_layers_cause_no_warnings(name, tmp_path):
    assert contrast(drawn(name, dark=400), tmp_path) > 0.01


def test_dark_examples_cause_no_warnings(tmp_path):
    dark = Examples(real=np.zeros((1, 10)), fake=np.zeros((1, 10)), energies=np.array([5.0]))
    assert contrast(layered.showers_figure(GRID, dark), tmp_path) > 0.01


def test_energies_are_histograms_of_each_layer_with_their_numbers():
    view, real, fake, _ = compared(GRID)
    figure = layered.energies_figure(real, fake)
    mains = [panel for panel in figure.axes if panel.get_legend() or panel.texts]
    assert [panel.get_yscale() for panel in mains] == ["log", "log"]
    numbers = view.numbers(fake, real)
    for layer, panel in enumerate(mains):
        counts, edges = real.histogram(layer)
        seen = panel.patches[0].get_data()
        np.testing.assert_allclose(seen.values, counts / counts.sum())
        shown = {True: 1000.0, False: 1.0}[real.ranges.high[layer] < 1.0]
        np.testing.assert_allclose(seen.edges, edges * shown)
        words = panel.texts[0].get_text()
        assert f"separation {numbers[f'separation/layer_energy/{layer}']:.3f}" in words
        assert f"{100 * numbers[f'mean_error/layer_energy/{layer}']:.1f} %" in words
    assert figure.get_suptitle() == "400 Geant4 and 400 generated showers"


def test_of_many_layers_six_are_shown_from_the_first_to_the_last():
    figure = layered.energies_figure(*compared(DEEP)[1:3])
    labels = [panel.get_xlabel().split(" [")[0] for panel in figure.axes if panel.get_xlabel()]
    assert labels == [f"energy of layer {layer}" for layer in layered.spread(12, 6)]
    assert layered.spread(12, 6) == [0, 2, 4, 7, 9, 11]
    assert layered.spread(45, 6)[-1] == 44
    assert layered.spread(3, 6) == [0, 1, 2]
    assert layered.spread(1, 6) == [0]


def test_correlations_are_written_into_few_cells_only():
    few, many = drawn("layer_correlations"), drawn("layer_correlations", DEEP)
    assert [len(panel.texts) for panel in few.axes[:3]] == [4, 4, 4]
    assert [len(panel.texts) for panel in many.axes[:3]] == [0, 0, 0]
    view, real, fake, _ = compared(GRID)
    pair = real.correlation("layer_energy"), fake.correlation("layer_energy")
    for panel, matrix in zip(few.axes[:3], (*pair, pair[1] - pair[0]), strict=True):
        np.testing.assert_allclose(panel.images[0].get_array(), matrix)
    mean = view.numbers(fake, real)["correlation/layer_energy"]
    assert few.axes[2].get_title() == f"generated - Geant4, mean |difference| {mean:.3f}"


def test_mean_cells_are_drawn_where_they_are():
    _, real, fake, _ = compared(GRID)
    figure = layered.means_figure(GRID, real, fake)
    panels = [panel for panel in figure.axes if panel.collections and panel.get_aspect() == 1.0]
    assert len(panels) == 6
    mesh = panels[0].collections[0]
    np.testing.assert_allclose(mesh.get_array().ravel(), real.image("cells")[:6] * 1000)
    np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], [-6, -2, 2, 6])  # phi
    np.testing.assert_allclose(mesh.get_coordinates()[:, 0, 1], [-10, 0, 10])  # eta
    ratio = fake.image("cells")[6:] / real.image("cells")[6:]
    np.testing.assert_allclose(panels[5].collections[0].get_array().ravel(), ratio)
    assert [panel.get_title() for panel in panels[:2]] == ["layer 0", "layer 1"]
    assert panels[4].get_xlabel() == "φ [mm]"


def test_sectors_are_drawn_around_the_axis():
    _, real, fake, _ = compared(RINGS)
    mesh = layered.means_figure(RINGS, real, fake).axes[0].collections[0]
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(np.hypot(*corners[5].T), [0.0, 2.0, 6.0])
    parts = (len(corners) - 1) // 4
    np.testing.assert_allclose(corners[parts, 2], [0.0, 6.0], atol=1e-12)  # a quarter turn on
    values = mesh.get_array().reshape(4, parts, 2)
    np.testing.assert_allclose(values[:, 0].ravel(), real.image("cells")[:8] * 1000)


def test_single_showers_are_shown_real_above_generated_by_energy():
    _, _, _, examples = compared(GRID)
    figure = layered.showers_figure(GRID, examples)
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
        layered.showers_figure(GRID, nothing)
