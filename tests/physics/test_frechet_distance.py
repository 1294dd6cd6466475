import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from dist_calo.physics.metrics.frechet_distance import (
    Moments,
    frechet_distance,
    frechet_from_groups,
)


def covariance(features: int, seed: int, rank: int | None = None) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(features, rank or features))
    return factor @ factor.T


def rows(n: int, features: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return shift + scale * np.random.default_rng(seed).normal(size=(n, features))


def test_one_dimension_is_the_difference_of_means_and_standard_deviations():
    found = frechet_distance(np.array([1.0]), np.array([[4.0]]), np.array([3.0]), np.array([[9.0]]))
    assert found == pytest.approx((1 - 3) ** 2 + (2 - 3) ** 2, rel=1e-14)


def test_a_rotated_covariance_is_seen():
    angle, spread = np.pi / 2, np.diag([4.0, 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    zero = np.zeros(2)
    assert frechet_distance(zero, spread, zero, turn @ spread @ turn.T) == pytest.approx(10 - 2 * 4)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), features=st.integers(1, 12))
def test_agreement_with_scipy_and_symmetry(seed, features):
    a, b = covariance(features, seed), covariance(features, seed + 1)
    mean_a, mean_b = rows(2, features, seed)
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(a + b - 2 * sqrtm(a @ b).real)
    found = frechet_distance(mean_a, a, mean_b, b)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert found == pytest.approx(frechet_distance(mean_b, b, mean_a, a), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("rank", [1, 7, 30])
def test_equal_singular_covariances_have_no_distance(rank):
    matrix, mean = covariance(30, 0, rank), np.ones(30)
    assert frechet_distance(mean, matrix, mean, matrix) == pytest.approx(0.0, abs=1e-9)


def test_covariances_without_common_directions():
    a, b, zero = np.diag([4.0, 0.0, 0.0]), np.diag([0.0, 9.0, 0.0]), np.zeros(3)
    assert frechet_distance(zero, a, zero, b) == pytest.approx(13.0)
    assert frechet_distance(zero, a, zero, np.zeros((3, 3))) == pytest.approx(4.0)


def test_missing_values_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(np.array([np.nan]), np.eye(1), np.zeros(1), np.eye(1))


def frechet_from_rows(a, b, seed):
    parts = [Moments.from_rows(sample, seed=seed + side) for side, sample in enumerate((a, b))]
    return frechet_from_groups(*parts, seed=seed)


def test_moments_are_those_of_the_rows_of_the_groups():
    sample = rows(100, 4, seed=0)
    parts = Moments.from_rows(sample, seed=3, groups=7)
    some = np.array([1, 4, 5])
    (number, mean, spread), (other, part, _) = parts._unions(
        np.stack([np.ones(7), np.isin(np.arange(7), some)])
    )
    assert number == 100
    np.testing.assert_allclose(mean, sample.mean(axis=0))
    np.testing.assert_allclose(spread, np.cov(sample, rowvar=False))
    assert other == parts.count[some].sum()
    np.testing.assert_allclose(part, parts.sums[some].sum(axis=0) / other)


@pytest.mark.parametrize(
    ("features", "shift", "scale"), [(5, 0.0, 1.0), (5, 0.1, 1.1), (30, 0.0, 1.0), (30, 0.05, 1.05)]
)
def test_extrapolation_removes_the_bias_of_finite_samples(features, shift, scale):
    truth = features * (shift**2 + (scale - 1) ** 2)
    found = [
        frechet_from_rows(
            rows(3200, features, 2 * seed), rows(3200, features, 2 * seed + 1, shift, scale), seed=seed
        )
        for seed in range(12)
    ]
    pulls = np.array([(one.value - truth) / one.error for one in found])
    assert np.abs(pulls).max() < 3
    assert abs(pulls.mean()) < 3 / np.sqrt(len(pulls))
    removed = np.array([one.distances[-1] - one.value for one in found])
    assert removed.mean() > 3 * removed.std() / np.sqrt(len(removed))
    assert np.mean([one.distances[-1] for one in found]) > truth
    assert np.mean([one.distances[0] for one in found]) > np.mean([one.distances[-1] for one in found])


def test_samples_of_different_size_are_extrapolated_too():
    found = frechet_from_rows(rows(6400, 10, 0), rows(1300, 10, 1, shift=0.1), seed=0)
    assert abs(found.value - 0.1) < 3 * found.error
    assert found.inverse[-1] == pytest.approx(0.5 / 6400 + 0.5 / 1300, rel=1e-3)


@pytest.mark.parametrize(("groups", "size"), [(11, 1100), (3, 300), (1, 100), (1, 4000)])
def test_a_sample_of_fewer_groups_is_extrapolated_without_bias(groups, size):
    found = []
    for seed in range(30):
        few = Moments.from_rows(rows(size, 10, 2 * seed), seed=seed, groups=groups)
        many = Moments.from_rows(rows(100, 10, 2 * seed + 1), seed=seed, groups=32)
        found += [frechet_from_groups(few, many, seed=seed), frechet_from_groups(many, few, seed=seed)]
    values = np.array([one.value for one in found])
    assert np.isfinite(values).all()
    assert abs(values.mean()) < 0.2 * np.mean([one.distances[-1] for one in found])
    assert all(np.isfinite(one.error) == (groups > 1) for one in found)


def test_fewer_rows_than_features_give_a_finite_value_with_a_large_error():
    found = frechet_from_rows(rows(128, 50, 0), rows(128, 50, 1), seed=0)
    assert np.isfinite(found.distances).all()
    assert abs(found.value) < 3 * found.error
    assert found.value < 0.2 * found.distances[-1]


def test_the_same_seed_gives_the_same_value_and_a_constant_feature_adds_nothing():
    a, b = rows(1000, 4, 0), rows(1000, 4, 1, shift=0.2)
    found = frechet_from_rows(a, b, seed=5)
    assert found.value == frechet_from_rows(a, b, seed=5).value
    padded = frechet_from_rows(*(np.pad(sample, ((0, 0), (0, 2))) for sample in (a, b)), seed=5)
    assert padded.value == pytest.approx(found.value, rel=1e-6)


def test_parts_that_do_not_go_together_are_refused():
    parts = Moments.from_rows(rows(200, 3, 0), seed=0)
    with pytest.raises(ValueError, match="at least 8 groups"):
        frechet_from_groups(*[Moments.from_rows(rows(200, 3, 0), seed=0, groups=7)] * 2)
    with pytest.raises(ValueError, match="the same features"):
        frechet_from_groups(parts, Moments.from_rows(rows(200, 2, 0), seed=0))
    with pytest.raises(ValueError, match="at least two rows"):
        frechet_from_groups(*[Moments.from_rows(rows(2, 3, 0), seed=0)] * 2)
    with pytest.raises(ValueError, match="shapes must be"):
        Moments(count=parts.count, sums=parts.sums, products=parts.products[:5])
