"""Reading a configuration from ``--config FILE`` and dotted overrides, and ending a command with one clear line."""

import difflib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

from dist_calo.config import RunConfig
from dist_calo.errors import EXIT_USER, UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def _valid_keys() -> Iterator[str]:
    for section in fields(RunConfig):
        yield section.name
        for setting in fields(section.default_factory):  # type: ignore[arg-type]
            yield f"{section.name}.{setting.name}"


def _with_nearest(message: str) -> str:
    """One line of the parser's message, with the nearest valid name for an unknown key."""
    line = " ".join(message.split())
    unknown = re.search(r"(?:Key|key|option|arguments?:?) *['\"]?-*([A-Za-z_][\w.]*)", line)
    if unknown and re.search(r"unrecognized|not expected|is not|No action|does not", line, re.IGNORECASE):
        key = unknown.group(1)
        near = difflib.get_close_matches(key, list(_valid_keys()), n=1, cutoff=0.0)
        if key not in _valid_keys() and near:
            return f"{key}: there is no such setting; the nearest is {near[0]} (all are shown by --help)"
    return line


def config_parser(program: str, description: str) -> "ArgumentParser":
    """The parser of a `RunConfig`; entry points add their own options to it."""
    import jsonargparse

    class Parser(jsonargparse.ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            print(f"{self.prog}: {_with_nearest(message)}", file=sys.stderr)
            raise SystemExit(EXIT_USER)

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = Parser(prog=program, description=description, exit_on_error=True)
    parser.add_argument("--config", action="config", help="YAML file of settings; the options below override it.")
    for section in fields(RunConfig):
        parser.add_class_arguments(section.default_factory, section.name)  # type: ignore[arg-type]
    return parser


def build_config(parser: "ArgumentParser", values: Any) -> RunConfig:
    """The checked configuration of parsed values.

    Raises:
        ConfigError: if a value breaks a rule.
    """
    names = [section.name for section in fields(RunConfig)]
    built = {}
    for section in fields(RunConfig):
        given = values[section.name]
        built[section.name] = section.default_factory(**{f.name: given[f.name] for f in fields(section.default_factory)})  # type: ignore[misc,arg-type]
    assert set(built) == set(names)
    return RunConfig(**built)


def run_command(program: str, command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command; a `UserError` becomes one line on standard error and exit code 2."""
    try:
        return command(arguments)
    except UserError as error:
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER
