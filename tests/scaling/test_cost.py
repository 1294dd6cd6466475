"""The cost of an all-reduce against its closed forms."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.scaling.cost import all_reduce_seconds, ring_seconds

tree_seconds = partial(all_reduce_seconds, "tree")

RANKS = st.integers(1, 5000)
BYTES = st.floats(0, 1e10)


@pytest.mark.parametrize("seconds", [ring_seconds, tree_seconds])
def test_one_rank_has_nobody_to_talk_to(seconds):
    assert seconds(1, 1e9, 1e-3, 1e6) == 0.0


def test_a_ring_of_four_sends_six_messages_of_a_quarter():
    assert ring_seconds(4, 8e6, 1e-3, 1e6) == pytest.approx(6 * (1e-3 + 2.0))


def test_a_tree_of_five_is_three_levels_deep_up_and_down():
    assert tree_seconds(5, 1e6, 1e-3, 1e6) == pytest.approx(6 * (1e-3 + 1.0))


@given(RANKS, BYTES)
def test_no_ring_sends_the_payload_more_than_twice(ranks, payload):
    assert ring_seconds(ranks, payload, 0.0, 1e9) <= 2 * payload / 1e9


@given(st.integers(8, 5000))
def test_small_messages_are_faster_along_a_tree_and_large_ones_around_a_ring(ranks):
    assert tree_seconds(ranks, 0, 1e-6, 1e9) < ring_seconds(ranks, 0, 1e-6, 1e9)
    assert ring_seconds(ranks, 1e9, 0.0, 1e9) < tree_seconds(ranks, 1e9, 0.0, 1e9)


def test_no_ranks_are_refused():
    with pytest.raises(ValueError, match="0 ranks"):
        ring_seconds(0, 1, 1, 1)
