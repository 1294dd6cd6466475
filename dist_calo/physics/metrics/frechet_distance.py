"""Frechet physics distance (FPD) between the means and covariances of two samples of feature rows.

For two Gaussian distributions the squared Frechet (2-Wasserstein) distance is ``|mu_a - mu_b|^2 + Tr(A + B - 2
(A B)^(1/2))`` (Dowson and Landau, J. Multivariate Anal. 12, 450). Kansal et al. (arXiv:2211.10295) apply it to physics
features as FPD. Its estimate from finite samples has a bias of order 1 / N: they therefore compute it for subsets of
several sizes and extrapolate along a straight line in 1 / N to infinite samples (Chong and Forsyth, arXiv:1911.07023).

Here a sample is not rows but sums over disjoint random groups of its showers, which merge over ranks and need bounded
memory; subsets are unions of groups. Two things differ from the ``jetnet`` package: subsets are drawn without
replacement, because drawing with replacement adds a bias of the order of 1 / (size of the sample) that no
extrapolation removes, and the result is not cut at 0, so that its mean over equal distributions is 0.
"""

from dataclasses import dataclass

import numpy as np

GROUPS = 64
"""Groups that a sample of rows is split into."""
SMALLEST = 0.25
"""Part of the groups in the smallest subsets."""
SIZES = 10
"""Sizes of subsets, regular in 1 / size."""
SUBSETS = 4
"""Subsets of each size. Together they use each group (almost) equally often."""
BLOCKS = 16
"""Blocks of groups that are left out in turn for the statistical error."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over G disjoint random groups of a sample of rows of F features.

    Rows should be measured from about the mean of the sample and in units of its spread: sums of squares then lose no
    digits.

    Attributes:
        count: rows of each group, shape (G,).
        sums: sums of the rows, shape (G, F).
        products: sums of the outer products of the rows with themselves, shape (G, F, F).

    Raises:
        ValueError: if the shapes do not match.
    """

    count: np.ndarray
    sums: np.ndarray
    products: np.ndarray

    def __post_init__(self) -> None:
        groups, features = self.sums.shape
        if self.count.shape != (groups,) or self.products.shape != (groups, features, features):
            raise ValueError(
                f"moments with counts {self.count.shape}, sums {self.sums.shape} and products {self.products.shape}: "
                "shapes must be (G,), (G, F) and (G, F, F)"
            )

    @classmethod
    def from_rows(cls, rows: np.ndarray, *, seed: int, groups: int = GROUPS) -> "Moments":
        """Return the moments of rows (n, F), split at random into groups that differ by at most one row."""
        order = np.random.default_rng(seed).permutation(len(rows))
        parts = [rows[part].astype(np.float64) for part in np.array_split(order, groups)]
        return cls(
            count=np.array([len(part) for part in parts], dtype=np.float64),
            sums=np.stack([part.sum(axis=0) for part in parts]),
            products=np.stack([part.T @ part for part in parts]),
        )

    def _unions(self, members: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return the rows, mean and covariance of several unions, members (U, G) being 1 where a union has a group."""
        features = self.sums.shape[1]
        counts = members @ self.count
        if (counts < 2).any():
            raise ValueError(
                f"a subset of {counts.min():g} rows has no covariance: at least two rows are needed, "
                "evaluate more showers or use fewer groups"
            )
        means = (members @ self.sums) / counts[:, None]
        products = (members @ self.products.reshape(len(self.count), -1)).reshape(-1, features, features)
        return [
            (int(n), mean, (product - n * np.outer(mean, mean)) / (n - 1))
            for n, mean, product in zip(counts, means, products, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Extrapolated:
    """A Frechet distance at infinite sample size.

    Attributes:
        value: the straight line at 1 / N = 0. Not cut at 0.
        error: its statistical error, of the fit and of the samples themselves (jackknife over blocks of groups); NaN
            if one of them is a single group.
        fit_error: the part of the fit alone, which ``jetnet`` states. It ignores fluctuations common to all subsets.
        inverse: what is fitted against: (1 / N_a + 1 / N_b) / 2 of each size, decreasing, shape (S,).
        distances: mean distance of the subsets of each size, shape (S,); the last one is that of the whole samples.
    """

    value: float
    error: float
    fit_error: float
    inverse: np.ndarray
    distances: np.ndarray


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """Return the squared Frechet distance of two Gaussian distributions, in the square of the unit of the features.

    ``Tr (A B)^(1/2)`` is the sum of the singular values of ``L_A^T L_B`` for any factors ``A = L_A L_A^T`` and
    ``B = L_B L_B^T``. With Cholesky factors found by pivoting, covariances may be singular, and
    rounding errors of eigenvalues near 0 are not enlarged by a square root.

    Args:
        mean_a: shape (F,).
        covariance_a: symmetric and positive semi-definite, shape (F, F).
        mean_b: shape (F,).
        covariance_b: shape (F, F).

    Raises:
        ValueError: if a value is not finite.

    Example:
        >>> unit = np.eye(2)
        >>> round(frechet_distance(np.zeros(2), unit, np.array([3.0, 4.0]), unit), 6)
        25.0
        >>> round(frechet_distance(np.zeros(2), unit, np.zeros(2), 4 * unit), 6)
        2.0
    """
    shift = np.asarray(mean_a, dtype=np.float64) - np.asarray(mean_b, dtype=np.float64)
    if not (np.isfinite(shift).all() and np.isfinite(covariance_a).all() and np.isfinite(covariance_b).all()):
        raise ValueError("a mean or covariance is not finite: fill missing features first")
    first, second = _factor(covariance_a), _factor(covariance_b)
    overlap = first.T @ second
    root = np.linalg.svd(overlap, compute_uv=False).sum() if overlap.size else 0.0
    return float(shift @ shift + np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * root)


def frechet_from_groups(parts_a: Moments, parts_b: Moments, *, seed: int = 0) -> Extrapolated:
    """Return the Frechet distance extrapolated to infinite sample size, from sums over groups alone.

    Subsets have the same share of the groups on both sides, at least one group. Where a sample has too
    few groups for that, only the other sample's size varies. The extrapolation works even where the smallest subsets
    have no more rows than features and singular covariances; its error is then large.

    Args:
        parts_a: moments of one sample.
        parts_b: moments of the other one.
        seed: of the choice of subsets.

    Raises:
        ValueError: if the features differ in number, both samples have fewer than 8 groups, or a subset has fewer than
            two rows.
    """
    groups = max(len(parts_a.count), len(parts_b.count))
    if parts_a.sums.shape[1] != parts_b.sums.shape[1] or groups < 8:
        raise ValueError(
            f"moments of {parts_a.sums.shape} and {parts_b.sums.shape} (groups, features): both samples need the same "
            "features, and one of them at least 8 groups"
        )
    numbers = np.random.default_rng(seed)
    sizes = _sizes(groups)
    inverse, distances = np.empty(len(sizes)), np.empty(len(sizes))
    for place, size in enumerate(sizes):
        count = SUBSETS if size < groups else 1
        sides = [
            parts._unions(_windows(len(parts.count), size / groups, count, numbers))
            for parts in (parts_a, parts_b)
        ]
        inverse[place] = np.mean([0.5 / n + 0.5 / m for (n, *_), (m, *_) in zip(*sides, strict=True)])
        distances[place] = _mean_distance(*sides)
    value, fit_error = _intercept(inverse, distances)
    return Extrapolated(
        value=value,
        error=float(np.hypot(fit_error, _jackknife_error(parts_a, parts_b, numbers))),
        fit_error=fit_error,
        inverse=inverse,
        distances=distances,
    )


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return L with covariance = L L^T, shape (F, rank)."""
    from scipy.linalg import get_lapack_funcs

    matrix = np.asarray(covariance, dtype=np.float64)
    (decompose,) = get_lapack_funcs(("pstrf",), (matrix,))
    packed, pivots, rank, _ = decompose((matrix + matrix.T) / 2, lower=1)
    factor = np.empty((len(matrix), rank))
    factor[pivots - 1] = np.tril(packed)[:, :rank]
    return factor


def _sizes(groups: int) -> np.ndarray:
    """Return the numbers of groups in the subsets, increasing."""
    inverse = np.linspace(1.0 / max(SMALLEST * groups, 2.0), 1.0 / groups, SIZES)
    return np.unique(np.round(1.0 / inverse).astype(int))


def _windows(groups: int, share: float, count: int, numbers: np.random.Generator) -> np.ndarray:
    """Return the subsets of a share of the groups, at least one, as masks (count, groups) of 0 and 1.

    They are runs of a random ring of all groups, evenly placed.
    """
    ring, first = numbers.permutation(groups), np.arange(count) * groups // count
    masks, size = np.zeros((count, groups)), max(1, round(share * groups))
    for mask, start in zip(masks, first, strict=True):
        mask[ring[np.arange(start, start + size) % groups]] = 1.0
    return masks


def _mean_distance(
    first: list[tuple[int, np.ndarray, np.ndarray]], second: list[tuple[int, np.ndarray, np.ndarray]]
) -> float:
    """Return the mean distance of pairs of (rows, mean, covariance)."""
    return float(np.mean([frechet_distance(*a, *b) for (_, *a), (_, *b) in zip(first, second, strict=True)]))


def _intercept(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the intercept of a least-squares line at x = 0, and its error from the residuals."""
    design = np.stack([x / x.max(), np.ones_like(x)], axis=1)
    found, *_ = np.linalg.lstsq(design, y, rcond=None)
    variance = np.sum((y - design @ found) ** 2) / max(len(x) - 2, 1)
    error = np.sqrt(variance * np.linalg.inv(design.T @ design)[1, 1])
    return float(found[1]), float(error)


def _jackknife_error(parts_a: Moments, parts_b: Moments, numbers: np.random.Generator) -> float:
    """Return the statistical error of the distance, from a jackknife that leaves out random blocks of groups."""
    blocks = min(BLOCKS, len(parts_a.count), len(parts_b.count))
    if blocks < 2:
        return float("nan")
    sides = []
    for parts in (parts_a, parts_b):
        groups = len(parts.count)
        masks = np.ones((blocks, groups))
        masks[np.arange(groups) % blocks, numbers.permutation(groups)] = 0.0
        sides.append(parts._unions(masks))
    distances = [frechet_distance(*a, *b) for (_, *a), (_, *b) in zip(*sides, strict=True)]
    return float(np.sqrt((blocks - 1) * np.var(distances)))
