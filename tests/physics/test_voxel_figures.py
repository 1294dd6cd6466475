from pathlib import Path

import h5py
import numpy as np
import pytest

from dist_calo.physics.figures import voxel_grid
from dist_calo.physics.observables.examples import Examples
from tests.support.pictures import contrast

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "EleEscan_lcd25_0.h5"
NAMES = ("full", "fast")


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_single_showers_from_the_lowest_to_the_highest_energy(count, tmp_path):
    with h5py.File(SAMPLE) as file:
        showers, energies = file["ECAL"][: 2 * count], file["energy"][:count, 0]
    examples = Examples(real=showers[:count], fake=showers[count:], energies=energies)
    figure = voxel_grid.showers_figure(examples, NAMES)
    columns = min(4, count)
    *panels, colours = figure.axes
    assert len(panels) == 4 * columns
    assert colours.get_ylabel() == "energy summed along the line of sight [MeV]"
    assert colours.get_yscale() == "log"
    side, along = panels[0], panels[2 * columns]
    assert (side.get_xlabel(), side.get_ylabel()) == ("layer", "x [cell]")
    assert (along.get_xlabel(), along.get_ylabel()) == ("x [cell]", "y [cell]")
    assert [panel.get_aspect() for panel in (side, along)] == ["auto", 1.0]
    named = [panel.get_title().split(",") for panel in panels[::columns]]
    assert named == [[name, f" {min(energies):.0f} GeV"] for name in (*NAMES, *NAMES)]
    lowest = int(np.argmin(energies))
    np.testing.assert_allclose(side.images[0].get_array(), 1000 * showers[lowest].sum(axis=1), rtol=1e-5)
    assert contrast(figure, tmp_path) > 0.05


def test_sections_have_their_axes_where_they_say():
    shower = np.zeros((1, 3, 4, 5))
    shower[0, 2, 1, 4] = 0.007
    examples = Examples(real=shower, fake=shower, energies=np.array([10.0]))
    side, _, along, _, _ = voxel_grid.showers_figure(examples, NAMES).axes
    from_side, from_front = (panel.images[0].get_array() for panel in (side, along))
    assert from_side.shape == (3, 5)  # x upwards, layers to the right
    assert from_side[2, 4] == pytest.approx(7.0)
    assert from_front.shape == (4, 3)  # y upwards, x to the right
    assert from_front[1, 2] == pytest.approx(7.0)


def test_showers_without_energy_cause_no_warnings(tmp_path):
    dark = np.zeros((2, 25, 25, 25))
    examples = Examples(real=dark, fake=dark, energies=np.array([10.0, 20.0]))
    assert contrast(voxel_grid.showers_figure(examples, NAMES), tmp_path) > 0.01
