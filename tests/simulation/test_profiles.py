import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.simulation.detectors import DETECTORS
from dist_calo.simulation.parametrised import dirichlet_shares, places
from dist_calo.simulation.radial import column_shares, containment

LCD = DETECTORS["lcd25"].parametrisation
DEEP = np.linspace(0.0, 800.0, 1601)


@given(alpha=st.floats(2.0, 8.0), maximum=st.floats(4.0, 9.0))
def test_the_mean_depth_is_that_of_the_gamma_distribution(alpha, maximum):
    shares = LCD.longitudinal.shares(np.array([alpha]), np.array([maximum]), DEEP)[0]
    depth = 0.5 * (DEEP[1:] + DEEP[:-1]) / LCD.longitudinal.radiation_length
    assert shares.sum() == pytest.approx(1.0, abs=2e-3)
    assert shares @ depth == pytest.approx(alpha * maximum / (alpha - 1.0), rel=5e-3)


def test_two_showers_in_a_row_have_the_exponential_profile_of_alpha_two():
    share = LCD.longitudinal.shares(np.array([2.0]), np.array([1.0]), np.linspace(0, 1, 101) * 5.226)[0].sum()
    assert share == pytest.approx(1.0 - 2.0 / math.e, rel=2e-3)


def test_t_and_alpha_have_the_widths_and_the_correlation_asked_for():
    model = LCD.longitudinal
    normals = np.random.default_rng(0).standard_normal((20_000, 2))
    ln_y = math.log(50.0 / model.critical_energy)
    alpha, maximum = model.draw(np.full(20_000, 50.0), normals)
    wanted = [1.0 / (spread[0] + spread[1] * ln_y) for spread in (model.alpha_spread, model.maximum_spread)]
    assert [np.log(alpha).std(), np.log(maximum).std()] == pytest.approx(wanted, rel=0.02)
    correlation = model.correlation[0] + model.correlation[1] * ln_y
    assert np.corrcoef(np.log(alpha), np.log(maximum))[0, 1] == pytest.approx(correlation, abs=0.01)


def test_lumps_keep_the_sum_and_have_the_spread_of_a_dirichlet_distribution():
    shares = np.tile([0.1, 0.2, 0.3], (20_000, 1))
    drawn = dirichlet_shares(shares, np.full(20_000, 50.0), np.random.default_rng(0))
    np.testing.assert_allclose(drawn.sum(axis=1), 0.6)
    part = shares[0] / 0.6
    np.testing.assert_allclose(drawn.mean(axis=0), shares[0], rtol=0.01)
    np.testing.assert_allclose(
        drawn.std(axis=0), 0.6 * np.sqrt(part * (1 - part) / (50.0 * 0.6 + 1)), rtol=0.03
    )


def test_spots_lie_within_the_radii_that_the_profile_says():
    x, y = places(np.full(100_000, 7.0, dtype=np.float32), np.random.default_rng(1))
    distance = np.hypot(x, y)
    for radius in (2.0, 7.0, 30.0):
        assert (distance < radius).mean() == pytest.approx(containment(radius, 7.0), abs=0.005)
    assert np.median(distance) == pytest.approx(7.0, rel=0.02)  # a component's radius holds half of it


@pytest.mark.parametrize("spread", [0.0, 5.1])
def test_shares_of_columns_are_those_of_spots(spread):
    numbers = np.random.default_rng(2)
    x, _ = places(np.full(200_000, 4.0, dtype=np.float32), numbers)
    edges = 5.1 * (np.arange(8) - 3.5)
    found, _ = np.histogram(x + spread * (numbers.random(len(x)) - 0.5), edges)
    np.testing.assert_allclose(found / len(x), column_shares(edges, 4.0, spread), atol=0.004)


def test_columns_far_out_hold_everything():
    shares = column_shares(np.array([-1e6, 0.0, 1e6]), np.array([0.5, 20.0]))
    np.testing.assert_allclose(shares, 0.5, rtol=1e-3)


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_core_and_tail_share_all_the_energy_and_the_core_is_the_narrower(name):
    radii, weights = DETECTORS[name].parametrisation.radial.components(np.linspace(0.1, 3.0, 30))
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0)
    assert (weights >= 0).all()
    assert (radii[:, 0] < radii[:, 1]).all()
