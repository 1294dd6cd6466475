"""Random numbers depend on nothing but (seed, step, sample, purpose)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.randomness import Draws, derived_seed


@given(
    samples=st.lists(st.integers(0, 2**40), min_size=1, max_size=12, unique=True),
    size=st.integers(1, 9),
    kind=st.sampled_from(["normal", "uniform"]),
)
def test_a_sample_draws_the_same_in_any_company(samples, size, kind):
    together = getattr(Draws(3, 7, samples, "z"), kind)("noise", size)
    alone = torch.cat([getattr(Draws(3, 7, [sample], "z"), kind)("noise", size) for sample in samples])
    assert torch.equal(together, alone)


def test_seed_step_purpose_and_name_each_change_the_numbers():
    base = Draws(1, 2, range(4), "a").uniform("x", 3)
    others = [
        Draws(9, 2, range(4), "a").uniform("x", 3),
        Draws(1, 9, range(4), "a").uniform("x", 3),
        Draws(1, 2, range(4), "b").uniform("x", 3),
        Draws(1, 2, range(4), "a").uniform("y", 3),
        Draws(1, 2, range(4), "a").named("c").uniform("x", 3),
    ]
    assert not any(torch.equal(base, other) for other in others)


def test_uniform_numbers_stay_below_one(monkeypatch):
    monkeypatch.setattr(Draws, "_uniform", lambda self, name, size: np.full((1, size), 1.0 - 2.0**-40))
    assert float(Draws(0, 0, [0]).uniform("x", 2).max()) < 1.0


def test_normal_numbers_have_the_moments_of_a_standard_normal():
    numbers = Draws(5, 0, range(4000)).normal("z", 101).double().numpy()
    scale = 1 / np.sqrt(numbers.size)
    assert abs(numbers.mean()) < 5 * scale
    assert abs(numbers.var() - 1) < 5 * np.sqrt(2) * scale
    assert abs((numbers**4).mean() - 3) < 5 * np.sqrt(96) * scale
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 51])[0, 1]) < 5 / np.sqrt(len(numbers))


def test_neighbouring_samples_are_independent():
    numbers = Draws(5, 0, range(4000)).uniform("u", 4).numpy()
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 5 / np.sqrt(len(numbers))


@pytest.mark.parametrize("probability", [0.0, 0.2])
def test_dropout_keeps_the_mean_and_is_the_same_in_any_company(probability):
    values = torch.ones(6, 3, 20, 20)
    whole = Draws(1, 2, range(6), "d").dropout(values, probability, "drop1")
    parts = [Draws(1, 2, [i], "d").dropout(values[i : i + 1], probability, "drop1") for i in range(6)]
    assert torch.equal(whole, torch.cat(parts))
    assert float((whole == 0).float().mean()) == pytest.approx(probability, abs=0.02)
    assert float(whole.mean()) == pytest.approx(1.0, abs=0.02)


def test_no_samples_are_no_numbers():
    draws = Draws(1, 2, [], "a")
    assert len(draws) == 0
    assert draws.normal("z", 5).shape == (0, 5)
    assert draws.dropout(torch.ones(0, 3), 0.5, "d").shape == (0, 3)


def test_seeds_are_reproducible_and_distinct():
    assert derived_seed(1, "order", 3) == derived_seed(1, "order", 3)
    assert len({derived_seed(1, "a"), derived_seed(1, "b"), derived_seed(2, "a")}) == 3
