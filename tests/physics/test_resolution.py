"""The fit of the energy resolution."""

import numpy as np
import pytest

from dist_calo.physics.metrics.resolution import ResolutionFit, fit_resolution

ENERGIES = np.array([5.0, 10.0, 20.0, 40.0, 80.0, 160.0])


@pytest.mark.parametrize(
    ("stochastic", "noise", "constant"), [(0.2, 0.3, 0.01), (0.1, 0.0, 0.007), (0.0, 0.4, 0.02)]
)
def test_the_terms_that_made_the_points_are_found_again(stochastic, noise, constant):
    made = ResolutionFit(stochastic=stochastic, noise=noise, constant=constant)
    found = fit_resolution(ENERGIES, made(ENERGIES), 0.01 * made(ENERGIES))
    assert found.stochastic == pytest.approx(stochastic, abs=1e-4)
    assert found.noise == pytest.approx(noise, abs=1e-3)
    assert found.constant == pytest.approx(constant, abs=1e-4)


def test_no_term_is_negative():
    found = fit_resolution(ENERGIES, 0.02 + 0.001 * ENERGIES / 160, np.full(6, 1e-4))
    assert min(found.stochastic, found.noise, found.constant) >= 0


def test_points_with_small_errors_count_more():
    made = ResolutionFit(stochastic=0.2, noise=0.0, constant=0.01)
    points, errors = made(ENERGIES), np.full(6, 1e-5)
    points[2], errors[2] = 2 * points[2], 1.0
    assert fit_resolution(ENERGIES, points, errors).stochastic == pytest.approx(0.2, rel=0.01)


def test_two_points_cannot_tell_three_terms():
    points = np.array([0.1, 0.08, np.nan, 0.0, 0.1, 0.1])
    errors = np.array([0.01, 0.01, 0.01, 0.01, 0.0, np.nan])
    assert fit_resolution(ENERGIES, points, errors) is None
