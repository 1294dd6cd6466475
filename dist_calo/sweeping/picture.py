"""A study in one picture: parallel coordinates, the history, and the importance of each setting.

Optuna's own plots are no replacement: each makes a figure of its own, and its parallel coordinates leave out pruned
trials and those in which a setting does not count.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.files import write_whole
from dist_calo.sweeping.space import Parameter
from dist_calo.sweeping.study import Study
from dist_calo.sweeping.table import short_names

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FORMATS = (".png", ".svg", ".pdf")
ABSENT = -0.08
"""Height at which a trial passes a setting that does not count in it."""

LEAST_TRIALS = 5
"""Complete trials below which importances would be chance."""


def draw(study: Study, path: Path) -> bool:
    """Draw the study into a file; its name says the format. False if no trial has a value yet."""
    from matplotlib.figure import Figure

    trials = [trial for trial in study.finished if trial.value is not None and math.isfinite(trial.value)]
    if not trials:
        return False
    axes_count = len(study.sweep.parameters.parameters) + 1
    figure = Figure(figsize=(max(10.0, 1.5 * axes_count + 2.0), 8.0), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.25, 1.0))
    _parallel(figure.add_subplot(grid[0, :]), study, trials)
    _history(figure.add_subplot(grid[1, 0]), study, trials)
    _importances(figure.add_subplot(grid[1, 1]), study)
    complete = sum(trial.state.name == "COMPLETE" for trial in trials)
    figure.suptitle(f"{study.folder.name}: {complete} complete of {len(study.finished)} trials", fontsize=11)
    with write_whole(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=110)
    return True


def _parallel(axes: Any, study: Study, trials: "list[FrozenTrial]") -> None:
    """Draw one line a trial through one axis a setting; the last axis is the value, which colours the line."""
    from matplotlib import colormaps

    parameters = study.sweep.parameters.parameters
    values = np.array([trial.value for trial in trials], dtype=float)
    logarithmic = _spans_decades(values)
    heights = _scaled(values, logarithmic)
    best_first = heights if study.sweep.direction == "minimize" else 1.0 - heights
    colours = colormaps["viridis_r"]
    # The best are drawn last, on top of the others.
    for place in np.argsort(-best_first):
        trial = trials[place]
        marks = [_height(parameter, trial.params) for parameter in parameters]
        pruned = trial.state.name == "PRUNED"
        axes.plot(
            range(len(parameters) + 1),
            [*marks, heights[place]],
            color="0.8" if pruned else colours(0.9 * (1.0 - best_first[place]) + 0.1),
            linewidth=0.6 if pruned else 1.0 + 1.2 * (best_first[place] == best_first.min()),
            alpha=0.9,
        )
    _scales(axes, parameters, values, logarithmic)
    axes.set_xticks(
        range(len(parameters) + 1),
        [*short_names([p.name for p in parameters]), study.sweep.objective],
        fontsize=8,
    )
    axes.set_xlim(-0.15, len(parameters) + 0.5)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(
        "dark: good; grey: pruned; below an axis: the setting does not count", fontsize=8, color="0.35"
    )


def _scales(axes: Any, parameters: tuple[Parameter, ...], values: np.ndarray, logarithmic: bool) -> None:
    for place, parameter in enumerate(parameters):
        axes.axvline(place, color="0.5", linewidth=0.8, zorder=0)
        for height, text in _marks(parameter):
            _label(axes, place, height, text)
    place = len(parameters)
    axes.axvline(place, color="0.5", linewidth=0.8, zorder=0)
    low, high = float(values.min()), float(values.max())
    for share in (0.0, 0.5, 1.0):
        value = low * (high / low) ** share if logarithmic else low + share * (high - low)
        _label(axes, place, share, f"{value:.3g}")


def _label(axes: Any, place: int, height: float, text: str) -> None:
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    axes.annotate(
        text,
        (place, height),
        xytext=(3, 0),
        textcoords="offset points",
        fontsize=7,
        va="center",
        bbox=box,
        zorder=5,
    )


def _marks(parameter: Parameter) -> list[tuple[float, str]]:
    """Return heights on an axis and their labels."""
    if parameter.choices is not None:
        names = [
            Path(value).stem if parameter.name == "config" else value for value in map(str, parameter.choices)
        ]
        return [
            (_height(parameter, {parameter.name: c}), n)
            for c, n in zip(parameter.choices, names, strict=True)
        ]
    assert parameter.low is not None
    assert parameter.high is not None
    middle = (
        math.sqrt(parameter.low * parameter.high) if parameter.log else (parameter.low + parameter.high) / 2
    )
    bounds = (parameter.low, middle, parameter.high)
    return [(_height(parameter, {parameter.name: bound}), f"{bound:.3g}") for bound in bounds]


def _height(parameter: Parameter, params: dict[str, Any]) -> float:
    """Return the height at which a trial crosses the axis of a setting, from 0 to 1."""
    if parameter.name not in params:
        return ABSENT
    value = params[parameter.name]
    if parameter.choices is not None:
        return parameter.choices.index(value) / max(1, len(parameter.choices) - 1)
    assert parameter.low is not None
    assert parameter.high is not None
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _scaled(values: np.ndarray, logarithmic: bool) -> np.ndarray:
    """Return the values scaled from 0, the least, to 1, the greatest."""
    numbers = np.log(values) if logarithmic else values
    spread = float(np.ptp(numbers))
    scaled: np.ndarray = (numbers - numbers.min()) / spread if spread else np.full(len(numbers), 0.5)
    return scaled


def _spans_decades(values: np.ndarray) -> bool:
    return bool(values.min() > 0 and values.max() > 10 * values.min())


def _history(axes: Any, study: Study, trials: "list[FrozenTrial]") -> None:
    """Draw the value of each trial, and the best so far."""
    states = {"COMPLETE": ("o", "tab:blue"), "PRUNED": ("x", "0.6")}
    for state, (marker, colour) in states.items():
        chosen = [trial for trial in trials if trial.state.name == state]
        if chosen:
            axes.plot(
                [t.number for t in chosen],
                [t.value for t in chosen],
                marker,
                color=colour,
                label=state.lower(),
            )
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if complete:
        best = np.minimum if study.sweep.direction == "minimize" else np.maximum
        numbers = [trial.number for trial in complete]
        so_far = best.accumulate([float(trial.value or 0.0) for trial in complete])
        axes.step(numbers, so_far, where="post", color="tab:orange", label="best so far")
    if _spans_decades(np.array([trial.value for trial in trials], dtype=float)):
        axes.set_yscale("log")
    axes.set_xlabel("trial")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel(study.sweep.objective)
    axes.legend(fontsize=8)


def _importances(axes: Any, study: Study) -> None:
    """Draw the share of the values' variance that each setting explains alone (Hutter et al., ICML 2014)."""
    found = _found_importances(study)
    if not found:
        axes.text(
            0.5,
            0.5,
            f"importances from {LEAST_TRIALS} complete trials on",
            ha="center",
            va="center",
            color="0.35",
        )
        axes.set_axis_off()
        return
    names = list(found)[::-1]
    axes.barh(short_names(names), [found[name] for name in names], color="tab:green")
    axes.set_xlabel("share of the variance over complete trials (fANOVA)")
    axes.tick_params(axis="y", labelsize=8)


def _found_importances(study: Study) -> dict[str, float]:
    """Return the importance of the settings that count in every trial; it is not defined for others."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    complete = [trial for trial in study.finished if trial.state.name == "COMPLETE"]
    common = [parameter.name for parameter in study.sweep.parameters.parameters if not parameter.when]
    if len(complete) < LEAST_TRIALS or len({trial.value for trial in complete}) == 1:
        return {}
    evaluator = FanovaImportanceEvaluator(seed=0)
    found = get_param_importances(
        study.optuna, evaluator=evaluator, params=common, target=lambda trial: trial.values[0]
    )
    return {name: float(value) for name, value in found.items()}
