"""The learning rate at the steps where its formula is known."""

import math

import pytest

from dist_calo.config import OptimizerConfig
from dist_calo.training.schedule import batch_factor, learning_rate


def rate(step, *, batch=64, network="generator", **settings):
    config = OptimizerConfig(learning_rate=0.1, reference_batch_size=64, **settings)
    return learning_rate(config, network, step, max_steps=100, global_batch_size=batch)


def test_constant_stays():
    assert {rate(step) for step in (1, 50, 100)} == {0.1}


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_scaling_with_the_global_batch(scaling, factor):
    assert batch_factor(OptimizerConfig(scaling=scaling), 256) == factor
    assert rate(1, batch=256, scaling=scaling) == pytest.approx(0.1 * factor)


def test_warm_up_rises_linearly_from_its_first_step():
    assert [rate(step, warmup_steps=4) for step in (1, 2, 4, 5)] == pytest.approx([0.025, 0.05, 0.1, 0.1])


def test_cosine_and_linear_end_near_the_final_fraction():
    assert rate(1, schedule="cosine") == pytest.approx(0.1)
    assert rate(51, schedule="cosine") == pytest.approx(0.05)
    assert rate(100, schedule="cosine") == pytest.approx(0.05 * (1 + math.cos(0.99 * math.pi)))
    assert rate(51, schedule="linear", final_fraction=0.2) == pytest.approx(0.1 * (0.2 + 0.8 * 0.5))


def test_a_network_has_its_own_factor():
    assert rate(1, network="discriminator", network_factors={"discriminator": 0.5}) == pytest.approx(0.05)
    assert rate(1, network="generator", network_factors={"discriminator": 0.5}) == pytest.approx(0.1)
