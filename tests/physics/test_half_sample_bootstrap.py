"""Errors, floors and sigmas: their definition, and that they mean what they say."""

import numpy as np
import pytest

from dist_calo.physics.metrics.distances import separations
from dist_calo.physics.metrics.half_sample_bootstrap import (
    MOST_SIGMAS,
    Design,
    half_samples,
    measured,
)
from dist_calo.physics.observables.groups import GROUPS, groups_of, share_of


def test_groups_are_alike_and_belong_to_the_number_alone():
    ids = np.arange(64_000)
    groups = groups_of(ids)
    counts = np.bincount(groups, minlength=GROUPS)
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)
    shuffled = np.random.default_rng(0).permutation(ids)
    np.testing.assert_array_equal(groups_of(shuffled), groups[shuffled])


def test_a_share_is_random_and_takes_of_all_groups_alike():
    ids = np.arange(100_000)
    kept = share_of(ids, 0.2)
    assert kept.mean() == pytest.approx(0.2, abs=0.006)
    counts = np.bincount(groups_of(ids[kept]), minlength=GROUPS)
    assert abs(counts - 20_000 / GROUPS).max() < 5 * np.sqrt(20_000 / GROUPS)
    assert share_of(ids, 1.0).all()
    assert not share_of(ids, 0.0).any()


def test_halves_of_the_reference_are_disjoint_and_whole():
    for halves in half_samples(Design(count=5)):
        assert sorted([*halves.real, *halves.rest]) == list(range(GROUPS))
        assert len(set(halves.fake)) == GROUPS // 2
    first, again = next(half_samples()), next(half_samples())
    np.testing.assert_array_equal(first.fake, again.fake)


def by_group(values, groups):
    return lambda chosen: values[np.isin(groups, chosen)]


def difference_of_means(fake, real):
    return {"shift": fake.mean() - real.mean()}


def test_the_error_of_a_difference_of_means_is_the_known_one():
    groups = groups_of(np.arange(6400))
    fake, real = np.random.default_rng(1).normal(size=(2, 6400))
    found = measured(difference_of_means, by_group(fake, groups), by_group(real, groups), Design(count=200))[
        "shift"
    ]
    assert found.value == pytest.approx(fake.mean() - real.mean())
    assert found.error == pytest.approx(np.sqrt(2 / 6400), rel=0.25)
    # Two halves of 3,200 differ by twice the variance of two samples of 6,400.
    assert found.spread == pytest.approx(np.sqrt(4 / 6400), rel=0.25)


def test_sigmas_of_equal_samples_are_those_of_a_normal_distribution():
    groups = groups_of(np.arange(3200))
    numbers = np.random.default_rng(2)
    sigmas = []
    for _ in range(60):
        fake, real = numbers.normal(size=(2, 3200))
        found = measured(difference_of_means, by_group(fake, groups), by_group(real, groups))
        sigmas.append(found["shift"].sigmas)
    assert abs(np.mean(sigmas)) < 3 / np.sqrt(60)
    assert 0.7 < np.std(sigmas) < 1.35


@pytest.mark.parametrize("ratio", [0.1, 1.0, 5.0])
def test_a_distance_of_equal_samples_of_unequal_size_is_at_its_floor(ratio):
    numbers = np.random.default_rng(4)
    sizes = round(16_000 * min(ratio, 1.0)), round(16_000 / max(ratio, 1.0))
    edges = np.linspace(-3, 3, 31)

    def separation(fake, real):
        h, g = (np.histogram(values, edges)[0][None] for values in (fake, real))
        return {"separation": separations(h, g)[0]}

    sigmas = []
    for _ in range(12):
        parts = [by_group(numbers.normal(size=size), groups_of(np.arange(size))) for size in sizes]
        sigmas.append(measured(separation, *parts, Design(ratio=ratio))["separation"].sigmas)
    assert abs(np.mean(sigmas)) < 1


def test_samples_of_the_same_conditions_are_compared_pair_by_pair():
    groups = groups_of(np.arange(6400))
    common, *own = np.random.default_rng(5).normal(size=(3, 6400))
    fake, real = (10 * common + values for values in own)
    found = measured(
        difference_of_means, by_group(fake, groups), by_group(real, groups), Design(paired=True, count=200)
    )["shift"]
    assert found.error == pytest.approx(np.sqrt(2 / 6400), rel=0.25)


def test_what_has_no_error_is_told_as_far_away():
    values = iter([1.0, *[1.0, 0.0] * 50])
    found = measured(lambda fake, real: {"x": next(values)}, lambda groups: 0, lambda groups: 0)["x"]
    assert found.sigmas == MOST_SIGMAS


def test_a_shift_of_ten_errors_is_ten_sigmas():
    groups = groups_of(np.arange(6400))
    fake, real = np.random.default_rng(3).normal(size=(2, 6400))
    fake += 10 * np.sqrt(2 / 6400)
    found = measured(difference_of_means, by_group(fake, groups), by_group(real, groups))["shift"]
    assert 7 < found.sigmas < 14


def test_what_cannot_be_computed_has_no_sigmas():
    found = measured(lambda fake, real: {"x": np.nan}, lambda groups: 0, lambda groups: 0)["x"]
    assert np.isnan(found.sigmas)
    assert np.isnan(found.floor)


def test_constants_that_agree_are_at_their_floor():
    found = measured(lambda fake, real: {"x": 0.5}, lambda groups: 0, lambda groups: 0)["x"]
    assert found.sigmas == 0.0


@pytest.mark.parametrize("sizes", [(6400, 1600), (1600, 6400), (51_200, 1600)])
def test_the_error_is_the_known_one_where_the_sizes_differ(sizes):
    numbers = np.random.default_rng(6)
    parts = [by_group(numbers.normal(size=size), groups_of(np.arange(size))) for size in sizes]
    found = measured(difference_of_means, *parts, Design(ratio=sizes[0] / sizes[1], count=200))["shift"]
    assert found.error == pytest.approx(np.sqrt(1 / sizes[0] + 1 / sizes[1]), rel=0.25)


def test_halves_that_do_not_vary_take_the_spread_of_the_floor():
    values = iter([-1.0, *[-1.0, -0.5, -1.0, 0.5] * 25])
    found = measured(lambda fake, real: {"x": next(values)}, lambda groups: 0, lambda groups: 0)["x"]
    assert found.error == found.spread == pytest.approx(0.5)
    assert found.sigmas == pytest.approx(-2.0)
