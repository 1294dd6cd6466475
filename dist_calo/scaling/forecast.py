"""Efficiency at ranks that were not measured, with its uncertainty, and where it falls below 90 %."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dist_calo.scaling.fit import BAND, Case, Fit
from dist_calo.scaling.summary import Row

MOST_RANKS = 4096
WORTHWHILE = 0.9
"""Efficiency below which more ranks are no longer worth it."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Efficiency against ranks, each array with shape (ranks,)."""

    ranks: np.ndarray
    efficiency: np.ndarray
    """By the algorithm that fits best."""
    low: np.ndarray
    high: np.ndarray
    """Band over both algorithms and all resampled fits."""
    algorithm: str
    measured_to: int
    """Most ranks among the points."""
    several_nodes: bool
    """Whether the network between nodes was measured; otherwise that within a node stands for it."""

    def falls_below(self, efficiencies: np.ndarray) -> float | None:
        """Ranks at which a curve falls below WORTHWHILE, on a logarithmic axis; None if it does not."""
        below = np.flatnonzero(efficiencies < WORTHWHILE)
        if not below.size:
            return None
        second = int(below[0])
        if second == 0:
            return float(self.ranks[0])
        values, places = efficiencies[second - 1 : second + 1], np.log2(self.ranks[second - 1 : second + 1])
        return float(2 ** np.interp(WORTHWHILE, values[::-1], places[::-1]))

    def verdict(self) -> str:
        """Where efficiency falls below 90 %, in words."""
        middle, early, late = (self.falls_below(values) for values in (self.efficiency, self.low, self.high))
        last = int(self.ranks[-1])
        percent = f"{100 * WORTHWHILE:.0f} %"
        ends = [
            f"{math.ceil(early):,}" if early else None,
            f"{math.ceil(late):,}" if late else f"beyond {last:,}",
        ]
        if middle is None:
            text = f"stays above {percent} to {last:,} ranks"
            return text + (f", though it may fall below at {ends[0]} already" if ends[0] else "")
        return f"falls below {percent} at {math.ceil(middle):,} ranks (between {ends[0]} and {ends[1]})"


def forecast(rows: Sequence[Row], fits: Sequence[Fit]) -> Forecast:
    """Predict the efficiency of a series at 1 to 4,096 ranks, each with cores of its own.

    Args:
        rows: the series, in order of ranks; the first is the base.
        fits: models fitted to it, one for each algorithm.
    """
    base = rows[0].point
    most = min(MOST_RANKS, base.batch) if base.study == "strong" else MOST_RANKS
    doublings = int(np.log2(most / base.ranks))
    ranks = base.ranks * 2 ** np.arange(doublings + 1)
    between = any(fit.measured_between for fit in fits)
    per_node = max(row.point.ranks_per_node for row in rows)
    cases = [_case(rows, int(count), between and int(count) > per_node) for count in ranks]
    # The base is what was measured: on one node or several.
    cases[0] = _case(rows, base.ranks, base.nodes > 1)
    best = min(fits, key=lambda fit: fit.misfit)
    sampled = np.concatenate([_efficiency(ranks, fit.sampled_seconds(cases), base.study) for fit in fits])
    low, high = np.percentile(sampled, BAND, axis=0)
    middle = _efficiency(ranks, best.seconds(cases)[None], base.study)[0]
    return Forecast(
        ranks=ranks,
        efficiency=middle,
        low=np.minimum(low, middle),
        high=np.maximum(high, middle),
        algorithm=best.algorithm,
        measured_to=max(row.point.ranks for row in rows),
        several_nodes=between,
    )


def _case(rows: Sequence[Row], ranks: int, several_nodes: bool) -> Case:
    point = rows[0].point
    share = point.batch if point.study == "weak" else point.batch / ranks
    return Case(
        ranks=ranks,
        share=share,
        several_nodes=several_nodes,
        bytes_per_step=float(np.mean([row.values["bytes_per_step"] for row in rows])),
        collectives_per_step=float(np.mean([row.values["collectives_per_step"] for row in rows])),
    )


def _efficiency(ranks: np.ndarray, seconds: np.ndarray, study: str) -> np.ndarray:
    """Efficiency relative to the first column of times, shape (samples, ranks)."""
    efficiency = seconds[:, :1] / seconds
    return efficiency * ranks[0] / ranks if study == "strong" else efficiency
