"""Correlations of observables, some of which are missing."""

import numpy as np
import pytest

from dist_calo.physics.observables.features import Feature, columns_by_group, correlations, pair_sums


def with_gaps(count: int, seed: int = 0) -> np.ndarray:
    """Correlated values of two features, some of which are missing."""
    numbers = np.random.default_rng(seed)
    values = numbers.random((count, 2))
    values[:, 1] = (values[:, 0] + values[:, 1]) / 2
    values[numbers.random((count, 2)) < 0.2] = np.nan
    return values


def correlation(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    sums = pair_sums(np.nan_to_num(values), np.isfinite(values).astype(np.float64))
    return correlations(*sums.values())


def test_columns_of_groups_are_in_the_order_of_the_features():
    features = [Feature(group="a"), Feature(group="b", index=3), Feature(group="a", index=1)]
    assert {name: columns.tolist() for name, columns in columns_by_group(features).items()} == {
        "a": [0, 2],
        "b": [1],
    }
    assert features[1].name == "b/3"


def test_correlations_are_those_of_the_showers_that_have_both_values():
    values = with_gaps(500)
    both = values[np.isfinite(values).all(axis=1)]
    assert 200 < len(both) < 400
    found = correlation(values)
    np.testing.assert_allclose(found[0, 1], np.corrcoef(both.T)[0, 1])
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 1.0)


def test_a_constant_has_no_correlation():
    values = np.random.default_rng(0).random((100, 2))
    values[:, 1] = 0.1 + 0.2
    found = correlation(values)
    assert found[0, 0] == pytest.approx(1.0)
    assert np.isnan(found[[0, 1, 1], [1, 0, 1]]).all()


def test_correlations_of_too_few_showers_are_not_known():
    for values in (np.empty((0, 2)), [[0.1, 0.2]], [[0.1, np.nan], [np.nan, 0.5], [0.3, np.nan]]):
        assert np.isnan(correlation(values)[0, 1])
