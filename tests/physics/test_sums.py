import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.physics.observables.sums import SumState

SHAPES = {"count": (2, 1), "profile": (2, 3), "total": ()}


def state(offset: float) -> SumState:
    made = SumState(SHAPES)
    for name, array in made.sums.items():
        made.sums[name] = array + np.arange(array.size).reshape(array.shape) + offset
    return made


def test_a_new_state_is_zero_in_double_precision():
    made = SumState(SHAPES)
    assert {name: array.shape for name, array in made.sums.items()} == SHAPES
    assert all(array.dtype == np.float64 and not array.any() for array in made.sums.values())


def test_merging_adds_to_the_first_and_leaves_the_second():
    first, second = state(1.0), state(10.0)
    before = second.to_vector()
    assert first.merge(second) is first
    np.testing.assert_array_equal(first.sums["profile"], [[11, 13, 15], [17, 19, 21]])
    np.testing.assert_array_equal(second.to_vector(), before)


def test_the_vector_holds_the_sums_in_order():
    np.testing.assert_array_equal(state(5.0).to_vector(), [5, 6, 5, 6, 7, 8, 9, 10, 5])


@given(st.lists(st.floats(-1e300, 1e300), min_size=9, max_size=9))
def test_a_state_is_its_vector(values):
    vector = np.array(values)
    made = SumState(SHAPES).from_vector(vector)
    np.testing.assert_array_equal(made.to_vector(), vector)
    assert {name: array.shape for name, array in made.sums.items()} == SHAPES


def test_a_state_shares_no_memory_with_its_vectors():
    vector = np.ones(9)
    made = SumState(SHAPES).from_vector(vector)
    vector[:] = 7
    made.to_vector()[:] = 8
    np.testing.assert_array_equal(made.to_vector(), np.ones(9))


def test_the_sum_of_the_vectors_is_the_vector_of_the_merged():
    np.testing.assert_array_equal(
        state(1.5).to_vector() + state(-4.0).to_vector(), state(1.5).merge(state(-4.0)).to_vector()
    )


@pytest.mark.parametrize(
    "shapes", [{**SHAPES, "profile": (2, 4)}, {"count": (2, 1)}, {**SHAPES, "more": (1,)}]
)
def test_states_with_other_arrays_are_not_merged(shapes):
    made = state(1.0)
    with pytest.raises(ValueError, match="cannot be merged: use the same bins"):
        made.merge(SumState(shapes))
    np.testing.assert_array_equal(made.to_vector(), state(1.0).to_vector())


@pytest.mark.parametrize("shape", [(8,), (10,), (9, 1), (0,)])
def test_a_vector_of_another_length_is_refused(shape):
    with pytest.raises(ValueError, match="does not hold the 9 sums"):
        SumState(SHAPES).from_vector(np.zeros(shape))
