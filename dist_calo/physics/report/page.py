"""HTML page of an evaluation, filled from a template."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.files import write_text
from dist_calo.pages import render
from dist_calo.pages.pictures import Picture, picture
from dist_calo.physics.metrics.evaluation import AT_FLOOR, Evaluation
from dist_calo.physics.metrics.metric_definitions import METRICS
from dist_calo.physics.report import (
    figures,
    figures_history,
    figures_matrices,
    figures_observables,
    figures_profiles,
    figures_showers,
    tables,
)
from dist_calo.physics.report.rounding import LEVELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONG = 14
"""Lines of facts from which a section is closed at first."""


@dataclass(frozen=True, kw_only=True)
class BinPage:
    """Page of a bin of incident energy."""

    anchor: str
    label: str
    counts: str
    table: tables.Table | None
    lists: tuple[tables.Table, ...] = ()
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """Figures under a heading."""

    anchor: str
    title: str
    pictures: list[Picture]


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Figures that take long to draw, in two halves that two processes may draw."""

    chapters: list[Chapter]
    """Figures of all showers."""
    bins: list[BinPage]
    """A page for each bin of incident energy."""


def draw_chapters(evaluation: Evaluation) -> list[Chapter]:
    """Draw the figures of all showers."""
    return list(_chapters(evaluation))


def draw_bins(evaluation: Evaluation) -> list[BinPage]:
    """Draw the page of each bin of incident energy; a single bin is that of all showers."""
    return list(_bins(evaluation))


def report_html(evaluation: Evaluation, drawings: Drawings | None = None) -> str:
    """Return the report of an evaluation as one self-contained HTML page.

    Args:
        evaluation: what was found.
        drawings: where they have been made already.
    """
    drawings = drawings or Drawings(chapters=draw_chapters(evaluation), bins=draw_bins(evaluation))
    labels, numbers = evaluation.observer.labels, evaluation.numbers
    summary = evaluation.observer.summary_groups
    others = [group for group in labels if group not in summary]
    whole = tables.list_table(
        "Numbers of all showers", numbers, (*tables.WHOLE, "resolution_fit", *tables.RESPONSE), labels
    )
    curves = figures_history.history_figure(evaluation.history)
    return render(
        "dist_calo.physics.report",
        names=evaluation.names,
        described=evaluation.geometry.described,
        counts=figures.counts_in_words(evaluation, -1),
        bad=evaluation.bad_in_words,
        verdict=tables.summary_of(evaluation),
        at_floor=AT_FLOOR,
        score_meaning=METRICS["score"].meaning,
        levels=LEVELS,
        notes=evaluation.notes,
        facts=evaluation.facts,
        long=LONG,
        glance=tables.groups_table("Observables at a glance", summary, labels, numbers),
        other=tables.groups_table("All other observables", others, labels, numbers),
        units=tables.units_table(evaluation),
        profiles=tables.profiles_table("Profiles", evaluation.observer, numbers),
        whole=whole,
        absent=tables.not_computed(evaluation),
        chapters=drawings.chapters,
        bins=drawings.bins,
        history=None if curves is None else _history_picture(curves),
    )


