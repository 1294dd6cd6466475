"""Fit of the cost model to measured points, and its check on points of more ranks.

A step takes ``f (base + share * sample) + collectives * messages(p) * latency + bytes * payloads(p) / bandwidth``
with the costs of a ring or a tree (`dist_calo.scaling.cost`), f = threads for each core where ranks take turns, else 1.
Points on one node and on several have latencies and bandwidths of their own: a ring over nodes runs at the pace of its
slowest links. Parameters are not negative: bounded least squares on the time of a step and, with the first two terms
alone, on the time spent computing where it is known, both relative to the step.

Uncertainties come from resampling: the repeats of each point are drawn anew and each point is shifted by the residual
of the fit. Where the points cannot separate latency from bandwidth, each fit keeps one of them, chosen at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from dist_calo.scaling.cost import ALGORITHMS
from dist_calo.scaling.point_summaries import PointSummary

SAMPLES = 400
"""Resampled fits."""
UNKNOWN_MISFIT = 0.05
"""Least relative misfit assumed where there are no more points than parameters."""
BAND = (16.0, 84.0)
"""Percentiles of the band that is shown: one standard deviation of a normal distribution."""
PARAMETERS = (
    "base",
    "sample",
    "latency within a node",
    "1/bandwidth within a node",
    "latency between nodes",
    "1/bandwidth between nodes",
)
"""In s, s a shower, s, s a byte, s, s a byte."""
BACKWARD = 2 / 3
"""Share of computing that communication may hide behind, at most: a backward pass costs about twice a forward pass."""
_PAIRS = ((2, 3), (4, 5))


@dataclass(frozen=True, kw_only=True)
class Case:
    """Conditions for which the model gives the time of a step."""

    ranks: int
    share: float
    """Showers of a rank in a step."""
    several_nodes: bool
    bytes_per_step: float
    collectives_per_step: float
    threads_per_core: float = 1.0

    @classmethod
    def of(cls, row: PointSummary) -> "Case":
        """Return the case of a measured point."""
        return cls(
            ranks=row.point.ranks,
            share=row.point.global_batch / row.point.ranks,
            several_nodes=row.point.nodes > 1,
            bytes_per_step=row.values["bytes_per_step"],
            collectives_per_step=row.values["collectives_per_step"],
            threads_per_core=row.values["threads_per_core"],
        )


def design(cases: Sequence[Case], algorithm: str) -> np.ndarray:
    """Return the factors of the parameters, shape (cases, PARAMETERS)."""
    matrix = np.zeros((len(cases), len(PARAMETERS)))
    for line, case in zip(matrix, cases, strict=True):
        messages, payloads = ALGORITHMS[algorithm](case.ranks)
        turns = max(1.0, case.threads_per_core)
        line[:2] = turns, turns * case.share
        first = 4 if case.several_nodes else 2
        line[first : first + 2] = messages * case.collectives_per_step, payloads * case.bytes_per_step
    return matrix


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A cost model fitted to some points.

    Attributes:
        algorithm: ring or tree.
        parameters: values in the order of PARAMETERS.
        samples: the same of resampled points, shape (SAMPLES, PARAMETERS).
        misfit: root mean square of the relative differences to the points.
        freedom: points less parameters that had to explain them.
        inseparable: indices of pairs of parameters that the points cannot tell apart.
        measured_between: whether points of several nodes took part.
    """

    algorithm: str
    parameters: np.ndarray
    samples: np.ndarray
    misfit: float
    freedom: int
    inseparable: tuple[tuple[int, int], ...]
    measured_between: bool

    def seconds(self, cases: Sequence[Case], hidden: float = 0.0) -> np.ndarray:
        """Predict times of a step, shape (cases,).

        Args:
            cases: conditions.
            hidden: share of computing behind which communication disappears.
        """
        return _seconds(design(cases, self.algorithm), self.parameters[None], hidden)[0]

    def sampled_seconds(self, cases: Sequence[Case], hidden: float = 0.0) -> np.ndarray:
        """Predict the same by each resampled fit, shape (SAMPLES, cases)."""
        return _seconds(design(cases, self.algorithm), self.samples, hidden)

    def computing_seconds(self, cases: Sequence[Case]) -> np.ndarray:
        """Predict the computing alone, shape (cases,)."""
        return design(cases, self.algorithm)[:, :2] @ self.parameters[:2]

    def errors(self) -> np.ndarray:
        """Return the standard deviation of each parameter."""
        return self.samples.std(axis=0)


