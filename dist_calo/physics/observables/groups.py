"""Groups and random shares of a sample, by a hash of each shower's number: independent of ranks and batches."""

import numpy as np

GROUPS = 64
"""Disjoint groups of a sample."""


def hashed(ids: np.ndarray) -> np.ndarray:
    """Return a well-mixed 64-bit number for each sample number (n,): SplitMix64's finaliser (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        mixed = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def groups_of(ids: np.ndarray) -> np.ndarray:
    """Return the group of each sample number (n,), from 0 to GROUPS - 1.

    Example:
        >>> groups_of(np.array([0, 1, 2])).tolist()
        [47, 1, 14]
    """
    return (hashed(ids) % np.uint64(GROUPS)).astype(np.int64)


def share_of(ids: np.ndarray, share: float) -> np.ndarray:
    """Return whether each sample number (n,) is in a random share of all; independent of the groups."""
    return np.asarray((hashed(ids) >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share)
