"""Precision, recall, density and coverage of generated showers among real ones, by nearest neighbours.

Around each row of a sample lies a ball that reaches to its k-th nearest neighbour in the same sample. Precision is the
part of the generated rows in at least one ball of the real sample, recall the part of the real rows in at least one
ball of the generated one (Kynkaanniemi et al., arXiv:1904.06991). Density is the mean number of real balls that a
generated row lies in, divided by k, and coverage the part of the real balls with a generated row inside (Naeem et al.,
arXiv:2002.09797): these two are robust against outliers.
"""

from collections.abc import Iterator

import numpy as np

BLOCK = 1024
"""Rows of the matrix of distances that are held at once."""


def precision_recall_density_coverage(
    real: np.ndarray, fake: np.ndarray, neighbours: int = 5
) -> dict[str, tuple[float, float]]:
    """Return value and error of ``precision``, ``recall``, ``density`` and ``coverage``.

    For two samples of n and m rows of one distribution the expected density is 1 and the expected coverage
    ``1 - prod_i (n - i) / (n + m - i)`` over i = 1 ... k, that is 1 - 2^-k for large samples of one size. Memory does
    not grow with the product of the two sizes, time does.

    The error of precision and density is that of a mean over the generated rows, the error of recall and coverage that
    of a mean over the real ones. It ignores the fluctuations of the balls themselves: for
    samples of one size and distribution it is up to 1.4 times too small.

    Args:
        real: rows of the real sample, shape (n, F), in units of its spread.
        fake: rows of the generated sample, shape (m, F).
        neighbours: k.

    Raises:
        ValueError: if the features differ in number, a value is not finite, or a sample has no k-th neighbour.

    Example:
        >>> real = np.array([[0.0], [1.0], [2.0], [3.0]])
        >>> found = precision_recall_density_coverage(real, real[:2] + 0.1, neighbours=1)
        >>> {name: value for name, (value, _) in found.items()}
        {'precision': 1.0, 'recall': 0.75, 'density': 2.0, 'coverage': 0.75}
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"samples of shapes {real.shape} and {fake.shape}: rows of the same features are needed"
        )
    if not 1 <= neighbours < min(len(real), len(fake)):
        raise ValueError(
            f"{neighbours} neighbours in samples of {len(real)} and {len(fake)} rows: at least 1 is needed, and more "
            "rows than neighbours"
        )
    # Relative to the mean of the real sample, so that differences of squares lose no digits.
    middle = real.mean(axis=0, dtype=np.float64)
    first, second = real - middle, fake - middle
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a feature is not finite: fill missing features first")
    real_radii, fake_radii = _radii(first, neighbours), _radii(second, neighbours)
    balls = np.zeros(len(second))
    recalled, covered = np.empty(len(first), dtype=bool), np.empty(len(first), dtype=bool)
    for rows, distances in _distances(first, second):
        inside = distances < real_radii[rows, None]
        balls += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (distances < fake_radii).any(axis=1)
    return {
        "precision": _mean(balls > 0),
        "recall": _mean(recalled),
        "density": _mean(balls / neighbours),
        "coverage": _mean(covered),
    }


def _radii(rows: np.ndarray, neighbours: int) -> np.ndarray:
    """Return the squared distance of each row to its k-th nearest neighbour, shape (n,)."""
    radii = np.empty(len(rows))
    for block, distances in _distances(rows, rows):
        # The distance of a row from itself is 0, without rounding errors.
        distances[np.arange(len(distances)), np.arange(block.start, block.stop)] = 0.0
        radii[block] = np.partition(distances, neighbours, axis=1)[:, neighbours]
    return radii


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Return the squared distances of blocks of rows of one sample to all rows of the other, shape (block, m)."""
    squares_a, squares_b = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    for start in range(0, len(a), BLOCK):
        rows = slice(start, min(start + BLOCK, len(a)))
        distances = a[rows] @ (-2.0 * b.T)
        distances += squares_a[rows, None]
        distances += squares_b
        yield rows, np.maximum(distances, 0.0, out=distances)


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))
