import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.physics.distances import (
    compared,
    correlation_difference,
    relative_difference,
    relative_error,
    separation,
    separation_power,
    wasserstein,
)
from dist_calo.physics.features import COARSE_BINS, FINE, Feature, FeatureSummary, Ranges

COUNTS = st.lists(st.integers(0, 50), min_size=5, max_size=5).map(lambda n: np.array(n, dtype=np.float64))


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


def test_wasserstein_distance_of_shifted_histograms_is_the_shift():
    counts, edges = np.array([0.0, 2.0, 5.0, 1.0, 0.0, 0.0]), np.arange(7) * 0.5
    assert wasserstein(counts, np.roll(3 * counts, 2), edges) == pytest.approx(1.0)
    assert wasserstein(counts, counts, edges) == 0.0


def test_wasserstein_distance_of_nothing_is_not_known():
    assert np.isnan(wasserstein(np.zeros(3), np.ones(3), np.arange(4)))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), shift=st.floats(-0.3, 0.3), scale=st.floats(0.3, 1.2))
def test_wasserstein_distance_is_that_of_the_sorted_values_to_about_a_bin(seed, shift, scale):
    numbers = np.random.default_rng(seed)
    real, fake = numbers.random(400), numbers.random(400) * scale + shift
    ranges = Ranges(low=np.zeros(1), high=np.ones(1))
    summaries = [FeatureSummary([Feature(group="a")], ranges).add(values[:, None]) for values in (fake, real)]
    counts, edges = summaries[1].histogram(0, fine=True)
    found = wasserstein(summaries[0].histogram(0, fine=True)[0], counts, edges)
    # of two samples of one size the distance pairs the values in their order
    exact = np.abs(np.sort(real) - np.sort(fake)).mean()
    assert found == pytest.approx(exact, abs=1.0 / (COARSE_BINS * FINE))


def test_correlation_difference_counts_the_diagonal_too():
    first = np.array([[1.0, 0.5], [0.5, 1.0]])
    second = np.array([[1.0, -0.1], [-0.1, 1.0]])
    assert correlation_difference(first, second) == pytest.approx(2 * 0.6 / 4)


def test_unknown_correlations_are_left_out():
    first = np.array([[1.0, np.nan], [np.nan, 1.0]])
    assert correlation_difference(first, np.array([[0.8, 0.3], [0.3, 1.0]])) == pytest.approx(0.1)
    assert np.isnan(correlation_difference(np.full((2, 2), np.nan), np.eye(2)))


def test_relative_errors():
    values, reference = np.array([1.1, -3.0, 1.0, 0.0]), np.array([1.0, -2.0, 0.0, 2.0])
    np.testing.assert_allclose(relative_difference(values, reference), [0.1, -0.5, np.nan, -1.0])
    np.testing.assert_allclose(relative_error(values, reference), [0.1, 0.5, np.nan, 1.0])


FEATURES = [Feature(group="energy", index=i, unit="GeV") for i in range(3)] + [Feature(group="response")]
RANGES = Ranges(low=np.zeros(4), high=np.ones(4))


def summary(values) -> FeatureSummary:
    return FeatureSummary(FEATURES, RANGES).add(values)


def sample(count=2000, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 4))


def test_a_sample_agrees_with_itself_in_every_number():
    values = sample()
    values[::3, 1] = np.nan
    real = summary(values)
    numbers = compared(summary(values), real, detailed=("energy",))
    assert set(numbers.values()) == {0.0}
    groups = {
        f"{kind}/{group}"
        for kind in ("separation", "wasserstein", "fraction")
        for group in ("energy", "response")
    }
    single = {f"{kind}/energy/{i}" for kind in ("separation", "wasserstein", "mean_error") for i in range(3)}
    assert set(numbers) == groups | single | {"correlation/energy"}


def test_each_kind_of_difference_shows_in_its_number():
    values = sample()
    longer, missing, tied = values.copy(), values.copy(), values.copy()
    longer[:, 0] *= 1.1
    missing[: len(values) // 2, 2] = np.nan
    tied[:, 1] = tied[:, 0]
    real = summary(values)
    by_length, by_gaps, by_ties = (
        compared(summary(fake), real, detailed=("energy",)) for fake in (longer, missing, tied)
    )
    assert by_length["mean_error/energy/0"] == pytest.approx(0.1)
    assert by_length["mean_error/energy/1"] == 0.0
    assert by_length["wasserstein/energy/0"] == pytest.approx(0.05, rel=0.05)
    assert by_length["wasserstein/energy"] == pytest.approx(by_length["wasserstein/energy/0"] / 3)
    assert by_length["separation/energy"] == pytest.approx(by_length["separation/energy/0"] / 3)
    assert by_gaps["fraction/energy"] == pytest.approx(0.5 / 3)
    assert by_ties["correlation/energy"] > 0.2
    assert by_ties["fraction/energy"] == 0.0


def test_what_is_never_seen_is_left_out_of_the_means():
    values = sample()
    fake = values.copy()
    fake[:, 0] = np.nan
    numbers = compared(summary(fake), summary(values), detailed=("energy",))
    assert np.isnan(numbers["separation/energy/0"])
    assert numbers["separation/energy"] == 0.0
    assert numbers["fraction/energy"] == pytest.approx(1 / 3)


def test_samples_in_other_bins_are_refused():
    other = FeatureSummary(FEATURES, Ranges(low=np.zeros(4), high=np.ones(4)))
    with pytest.raises(ValueError, match="binned differently"):
        compared(other, summary(sample()), detailed=())


def test_a_value_far_away_does_not_hide_a_difference():
    numbers = np.random.default_rng(0)
    real, fake = numbers.normal(0.0, 1.0, 3000), numbers.normal(1.0, 1.0, 3000)
    real[0] = 1000.0
    ranges = Ranges(low=np.array([real.min()]), high=np.array([1000.0]))
    pair = [FeatureSummary([Feature(group="a")], ranges).add(side[:, None]) for side in (fake, real)]
    assert separation(*pair, 0) < 0.01
    # of two unit normal distributions one standard deviation apart
    x = np.linspace(-8, 9, 2001)
    h, g = np.exp(-(x**2) / 2), np.exp(-((x - 1) ** 2) / 2)
    expected = 0.5 * np.sum((h - g) ** 2 / (h + g)) / h.sum()
    assert separation(*pair, 0, share=0.99) == pytest.approx(expected, rel=0.15)
