"""Results on disk: one whole file for each point and repeat, so that a killed task repeats only what it was at."""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_calo.documents import read_json
from dist_calo.errors import ConfigError, DataError
from dist_calo.files import write_text
from dist_calo.values import value_of

_NAME = re.compile(r"repeat-(\d+)\.json")
_REMEDY = "remove it and run the point again"


@dataclass(frozen=True, kw_only=True)
class _Needed:
    """Values of a measurement that the report needs; results of earlier versions lack what has a default."""

    step_s: float
    cpu_s: float
    startup_s: float
    build_s: float
    wait_data_s: float
    bytes_per_step: float
    collectives_per_step: float
    threads: float
    threads_per_core: float
    compute_s: float | None
    wait_comm_s: float | None
    peak_memory_bytes: float | None
    energy_j: float | None
    energy_j_per_shower: float | None
    core_share_least: float | None = None
    thread_quota: float | None = None
    validation_s: float | None = None
    checkpoint_s: float | None = None
    run_id: str | None = None
    job: str = ""
    plan: str = ""

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        for name, value in numbers.items():
            if not 0 <= value < math.inf or (name in ("step_s", "threads_per_core") and value == 0):
                raise ValueError(f"{name}={value}: must be a finite number above 0")


def point_folder(results: Path, number: int) -> Path:
    """Return the folder of a point's measurements."""
    return results / "points" / f"{number:04d}"


def measured(results: Path, number: int) -> list[int]:
    """Return the repeats of a point that are complete, in order."""
    folder = point_folder(results, number)
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, os.listdir(folder)) if match)


def missing(results: Path, number: int, repeats: int) -> list[int]:
    """Return the repeats of a point that are still to be measured."""
    return sorted(set(range(repeats)) - set(measured(results, number)))


def forget(results: Path, number: int, spared_job: str = "") -> None:
    """Remove the measurements of a point, to measure it again; not those that this batch job has made."""
    for repeat in measured(results, number):
        file = point_folder(results, number) / f"repeat-{repeat}.json"
        if not spared_job or _job_of(file) != spared_job:
            file.unlink(missing_ok=True)


def _job_of(file: Path) -> Any:
    try:
        return read_json(file, dict[str, Any], DataError, _REMEDY).get("job")
    except (DataError, OSError):
        return None


def write_result(results: Path, number: int, repeat: int, values: Mapping[str, Any]) -> Path:
    """Write a measurement; a task that is killed leaves none or a whole one."""
    file = point_folder(results, number) / f"repeat-{repeat}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(values, indent=1) + "\n")
    return file


def read_results(results: Path, number: int, plan: str = "") -> list[dict[str, Any]]:
    """Read the measurements of a point, in order of their repeats.

    Args:
        results: the folder.
        number: of the point.
        plan: digest of the point, from `ScalingPlan.digest`; empty to take whatever lies there.

    Raises:
        DataError: if a file cannot be read, or belongs to another plan.
    """
    found = []
    for repeat in measured(results, number):
        file = point_folder(results, number) / f"repeat-{repeat}.json"
        values = _read(file)
        if plan and values.get("plan", plan) != plan:
            raise DataError(f"{file}: was measured for another plan than the one that lies here; {_REMEDY}")
        found.append(values)
    return found


def _read(file: Path) -> dict[str, Any]:
    values = read_json(file, dict[str, Any], DataError, _REMEDY)
    try:
        value_of(_Needed, values, "")
    except (ValueError, ConfigError) as error:
        raise DataError(f"{file}: {error}; {_REMEDY}") from None
    return values
