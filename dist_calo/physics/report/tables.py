"""Tables of the numbers of an evaluation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dist_calo.physics.metrics.evaluation import AT_FLOOR, Evaluation, sigmas_above_floor
from dist_calo.physics.metrics.half_sample_bootstrap import Measured
from dist_calo.physics.metrics.metric_definitions import METRICS, definition_of
from dist_calo.physics.observables.observer import Observer
from dist_calo.physics.observables.sample import GroupSums
from dist_calo.physics.report.rounding import floor_of, level_of, sigmas_in_words, with_error

COLUMNS = (
    ("separation", ("separation",)),
    ("χ²/ndf", ("chi2_ndf",)),
    ("W₁/σ", ("wasserstein_scaled",)),
    ("shift/σ", ("shift", "shifts")),
    ("width − 1", ("width", "widths")),
    ("relative error", ("relative_error",)),
)
"""Columns of a table of observables, each with the kinds of numbers that may stand in it."""
MISSING = ("missing", ("missing",))
PROFILES = (("relative error", ("profile_error",)), ("χ²/bin", ("profile_chi2",)))
RESPONSE = ("response",)
WORST = 3
SUBJECTS = {
    "observables": "of the observables",
    "mean": "mean response, relative difference",
    "resolution": "resolution, relative difference",
    "largest_pull": "largest pull of a cell",
    "chi2_cell": "χ² per cell",
    "stochastic": "stochastic term [√GeV], difference",
    "noise": "noise term [GeV], difference",
    "constant": "constant term, difference",
    "high": "of the observables",
    "low": "of the cells",
}
"""Subjects of numbers that belong to no group of observables, in words."""
WHOLE = ("fpd", "kpd", "auc", "jsd", "precision", "recall", "density", "coverage", "correlation", "image")
"""Kinds of numbers of all showers alone, as listed."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Number in a table; ``level`` is the colour of its distance from the floor, None where unknown."""

    text: str = ""
    floor: str = ""
    sigmas: str = ""
    level: int | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Line of a table; its meaning spans so many lines, none where a line above shows it."""

    label: str
    cells: tuple[Cell, ...]
    meaning: str = ""
    lines: int = 1


@dataclass(frozen=True, kw_only=True)
class Table:
    """Table; ``heads`` are its column heads, each with its meaning."""

    caption: str
    first: str
    heads: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]


def cell_of(name: str, number: Measured) -> Cell:
    """Return the cell of a number."""
    sigmas = sigmas_above_floor(name, number)
    if number.value == number.error == number.floor == 0:
        return Cell(text="0", level=0)
    return Cell(
        text=with_error(number.value, number.error),
        floor=floor_of(number) if math.isfinite(number.floor) else "",
        sigmas=sigmas_in_words(sigmas),
        level=level_of(sigmas),
        note="mean of sizes" if name.split("/")[0] in ("shifts", "widths") else "",
    )


def groups_table(
    caption: str, groups: Sequence[str], labels: Mapping[str, str], numbers: Mapping[str, Measured]
) -> Table:
    """Return one row for each group of observables, one column for each kind of number.

    The share of missing observables is listed where it is not at its floor.
    """
    names = [name for name in (f"missing/{group}" for group in groups) if name in numbers]
    lacking = any(sigmas_above_floor(name, numbers[name]) > AT_FLOOR for name in names)
    columns = (*COLUMNS, MISSING) if lacking else COLUMNS
    return _table(
        caption, "observable", columns, {group: labels.get(group, group) for group in groups}, numbers
    )


def profiles_table(caption: str, observer: Observer, numbers: Mapping[str, Measured]) -> Table:
    """Return one row for each profile."""
    labels = {
        name: f"{name.replace('_', ' ')}: {profile.title} against {profile.axis}"
        for name, profile in observer.profiles.items()
    }
    return _table(caption, "profile", PROFILES, labels, numbers)


def _table(
    caption: str,
    first: str,
    columns: Sequence[tuple[str, tuple[str, ...]]],
    labels: Mapping[str, str],
    numbers: Mapping[str, Measured],
) -> Table:
    rows = []
    for subject, label in labels.items():
        cells = tuple(_first(kinds, subject, numbers) for _, kinds in columns)
        if any(cell.text for cell in cells):
            rows.append(Row(label=label, cells=cells))
    heads = tuple((title, METRICS[kinds[0]].meaning) for title, kinds in columns)
    return Table(caption=caption, first=first, heads=heads, rows=tuple(rows))


def _first(kinds: Sequence[str], group: str, numbers: Mapping[str, Measured]) -> Cell:
    names = (f"{kind}/{group}" for kind in kinds)
    return next((cell_of(name, numbers[name]) for name in names if name in numbers), Cell())


def list_table(
    caption: str, numbers: Mapping[str, Measured], kinds: Sequence[str], labels: Mapping[str, str]
) -> Table:
    """Return one row for each number of some kinds, with its meaning."""
    rows: list[Row] = []
    for kind in kinds:
        names = [name for name in numbers if name.split("/")[0] == kind]
        rows += [
            Row(
                label=name_in_words(name, labels),
                cells=(cell_of(name, numbers[name]),),
                meaning=definition_of(name).meaning,
                lines=0 if place else len(names),
            )
            for place, name in enumerate(names)
        ]
    return Table(caption=caption, first="number", heads=(("value", ""),), rows=tuple(rows))


def not_computed(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return the numbers of all showers that are missing, grouped by reason."""
    absent: dict[str, list[str]] = {}
    for what, reason in evaluation.absent.items():
        if what not in evaluation.binning.labels:
            absent.setdefault(reason, []).append(METRICS[what].title if what in METRICS else what)
    return [(", ".join(titles), reason) for reason, titles in absent.items()]


