"""Recipes that come with the package: ``dist-calo configs [--show NAME | --schema]``."""

import json
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from dist_calo.cli.command_line import one_line_parser
from dist_calo.config import SECTIONS, RunConfig
from dist_calo.documents import read_text
from dist_calo.resources import recipe, recipes


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
        _list(recipes())
        print("\nSearches (dist-calo sweep run NAME):")
        _list(recipes("configs/sweeps"))
    return 0


def _list(found: dict[str, Path]) -> None:
    width = max(map(len, found))
    for name, path in found.items():
        print(f"  {name:<{width}}  {_purpose(path)}")


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
