"""How samples are binned."""

import itertools

import numpy as np
import pytest

from dist_calo.physics.observables.energy_bins import COARSE_BINS, Binning, energy_edges


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (10, 100, (10, 25, 40, 55, 70, 85, 100)),
        (2, 500, (0, 100, 200, 300, 400, 500)),
        (20, 25, (20, 21, 22, 23, 24, 25)),
        (1, 20, (1, 4, 7, 10, 13, 16, 19, 22)),
    ],
)
def test_bins_of_a_range_of_energies_have_round_edges(low, high, expected):
    energies = np.random.default_rng(0).uniform(low, high, 4000)
    np.testing.assert_allclose(energy_edges(energies), expected)


def test_energies_even_in_their_logarithm_have_bins_of_equal_ratio():
    edges = np.array(energy_edges(np.geomspace(1.0, 1000.0, 2000)))
    np.testing.assert_allclose(edges[1:] / edges[:-1], 10**0.5)


def test_few_energies_have_a_bin_each():
    energies = np.repeat([1.0, 2.0, 4.0, 8.0], 10)
    edges = energy_edges(energies)
    assert [np.sum((energies >= a) & (energies < b)) for a, b in itertools.pairwise(edges)] == [10] * 4


def test_a_single_energy_has_one_bin():
    low, high = energy_edges(np.full(5, 50.0))
    assert low < 50 < high


def test_showers_outside_have_the_last_slot_and_the_upper_edge_belongs_to_the_last_bin():
    columns, energies = np.random.default_rng(0).normal(size=(100, 2)), np.linspace(10, 100, 100)
    binning = Binning.of(columns, energies, (20.0, 50.0, 80.0))
    found = binning.slot_of(np.array([10.0, 20.0, 49.9, 50.0, 80.0, 81.0]))
    assert found.tolist() == [2, 0, 0, 1, 1, 2]
    assert binning.labels == ("20-50 GeV", "50-80 GeV", "all")


def test_whole_numbers_lie_in_the_middle_of_their_bins():
    columns = np.random.default_rng(0).integers(2, 9, size=(500, 1)).astype(float)
    binning = Binning.of(columns, np.linspace(10, 100, 500))
    width = (binning.high[-1, 0] - binning.low[-1, 0]) / COARSE_BINS
    assert width == 1.0
    assert binning.low[-1, 0] % 1 == 0.5


def test_what_no_shower_has_or_what_never_varies_has_bins_all_the_same():
    columns = np.stack([np.full(50, np.nan), np.full(50, 3.0)], axis=1)
    binning = Binning.of(columns, np.linspace(10, 100, 50))
    assert (binning.high > binning.low).all()
    np.testing.assert_array_equal(binning.scale, 1.0)


def test_no_shower_is_an_error():
    with pytest.raises(ValueError, match="no shower has been seen"):
        Binning.of(np.empty((0, 2)), np.empty(0))