def units_table(evaluation: Evaluation, slot: int = -1) -> Table:
    """Return means, standard deviations and Wasserstein distances in the observables' units."""
    real, fake = evaluation.real_part, evaluation.fake_part
    features, labels = evaluation.observer.features, evaluation.observer.labels
    numbers, (real_name, fake_name) = evaluation.slots[slot], evaluation.names
    groups = [feature.group for feature in features]
    rows = []
    for column, feature in enumerate(features):
        if groups.count(feature.group) > 1:
            continue
        distance = numbers.get(f"wasserstein/{feature.group}")
        cells = [_mean(part, slot, column) for part in (real, fake)]
        cells += [_deviation(part, slot, column) for part in (real, fake)]
        cells.append(cell_of("wasserstein", distance) if distance else Cell())
        rows.append(Row(label=labels[feature.group], cells=tuple(cells)))
    of = "standard deviation"
    heads = [(f"mean, {real_name}", ""), (f"mean, {fake_name}", ""), (f"{of}, {real_name}", "")]
    heads += [(f"{of}, {fake_name}", ""), ("W₁", METRICS["wasserstein"].meaning)]
    return Table(
        caption="Means, widths and Wasserstein distances of all showers, in the observables' own units",
        first="observable",
        heads=tuple(heads),
        rows=tuple(rows),
    )


def _mean(part: GroupSums, slot: int, column: int) -> Cell:
    seen = float(part.in_slot("seen", slot)[column])
    mean, deviation = float(part.mean(slot)[column]), float(part.deviation(slot)[column])
    return Cell(text=with_error(mean, deviation / math.sqrt(seen) if seen else math.nan))


def _deviation(part: GroupSums, slot: int, column: int) -> Cell:
    seen, deviation = float(part.in_slot("seen", slot)[column]), float(part.deviation(slot)[column])
    # That of a normal distribution.
    return Cell(text=with_error(deviation, deviation / math.sqrt(2 * (seen - 1)) if seen > 1 else math.nan))


def name_in_words(name: str, labels: Mapping[str, str]) -> str:
    """Return a number's name in words, such as ``separation: lateral width [mm]``."""
    kind, *subject = name.split("/")
    title = METRICS[kind].title
    if not subject:
        return title
    words = SUBJECTS.get(subject[0], labels.get(subject[0], subject[0].replace("_", " ")))
    return ": ".join([title, words, *subject[1:]])


def set_in_words(name: str, observer: Observer) -> str:
    """Return a set of correlations in words, such as ``between the layers: E_layer / E_vis``."""
    if name in observer.indexed_by:
        return f"between the {observer.indexed_by[name]}s: {observer.labels[name]}"
    return "between observables"


@dataclass(frozen=True, kw_only=True)
class ReportSummary:
    """Summary of a report: the score and its floor, how many numbers are at their floors, and the worst."""

    score: str
    score_floor: str
    score_sigmas: str
    largest: tuple[tuple[str, str], ...]
    at_floor: int
    judged: int
    worst: tuple[tuple[str, str], ...]


def summary_of(evaluation: Evaluation) -> ReportSummary:
    """Summarise an evaluation."""
    numbers, labels, score = evaluation.numbers, evaluation.observer.labels, evaluation.score
    judged = evaluation.judged
    worst: dict[str, str] = {}
    for name in judged:
        # One number for each subject: a shifted observable fails in every column.
        worst.setdefault("response" if name.startswith("response/") else name.split("/")[-1], name)
    return ReportSummary(
        score=with_error(score.value, score.error) if math.isfinite(score.value) else "unknown",
        score_floor=floor_of(score) if math.isfinite(score.floor) else "",
        score_sigmas=sigmas_in_words(max(score.sigmas, 0.0)),
        largest=tuple(
            (name_in_words(name, labels), with_error(numbers[name].value, numbers[name].error))
            for name in list(evaluation.score_terms)[:WORST]
        ),
        at_floor=evaluation.at_floor,
        judged=len(judged),
        worst=tuple(
            (name_in_words(name, labels), sigmas_in_words(judged[name]))
            for name in list(worst.values())[:WORST]
        ),
    )
