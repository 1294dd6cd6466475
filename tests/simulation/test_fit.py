from dataclasses import asdict, replace

import numpy as np
import pytest

from dist_calo.__main__ import main
from dist_calo.simulation.detectors import find_detector, parametrisation
from tools.fit_parametrised import (
    MEDIA,
    START,
    adjusted,
    fit_radial,
    least_squares,
    moments,
    plain,
    read,
    simulated_profiles,
)

LCD = find_detector("lcd25")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "showers.h5"
    assert main(["simulate", "--detector", "lcd25", "--n", "512", "--out", str(path)]) == 0
    return read(LCD, [str(path)])


def test_least_squares_finds_the_minimum():
    def residuals(values):
        return np.array([np.exp(values[0]) - 2.0, 3.0 * (values[1] - values[0])])

    np.testing.assert_allclose(least_squares(residuals, np.zeros(2)), np.log([2.0, 2.0]), atol=1e-3)


def test_projections_hold_all_the_energy(sample):
    for axis in "xy":
        total = sum(part.sum() for (_, along), part in sample.columns.items() if along == axis)
        assert total == pytest.approx(sample.profile.sum(), rel=1e-5)


def test_wrong_constants_are_moved_towards_those_of_the_sample(sample):
    known = LCD.parametrisation
    wrong = replace(
        known,
        response=1.3 * known.response,
        longitudinal=replace(known.longitudinal, alpha=tuple(1.2 * a for a in known.longitudinal.alpha)),
    )
    found = adjusted(LCD, wrong, sample, simulated_profiles(LCD, wrong, sample.energies, 0))
    assert found.response == pytest.approx(known.response, rel=0.02)
    alphas = [some.longitudinal.alpha[0] + 8.7 * some.longitudinal.alpha[1] for some in (known, found)]
    assert alphas[1] == pytest.approx(alphas[0], rel=0.03)


def test_the_radial_fit_finds_what_was_simulated(sample):
    radiation_length = MEDIA["lcd"][1]
    maximum = np.exp(moments(LCD, replace(START, radiation_length=radiation_length), sample.profile)[0])
    found = fit_radial(LCD, sample, maximum, radiation_length)
    (radii, weights), (known_radii, known_weights) = (
        some.components(np.array([0.7, 1.0, 1.5])) for some in (found, LCD.parametrisation.radial)
    )
    np.testing.assert_allclose(radii, known_radii, rtol=0.15)
    np.testing.assert_allclose(weights, known_weights, atol=0.06)


def test_printed_constants_can_be_read_back():
    printed = plain(asdict(LCD.parametrisation))
    again = parametrisation(printed)
    assert again.longitudinal == LCD.parametrisation.longitudinal
    assert again.source == LCD.parametrisation.source
