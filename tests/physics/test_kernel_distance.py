from math import comb

import numpy as np
import pytest

from dist_calo.physics.metrics.kernel_distance import discrepancy, kernel_distance


def normal(shape, seed, shift=0.0):
    return shift + np.random.default_rng(seed).normal(size=shape)


def one_dimension(moments_a, moments_b) -> float:
    """MMD^2 of two distributions of one feature with raw moments 0 to 4: the kernel is a sum of products of powers."""
    return sum(comb(4, j) * (moments_a[j] - moments_b[j]) ** 2 for j in range(5))


def gaussian_moments(mean: float) -> list[float]:
    return [1.0, mean, 1 + mean**2, mean**3 + 3 * mean, mean**4 + 6 * mean**2 + 3]


def test_agreement_with_the_sum_over_all_pairs():
    a, b = normal((7, 3), 0), normal((5, 3), 1)

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 4

    aa = np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    bb = np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    ab = np.mean([kernel(x, y) for x in a for y in b])
    assert discrepancy(a, b) == pytest.approx(aa + bb - 2 * ab, rel=1e-12)


def test_blocks_do_not_change_the_sum(monkeypatch):
    a, b = normal((50, 3), 0), normal((31, 3), 1)
    whole = discrepancy(a, b)
    monkeypatch.setattr("dist_calo.physics.metrics.kernel_distance.BLOCK", 8)
    assert discrepancy(a, b) == pytest.approx(whole, rel=1e-12)


def test_closed_form_of_shifted_gaussians():
    truth = one_dimension(gaussian_moments(0.0), gaussian_moments(0.5))
    found = np.array(
        [discrepancy(normal((500, 1), 2 * i), normal((500, 1), 2 * i + 1, 0.5)) for i in range(30)]
    )
    assert abs(found.mean() - truth) < 3 * found.std() / np.sqrt(len(found))
    value, error = kernel_distance(normal((10000, 1), 0), normal((10000, 1), 1, 0.5), seed=0, batch_size=1000)
    assert abs(value - truth) < 3 * error
    assert value > 5 * error


def test_mean_over_equal_distributions_is_zero():
    found = np.array([discrepancy(normal((100, 4), 2 * i), normal((150, 4), 2 * i + 1)) for i in range(200)])
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(found))
    assert found.min() < 0 < found.max()


def test_other_degrees():
    a, b = normal((200, 2), 0), normal((200, 2), 1, 1.0)
    shift = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2) / 2
    scatter = (np.trace(np.cov(a.T)) + np.trace(np.cov(b.T))) / 200 / 2
    assert discrepancy(a, b, degree=1) == pytest.approx(shift - scatter, rel=1e-10)


def test_small_samples_have_an_error():
    value, error = kernel_distance(normal((60, 3), 0), normal((40, 3), 1), seed=0)
    assert error > 0
    assert abs(value) < 5 * error


def test_the_seed_decides():
    samples = normal((500, 3), 0), normal((500, 3), 1)
    assert kernel_distance(*samples, seed=1) == kernel_distance(*samples, seed=1)
    assert kernel_distance(*samples, seed=1) != kernel_distance(*samples, seed=2)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="same features"):
        kernel_distance(normal((50, 3), 0), normal((50, 2), 0), seed=0)
    with pytest.raises(ValueError, match="at least four"):
        kernel_distance(normal((50, 3), 0), normal((3, 3), 0), seed=0)
    with pytest.raises(ValueError, match="not finite"):
        kernel_distance(np.full((50, 3), np.nan), normal((50, 3), 0), seed=0)