def fit_model(rows: Sequence[PointSummary], algorithm: str) -> Fit:
    """Fit the model to points of one backend, number of threads and overlap.

    Args:
        rows: at least one point.
        algorithm: a key of ALGORITHMS.
    """
    generator = np.random.default_rng(0)
    matrix = design([Case.of(row) for row in rows], algorithm)
    inseparable = tuple(pair for pair in _PAIRS if independent(matrix[:, pair], 1e-3) == 1)
    times = np.array([row.values["step_s"] for row in rows])
    parameters = _solve(matrix, times, np.array([row.values["compute_s"] for row in rows]))
    misfits = matrix @ parameters / times - 1
    freedom = len(rows) - independent(matrix / times[:, None])
    misfit = float(np.sqrt(np.mean(misfits**2)))
    spread = misfit * np.sqrt(len(rows) / freedom) if freedom > 0 else max(misfit, UNKNOWN_MISFIT)
    samples = np.empty((SAMPLES, len(PARAMETERS)))
    for sample in samples:
        drawn = np.array([_resampled(row, generator) for row in rows]).T
        drawn *= np.exp(spread * generator.standard_normal(len(rows)))
        kept = matrix.copy()
        for pair in inseparable:
            kept[:, generator.choice(pair)] = 0.0
        sample[:] = _solve(kept, *drawn)
    return Fit(
        algorithm=algorithm,
        parameters=parameters,
        samples=samples,
        misfit=misfit,
        freedom=freedom,
        inseparable=inseparable,
        measured_between=any(row.point.nodes > 1 for row in rows),
    )


def independent(columns: np.ndarray, tolerance: float = 1e-6) -> int:
    """Count the linearly independent columns, whatever their units."""
    norms = np.linalg.norm(columns, axis=0)
    return int(np.linalg.matrix_rank(columns / np.where(norms > 0, norms, 1.0), tol=tolerance))


def _seconds(matrix: np.ndarray, parameters: np.ndarray, hidden: float) -> np.ndarray:
    """Return times of a step, shape (parameters, cases)."""
    computing = parameters[:, :2] @ matrix[:, :2].T
    communication = parameters[:, 2:] @ matrix[:, 2:].T
    return computing + np.maximum(communication - hidden * computing, 0.0)


def _resampled(row: PointSummary, generator: np.random.Generator) -> tuple[float, float]:
    """Draw repeats anew and return the medians of a step's time and of the time computing."""
    drawn = generator.integers(len(row.steps_s), size=len(row.steps_s))
    return float(np.median(np.array(row.steps_s)[drawn])), float(np.median(np.array(row.computes_s)[drawn]))


def _solve(matrix: np.ndarray, times: np.ndarray, computing: np.ndarray) -> np.ndarray:
    """Solve for parameters of at least 0 with the least sum of squared relative differences; computing may be NaN."""
    known = np.isfinite(computing)
    alone = matrix[known]
    alone[:, 2:] = 0.0
    relative = np.concatenate([matrix / times[:, None], alone / times[known, None]])
    norms = np.linalg.norm(relative, axis=0)
    scale = np.where(norms > 0, norms, 1.0)
    return (
        nnls(relative / scale, np.concatenate([np.ones(len(times)), (computing / times)[known]]))[0] / scale
    )


@dataclass(frozen=True, kw_only=True)
class HeldOutPoint:
    """Prediction for a point that the fit has not seen."""

    row: PointSummary
    algorithm: str
    predicted_s: float
    low_s: float
    high_s: float
    misfit: float
    """Of the fit, to the points that it has seen: which algorithm fits best must not be learnt from the others."""

    @property
    def error(self) -> float:
        """Return the relative difference of the prediction from the measurement."""
        return self.predicted_s / self.row.values["step_s"] - 1


def check_model(rows: Sequence[PointSummary]) -> tuple[list[int], list[HeldOutPoint]]:
    """Fit to points of few ranks, predict those of most, compare.

    Fitted are the points of at most half as many ranks as the largest: 1-4 where the largest is 8.

    Returns:
        Ranks of the points fitted, and the comparison for each point of most ranks and each algorithm; both empty where
        there are too few numbers of ranks, or several nodes only among the points to predict.
    """
    largest = max(row.point.ranks for row in rows)
    seen = [row for row in rows if row.point.ranks <= largest / 2]
    unseen = [row for row in rows if row.point.ranks == largest]
    between = any(row.point.nodes > 1 for row in seen)
    unseen = [row for row in unseen if between or row.point.nodes == 1]
    if len({row.point.ranks for row in seen}) < 2 or not unseen:
        return [], []
    checks = []
    for algorithm in ALGORITHMS:
        fit = fit_model(seen, algorithm)
        cases = [Case.of(row) for row in unseen]
        low, high = np.percentile(fit.sampled_seconds(cases), BAND, axis=0)
        for row, predicted, least, most in zip(unseen, fit.seconds(cases), low, high, strict=True):
            checks.append(
                HeldOutPoint(
                    row=row,
                    algorithm=algorithm,
                    predicted_s=float(predicted),
                    low_s=float(least),
                    high_s=float(most),
                    misfit=fit.misfit,
                )
            )
    return sorted({row.point.ranks for row in seen}), checks
