"""Distances of histograms and correlations: closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.physics.metrics.distances import correlation_difference, relative_error, separations

COUNTS = st.lists(st.integers(0, 50), min_size=5, max_size=5).map(lambda n: np.array(n, dtype=np.float64))


def separation_power(first, second):
    return float(separations(first[None], second[None])[0])


def test_separation_of_equal_histograms_is_zero_whatever_their_size():
    counts = np.array([1.0, 5.0, 0.0, 2.0])
    assert separation_power(counts, 7 * counts) == pytest.approx(0.0, abs=1e-15)


def test_separation_of_disjoint_histograms_is_one():
    assert separation_power(np.array([3.0, 1.0, 0.0]), np.array([0.0, 0.0, 9.0])) == pytest.approx(1.0)


def test_separation_of_shifted_boxes_is_the_part_without_overlap():
    box = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    assert separation_power(box, np.roll(box, 1)) == pytest.approx(0.25)


def test_separation_of_two_samples_of_one_distribution_is_as_documented():
    numbers = np.random.default_rng(0)
    first, second, bins = 1000, 4000, 40
    found = [
        separation_power(*(numbers.multinomial(n, np.full(bins, 1 / bins)) for n in (first, second)))
        for _ in range(200)
    ]
    assert np.mean(found) == pytest.approx(bins / 4 * (1 / first + 1 / second), rel=0.05)


@given(first=COUNTS, second=COUNTS)
def test_separation_is_symmetric_and_between_zero_and_one(first, second):
    found = separation_power(first, second)
    if not first.any() or not second.any():
        assert np.isnan(found)
    else:
        assert -1e-12 <= found <= 1.0 + 1e-12
        assert found == pytest.approx(separation_power(second, first))


def test_correlation_difference_counts_the_diagonal_too():
    first = np.array([[1.0, 0.5], [0.5, 1.0]])
    second = np.array([[1.0, -0.1], [-0.1, 1.0]])
    assert correlation_difference(first, second) == pytest.approx(2 * 0.6 / 4)


def test_correlations_that_only_the_generated_showers_lack_count_as_zero():
    real = np.array([[1.0, 0.8], [0.8, 1.0]])
    constant = np.array([[1.0, np.nan], [np.nan, np.nan]])
    assert correlation_difference(constant, real) == pytest.approx((0.8 + 0.8 + 1.0) / 4)
    assert correlation_difference(np.full((2, 2), np.nan), real) == pytest.approx(3.6 / 4)


def test_correlations_that_the_geant4_showers_lack_are_left_out():
    real = np.array([[1.0, np.nan], [np.nan, 1.0]])
    assert correlation_difference(np.array([[0.8, 0.3], [0.3, 1.0]]), real) == pytest.approx(0.1)
    assert np.isnan(correlation_difference(np.eye(2), np.full((2, 2), np.nan)))


def test_relative_errors():
    values, reference = np.array([1.1, -3.0, 1.0, 0.0]), np.array([1.0, -2.0, 0.0, 2.0])
    np.testing.assert_allclose(relative_error(values, reference), [0.1, 0.5, np.nan, 1.0])
