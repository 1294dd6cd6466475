import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.config import TransformConfig
from dist_calo.errors import CheckpointError
from dist_calo.transforms import Transform

TRANSFORMS = [
    Transform(),
    Transform(scale=100.0),
    Transform(power=0.85),
    Transform(power=2.0),
    Transform(log=True),
    Transform(threshold=1e-6, scale=50.0, power=0.5, log=True),
]


@pytest.mark.parametrize("transform", TRANSFORMS)
@given(cells=st.lists(st.floats(1e-5, 1e3) | st.just(0.0), min_size=1, max_size=20))
def test_the_way_back_leads_back(transform, cells):
    values = np.array(cells)
    there = transform.forward(values)
    np.testing.assert_allclose(transform.inverse(there), values, rtol=1e-9, atol=1e-12)
    tensor = torch.tensor(cells, dtype=torch.float64)
    np.testing.assert_allclose(transform.forward(tensor).numpy(), there, rtol=1e-12)
    np.testing.assert_allclose(
        transform.inverse(torch.from_numpy(there)).numpy(), values, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_float32_stays_float32(transform):
    cells = np.linspace(0, 2, 12, dtype=np.float32).reshape(3, 4)
    for values in (cells, torch.from_numpy(cells)):
        there = transform.forward(values)
        back = transform.inverse(there)
        assert there.dtype == back.dtype == values.dtype
        assert there.shape == back.shape == values.shape
        np.testing.assert_allclose(np.asarray(back), cells, rtol=2e-6)


def test_steps_come_in_order():
    transform = Transform(threshold=0.1, scale=100.0, power=0.5, log=True)
    cells = np.array([0.0, 0.09, 0.1, 1.0])
    np.testing.assert_allclose(transform.forward(cells), np.log1p([0, 0, np.sqrt(10), 10]))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_gradients_are_finite_everywhere(transform):
    for function in (transform.forward, transform.inverse):
        values = torch.tensor([-0.5, 0.0, 1e-30, 0.3, 2.0], requires_grad=True)
        function(values).sum().backward()
        assert values.grad is not None
        assert torch.isfinite(values.grad).all()
        assert (values.grad[3:] > 0).all()


def test_the_gradient_of_the_way_back_is_right():
    transform = Transform(scale=3.0, power=0.85, log=True)
    values = torch.linspace(0.1, 3, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform.inverse, values)


def test_what_a_network_makes_below_zero_is_no_energy():
    assert Transform(power=0.85).inverse(np.array([-1.0, 0.0])).tolist() == [0.0, 0.0]


def test_a_transform_is_stored_and_restored():
    for transform in TRANSFORMS:
        assert Transform.from_dict(transform.to_dict()) == transform
    config = TransformConfig(threshold=1e-6, scale=100.0, power=0.85)
    assert Transform.from_config(config) == Transform(threshold=1e-6, scale=100.0, power=0.85)
    with pytest.raises(CheckpointError, match="use the version that wrote it"):
        Transform.from_dict({"scale": 1.0, "shift": 2.0})
