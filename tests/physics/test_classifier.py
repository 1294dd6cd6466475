from math import erf

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from dist_calo.physics.metrics.classifier import area_under_curve, classify, jensen_shannon, low_level_rows

SMALL = {"epochs": 6, "hidden": 16, "batch_size": 200, "learning_rate": 1e-2}


def normal(shape, seed, shift=0.0):
    return shift + np.random.default_rng(seed).normal(size=shape)


def scores(seed=0, n=300):
    numbers = np.random.default_rng(seed)
    truth = np.repeat([1, 0], n)
    return np.round(numbers.beta(2, 2, size=2 * n) * 0.8 + 0.1 * truth + 0.05, 2), truth


def test_area_under_curve_agrees_with_scikit_learn_and_counted_pairs():
    score, truth = scores()
    real, fake = score[truth == 1], score[truth == 0]
    counted = np.mean((real[:, None] > fake) + 0.5 * (real[:, None] == fake))
    assert area_under_curve(score, truth) == pytest.approx(counted, rel=1e-12)
    assert area_under_curve(score, truth) == pytest.approx(roc_auc_score(truth, score), rel=1e-12)


def test_divergence_is_one_minus_the_cross_entropy_in_bits():
    score, truth = scores()
    assert jensen_shannon(score, truth) == pytest.approx(1 - log_loss(truth, score) / np.log(2), rel=1e-12)
    assert jensen_shannon(np.full(10, 0.5), np.repeat([1, 0], 5)) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("shift", [0.3, 1.0])
def test_shifted_gaussians_give_the_area_of_the_closed_form(shift):
    found = classify(normal((4000, 1), 0, shift), normal((4000, 1), 1), seed=0, **SMALL)
    truth = 0.5 * (1 + erf(shift / 2))
    assert abs(found.auc - truth) < 3 * found.auc_error
    assert found.auc - 0.5 > 5 * found.auc_error
    assert found.auc_error == pytest.approx(0.4 / np.sqrt(800), rel=0.5)
    assert (found.rows, found.test_rows) == (4000, 800)


def test_equal_distributions_cannot_be_told_apart():
    found = classify(normal((2000, 5), 0), normal((2000, 5), 1), seed=0, **SMALL)
    assert abs(found.auc - 0.5) < 3 * found.auc_error
    assert abs(found.jsd) < 3 * found.jsd_error


def test_disjoint_samples_are_told_apart_and_training_stops_early():
    found = classify(normal((500, 2), 0, 20.0), normal((500, 2), 1), seed=0, **SMALL)
    assert found.auc == 1.0
    assert found.jsd == pytest.approx(1.0, abs=1e-5)
    assert found.auc_error == 0.0
    assert found.epochs < SMALL["epochs"]
    assert found.best_epoch == found.epochs


def test_two_values_give_the_divergence_of_the_closed_form():
    numbers, p, q = np.random.default_rng(0), 0.8, 0.3
    real, fake = ((numbers.random((4000, 1)) < chance).astype(float) for chance in (p, q))
    found = classify(real, fake, seed=0, **SMALL)
    middle = (p + q) / 2

    def entropy(chance):
        return -chance * np.log2(chance) - (1 - chance) * np.log2(1 - chance)

    truth = entropy(middle) - (entropy(p) + entropy(q)) / 2
    assert abs(found.jsd - truth) < 3 * found.jsd_error
    assert found.jsd > 5 * found.jsd_error
    assert abs(found.auc - (0.5 + (p - q) / 2)) < 3 * found.auc_error


def test_the_seed_decides_and_global_random_state_is_left_alone():
    samples = normal((400, 3), 0, 0.5), normal((600, 3), 1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = classify(*samples, seed=3, **SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    torch.manual_seed(99)
    assert classify(*samples, seed=3, **SMALL) == first
    assert classify(*samples, seed=4, **SMALL) != first
    assert first.rows == 400


def test_each_epoch_is_told():
    lines = []
    classify(normal((100, 2), 0), normal((100, 2), 1), seed=0, **SMALL, say=lines.append)
    assert len(lines) == SMALL["epochs"]
    assert lines[0].startswith("classifier: epoch 1/6, loss 0.")


def test_low_level_rows_are_those_of_the_challenge():
    showers = np.arange(12.0).reshape(2, 3, 2)
    rows = low_level_rows(showers, np.array([10.0, 100.0]))
    assert rows.dtype == np.float32
    assert rows.shape == (2, 7)
    np.testing.assert_allclose(rows[:, 0], [4.0, 5.0])
    np.testing.assert_allclose(rows[0, 1:], 100 * showers[0].ravel() / 10.0)
    np.testing.assert_allclose(rows[1, 1:], 100 * showers[1].ravel() / 100.0)


def test_low_level_rows_need_an_energy_for_each_shower():
    with pytest.raises(ValueError, match="each shower needs one"):
        low_level_rows(np.ones((3, 4)), np.ones(2))
    with pytest.raises(ValueError, match="above 0"):
        low_level_rows(np.ones((2, 4)), np.array([1.0, 0.0]))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="same features"):
        classify(normal((50, 3), 0), normal((50, 2), 0), seed=0)
    with pytest.raises(ValueError, match="at least 20"):
        classify(normal((50, 3), 0), normal((10, 3), 0), seed=0)
    with pytest.raises(ValueError, match="not finite"):
        classify(normal((50, 3), 0), np.full((50, 3), np.nan), seed=0)
    with pytest.raises(ValueError, match="epochs 0"):
        classify(normal((50, 3), 0), normal((50, 3), 0), seed=0, epochs=0)
