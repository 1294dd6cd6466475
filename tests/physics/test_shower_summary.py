import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.physics.observables.shower_summary import (
    BATCH,
    PROFILES,
    Bins,
    ShowerSummary,
    compared,
    profile_error,
)
from dist_calo.physics.observables.spectrum import spectrum_edges

GRID = (2, 3, 4)
TWO_BINS = Bins(energy=(10.0, 20.0, 40.0))


def random_showers(count: int, seed: int = 0, grid=GRID) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(seed)
    showers = numbers.exponential(0.01, (count, *grid)) * (numbers.random((count, *grid)) < 0.5)
    return showers.astype(np.float32), numbers.uniform(5.0, 45.0, count)


def uniform_showers(visible, energies, grid=GRID) -> tuple[np.ndarray, np.ndarray]:
    """Showers that spread these visible energies evenly over the cells."""
    visible = np.asarray(visible, dtype=np.float64)
    return np.ones((len(visible), *grid)) * (visible / np.prod(grid))[:, None, None, None], np.array(energies)


def summary(showers, energies, bins=TWO_BINS, grid=GRID) -> ShowerSummary:
    return ShowerSummary(grid, bins).update(showers, energies)


def test_response_and_resolution_in_bins_of_energy():
    seen = summary(*uniform_showers([1.0, 3.0, 9.0], [10.0, 10.0, 30.0])).compute()
    np.testing.assert_array_equal(seen.count, [2, 1, 3])
    np.testing.assert_allclose(seen.energy, [10.0, 30.0, 50.0 / 3])
    # responses 0.1, 0.3 and 0.3
    np.testing.assert_allclose(seen.response.value, [0.2, 0.3, 0.7 / 3])
    deviations = np.array([np.std([0.1, 0.3], ddof=1), np.std([0.1, 0.3, 0.3], ddof=1)])
    np.testing.assert_allclose(seen.response.error[[0, 2]], deviations / np.sqrt([2, 3]))
    resolution = deviations / [0.2, 0.7 / 3]
    np.testing.assert_allclose(seen.resolution.value[[0, 2]], resolution)
    count = np.array([2, 3])
    np.testing.assert_allclose(
        seen.resolution.error[[0, 2]], resolution * np.sqrt(0.5 / (count - 1) + resolution**2 / count)
    )
    # one shower has a mean but tells nothing about its spread
    assert np.isnan([seen.response.error[1], seen.resolution.value[1], seen.resolution.error[1]]).all()


def test_the_error_of_the_resolution_is_its_spread_among_samples():
    numbers = np.random.default_rng(1)
    energies = np.full(100, 15.0)
    samples = [
        summary(*uniform_showers(15.0 * numbers.normal(0.5, 0.1, 100), energies)).compute().resolution
        for _ in range(200)
    ]
    spread = np.std([sample.value[0] for sample in samples])
    assert np.mean([sample.error[0] for sample in samples]) == pytest.approx(spread, rel=0.15)


def test_profiles_with_errors():
    showers = np.zeros((2, *GRID))
    showers[0, 0, 1, 2], showers[0, 1, 1, 3] = 1.0, 3.0
    showers[1, 0, 1, 2], showers[1, 0, 2, 0] = 2.0, 4.0
    profiles = summary(showers, np.array([15.0, 15.0])).compute().profiles
    assert set(profiles) == set(PROFILES)
    for entry in (0, 2):
        np.testing.assert_allclose(profiles["longitudinal"].value[entry], [2.0, 0.0, 1.5, 1.5])
        # half the difference of two values is the error of their mean
        np.testing.assert_allclose(profiles["longitudinal"].error[entry], [2.0, 0.0, 0.5, 1.5])
        np.testing.assert_allclose(profiles["x"].value[entry], [3.5, 1.5])
        np.testing.assert_allclose(profiles["x"].error[entry], [2.5, 1.5])
        np.testing.assert_allclose(profiles["y"].value[entry], [0.0, 3.0, 2.0])
        np.testing.assert_allclose(profiles["y"].error[entry], [0.0, 1.0, 2.0])
    assert all(np.isnan(profile.value[1]).all() for profile in profiles.values())


def test_normalised_profiles_are_shares_of_the_visible_energy():
    made = summary(*random_showers(50))
    plain, normalised = made.compute().profiles, made.compute(normalised=True).profiles
    for name in PROFILES:
        np.testing.assert_allclose(normalised[name].value.sum(axis=1), 1.0)
        visible = plain[name].value.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(normalised[name].error, plain[name].error / visible)


