"""Recipes that come with the package: ``dist-calo configs [--show NAME | --schema]``."""

import json
import re
from collections.abc import Sequence
from glob import iglob
from itertools import takewhile
from pathlib import Path
from typing import Any

from dist_calo.cli.command_line import one_line_parser
from dist_calo.config import SECTIONS, RunConfig
from dist_calo.documents import load_yaml, read_text
from dist_calo.resources import SAMPLES, recipe, recipes, shower_pattern
from dist_calo.simulation.detectors import DETECTORS


def main(arguments: Sequence[str]) -> int:
    """List the recipes, or print one or the schema of all, and return the exit code."""
    parser = one_line_parser(
        "dist-calo configs", "The recipes of --config and of `dist-calo sweep run`: list them, or print one."
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--show", metavar="NAME", help="print this recipe, such as lcd_fast or sweeps/lcd_fast"
    )
    choice.add_argument(
        "--schema",
        action="store_true",
        help="print a JSON schema of the settings, by which editors complete them",
    )
    options = parser.parse_args(list(arguments))
    if options.schema:
        print(json.dumps(schema(), indent=2))
    elif options.show:
        search = options.show.removeprefix("sweeps/")
        path = recipe(options.show) if search == options.show else recipe(search, "configs/sweeps")
        print(read_text(path), end="")
    else:
        print("Trainings (--config NAME):")
        found = recipes()
        missing = {name: data for name, path in found.items() if not _is_there(data := _data_path(path))}
        _list(found, missing)
        print("\nSearches (dist-calo sweep run NAME):")
        _list(recipes("configs/sweeps"), {})
        if missing:
            print(f"\nFiles that a recipe needs are not here: {_remedy(set(missing.values()))}")
    return 0


def _list(found: dict[str, Path], missing: dict[str, str]) -> None:
    width = max(map(len, found))
    for name, path in found.items():
        needs = f" [needs {missing[name]}]" if name in missing else ""
        print(f"  {name:<{width}}  {_purpose(path)}{needs}")


def _data_path(path: Path) -> str:
    """Return the showers that a recipe of the package names."""
    return str((load_yaml(path).get("data") or {}).get("path", SAMPLES[0]))


def _is_there(pattern: str) -> bool:
    return next(iglob(shower_pattern(pattern), recursive=True), None) is not None


def _remedy(patterns: set[str]) -> str:
    """Return how to get showers for these paths."""
    folders = {Path(pattern).parent.name: pattern.replace("*", "showers") for pattern in sorted(patterns)}
    made = [
        f"  mkdir -p {Path(out).parent} && dist-calo simulate --detector {name} --n 10000 --out {out}"
        for name, out in folders.items()
        if name in DETECTORS
    ]
    return "\n".join([f"name your files by --data.path{', or make some:' if made else ''}", *made])


def _purpose(path: Path) -> str:
    """Return what the comment at the head of a file begins with."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return re.split(r" \(|[.:,] |$", " ".join(line.lstrip("# ") for line in lines))[0]


def schema() -> dict[str, Any]:
    """Return the JSON schema of a file of settings; what stands below a setting's name in `RunConfig` describes it."""
    from docstring_parser import parse_from_object
    from pydantic import TypeAdapter

    found: dict[str, Any] = TypeAdapter(RunConfig).json_schema()
    found |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "additionalProperties": False}
    found["properties"]["launch"] = {"type": "integer", "description": "Start so many ranks here."}
    for section in SECTIONS.values():
        settings = found["$defs"][section.__name__]
        settings["additionalProperties"] = False
        for told in parse_from_object(section).params:
            settings["properties"][told.arg_name]["description"] = told.description
    return found
