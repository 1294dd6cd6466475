"""The report of a scaling experiment: one HTML page that needs no network, and a table for other programs."""

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dist_calo.errors import DataError
from dist_calo.files import write_whole
from dist_calo.scaling.page import report_html
from dist_calo.scaling.plan import read_plan
from dist_calo.scaling.predictions import ModelPart, model_parts, sentences
from dist_calo.scaling.record import add_report
from dist_calo.scaling.summary import Row, Summary, summarise
from dist_calo.scaling.warnings import caveat


def write_report(results: Path, out: Path) -> list[str]:
    """Write report.html and points.csv, put both into the parent run, and return lines that sum up what they say.

    Raises:
        ConfigError: if there is no plan, or the folder cannot be written.
        DataError: if nothing is measured yet, or a result cannot be read.
    """
    plan = read_plan(results)
    summary = summarise(results, plan)
    if not summary.rows:
        command = f"dist-calo scale run {shlex.quote(str(results))}"
        raise DataError(f"{results}: holds no results yet; measure them: {command}")
    parts = model_parts(summary)
    page, table = out / "report.html", out / "points.csv"
    out.mkdir(parents=True, exist_ok=True)
    with write_whole(page) as temporary:
        temporary.write_text(report_html(results.name, summary, parts), encoding="utf-8")
    with write_whole(table) as temporary:
        temporary.write_text(points_csv(summary.rows))
    lines = [*sentences(summary, parts), caveat(summary, parts)]
    add_report(plan, results, [page, table], _headlines(summary, parts))
    return [*lines, str(page), str(table)]


def points_csv(rows: Sequence[Row]) -> str:
    """All numbers of all points, a line each; empty where a node does not tell."""
    columns = ["speed_up", "efficiency", "efficiency_error", "job_showers_per_s", "job_efficiency"]
    judged = ["oversubscribed", "core_share", "throttled", "counts"]
    lines: list[dict[str, Any]] = []
    for row in rows:
        measured = {
            name: value for name, value in row.values.items() if name not in ("nodes", "repeat", "threads")
        }
        lines.append(
            {"number": row.number, **asdict(row.point), "repeats": row.repeats}
            | measured
            | {"step_error_s": row.step_error_s, "step_spread_s": row.step_spread_s, "base": row.base}
            | {name: getattr(row, name) for name in columns + judged}
        )
    written = io.StringIO()
    writer = csv.DictWriter(written, list(dict.fromkeys(name for line in lines for name in line)), restval="")
    writer.writeheader()
    for line in lines:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in line.items()})
    return written.getvalue()


def _headlines(summary: Summary, parts: Sequence[ModelPart]) -> Mapping[str, float]:
    """Numbers for the parent run."""
    found = {f"efficiency/point_{row.number}": row.efficiency for row in summary.rows}
    for part in parts:
        for fit in part.fits:
            found[f"model/{fit.algorithm}/misfit"] = fit.misfit
        for check in part.checks:
            found[f"model/{check.algorithm}/error_at_{check.row.point.ranks}_ranks"] = check.error
    return {name: value for name, value in found.items() if math.isfinite(value)}