def test_hits_are_cells_above_the_threshold():
    showers = np.zeros((2, *GRID))
    showers[0, 0, 0, :3] = [0.5, 0.25, 1.0]  # the second is at the threshold, not above
    showers[1, 1, 2] = 1.0
    hits = summary(showers, np.array([15.0, 15.0]), Bins(threshold=0.25)).compute().hits
    assert hits.value[-1] == pytest.approx(3.0)
    assert hits.error[-1] == pytest.approx(1.0)


def test_the_spectrum_counts_every_cell_once():
    bins = Bins(energy=(10.0, 20.0), cell_energy=(1e-3, 1.0))
    edges = spectrum_edges(1e-3, 1.0)
    assert len(edges) == 25
    np.testing.assert_allclose(edges, np.geomspace(1e-3, 1.0, 25), rtol=4e-3)
    numbers = np.random.default_rng(2)
    full = numbers.uniform(0.0, 1.2, (3, *GRID)).astype(np.float32)
    sparse = full * (numbers.random(full.shape) < 0.2)
    full[0, 0, 0] = [-0.5, 0.0, edges[3], edges[-1]]  # an edge belongs to the bin above it
    for showers in (full, sparse):
        seen = summary(showers, np.full(3, 15.0), bins).compute()
        expected = np.searchsorted(edges, showers.ravel(), side="right") - 1
        inside = (expected >= 0) & (expected < 24)
        counts = np.bincount(expected[inside], minlength=24) / 3
        np.testing.assert_allclose(seen.spectrum.value[-1], counts)
        np.testing.assert_array_equal(seen.spectrum_edges, edges)


def test_energies_on_the_edges_and_outside():
    energies = [9.99, 10.0, 19.99, 20.0, 39.0, 40.0, 40.01]
    seen = summary(*uniform_showers(np.ones(7), energies)).compute()
    # a bin holds its lower edge, the last bin its upper edge too; who is outside counts in the whole sample
    np.testing.assert_array_equal(seen.count, [2, 3, 7])
    np.testing.assert_allclose(
        seen.energy, [np.mean(energies[1:3]), np.mean(energies[3:6]), np.mean(energies)]
    )
    np.testing.assert_allclose(seen.response.value[-1], np.mean(1 / np.array(energies)))


@given(cuts=st.lists(st.integers(0, 40), max_size=5), order=st.randoms(use_true_random=False))
def test_any_split_among_ranks_gives_the_whole(cuts, order):
    showers, energies = random_showers(40)
    whole = summary(showers, energies)
    edges = [0, *sorted(cuts), 40]
    parts = [summary(showers[low:high], energies[low:high]) for low, high in itertools.pairwise(edges)]
    order.shuffle(parts)
    summed = ShowerSummary(GRID, TWO_BINS).from_vector(np.sum([part.to_vector() for part in parts], axis=0))
    merged = ShowerSummary(GRID, TWO_BINS)
    for part in parts:
        merged.merge(part)
    for made in (summed, merged):
        np.testing.assert_allclose(made.to_vector(), whole.to_vector(), rtol=1e-12, atol=1e-15)
    assert compared(summed, whole) == pytest.approx(
        {name: float(not name.startswith("profile_error")) for name in compared(whole, whole)}, abs=1e-9
    )


