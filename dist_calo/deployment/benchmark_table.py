"""Table of a benchmark: a row for each runtime, number of threads and batch, and notes below it."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

MISSING = "–"
BUSY = 0.9
"""Share of a core that a measurement should have had, at least."""


def show_table(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(title=f"{result['model']}, step {result['step']}: {result['geometry']}")
    for column in ("runtime", "device"):
        table.add_column(column)
    for column in ("threads", "batch", "ms/shower", "quartiles", "CPU ms", "score", "speed-up"):
        table.add_column(column, justify="right")
    notes = []
    for row in result["rows"]:
        if "ms_per_shower" not in row:
            notes.append(f"{row['runtime']}: {row['note']}")
        if row.get("at_a_time", row["batch"]) < row["batch"]:
            notes.append(
                f"a batch of {row['batch']} is computed {row['at_a_time']} at a time, to bound memory"
            )
        if row["device"] == "cpu" and row["threads"] == 1 and row.get("cores", 1.0) < BUSY:
            notes.append(
                "other programs kept the cores busy: ms/shower holds waiting for them, the processor's own time "
                "(CPU ms) does not"
            )
        if not row.get("usable", True):
            notes.append(
                f"{row['runtime']} is not usable: its score is unknown, or worse than PyTorch's beyond the error"
            )
        table.add_row(*_cells(row))
    console = Console(width=None if sys.stdout.isatty() else 118)
    console.print(table)
    if "sample" in result["score"]:
        floor = result["score"]["floor"]
        half = "" if floor is None else f", half of them against the other half {floor:.3g}"
        notes.append(f"score: the lowest is best; against {result['score']['sample']}{half}")
    else:
        notes.append(f"no score: {result['score']['note']}")
    notes.append(f"Geant4: {result['geant4']['source']}")
    for note in dict.fromkeys(notes):
        console.print(note, soft_wrap=True, markup=False, highlight=False)


def _cells(row: dict[str, Any]) -> list[str]:
    start = [row["runtime"], row["device"], str(row["threads"]), str(row["batch"])]
    if "ms_per_shower" not in row:
        return [*start, *[MISSING] * 5]
    score = MISSING
    if "score" in row:
        error = "" if row["error"] is None else f" ± {row['error']:.4f}"
        score = f"{row['score']:.4f}{error}" + ("" if row["usable"] else " ✗")
    return [
        *start,
        f"{row['ms_per_shower']:.3g}",
        f"{row['ms_low']:.3g}–{row['ms_high']:.3g}",
        f"{row['cpu_ms_per_shower']:.3g}",
        score,
        f"{row['speed_up']:.3g} ×" if "speed_up" in row else MISSING,
    ]
