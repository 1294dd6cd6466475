"""Reading a configuration from ``--config FILE`` and dotted overrides, and ending a command with one clear line."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

from dist_calo import early
from dist_calo.config import RunConfig
from dist_calo.errors import EXIT_INTERRUPTED, EXIT_USER, ConfigError, UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

MODEL_SOURCES = (
    "checkpoint file, or folder (its best one), or of MLflow models:/NAME/VERSION or runs:/ID/model"
)


def _valid_keys() -> list[str]:
    return [
        f"{section.name}.{setting.name}"
        for section in fields(RunConfig)
        for setting in fields(section.default_factory)  # type: ignore[arg-type]
    ]


def _with_nearest(message: str) -> str:
    """One line of the parser's message, with the nearest valid name for an unknown setting."""
    line = " ".join(message.split())
    line = re.sub(r'Parser key "([\w.]+)": ', r"\1: ", line)
    in_file = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", line)
    on_line = re.search(r"unrecognized arguments: -*([\w.]+)", line)
    if in_file:
        key = ".".join(in_file.groups())
    elif on_line:
        key = on_line.group(1)
    else:
        return line
    nearest = difflib.get_close_matches(key, _valid_keys(), n=1, cutoff=0.0)[0]
    return f"{key}: there is no such setting; the nearest is {nearest} (--help shows all)"


def _files_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with all ``--config FILE`` in front: an option overrides a file wherever it stands."""
    files: list[str] = []
    others: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--config" and waiting:
            files += [argument, waiting.pop(0)]
        else:
            (files if argument.startswith("--config=") else others).append(argument)
    return files + others


def config_parser(program: str, description: str) -> "ArgumentParser":
    """The parser of a `RunConfig`; entry points add their own options to it."""
    import jsonargparse

    class Parser(jsonargparse.ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise ConfigError(_with_nearest(message))

        def parse_args(  # type: ignore[override]
            self, args: Sequence[str] | None = None, *rest: Any, **options: Any
        ) -> Any:
            given = sys.argv[1:] if args is None else args
            return super().parse_args(_files_first(given), *rest, **options)

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = Parser(prog=program, description=description, exit_on_error=True, allow_abbrev=False)
    parser.add_argument(
        "--config", action="config", help="YAML file of settings; the options below override it."
    )
    for section in fields(RunConfig):
        parser.add_class_arguments(section.default_factory, section.name)
    return parser


def build_config(parser: "ArgumentParser", values: Any) -> RunConfig:
    """The checked configuration of parsed values.

    Raises:
        ConfigError: if a value breaks a rule.
    """
    sections: dict[str, Any] = {section.name: section.default_factory for section in fields(RunConfig)}
    return RunConfig.from_dict(
        {
            name: {setting.name: values[name][setting.name] for setting in fields(section)}
            for name, section in sections.items()
        }
    )


def one_line_parser(program: str, description: str) -> argparse.ArgumentParser:
    """A plain parser of a small command: a wrong option is one line, not a page of usage."""

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"{message} (see {self.prog} --help)")

    return Parser(prog=program, description=description, allow_abbrev=False)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a trained model: ``--checkpoint`` and the store that it may lie in, ``--tracking-uri``."""
    parser.add_argument("--checkpoint", required=True, help=MODEL_SOURCES)
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow's store for models:/ and runs:/ (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)",
    )


def parse_range(option: str, text: str) -> tuple[float, float]:
    """Bounds of ``LOW:HIGH`` or of a single number.

    Raises:
        ConfigError: if the text is neither, or the bounds are in the wrong order.
    """
    try:
        low, high = (float(part) for part in (text if ":" in text else f"{text}:{text}").split(":"))
    except ValueError:
        raise ConfigError(f"{option} {text}: give one number or a range such as 10:100") from None
    if not low <= high < float("inf"):
        raise ConfigError(f"{option} {text}: the lower bound comes first and both are finite")
    return low, high


def run_command(program: str, command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command whatever becomes of its output; a `UserError` is one line on standard error and exit code 2."""
    early.guard_output()
    try:
        return command(arguments)
    except UserError as error:
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