def test_more_showers_than_are_summed_at_once():
    showers, energies = random_showers(BATCH + 44)
    seen = summary(showers, energies).compute()
    assert seen.count[-1] == BATCH + 44
    visible = showers.sum(axis=(1, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(seen.response.value[-1], np.mean(visible / energies), rtol=1e-6)
    np.testing.assert_allclose(
        seen.profiles["y"].value[-1], showers.sum(axis=(1, 3), dtype=np.float64).mean(axis=0), rtol=1e-6
    )


def test_an_empty_summary_is_undefined_without_warnings():
    empty = ShowerSummary(GRID, TWO_BINS).update(np.zeros((0, *GRID), np.float32), np.zeros(0))
    for normalised in (False, True):
        seen = empty.compute(normalised)
        assert not seen.count.any()
        for estimate in (seen.response, seen.resolution, seen.hits, seen.spectrum, *seen.profiles.values()):
            assert np.isnan(estimate.value).all()
            assert np.isnan(estimate.error).all()
        assert np.isnan(seen.energy).all()
    filled = summary(*random_showers(20))
    values = compared(empty, empty)
    assert set(values) == {
        *(f"profile_error/{name}" for name in PROFILES),
        *("response_ratio", "resolution_ratio", "hits_ratio"),
    }
    assert np.isnan(list(values.values())).all()
    assert np.isnan(list(compared(empty, filled).values())).all()
    assert np.isnan(list(compared(filled, empty).values())).all()


def test_showers_without_energy_cause_no_warnings():
    dark = summary(*uniform_showers([0.0, 0.0], [15.0, 25.0]))
    lit = summary(*random_showers(20))
    assert profile_error(dark, lit) == pytest.approx(dict.fromkeys(PROFILES, 1.0))
    assert compared(dark, lit)["response_ratio"] == 0.0
    assert np.isnan(list(profile_error(lit, dark).values())).all()
    assert "response_ratio/10-20_GeV" not in compared(lit, dark)  # a ratio to 0 is no number to report
    assert np.isnan(dark.compute(normalised=True).profiles["x"].value).all()


def test_the_same_showers_agree():
    made = summary(*random_showers(60))
    values = compared(made, made)
    ratios = ("response_ratio", "resolution_ratio", "hits_ratio")
    assert values == {
        **{f"profile_error/{name}": 0.0 for name in PROFILES},
        **dict.fromkeys(ratios, 1.0),
        "response_ratio/10-20_GeV": 1.0,
        "response_ratio/20-40_GeV": 1.0,
    }


def test_showers_with_two_percent_more_energy():
    showers, energies = random_showers(60)
    real, fake = summary(showers, energies), summary(showers * np.float32(1.02), energies)
    values = compared(fake, real)
    for name in ("response_ratio", "response_ratio/10-20_GeV", "response_ratio/20-40_GeV"):
        assert values[name] == pytest.approx(1.02, rel=1e-5)
    for name in PROFILES:
        assert values[f"profile_error/{name}"] == pytest.approx(0.02, rel=1e-3)
    assert values["resolution_ratio"] == pytest.approx(1.0, rel=1e-5)
    assert values["hits_ratio"] == pytest.approx(1.0, abs=0.01)
    assert profile_error(fake, real, normalised=True) == pytest.approx(dict.fromkeys(PROFILES, 0.0), abs=1e-6)


def test_profile_error_ignores_layers_without_reference_energy():
    real, fake = np.zeros((1, *GRID)), np.zeros((1, *GRID))
    real[0, 0, 0], fake[0, 0, 0] = [1.0, 2.0, 0.0, 0.0], [1.1, 1.0, 5.0, 0.0]
    energies = np.array([15.0])
    error = profile_error(summary(fake, energies), summary(real, energies))
    assert error["longitudinal"] == pytest.approx((0.1 + 0.5) / 2)


def test_only_bins_that_both_have_showers_in_are_compared():
    low, high = (summary(*uniform_showers([1.0, 1.0], [energy] * 2)) for energy in (15.0, 25.0))
    assert not [name for name in compared(low, high) if "GeV" in name]


@pytest.mark.parametrize(
    ("showers", "energies"),
    [((5, 2, 3, 5), (5,)), ((5, 2, 3, 4), (4,)), ((5, 2, 3, 4), (5, 1)), ((2, 3, 4), (2,))],
)
def test_showers_that_do_not_fit_are_refused(showers, energies):
    with pytest.raises(ValueError, match=r"expected \(B, 2, 3, 4\) and \(B,\)"):
        ShowerSummary(GRID).update(np.zeros(showers), np.ones(energies))


@pytest.mark.parametrize(
    "wrong",
    [
        {"energy": (10.0,)},
        {"energy": (10.0, 10.0)},
        {"energy": (20.0, 10.0)},
        {"cell_energy": (0.0, 1.0)},
        {"cell_energy": (1.0, 0.1)},
    ],
)
def test_wrong_bins_are_refused(wrong):
    with pytest.raises(ValueError, match="increasing energies"):
        Bins(**wrong)


def test_summaries_with_other_bins_are_not_merged():
    with pytest.raises(ValueError, match="use the same bins"):
        ShowerSummary(GRID).merge(ShowerSummary(GRID, TWO_BINS))
