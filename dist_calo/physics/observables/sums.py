"""Sums that merge: the sums over N ranks are the sum of those of each rank."""

from collections.abc import Mapping
from typing import Self

import numpy as np


class SumState:
    """Named arrays of sums over showers, all float64.

    Two states merge by addition, so any split of the showers among ranks and batches gives the same result to
    rounding. As one vector a state can be summed by a collective.

    Args:
        shapes: name and shape of each array; all start at 0.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.sums = {name: np.zeros(shape) for name, shape in shapes.items()}

    def merge(self, other: Self) -> Self:
        """Add the sums of another state and return this one.

        Raises:
            ValueError: if the two have other arrays or shapes.
        """
        mine, theirs = ({name: array.shape for name, array in state.sums.items()} for state in (self, other))
        if mine != theirs:
            raise ValueError(
                f"states with arrays {mine} and {theirs} cannot be merged: use the same bins for both"
            )
        for name, array in other.sums.items():
            self.sums[name] += array
        return self

    def to_vector(self) -> np.ndarray:
        """Return all sums one after the other, shape (n,), float64, copied."""
        return np.concatenate([array.ravel() for array in self.sums.values()])

    def from_vector(self, vector: np.ndarray) -> Self:
        """Take all sums from a vector of the form of ``to_vector`` and return this state.

        Raises:
            ValueError: if the vector has another length.
        """
        sizes = [array.size for array in self.sums.values()]
        if vector.shape != (sum(sizes),):
            raise ValueError(
                f"a vector of shape {vector.shape} does not hold the {sum(sizes)} sums of this state"
            )
        parts = np.split(np.asarray(vector, dtype=np.float64), np.cumsum(sizes)[:-1])
        for (name, array), part in zip(self.sums.items(), parts, strict=True):
            self.sums[name] = part.reshape(array.shape).copy()
        return self
