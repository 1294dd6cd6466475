import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from dist_calo.physics.metrics.precision_recall import precision_recall_density_coverage


def normal(shape, seed, shift=0.0):
    return shift + np.random.default_rng(seed).normal(size=shape)


def values(real, fake, neighbours=5):
    return {
        name: value for name, (value, _) in precision_recall_density_coverage(real, fake, neighbours).items()
    }


def test_agreement_with_scikit_learn_and_all_pairs():
    real, fake, k = normal((70, 3), 0), normal((90, 3), 1, 0.7), 4

    def radii(rows):
        return NearestNeighbors(n_neighbors=k).fit(rows).kneighbors()[0][:, -1]

    distances = np.linalg.norm(real[:, None] - fake[None], axis=2)
    inside = distances < radii(real)[:, None]
    assert values(real, fake, k) == pytest.approx(
        {
            "precision": inside.any(axis=0).mean(),
            "recall": (distances < radii(fake)[None]).any(axis=1).mean(),
            "density": inside.sum(axis=0).mean() / k,
            "coverage": (distances.min(axis=1) < radii(real)).mean(),
        }
    )


def test_blocks_do_not_change_the_result(monkeypatch):
    real, fake = normal((100, 3), 0), normal((120, 3), 1)
    whole = precision_recall_density_coverage(real, fake)
    monkeypatch.setattr("dist_calo.physics.metrics.precision_recall.BLOCK", 16)
    assert precision_recall_density_coverage(real, fake) == whole


@pytest.mark.parametrize("neighbours", [1, 5])
def test_one_distribution_has_the_density_and_coverage_of_the_closed_form(neighbours):
    n, m = 300, 500
    found = [values(normal((n, 4), 2 * seed), normal((m, 4), 2 * seed + 1), neighbours) for seed in range(40)]
    uncovered = np.prod([(n - i) / (n + m - i) for i in range(1, neighbours + 1)])
    for name, truth in (("density", 1.0), ("coverage", 1.0 - uncovered)):
        values_found = np.array([one[name] for one in found])
        assert abs(values_found.mean() - truth) < 3 * values_found.std() / np.sqrt(len(found))


def test_coverage_of_large_samples_of_one_size():
    found = precision_recall_density_coverage(normal((3000, 2), 0), normal((3000, 2), 1))
    value, error = found["coverage"]
    assert value == pytest.approx(1 - 2.0**-5, abs=4 * error)
    value, error = found["density"]
    assert value == pytest.approx(1.0, abs=4 * error)


def test_collapse_is_seen_by_recall_and_coverage_alone():
    real = normal((1000, 3), 0)
    fake = 0.1 * normal((1000, 3), 1)
    found = values(real, fake)
    assert found["precision"] > 0.9
    assert found["density"] > 0.9
    assert found["recall"] < 0.1
    assert found["coverage"] < 0.3


def test_an_outlier_fools_precision_but_not_density():
    real = normal((500, 2), 0)
    fake = normal((500, 2), 1, shift=8.0)
    # One real row far away: its ball reaches back to the others and over all generated rows between.
    real[0] = 16.0
    found = values(real, fake)
    assert found["precision"] == 1.0
    assert found["density"] == pytest.approx(1 / 5)
    assert found["coverage"] == pytest.approx(1 / 500)


def test_samples_apart_have_nothing_in_common():
    found = values(normal((200, 3), 0), normal((200, 3), 1, shift=100.0))
    assert found == {"precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0}


def test_a_sample_far_from_zero_is_compared_as_well():
    real, fake = normal((200, 3), 0), normal((200, 3), 1)
    assert values(real + 1e6, fake + 1e6) == pytest.approx(values(real, fake))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="same features"):
        values(normal((50, 3), 0), normal((50, 2), 0))
    with pytest.raises(ValueError, match="rows than neighbours"):
        values(normal((50, 3), 0), normal((5, 3), 0))
    with pytest.raises(ValueError, match="not finite"):
        values(normal((50, 3), 0), np.full((50, 3), np.inf))
