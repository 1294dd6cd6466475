"""Forecast of the efficiency at ranks that were not measured, with its uncertainty, and where it falls below 90 %.

There is a prediction only where the points allow one: three numbers of ranks that count as scaling, several nodes where
it goes beyond one, and parameters that those points determine. Where gradients leave during the backward pass, the
points may not show the communication at all: the same points without overlap have to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dist_calo.scaling.fit import BACKWARD, BAND, Case, Fit, design
from dist_calo.scaling.point_summaries import PointSummary, base_of

MOST_RANKS = 4096
WORTHWHILE = 0.9
"""Efficiency below which more ranks are no longer worth it."""
HIDDEN = "communication may be hidden behind computing at the measured ranks; plan with --overlap on,off"
"""Why points with overlap alone allow no prediction."""
FEWEST = 3
"""Numbers of ranks that a prediction takes."""
_SAME = 1e-2
"""Relative differences below which cases are the same: counts of bytes vary a little from point to point."""


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
    """Most ranks among the points that count as scaling."""
    obstacle: str = ""
    """Why there is no prediction; then the curves end where the points do."""

    def falls_below(self, efficiencies: np.ndarray) -> float | None:
        """Return the ranks at which a curve falls below WORTHWHILE, on a logarithmic axis; None if it does not."""
        below = np.flatnonzero(efficiencies < WORTHWHILE)
        if not below.size:
            return None
        second = int(below[0])
        if second == 0:
            return float(self.ranks[0])
        values, places = efficiencies[second - 1 : second + 1], np.log2(self.ranks[second - 1 : second + 1])
        return float(2 ** np.interp(WORTHWHILE, values[::-1], places[::-1]))

    def described(self) -> str:
        """Say the efficiency at the most ranks and where it falls below 90 %, or why neither is known."""
        if self.obstacle:
            return f"no prediction: {self.obstacle}"
        middle, early, late = (self.falls_below(values) for values in (self.efficiency, self.low, self.high))
        last, worthwhile = int(self.ranks[-1]), f"{100 * WORTHWHILE:.0f} %"
        ends = f"{_percent(self.low[-1])}-{_percent(self.high[-1])} %"
        text = f"efficiency at {last:,} ranks: {_percent(self.efficiency[-1])} % ({ends}); "
        if middle is None:
            stays = f"stays above {worthwhile}"
            return text + (f"{stays}, or falls below from {_about(early)} ranks on" if early else stays)
        first, end = _about(early or middle), _about(late) if late else ""
        band = f"{first}-{end}" if end else f"{first} to over {last:,}"
        text += f"falls below {worthwhile} at about {_about(middle)} ranks"
        return text if first == end else f"{text} ({band})"


def _percent(value: float) -> str:
    return f"{100 * value:.0f}" if value >= 0.0995 else f"{100 * value:.1f}"


def _about(ranks: float) -> str:
    """Write a number of ranks to two digits."""
    whole = math.ceil(ranks)
    return f"{round(whole, min(0, 2 - len(str(whole)))):,}"


def forecast(
    rows: Sequence[PointSummary], fits: Sequence[Fit], hidden: float = 0.0, obstacle: str = ""
) -> Forecast:
    """Predict the efficiency of a series from its base to 4,096 ranks, each with cores of its own.

    Args:
        rows: the series, in order of ranks.
        fits: models fitted to it, one for each algorithm.
        hidden: share of computing behind which communication disappears.
        obstacle: why there is no prediction, where that is known already.
    """
    base = base_of(rows).point
    most = min(MOST_RANKS, base.batch) if base.study == "strong" else MOST_RANKS
    measured_to = max(row.point.ranks for row in [row for row in rows if row.counts] or rows)
    obstacle = obstacle or _obstacle(rows, max(most, base.ranks), [fit.algorithm for fit in fits])
    if obstacle:
        most = min(most, measured_to)
    doublings = int(np.log2(max(most, base.ranks) / base.ranks))
    ranks = base.ranks * 2 ** np.arange(doublings + 1)
    between = any(fit.measured_between for fit in fits)
    per_node = max(row.point.ranks_per_node for row in rows)
    cases = [_case(rows, int(count), between and int(count) > per_node) for count in ranks]
    # The base is what was measured: on one node or several.
    cases[0] = _case(rows, base.ranks, base.nodes > 1)
    best = min(fits, key=lambda fit: fit.misfit)
    sampled = np.concatenate(
        [_efficiency(ranks, fit.sampled_seconds(cases, hidden), base.study) for fit in fits]
    )
    low, high = np.percentile(sampled, BAND, axis=0)
    middle = _efficiency(ranks, best.seconds(cases, hidden)[None], base.study)[0]
    return Forecast(
        ranks=ranks,
        efficiency=middle,
        low=np.minimum(low, middle),
        high=np.maximum(high, middle),
        algorithm=best.algorithm,
        measured_to=measured_to,
        obstacle=obstacle,
    )


def forecast_overlapped(
    rows: Sequence[PointSummary],
    fits: Sequence[Fit],
    bare_rows: Sequence[PointSummary],
    bare_fits: Sequence[Fit],
) -> Forecast:
    """Predict the efficiency of a series with overlap from the same series without.

    The band reaches from nothing hidden to what fits behind a backward pass; the line hides as much as the largest
    point did.

    Args:
        rows: the series, in order of ranks.
        fits: models fitted to it, one for each algorithm; what they say counts where it is worse.
        bare_rows: the same series without overlap.
        bare_fits: models fitted to that.
    """
    own, bare = forecast(rows, fits), forecast(bare_rows, bare_fits)
    if own.obstacle:
        return own
    if bare.obstacle:
        return forecast(rows, fits, obstacle=f"without overlap, {bare.obstacle}")
    shares = (0.0, _hidden_share(rows, bare_fits), BACKWARD)
    none, seen, most = (forecast(rows, bare_fits, hidden=share) for share in shares)
    middle = np.minimum(own.efficiency, seen.efficiency)
    return replace(
        own,
        efficiency=middle,
        low=np.minimum.reduce([own.low, none.low, middle]),
        high=np.maximum(most.high, middle),
        algorithm=seen.algorithm,
    )


def _hidden_share(rows: Sequence[PointSummary], bare_fits: Sequence[Fit]) -> float:
    """Return the share of computing behind which the largest point hid communication; more may be hidden."""
    largest = max((row for row in rows if row.counts), key=lambda row: row.point.ranks)
    bare, case = min(bare_fits, key=lambda fit: fit.misfit), [Case.of(largest)]
    gained = bare.seconds(case)[0] - largest.values["step_s"]
    return float(np.clip(gained / bare.computing_seconds(case)[0], 0.0, BACKWARD))


def _obstacle(rows: Sequence[PointSummary], most: int, algorithms: Sequence[str]) -> str:
    """Say why the points do not allow a prediction at this many ranks; empty if they do."""
    counted = [row for row in rows if row.counts]
    numbers = sorted({row.point.ranks for row in counted})
    if len(numbers) < FEWEST:
        found = (
            f"these points have {len(numbers)} ({', '.join(map(str, numbers))})"
            if numbers
            else "no point counts"
        )
        return f"it takes {FEWEST} numbers of ranks that count as scaling, and {found}"
    several = most > max(row.point.ranks_per_node for row in counted)
    if several and not any(row.point.nodes > 1 for row in counted):
        return f"{most:,} ranks are on several nodes, and no point of several nodes counts as scaling"
    case = _case(counted, most, several)
    if not all(_determined(counted, case, algorithm) for algorithm in algorithms):
        where = "between nodes" if several else "within a node"
        return (
            f"latency and bandwidth {where} cannot be told apart by these points; measure more numbers of "
            f"{'nodes' if several else 'ranks'}"
        )
    return ""


def _determined(rows: Sequence[PointSummary], case: Case, algorithm: str) -> bool:
    """Tell if the points determine the time of a case: its factors are a linear combination of theirs.

    Parameters that cannot be told apart do no harm where the case needs them in the same proportion as the points, as
    latency and bandwidth along a tree.
    """
    steps = design([Case.of(row) for row in rows], algorithm)
    computing = steps[[bool(np.isfinite(row.values["compute_s"])) for row in rows]]
    computing[:, 2:] = 0.0
    known, wanted = np.concatenate([steps, computing]), design([case], algorithm)[0]
    largest = known.max(axis=0)
    scale = np.where(largest > 0, largest, 1.0)
    known, wanted = known / scale, wanted / scale
    missed = wanted - wanted @ np.linalg.pinv(known, rcond=_SAME) @ known
    return bool(np.linalg.norm(missed) < _SAME * np.linalg.norm(wanted))


def _case(rows: Sequence[PointSummary], ranks: int, several_nodes: bool) -> Case:
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
    """Return the efficiency relative to the first column of times, shape (samples, ranks)."""
    efficiency = seconds[:, :1] / seconds
    return efficiency * ranks[0] / ranks if study == "strong" else efficiency
