"""A study in words: its trials, the best of them and the command that trains it in full."""

from typing import TYPE_CHECKING

from dist_calo.sweeping.study import Study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

WIDTH = 28
"""Longest value of a setting that is shown whole."""


def trial_line(study: Study, number: int) -> str:
    """Return a line that says how a trial ended."""
    (trial,) = (trial for trial in study.trials if trial.number == number)
    best = study.best
    said = f"trial {number} {trial.state.name.lower()}"
    stand = f"  ({len(study.finished)} of {study.sweep.total} finished)"
    if reason := trial.user_attrs.get("reason"):
        return f"{said}: {reason}{stand}"
    value = "" if trial.value is None else f": {study.sweep.objective} {trial.value:.5g}"
    if best is not None:
        value += (
            ", the best"
            if best.number == number
            else f"; the best is {best.value:.5g} of trial {best.number}"
        )
    return f"{said}{value}{stand}"


def table(study: Study) -> str:
    """Return a table of all trials in the order of their values, the best one marked."""
    names = [parameter.name for parameter in study.sweep.parameters.parameters]
    short = short_names(names)
    rows = [["trial", "state", study.sweep.objective, "steps", "minutes", *short]]
    best = study.best
    for trial in sorted(study.trials, key=lambda trial: _rank(study, trial)):
        mark = "*" if best is not None and trial.number == best.number else ""
        steps = max(trial.intermediate_values, default=0)
        rows.append(
            [
                f"{trial.number}{mark}",
                trial.state.name.lower(),
                "" if trial.value is None else f"{trial.value:.5g}",
                str(steps),
                f"{trial.duration.total_seconds() / 60:.1f}" if trial.duration else "",
                *(_shown(trial.params.get(name, "")) for name in names),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    reasons = [
        f"trial {trial.number} failed: {trial.user_attrs['reason']}"
        for trial in study.trials
        if "reason" in trial.user_attrs
    ]
    return "\n".join([*lines, *reasons])


def summary(study: Study) -> str:
    """Return the state of the study, and the command that trains its best trial in full."""
    counts: dict[str, int] = {}
    for trial in study.trials:
        counts[trial.state.name.lower()] = counts.get(trial.state.name.lower(), 0) + 1
    stand = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none begun"
    lines = [f"{study.folder}: {stand}, of {study.sweep.total} trials"]
    best = study.best
    if best is not None:
        folder = study.folder / f"best_{best.number:04d}"
        lines += [
            f"the best is trial {best.number} with {study.sweep.objective} {best.value:.5g}; its checkpoint is "
            f"{study.trial_folder(best.number) / 'checkpoints' / 'best.pt'}; this trains it in full:",
            "",
            study.sweep.command(best.params, str(folder)),
        ]
    return "\n".join(lines)


def _rank(study: Study, trial: "FrozenTrial") -> tuple[bool, bool, float, int]:
    """Return the key by which trials are sorted: complete ones first, the best of them in front."""
    sign = 1.0 if study.sweep.direction == "minimize" else -1.0
    complete = trial.state.name == "COMPLETE"
    return (not complete, trial.value is None, sign * (trial.value or 0.0), trial.number)


def short_names(names: list[str]) -> list[str]:
    """Return the last words of dotted names, or whole names where those are not unique or just ``name``."""
    last = [name.rpartition(".")[2] for name in names]
    plain = [last.count(short) == 1 and short != "name" for short in last]
    return [short if alone else name for short, name, alone in zip(last, names, plain, strict=True)]


def _shown(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= WIDTH else "…" + text[1 - WIDTH :]
