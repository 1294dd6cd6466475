"""Warnings of a scaling report: at length for the page, in one line for the terminal."""

import math
from collections.abc import Sequence

from dist_calo.scaling.conclusions import CostModel, listed
from dist_calo.scaling.point_summaries import BUSY, PointSummary, Summary

NOT_CHECKED = (
    "The model is unchecked: it takes points of three numbers of ranks, the last at least twice the second."
)


def explained(summary: Summary, parts: Sequence[CostModel]) -> list[str]:
    """Return all warnings, a sentence or two each."""
    rows, found = summary.rows, []
    shared, throttled, busy, single = _shared(rows), _throttled(rows), _busy(rows), _single(rows)
    if shared:
        found.append(
            f"{_points(shared)}: more threads than cores, so that ranks take turns. This does not count as scaling; "
            "the cost model multiplies the computing by the turns."
        )
    if throttled:
        found.append(
            f"{_points(throttled)}: a quota of processor time, as of a container, left each thread less of a core than "
            "at other points of the series. This does not count as scaling; give each rank the same quota."
        )
    if busy:
        found.append(
            f"{_points(busy)}: other programs took part of the cores' time during the measurement; at worst a rank "
            f"got {_least_share(rows)} of it. Such times are no property of this program and do not count as scaling."
        )
    fewer = [row.number for row in rows if row.values["threads"] < row.point.threads]
    if fewer:
        found.append(f"{_points(fewer)}: a rank had fewer cores than the threads that were asked for.")
    if single:
        found.append(f"{_points(single)}: a single repeat, so no error is known.")
    if len(single) < len(rows):
        found.append(
            "The repeats of a point run in the same processes on the same nodes: the errors do not hold differences "
            "between nodes and between jobs."
        )
    unsplit = [row.number for row in rows if math.isnan(row.values["compute_s"])]
    if unsplit:
        found.append(
            f"{_points(unsplit)}: the host does not wait for a GPU's collectives, so that computing and communication "
            "are not told apart; the cost model takes the time of a step alone."
        )
    if summary.missing:
        found.append(f"{_points(summary.missing)}: not measured yet.")
    if all(row.point.nodes == 1 for row in rows):
        found.append("No point of several nodes was measured: nothing is known of the network between nodes.")
    if not parts:
        found.append(
            "The points to fit have a single number of ranks: there is no cost model and no prediction."
        )
    if any(not part.checks for part in parts):
        found.append(NOT_CHECKED)
    if all(math.isnan(row.values["energy_j"]) for row in rows):
        found.append("No node reports energy (RAPL or Cray's counters, readable by this user).")
    return found + [f"Left out of the plan: {line}." for line in summary.plan.left_out]


def one_line(summary: Summary, parts: Sequence[CostModel]) -> str:
    """Return what bears on efficiency and prediction, in one line."""
    rows, found = summary.rows, []
    shared, throttled, busy, single = _shared(rows), _throttled(rows), _busy(rows), _single(rows)
    if shared:
        found.append(f"{_points(shared)} not counted (more threads than cores)")
    if throttled:
        found.append(f"{_points(throttled)} not counted (less processor time a thread by a quota)")
    if busy:
        found.append(
            f"{_points(busy)} not counted (other programs on the cores, {_least_share(rows)} left at worst)"
        )
    if single:
        found.append(f"{_points(single)} without error (one repeat)")
    if summary.missing:
        found.append(f"{_points(summary.missing)} not measured yet")
    for part in parts:
        found.append(_checked(part) + (f" ({part.title})" if len(parts) > 1 else ""))
    if not parts:
        found.append("no cost model and no prediction: the points to fit have a single number of ranks")
    return f"mind: {'; '.join(found)}"


def _checked(part: CostModel) -> str:
    if not part.checks:
        return "cost model not checked on an unseen point"
    best = min(part.checks, key=lambda check: check.misfit).algorithm
    worst = max((c for c in part.checks if c.algorithm == best), key=lambda check: abs(check.error))
    return f"cost model off by {100 * worst.error:+.1f} % on the unseen {worst.row.point.ranks} ranks"


def _shared(rows: Sequence[PointSummary]) -> list[int]:
    return [row.number for row in rows if row.oversubscribed]


def _throttled(rows: Sequence[PointSummary]) -> list[int]:
    return [row.number for row in rows if row.throttled]


def _busy(rows: Sequence[PointSummary]) -> list[int]:
    return [row.number for row in rows if row.core_share < BUSY]


def _single(rows: Sequence[PointSummary]) -> list[int]:
    return [row.number for row in rows if row.repeats == 1]


def _least_share(rows: Sequence[PointSummary]) -> str:
    return f"{100 * min(row.core_share for row in rows):.0f} %"


def _points(numbers: Sequence[int]) -> str:
    return f"point{'s' * (len(numbers) > 1)} {listed(numbers)}"
