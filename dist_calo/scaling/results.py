"""Results on disk: one whole file for each point and repeat, so that a killed task repeats only what it was at."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dist_calo.errors import DataError
from dist_calo.files import write_whole

_NAME = re.compile(r"repeat-(\d+)\.json")


def point_folder(results: Path, number: int) -> Path:
    """Where the measurements of a point lie."""
    return results / "points" / f"{number:04d}"


def measured(results: Path, number: int) -> list[int]:
    """Repeats of a point that are complete, in order."""
    folder = point_folder(results, number)
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, os.listdir(folder)) if match)


def missing(results: Path, number: int, repeats: int) -> list[int]:
    """Repeats of a point that are still to be measured."""
    return sorted(set(range(repeats)) - set(measured(results, number)))


def forget(results: Path, number: int, spared_job: str = "") -> None:
    """Remove the measurements of a point, to measure it again; not those that this batch job has made."""
    for repeat in measured(results, number):
        file = point_folder(results, number) / f"repeat-{repeat}.json"
        if not spared_job or _job_of(file) != spared_job:
            file.unlink(missing_ok=True)


def _job_of(file: Path) -> str | None:
    try:
        return json.loads(file.read_text()).get("job")
    except (OSError, ValueError):
        return None


def write_result(results: Path, number: int, repeat: int, values: Mapping[str, Any]) -> Path:
    """Write a measurement; a task that is killed leaves none or a whole one."""
    file = point_folder(results, number) / f"repeat-{repeat}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(file) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")
    return file


def read_results(results: Path, number: int) -> list[dict[str, Any]]:
    """The measurements of a point, in order of their repeats.

    Raises:
        DataError: if a file cannot be read.
    """
    found = []
    for repeat in measured(results, number):
        file = point_folder(results, number) / f"repeat-{repeat}.json"
        try:
            found.append(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: cannot be read ({error}); remove it and run the point again") from error
    return found
