"""Every number of a comparison: closed forms for Gaussians, and independent calculations."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from dist_calo.physics.metrics.distances import separations
from dist_calo.physics.metrics.evaluation import measured_sums
from dist_calo.physics.metrics.observable_metrics import chi_squares
from dist_calo.physics.metrics.profile_metrics import score_of
from tests.support.gaussians import normal, sampled

COUNT = 60_000


@pytest.fixture(scope="module")
def real():
    return sampled(normal(COUNT, 0))


def numbers_of(fake, real, slot=-1):
    sample = sampled(fake, real.binning)
    slots, whole = measured_sums(real, sample)
    return {name: number.value for name, number in {**slots[slot], **whole}.items()}


@pytest.fixture(scope="module")
def shifted(real):
    """The first layer higher by half its standard deviation, the second one 20 % wider."""
    return numbers_of(normal(COUNT, 1, mean=(1.0, 5.5, -3.0), deviation=(0.1, 1.0, 2.4)), real)


def test_a_shifted_gaussian_has_the_shift_as_wasserstein_distance(shifted):
    assert shifted["shift/layer/0"] == pytest.approx(0.5, abs=0.02)
    assert shifted["wasserstein_scaled/layer/0"] == pytest.approx(0.5, abs=0.02)


def test_a_wider_gaussian_has_its_wasserstein_distance(shifted):
    # W1 of two centred Gaussians is the difference of their standard deviations times the mean of |x|.
    assert shifted["wasserstein_scaled/layer/1"] == pytest.approx(0.2 * math.sqrt(2 / math.pi), abs=0.02)
    assert shifted["width/layer/1"] == pytest.approx(0.2, abs=0.02)


def test_the_separation_power_of_two_gaussians_is_its_integral(shifted):
    def integrand(x):
        h, g = stats.norm.pdf(x, 0.5), stats.norm.pdf(x)
        return 0.5 * (h - g) ** 2 / (h + g)

    expected = integrate.quad(integrand, -8, 8)[0]
    assert shifted["separation/layer/0"] == pytest.approx(expected, rel=0.05)


def test_several_layers_are_averaged(shifted):
    for kind in ("separation", "wasserstein_scaled"):
        both = [shifted[f"{kind}/layer/{layer}"] for layer in (0, 1)]
        assert shifted[f"{kind}/layer"] == pytest.approx(np.mean(both))
    assert shifted["shifts/layer"] == pytest.approx(
        np.mean([abs(shifted["shift/layer/0"]), abs(shifted["shift/layer/1"])])
    )


def test_what_was_not_changed_is_equal(shifted):
    assert shifted["chi2_ndf/response"] == pytest.approx(1.0, abs=0.7)
    assert abs(shifted["shift/response"]) < 0.03
    assert abs(shifted["response/mean"]) < 0.005
    assert abs(shifted["response/resolution"]) < 0.02


def test_the_response_and_the_resolution_are_relative_differences(real):
    found = numbers_of(normal(COUNT, 2, mean=(1.02, 5, -3), deviation=(0.11 * 1.02, 1, 2)), real)
    assert found["response/mean"] == pytest.approx(0.02, abs=0.002)
    assert found["response/resolution"] == pytest.approx(0.1, abs=0.02)
    assert found["relative_error/response"] == pytest.approx(0.02, abs=0.002)


def test_wasserstein_distances_are_scipys(real):
    numbers = np.random.default_rng(3)
    fake = np.stack(
        [numbers.gamma(4, 0.25, COUNT), numbers.normal(5, 1, COUNT) ** 2 / 5, numbers.uniform(-9, 90, COUNT)],
        axis=1,
    )
    found = numbers_of(fake, real)
    expected = [stats.wasserstein_distance(f, r) for f, r in zip(fake.T, normal(COUNT, 0).T, strict=True)]
    assert found["wasserstein/response"] == pytest.approx(expected[0], rel=0.01)
    assert found["wasserstein/layer"] == pytest.approx(np.mean(expected[1:]), rel=0.01)


def test_chi_squares_follow_their_distribution():
    numbers = np.random.default_rng(4)
    edges = np.linspace(-3, 3, 31)
    found = [
        chi_squares(*(np.histogram(numbers.normal(size=n), edges)[0][None] for n in (2000, 5000)))[0]
        for _ in range(200)
    ]
    assert np.mean(found) == pytest.approx(1.0, abs=0.06)
    assert np.var(found) == pytest.approx(2 / 29, rel=0.4)


def test_chi_squares_and_separations_of_empty_histograms_are_unknown():
    empty, full = np.zeros((1, 5)), np.ones((1, 5))
    assert np.isnan(separations(empty, full)).all()
    assert np.isnan(chi_squares(empty, full)).all()


@pytest.mark.parametrize("angle", [0.3, 0.8])
def test_rotated_observables_have_the_correlation_of_the_rotation(real, angle):
    rows = normal(COUNT, 5, mean=(1.0, 0.0, 0.0))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    rows[:, 1:] = rows[:, 1:] @ turn.T
    covariance = turn @ np.diag([1.0, 4.0]) @ turn.T
    expected = abs(covariance[0, 1]) / math.sqrt(covariance[0, 0] * covariance[1, 1])
    # Two of the four elements of the matrix of the layers.
    assert numbers_of(rows, real)["correlation/layer"] == pytest.approx(expected / 2, abs=0.01)


def test_profile_errors_are_the_mean_relative_error_of_3dgan():
    rows = np.tile([1.0, 4.0, 2.0], (400, 1)) + normal(400, 6, (0, 0, 0), (0.01, 0.01, 0.01))
    real = sampled(rows)
    found = numbers_of(rows * [1.1, 0.9, 1.0], real)
    assert found["profile_error/longitudinal"] == pytest.approx(0.2 / 3, rel=1e-3)


def test_a_profile_of_equal_samples_has_a_chi_square_of_one(real):
    assert numbers_of(normal(COUNT, 7), real)["profile_chi2/longitudinal"] < 5


def test_what_is_never_generated_is_fully_wrong(real):
    rows = normal(500, 8)
    rows[:, 1] = np.nan
    found = numbers_of(rows, real)
    assert found["separation/layer/0"] == 1.0
    assert found["missing/layer"] == pytest.approx(0.5)
    assert found["wasserstein_scaled/layer/0"] > 4


def test_what_geant4_never_has_says_nothing(real):
    rows = normal(500, 9)
    rows[:, 1] = np.nan
    reference = sampled(rows)
    found = numbers_of(normal(500, 10), reference)
    assert "separation/layer/0" not in found
    assert math.isfinite(found["separation/layer"])


def test_a_bin_with_less_than_two_showers_is_empty(real):
    few = sampled(normal(40, 11), real.binning, energies=np.full(40, 20.0, np.float32))
    slots, _ = measured_sums(real, few)
    assert slots[1] == {}
    assert slots[0]


def test_the_score_is_the_mean_of_what_the_observer_names(real, shifted):
    expected = [
        shifted[name]
        for name in ("wasserstein_scaled/response", "wasserstein_scaled/layer", "correlation/layer")
    ]
    assert shifted["score"] == pytest.approx(np.mean(expected))
    same = sampled(normal(COUNT, 0), real.binning)
    _, whole = measured_sums(real, same, paired=True)
    assert whole["score"].value == 0.0
    assert whole["score"].sigmas < 0
    assert whole["score"].floor > whole["score"].spread > 0


def test_halves_that_lack_a_term_of_the_score_do_not_count(real):
    terms, names = {"a": 0.1, "b": 0.3}, ("a", "b")
    fake = sampled(normal(2000, 3), real.binning)
    part = fake.of(np.arange(64))
    assert score_of(part, terms, names) == {"score": pytest.approx(0.2)}
    assert score_of(part, {"a": 0.1}, names) == score_of(part, {}, ()) == {}


def test_showers_that_are_no_numbers_count_in_the_score(real):
    rows = normal(4000, 1)
    whole = numbers_of(rows, real)["score"]
    rows[:1000, 0] = np.inf
    assert numbers_of(rows, real)["score"] == pytest.approx(0.25 + whole, abs=0.02)


def test_a_bin_of_incident_energy_measures_distances_however_far_away(real):
    rows = normal(COUNT, 12)
    rows[:, 1] += 1000.0
    sample = sampled(rows, real.binning)
    slots, _ = measured_sums(real, sample)
    for numbers in slots:
        assert numbers["wasserstein/layer"].value == pytest.approx(500.0, rel=1e-3)


def test_a_brief_comparison_has_the_same_score_and_observables(real):
    fake = sampled(normal(2000, 3), real.binning)
    (slots, whole), (brief_slots, brief) = (measured_sums(real, fake, brief=brief) for brief in (False, True))
    assert brief_slots[-1] == slots[-1]
    assert brief_slots[:-1] == ({},) * (len(slots) - 1)
    assert brief == {name: whole[name] for name in ("correlation/layer", "correlation/observables", "score")}
