"""Sums of a sample: those of any split into ranks and batches, and what NumPy says of the rows themselves."""

import numpy as np
import pytest

from dist_calo.physics.observables.groups import GROUPS, groups_of
from tests.support.gaussians import normal, sampled

ALL = np.arange(GROUPS)


@pytest.fixture(scope="module")
def cells():
    values = normal(4000, 0)
    values[::7, 2] = np.nan
    return values


@pytest.fixture(scope="module")
def sample(cells):
    return sampled(cells)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_see_what_one_rank_sees(cells, sample, ranks):
    energies = np.linspace(10, 100, len(cells), dtype=np.float32)
    ids = np.random.default_rng(1).permutation(len(cells))
    parts = [
        sampled(cells[mine], sample.binning, mine, energies=energies[mine], batch=64)
        for mine in np.array_split(ids, ranks)
    ]
    total = sum(part.to_vector() for part in parts)
    np.testing.assert_allclose(total, sample.to_vector(), rtol=1e-6, atol=1e-9)
    rows = np.concatenate([part.rows.columns for part in parts])
    joined = np.concatenate([part.rows.ids for part in parts])
    np.testing.assert_array_equal(rows[np.argsort(joined)], sample.rows.sorted().columns)


def test_means_deviations_and_fractions_are_numpys(cells, sample):
    whole = sample.of(ALL)
    values = cells.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(whole.mean(-1), np.nanmean(values, axis=0))
    np.testing.assert_allclose(whole.deviation(-1), np.nanstd(values, axis=0, ddof=1))
    np.testing.assert_allclose(whole.fraction(-1), np.isfinite(values).mean(axis=0))
    in_bin = np.linspace(10, 100, len(cells), dtype=np.float32) < 55
    np.testing.assert_allclose(whole.mean(0), np.nanmean(values[in_bin], axis=0))
    assert whole.count(0) == in_bin.sum()


def test_a_part_is_the_showers_of_its_groups(cells, sample):
    half = ALL[: GROUPS // 2]
    mine = np.isin(groups_of(np.arange(len(cells))), half)
    values = cells.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(sample.of(half).mean(-1), np.nanmean(values[mine], axis=0))
    assert len(sample.rows.of(half).columns) == mine.sum()


@pytest.mark.parametrize("fine", [False, True])
def test_histograms_are_numpys(cells, sample, fine):
    whole = sample.of(ALL)
    for column in range(3):
        values = cells[:, column].astype(np.float32).astype(np.float64)
        edges = whole.edges(-1, column, fine)
        inside = np.clip(values[np.isfinite(values)], edges[0], np.nextafter(edges[-1], -np.inf))
        np.testing.assert_array_equal(whole.histograms(-1, fine)[column], np.histogram(inside, edges)[0])


def test_correlations_are_numpys_over_the_showers_that_have_both():
    first = normal(3000, 1)
    first[:, 2] += 1.5 * first[:, 1]
    first[::5, 2] = np.nan
    found = sampled(first).of(ALL).correlation("layer")
    values = first.astype(np.float32).astype(np.float64)
    both = np.isfinite(values[:, 2])
    # Over the showers that have both, both ways round.
    assert found[0, 1] == pytest.approx(np.corrcoef(values[both, 1], values[both, 2])[0, 1])
    np.testing.assert_allclose(np.diag(found), 1.0)
    assert found[1, 0] == pytest.approx(found[0, 1])


def test_profiles_and_the_mean_shower_have_their_statistical_errors(cells):
    values = np.nan_to_num(cells)
    whole = sampled(values).of(ALL)
    stored = values.astype(np.float32).astype(np.float64)
    mean, error = whole.profile("longitudinal", -1)
    np.testing.assert_allclose(mean, stored.mean(axis=0))
    np.testing.assert_allclose(error, stored.std(axis=0, ddof=1) / np.sqrt(len(stored)))
    image, variance = whole.image()
    np.testing.assert_allclose(image.ravel(), stored.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance.ravel(), stored.var(axis=0), rtol=1e-3)


def test_no_sum_grows_with_the_sample():
    few, many = sampled(normal(100, 0)), sampled(normal(5000, 0))
    assert few.to_vector().shape == many.to_vector().shape


def test_rows_are_kept_of_a_random_share_alone(cells):
    sample = sampled(cells, share=0.25)
    assert len(sample.rows.columns) == pytest.approx(1000, abs=120)
    assert sample.rows.showers is None


def test_what_a_diverged_generator_makes_is_counted_at_the_ends(sample):
    wild = sampled(
        np.array([[1e14, -1e14, 5.0]] * 10), sample.binning, energies=np.full(10, 20.0, np.float32)
    )
    counts = wild.of(ALL).histograms(-1)
    assert counts[0, -1] == counts[1, 0] == 10
    # Their distance is bounded, or one of them would decide every Wasserstein distance.
    below, above = wild.of(ALL).excess(-1)
    deviations = np.array([above[0], below[1]]) / 10 / sample.binning.scale[:2]
    assert (deviations > 900).all()
    assert (deviations < 1000).all()
