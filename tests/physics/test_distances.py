import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.physics.metrics.distances import (
    compared,
    correlation_difference,
    relative_difference,
    relative_error,
    separation,
    separation_power,
    wasserstein,
    wasserstein_distance,
)
from dist_calo.physics.observables.features import (
    COARSE_BINS,
    FINE,
    Feature,
    FeatureSummary,
    Ranges,
    extremes,
)

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
    assert wasserstein_distance(counts, np.roll(3 * counts, 2), edges) == pytest.approx(1.0)
    assert wasserstein_distance(counts, counts, edges) == 0.0


def test_wasserstein_distance_of_nothing_is_not_known():
    assert np.isnan(wasserstein_distance(np.zeros(3), np.ones(3), np.arange(4)))


def pair_of(fake, real) -> tuple[FeatureSummary, FeatureSummary]:
    """Summaries of two samples of one observable, in the bins of the real one."""
    ranges = Ranges.from_extremes(extremes(np.reshape(real, (-1, 1))))
    fake, real = (
        FeatureSummary([Feature(group="a")], ranges).add(np.reshape(values, (-1, 1)))
        for values in (fake, real)
    )
    return fake, real


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1000),
    shift=st.floats(-0.3, 0.3) | st.floats(-100.0, 100.0),
    scale=st.floats(0.3, 1.2) | st.floats(0.0, 50.0),
)
def test_wasserstein_distance_is_that_of_the_sorted_values_to_about_a_bin_however_far_away(
    seed, shift, scale
):
    numbers = np.random.default_rng(seed)
    real, fake = numbers.random(400), (numbers.random(400) - 0.5) * scale + shift
    # of two samples of one size the distance pairs the values in their order
    exact = np.abs(np.sort(real) - np.sort(fake)).mean()
    assert wasserstein(*pair_of(fake, real), 0) == pytest.approx(exact, abs=1.0 / (COARSE_BINS * FINE))


def test_a_few_values_far_away_count_with_their_distance():
    real = np.linspace(0.0, 10.0, 1001)
    assert wasserstein(*pair_of(real + 1000.0, real), 0) == pytest.approx(1000.0, abs=0.01)
    assert wasserstein(*pair_of(np.append(real[1:], 1e6), real), 0) == pytest.approx(1e6 / 1001, abs=0.01)


def test_only_what_the_geant4_showers_have_and_the_generated_lack_is_fully_wrong():
    some, none, one = np.linspace(0.0, 4.0, 50), np.full(50, np.nan), np.append(2.0, np.full(49, np.nan))
    for lacking in (none, one):
        assert separation(*pair_of(lacking, some), 0) == 1.0
        assert separation(*pair_of(lacking, some), 0, share=0.9) == 1.0
        assert wasserstein(*pair_of(lacking, some), 0) == 4.0
    ranges = Ranges(low=np.zeros(1), high=np.ones(1))
    full, empty = (FeatureSummary([Feature(group="a")], ranges).add(v[:, None]) for v in (some, none))
    assert np.isnan([separation(full, empty, 0), wasserstein(full, empty, 0)]).all()
    assert np.isnan([separation(empty, empty, 0), wasserstein(empty, empty, 0)]).all()


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


def test_what_is_never_generated_is_fully_wrong():
    values = sample()
    values[:, 1] = (values[:, 0] + values[:, 1]) / 2
    fake = values.copy()
    fake[:, 0] = np.nan
    numbers = compared(summary(fake), summary(values), detailed=("energy",))
    assert numbers["separation/energy/0"] == 1.0
    assert numbers["separation/energy"] == pytest.approx(1 / 3)
    assert numbers["wasserstein/energy/0"] == 1.0
    assert numbers["fraction/energy"] == pytest.approx(1 / 3)
    assert np.isnan(numbers["mean_error/energy/0"])
    lost = np.corrcoef(values[:, :3].T)[0]
    assert numbers["correlation/energy"] == pytest.approx((1.0 + 2 * np.abs(lost[1:]).sum()) / 9, abs=1e-9)


def test_what_geant4_lacks_is_left_out_of_the_means():
    fake = sample()
    values = fake.copy()
    values[:, 0] = np.nan
    numbers = compared(summary(fake), summary(values), detailed=("energy",))
    assert np.isnan([numbers["separation/energy/0"], numbers["wasserstein/energy/0"]]).all()
    assert numbers["separation/energy"] == numbers["wasserstein/energy"] == 0.0
    assert numbers["correlation/energy"] == 0.0
    assert numbers["fraction/energy"] == pytest.approx(1 / 3)


def test_without_generated_showers_the_shares_are_not_known():
    numbers = compared(summary(np.empty((0, 4))), summary(sample()), detailed=())
    assert np.isnan(numbers["fraction/energy"])


def test_means_whose_zero_is_arbitrary_differ_in_their_unit():
    times = [Feature(group="time", unit="ns", relative=False)]
    ranges = Ranges(low=np.full(1, 100.0), high=np.full(1, 110.0))
    real = np.linspace(100.0, 110.0, 50)[:, None]
    pair = [FeatureSummary(times, ranges).add(values) for values in (real - 2.0, real)]
    numbers = compared(*pair, detailed=("time",))
    assert numbers["mean_difference/time/0"] == pytest.approx(2.0)
    assert "mean_error/time/0" not in numbers


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
