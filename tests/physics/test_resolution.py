"""The fit of the energy resolution."""

import numpy as np
import pytest

from dist_calo.physics.metrics.resolution import ResolutionFit, fit_resolution, in_words

ENERGIES = np.array([5.0, 10.0, 20.0, 40.0, 80.0, 160.0])


@pytest.mark.parametrize(
    ("stochastic", "noise", "constant"), [(0.2, 0.3, 0.01), (0.1, 0.0, 0.007), (0.0, 0.4, 0.02)]
)
def test_the_terms_that_made_the_points_are_found_again(stochastic, noise, constant):
    terms = {"stochastic": stochastic, "constant": constant, "noise": noise}
    made = ResolutionFit(terms=terms, errors={})
    found = fit_resolution(ENERGIES, made(ENERGIES), 0.01 * made(ENERGIES), noise=True)
    assert found.terms == pytest.approx(terms, abs=1e-3)
    assert found.chi2 == pytest.approx(0.0, abs=1e-6)
    assert found.ndf == 3


def test_errors_and_chi_squares_are_those_of_many_repetitions():
    made = ResolutionFit(terms={"stochastic": 0.2, "constant": 0.01}, errors={})
    numbers, truth = np.random.default_rng(0), made(ENERGIES)
    error = 0.01 * truth
    fits = [fit_resolution(ENERGIES, numbers.normal(truth, error), error) for _ in range(400)]
    for term, value in made.terms.items():
        found = np.array([fit.terms[term] for fit in fits])
        assert found.mean() == pytest.approx(value, abs=0.1 * found.std() + 1e-4)
        assert np.mean([fit.errors[term] for fit in fits]) == pytest.approx(found.std(), rel=0.15)
    assert np.mean([fit.chi2 / fit.ndf for fit in fits]) == pytest.approx(1.0, abs=0.1)


def test_a_term_that_is_not_there_has_its_upper_limit_as_error():
    found = fit_resolution(ENERGIES, 0.2 / np.sqrt(ENERGIES) - 1e-4, np.full(6, 1e-3))
    assert found.terms["constant"] == 0.0
    assert 1e-3 < found.errors["constant"] < 0.02
    assert in_words(found).startswith("a = 19.")
    assert "χ²/ndf = " in in_words(found)


def test_no_term_is_negative():
    found = fit_resolution(ENERGIES, 0.02 + 0.001 * ENERGIES / 160, np.full(6, 1e-4))
    assert min(found.terms.values()) >= 0


def test_points_with_small_errors_count_more():
    made = ResolutionFit(terms={"stochastic": 0.2, "constant": 0.01}, errors={})
    points, errors = made(ENERGIES), np.full(6, 1e-5)
    points[2], errors[2] = 2 * points[2], 1.0
    assert fit_resolution(ENERGIES, points, errors).terms["stochastic"] == pytest.approx(0.2, rel=0.01)


def test_two_points_cannot_tell_two_terms():
    points = np.array([0.1, 0.08, np.nan, 0.0, 0.1, 0.1])
    errors = np.array([0.01, 0.01, 0.01, 0.01, 0.0, np.nan])
    assert fit_resolution(ENERGIES, points, errors) is None