def write_report(evaluation: Evaluation, path: Path, drawings: Drawings | None = None) -> None:
    """Write the report; a file of this name is replaced only once the new one is complete.

    Args:
        evaluation: what was found.
        path: the file.
        drawings: where they have been made already.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, report_html(evaluation, drawings))


def _chapters(evaluation: Evaluation) -> Iterator[Chapter]:
    if not evaluation.slots[-1]:
        return
    both = " and ".join(evaluation.names)
    yield Chapter(
        anchor="response",
        title="Energy response and resolution",
        pictures=[
            picture(
                figures_profiles.response_figure(evaluation),
                f"Mean response and resolution of {both} against the incident energy, with ratios.",
                "Mean response and resolution against the incident energy; horizontal bars are the bins. Below: "
                "ratios with the statistical error of both (band: that of the first sample).",
                vector=True,
            )
        ],
    )
    yield Chapter(anchor="profiles", title="Profiles", pictures=[_profiles(evaluation, -1)])
    yield Chapter(anchor="observables", title="Observables", pictures=list(_observables(evaluation, -1)))
    matrices = [
        picture(
            figures_matrices.correlations_figure(evaluation, name),
            f"Matrices of the correlations {tables.set_in_words(name, evaluation.observer)} of {both}, and their "
            "difference.",
            f"Correlations {tables.set_in_words(name, evaluation.observer)}, in per cent.",
            shades=True,
        )
        for name in sorted(evaluation.real.sets, key=lambda name: name != "observables")
    ]
    if matrices:
        yield Chapter(anchor="correlations", title="Correlations", pictures=matrices)
    showers = [
        picture(
            drawing.figure, drawing.alt, drawing.caption, vector=drawing.vector, shades=not drawing.vector
        )
        for drawing in figures_showers.shower_figures(evaluation)
    ]
    yield Chapter(anchor="showers", title="The mean shower and single showers", pictures=showers)


def _bins(evaluation: Evaluation) -> Iterator[BinPage]:
    labels = evaluation.observer.labels
    if evaluation.binning.slots == 2:
        return
    for slot, numbers in enumerate(evaluation.slots[:-1]):
        label, counts = evaluation.binning.labels[slot], figures.counts_in_words(evaluation, slot)
        page = BinPage(anchor=f"bin-{slot}", label=label, counts=counts, table=None)
        if numbers:
            page = BinPage(
                anchor=page.anchor,
                label=label,
                counts=counts,
                table=tables.groups_table(f"Observables at {label}", tuple(labels), labels, numbers),
                lists=(
                    tables.profiles_table(f"Profiles at {label}", evaluation.observer, numbers),
                    tables.list_table(f"Energy response at {label}", numbers, tables.RESPONSE, labels),
                ),
                pictures=[*_observables(evaluation, slot, alone=True), _profiles(evaluation, slot)],
            )
        yield page


def _profiles(evaluation: Evaluation, slot: int) -> Picture:
    where = evaluation.binning.labels[slot]
    return picture(
        figures_profiles.profiles_figure(evaluation, slot),
        f"Profiles of {' and '.join(evaluation.names)} with ratios, {where}.",
        "Mean over showers with its statistical error; below the ratio (band: error of the first sample). Arrows "
        "mark ratios beyond the axis.",
    )


def _observables(evaluation: Evaluation, slot: int, alone: bool = False) -> Iterator[Picture]:
    """Draw the observables of a bin of incident energy or of all showers; for a bin only the main ones."""
    both, where = " and ".join(evaluation.names), evaluation.binning.labels[slot]
    singles = figures_observables.single_groups(evaluation)
    indexed = figures_observables.indexed_groups(evaluation)
    if alone:
        summary = evaluation.observer.summary_groups
        singles, indexed = ([group for group in summary if group in groups] for groups in (singles, indexed))
    columns = [figures_observables.columns_of(evaluation, group)[0] for group in singles]
    if columns:
        yield picture(
            figures_observables.histograms_figure(evaluation, slot, columns),
            f"Histograms of {len(columns)} observables of {both} with ratios, {where}.",
            "Each observable with its separation power (sep.) and its Wasserstein distance in standard deviations "
            "(W₁/σ); the outer bins hold what lies beyond.",
        )
    if indexed:
        yield picture(
            figures_observables.indexed_figure(evaluation, slot, indexed),
            f"Means and widths of {len(indexed)} observables against the layer or channel, of {both}, {where}.",
            "Mean with its statistical error and standard deviation (band and dashed lines) against the number of the "
            "layer or channel; below, ratios of means and of widths, or the difference of the means.",
        )
    labels = evaluation.observer.labels
    for groups, columns, across in () if alone else figures_observables.blocks(evaluation):
        what = "; ".join(labels[group] for group in groups)
        yield picture(
            figures_observables.histograms_figure(evaluation, slot, columns, across),
            f"Histograms, one for each layer or channel shown, of {both}: {what}.",
            f"Layer by layer, or channel by channel: {what}. The outer bins hold what lies beyond.",
        )


def _history_picture(curves: "Figure") -> Picture:
    return picture(
        curves,
        "Training curves, a panel for each.",
        "Training curves against the step. Of long ones means of parts, with a band from the least to the largest.",
    )
