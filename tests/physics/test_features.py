import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.physics.observables.features import (
    COARSE_BINS,
    FINE,
    MARGIN_BINS,
    Feature,
    FeatureSummary,
    Ranges,
    extremes,
    rebinned,
)

PAIR = (Feature(group="time", index=0, unit="ns"), Feature(group="time", index=1, unit="ns"))
UNIT = Ranges(low=np.zeros(2), high=np.ones(2))


def with_gaps(count: int, seed: int = 0) -> np.ndarray:
    """Correlated values of two features, some of which are missing."""
    numbers = np.random.default_rng(seed)
    values = numbers.random((count, 2))
    values[:, 1] = (values[:, 0] + values[:, 1]) / 2
    values[numbers.random((count, 2)) < 0.2] = np.nan
    return values


def one(values, low=0.0, high=1.0) -> FeatureSummary:
    ranges = Ranges(low=np.array([low]), high=np.array([high]))
    return FeatureSummary(PAIR[:1], ranges).add(np.reshape(np.array(values, dtype=np.float64), (-1, 1)))


def test_means_deviations_and_fractions_are_those_of_the_values_that_exist():
    values = with_gaps(500)
    summary = FeatureSummary(PAIR, UNIT).add(values)
    assert summary.count == 500
    np.testing.assert_allclose(summary.mean(), np.nanmean(values, axis=0))
    np.testing.assert_allclose(summary.deviation(), np.nanstd(values, axis=0))
    np.testing.assert_allclose(summary.fraction(), np.isfinite(values).mean(axis=0))


def test_correlations_are_those_of_the_showers_that_have_both_values():
    values = with_gaps(500)
    both = values[np.isfinite(values).all(axis=1)]
    assert 200 < len(both) < 400
    found = FeatureSummary(PAIR, UNIT).add(values).correlation("time")
    np.testing.assert_allclose(found[0, 1], np.corrcoef(both.T)[0, 1])
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 1.0)


def test_correlations_keep_their_digits_far_from_zero():
    values = with_gaps(500) + 1e6
    summary = FeatureSummary(PAIR, Ranges(low=UNIT.low + 1e6, high=UNIT.high + 1e6)).add(values)
    both = values[np.isfinite(values).all(axis=1)] - 1e6
    np.testing.assert_allclose(summary.correlation("time")[0, 1], np.corrcoef(both.T)[0, 1], atol=1e-6)


def test_a_constant_has_no_correlation():
    values = np.random.default_rng(0).random((100, 2))
    values[:, 1] = 0.1 + 0.2
    found = FeatureSummary(PAIR, UNIT).add(values).correlation("time")
    assert found[0, 0] == pytest.approx(1.0)
    assert np.isnan(found[[0, 1, 1], [1, 0, 1]]).all()


def test_correlations_of_too_few_showers_are_not_known():
    for values in (np.empty((0, 2)), [[0.1, 0.2]], [[0.1, np.nan], [np.nan, 0.5], [0.3, np.nan]]):
        assert np.isnan(FeatureSummary(PAIR, UNIT).add(np.array(values)).correlation("time")[0, 1])


