import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.objectives.auxiliary import (
    energy_sum,
    fit_response,
    measured_angle,
    percentage_error,
    polynomial,
)


def test_percentage_error_is_relative_to_the_truth():
    truth, predicted = torch.tensor([10.0, 10.0, -4.0]), torch.tensor([20.0, 5.0, -5.0])
    assert percentage_error(truth=truth, predicted=predicted).tolist() == [100.0, 50.0, 25.0]


def test_percentage_error_wants_its_arguments_named():
    with pytest.raises(TypeError):
        percentage_error(torch.ones(1), torch.ones(1))


def test_percentage_error_of_nothing_is_finite():
    assert torch.isfinite(percentage_error(truth=torch.zeros(1), predicted=torch.ones(1))).all()


def test_energy_sum_adds_the_cells_of_each_shower():
    cells = torch.arange(24.0).view(2, 2, 3, 2)
    assert energy_sum(cells).tolist() == [sum(range(12)), sum(range(12, 24))]


@given(
    st.floats(0.01, 0.05),
    st.floats(-1e-4, 1e-4),
    st.floats(-0.02, 0.02),
    st.integers(3, 60),
)
def test_a_polynomial_response_is_found_exactly(linear, quadratic, constant, n):
    energy = np.linspace(10.0, 100.0, n)
    total = constant + linear * energy + quadratic * energy**2
    kept = total > 0
    if len(energy[kept]) < 3:
        return
    coefficients = fit_response(energy, total)
    found = np.polynomial.polynomial.polyval(energy[kept], coefficients)
    np.testing.assert_allclose(found, total[kept], rtol=1e-6, atol=1e-9)


def test_relative_deviations_weigh_all_energies_alike():
    """Two groups that no proportional line fits: each is missed by the same fraction, however large its energy."""
    energy = np.array([1.0] * 50 + [100.0] * 50)
    total = energy * np.array([0.019, 0.021] * 50)
    coefficients = fit_response(energy, total)
    response = np.polynomial.polynomial.polyval(np.array([1.0, 100.0]), coefficients)
    np.testing.assert_allclose(response, [0.02, 2.0], rtol=1e-9)


def test_a_single_energy_gives_a_constant_response():
    np.testing.assert_allclose(fit_response(np.full(4, 50.0), np.array([0.9, 1.1, 1.0, 1.0])), [1.0])


def test_showers_without_energy_do_not_count():
    energy = np.array([10.0, 20.0, 30.0, 40.0, 25.0])
    total = np.array([0.2, 0.4, 0.6, 0.8, 0.0])
    np.testing.assert_allclose(fit_response(energy, total), [0.0, 0.02, 0.0], atol=1e-12)
    with pytest.raises(ValueError, match="no shower has any energy"):
        fit_response(energy, np.zeros(5))


def test_polynomials_are_in_rising_powers():
    energy = torch.tensor([0.0, 2.0])
    assert polynomial(torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64), energy).tolist() == [1.0, 9.0]


def track(theta, shape=(51, 51, 25), cell_size=(1.0, 1.0, 1.0)):
    """A straight track with polar angle theta through the middle, shared between neighbouring cells in y."""
    cells = torch.zeros(1, *shape)
    depth = (torch.arange(shape[2]) + 0.5) * cell_size[2]
    place = (shape[1] / 2 + (depth - depth.mean()) / math.tan(theta) / cell_size[1]) - 0.5
    below = place.floor().long()
    layers = torch.arange(shape[2])
    energy = torch.linspace(1.0, 2.0, shape[2])
    cells[0, shape[0] // 2, below, layers] = energy * (1 - (place - below))
    cells[0, shape[0] // 2, below + 1, layers] += energy * (place - below)
    return cells


@pytest.mark.parametrize("theta", [1.05, 1.3, math.pi / 2, 1.8, 2.0])
@pytest.mark.parametrize("cell_size", [(1.0, 1.0, 1.0), (5.1, 5.1, 5.1), (2.0, 4.0, 3.0)])
def test_the_angle_of_a_straight_track_is_measured(theta, cell_size):
    angle = measured_angle(track(theta, cell_size=cell_size), cell_size)
    assert float(angle) == pytest.approx(theta, abs=2e-3)


def test_the_angle_does_not_depend_on_the_unit_of_energy():
    cells = torch.rand(3, 6, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        measured_angle(cells, (1, 1, 1)), measured_angle(1e-3 * cells, (1, 1, 1)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("cell", [(25, 45, 24), (25, 10, 12), (30, 25, 3)])
def test_the_gradient_of_the_angle_is_that_of_finite_differences(cell):
    cells = (track(1.4) + 0.01).requires_grad_()
    measured_angle(cells, (1.0, 1.0, 1.0)).sum().backward()
    assert torch.isfinite(cells.grad).all()
    step = torch.zeros_like(cells)
    step[(0, *cell)] = 0.02
    with torch.no_grad():
        up, down = (measured_angle(cells + sign * step / 2, (1.0, 1.0, 1.0)) for sign in (1, -1))
    assert float(cells.grad[(0, *cell)]) == pytest.approx(float((up - down) / 0.02), rel=0.02, abs=2e-4)


def test_an_empty_shower_counts_as_one_at_normal_incidence():
    cells = torch.zeros(2, 4, 4, 3)
    cells[1, 2, 2, 1] = 1.0
    cells.requires_grad_()
    angle = measured_angle(cells, (1.0, 1.0, 1.0))
    assert angle.tolist() == pytest.approx([math.pi / 2] * 2)
    angle.sum().backward()
    assert cells.grad is not None
    assert torch.isfinite(cells.grad).all()
    assert measured_angle(torch.zeros(0, 4, 4, 3), (1.0, 1.0, 1.0)).shape == (0,)