@settings(deadline=None, max_examples=25)
@given(parts=st.lists(st.integers(0, 40), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_any_split_merges_to_the_whole(parts, seed):
    values = with_gaps(sum(parts), seed)
    images = {"cells": (3,)}
    pictures = np.random.default_rng(seed).random((sum(parts), 3))
    whole = FeatureSummary(PAIR, UNIT, images).add(values, {"cells": pictures.sum(axis=0)})
    merged = FeatureSummary(PAIR, UNIT, images)
    for last, size in zip(np.cumsum(parts), parts, strict=True):
        part = slice(last - size, last)
        merged.merge(
            FeatureSummary(PAIR, UNIT, images).add(values[part], {"cells": pictures[part].sum(axis=0)})
        )
    np.testing.assert_allclose(merged.to_vector(), whole.to_vector(), rtol=1e-12, atol=1e-12)


def test_a_summary_survives_the_way_through_a_vector():
    summary = FeatureSummary(PAIR, UNIT, {"cells": (2, 3)}).add(with_gaps(50), {"cells": np.ones((2, 3))})
    copy = FeatureSummary(PAIR, UNIT, {"cells": (2, 3)}).from_vector(summary.to_vector())
    assert copy.count == 50
    np.testing.assert_array_equal(copy.mean(), summary.mean())
    np.testing.assert_array_equal(copy.correlation("time"), summary.correlation("time"))
    np.testing.assert_array_equal(copy.image("cells"), np.full((2, 3), 1 / 50))


def test_histogram_of_values_in_range():
    counts, edges = one([0.0, 0.01, 0.99, 1.0]).histogram(0)
    assert len(counts) == COARSE_BINS
    np.testing.assert_allclose(edges, np.linspace(0, 1, COARSE_BINS + 1))
    assert (counts[0], counts[-1], counts.sum()) == (2, 2, 4)


def test_values_out_of_range_are_counted_in_the_outer_bins():
    summary = one([-0.2, -50.0, -1e30, 1.3, 1e30, 0.5])
    counts, _ = summary.histogram(0)
    assert (counts[0], counts[-1], counts.sum()) == (3, 2, 6)
    fine, edges = summary.histogram(0, fine=True)
    margin = MARGIN_BINS / COARSE_BINS
    assert len(fine) == (COARSE_BINS + 2 * MARGIN_BINS) * FINE
    np.testing.assert_allclose(edges[[0, -1]], [-margin, 1 + margin])
    assert fine[0] == 2  # beyond the margin: in its last bin
    assert fine[np.searchsorted(edges, -0.2) - 1] + fine[np.searchsorted(edges, -0.2)] == 1
    assert fine[-1] == 1
    assert fine.sum() == 6


def test_how_far_values_lie_beyond_the_bins_is_kept():
    summary = one([-22.0, 23.0, 1e6, 0.5, np.nan], low=0.0, high=2.0)
    margin = 2.0 * MARGIN_BINS / COARSE_BINS
    below, above = summary.excess(0)
    assert below == pytest.approx((22.0 - margin) / 4)
    assert above == pytest.approx((21.0 + 1e6 - 2.0 - 2 * margin) / 4)
    assert one([0.0, 1.0, -0.5, 1.5]).excess(0) == (0.0, 0.0)
    assert np.isnan(one([np.nan]).excess(0)).all()


def test_infinite_and_missing_values_are_left_out():
    summary = one([np.nan, np.inf, -np.inf, 0.5])
    assert summary.histogram(0)[0].sum() == 1
    assert summary.mean() == pytest.approx(0.5)
    assert summary.fraction() == pytest.approx(0.25)


def test_what_was_never_seen_has_no_mean():
    summary = FeatureSummary(PAIR, UNIT)
    assert np.isnan(summary.mean()).all()
    assert np.isnan(summary.deviation()).all()
    assert np.isnan(summary.fraction()).all()


def test_ranges_come_from_the_extremes_over_all_ranks():
    values = with_gaps(100)
    shares = [extremes(values[rank::3]) for rank in range(3)] + [extremes(values[:0])]
    ranges = Ranges.from_extremes(np.max(shares, axis=0))
    np.testing.assert_array_equal(ranges.low, np.nanmin(values, axis=0))
    np.testing.assert_array_equal(ranges.high, np.nanmax(values, axis=0))


def test_constants_and_missing_features_still_have_a_range():
    ranges = Ranges.from_extremes(extremes(np.array([[7.0, np.nan], [7.0, np.nan]])))
    assert ranges.low[0] == 7.0
    assert (ranges.high > ranges.low).all()
    assert np.isfinite([ranges.low, ranges.high]).all()


def test_ranges_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no shower has been seen"):
        Ranges.from_extremes(extremes(np.empty((0, 3))))


def test_central_edges_leave_out_a_few_values_far_away():
    values = np.append(np.random.default_rng(0).normal(10.0, 1.0, 2000), [500.0, 1000.0])
    summary = one(values, low=values.min(), high=values.max())
    edges = summary.central_edges(0, 0.99)
    bin_width = (values.max() - values.min()) / (COARSE_BINS * FINE)
    np.testing.assert_allclose(edges[0], np.quantile(values, 0.005), atol=2 * bin_width)
    np.testing.assert_allclose(edges[-1], np.quantile(values, 0.995), atol=COARSE_BINS * bin_width)
    assert 2 <= len(edges) <= COARSE_BINS + 1
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0])
    counts = rebinned(*summary.histogram(0, fine=True), edges)
    assert counts.sum() == len(values)
    assert counts[-1] >= 2


@pytest.mark.parametrize("values", [[], [0.0], [0.3] * 5, [0.0, 1.0], [-9.0, 9.0]])
@pytest.mark.parametrize("share", [0.5, 0.99, 1.0])
def test_central_edges_of_few_values(values, share):
    edges = one(values).central_edges(0, share)
    assert len(edges) >= 2
    assert (np.diff(edges) > 0).all()
    counts = rebinned(*one(values).histogram(0, fine=True), edges)
    assert len(counts) == len(edges) - 1
    assert counts.sum() == len(values)


def test_rebinned_sums_fine_bins():
    fine = np.linspace(0.0, 1.0, 11)
    counts = np.arange(10.0)
    np.testing.assert_array_equal(
        rebinned(counts, fine, fine[[2, 4, 9]]), [0 + 1 + 2 + 3, 4 + 5 + 6 + 7 + 8 + 9]
    )
