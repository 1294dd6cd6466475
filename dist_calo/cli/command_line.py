"""Configuration from ``--config FILE`` and dotted overrides, parsers, and the one line of an error."""

import argparse
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_origin

from dist_calo.config import SECTIONS, RunConfig, kind_of, setting_names
from dist_calo.documents import load_yaml, parse_yaml
from dist_calo.errors import EXIT_INTERRUPTED, EXIT_USER, ConfigError, UserError, of_user, shown
from dist_calo.launching import early_signals
from dist_calo.masking import hidden
from dist_calo.resources import recipe
from dist_calo.values import Word, errors_of, section_of, unknown, value_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Choice = TypeVar("Choice", bound=str)

MODEL_SOURCES = (
    "checkpoint file, or folder (its best one), or of MLflow models:/NAME/VERSION or runs:/ID/model"
)

LENGTHS = ("train.max_steps", "train.max_epochs")
_ACTIONS = ("help", "config", "print_config")
"""Options of the parser that no file of settings can hold."""


class _GivenSettings:
    """Settings as they are given, later ones over earlier ones; ``rest`` holds other options."""

    def __init__(self, actions: Iterable[argparse.Action]) -> None:
        self.values: dict[str, Any] = {}
        self.rest: list[str] = []
        self._options = {
            action.dest: action
            for action in actions
            if action.option_strings and "." not in action.dest and action.dest not in (*SECTIONS, *_ACTIONS)
        }

    def read(self, file: str, section: str = "") -> None:
        """Take all that a file says, of everything or of one section."""
        found = load_yaml(file)
        with errors_of(file):
            self.take(section, found)

    def take_word(self, name: str, text: str) -> None:
        """Take ``--NAME=TEXT``; a section may also be named by a file."""
        kind = kind_of(name)
        value: Any = Word(text)
        is_list = text[:1] + text[-1:] == "[]" and any(get_origin(each) is list for each in get_args(kind))
        if is_list or kind in (dict, Any) or get_origin(kind) is dict:
            try:
                value = parse_yaml(text)
            except ConfigError as error:
                if not is_list:
                    raise ConfigError(f"{name}={shown(text)}: {error}") from None
                # [*.h5]: a star has a meaning in YAML.
                value = [Word(part.strip()) for part in text[1:-1].split(",")]
        if kind is dict and isinstance(value, Word):
            self.read(text, name)
        else:
            self.take(name, value)

    def take(self, name: str, value: Any) -> None:
        """Take the value of a setting, of all of a section, or of everything.

        Raises:
            ConfigError: if there is no such setting, or its value has no clear meaning.
        """
        kind = kind_of(name) if name else dict
        if kind is dict:
            for key, entry in section_of(value, name or "settings").items():
                # A word, which knows its line.
                key = Word(f"{name}.{key}", line=getattr(key, "line", None)) if name else key
                self.take(key, entry)
        elif kind is not None:
            found = value_of(kind, value, name)
            section, setting, *entry = name.split(".", 2)
            key = f"{section}.{setting}"
            self.values[key] = {**self.values.get(key, {}), entry[0]: found} if entry else found
        elif (action := self._options.get(name)) is None:
            raise unknown("setting", name, [*setting_names(), *self._options])
        elif action.nargs != 0:
            self.rest.append(f"{action.option_strings[-1]}={value_of(str, value, name)}")
        elif value_of(bool, value, name):
            self.rest.append(action.option_strings[-1])


def _read_given(arguments: Sequence[str], actions: Iterable[argparse.Action]) -> _GivenSettings:
    """Read the settings of files, then those of the command line: an option overrides a file wherever it stands.

    Raises:
        ConfigError: if a file cannot be read, there is no such setting, or its value has no clear meaning.
    """
    given = _GivenSettings(actions)
    options: list[tuple[str, str]] = []
    others: list[str] = []
    waiting = deque(arguments)
    while waiting:
        word = waiting.popleft()
        name, equals, text = word.removeprefix("--").partition("=")
        if name == "tracking-uri":
            name = "tracking.uri"
        if not word.startswith("--") or (name != "config" and name.partition(".")[0] not in SECTIONS):
            others.append(word)
            continue
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise ConfigError(f"--{name}: a value is missing: write --{name}=VALUE")
            text = waiting.popleft()
        if name == "config":
            given.read(recipe(text))
        else:
            options.append((name, text))
    of_files = {name: given.values.pop(name) for name in LENGTHS if name in given.values}
    for name, text in options:
        given.take_word(name, text)
    given.values = {**of_files, **_one_length(given.values), **given.values}
    given.rest += others
    return given


def _one_length(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the command line's ``train.max_steps`` sets besides: no epochs, which a file may ask for.

    Raises:
        ConfigError: if it says as well how many epochs.
    """
    steps, epochs = (values.get(name) for name in LENGTHS)
    if steps is not None and epochs is not None:
        raise ConfigError(
            f"train.max_steps={steps} and train.max_epochs={epochs:g}: both say how long a run is; give one of the two"
        )
    return {} if steps is None else {LENGTHS[1]: None}


def _with_nearest(message: str, known: Iterable[str]) -> str:
    """Put the parser's own message on one line; a word that it does not know gets advice."""
    line = re.sub(r'Parser key "([\w.]+)": ', r"\1: ", " ".join(message.split()))
    if number := re.fullmatch(r"([\w.]+): Expected a <class 'int'>. Got value: (.*)", line):
        return f"{number[1]}={shown(number[2])}: must be a whole number"
    found = re.search(r"unrecognized arguments: (-*)([^\s=]+)", line)
    if not found:
        return line
    dashes, name = found.groups()
    if not dashes:
        return f"{shown(name)}: belongs to no option; several files are written --data.path='[FILE, FILE]'"
    return f"{unknown('option', name, known)} (--help shows all)"


def config_parser(program: str, description: str) -> "ArgumentParser":
    """Return the parser of a `RunConfig`; entry points add their own options to it."""
    import jsonargparse

    class SettingsParser(jsonargparse.ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            known = (text.lstrip("-") for action in self._actions for text in action.option_strings)
            raise ConfigError(_with_nearest(message, known))

        def parse_args(  # type: ignore[override]
            self, args: Sequence[str] | None = None, *rest: Any, **options: Any
        ) -> Any:
            given = _read_given(sys.argv[1:] if args is None else args, self._actions)
            settings = jsonargparse.Namespace()
            for name, value in given.values.items():
                settings[name] = value
            return super().parse_args(given.rest, settings, *rest, **options)

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = SettingsParser(prog=program, description=description, exit_on_error=True, allow_abbrev=False)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file of settings, or a recipe that `dist-calo configs` lists; the options below override it.",
    )
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)
    return parser


def build_config(parser: "ArgumentParser", values: Any) -> RunConfig:
    """Return the checked configuration of parsed values.

    Raises:
        ConfigError: if a value breaks a rule.
    """
    return RunConfig.from_dict(
        {
            name: {setting.name: values[name][setting.name] for setting in fields(section)}
            for name, section in SECTIONS.items()
        }
    )


def one_line_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Return a plain parser of a small command: a wrong option is one line, not a page of usage."""

    class OneLineParser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"{message} (see {self.prog} --help)")

    return OneLineParser(prog=program, description=description, allow_abbrev=False)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a trained model, ``--checkpoint``, and the store it may lie in, ``--tracking.uri``."""
    parser.add_argument("--checkpoint", required=True, help=MODEL_SOURCES)
    add_store_option(
        parser,
        "MLflow's store for models:/ and runs:/ (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)",
    )


def add_store_option(parser: argparse.ArgumentParser, text: str, default: str | None = None) -> None:
    """Add the option that names an MLflow store, spelled as the setting is."""
    names = ("--tracking.uri", "--tracking-uri")
    parser.add_argument(*names, dest="tracking_uri", type=hidden, metavar="URI", default=default, help=text)


def parse_range(option: str, text: str) -> tuple[float, float]:
    """Return the bounds of ``LOW:HIGH`` or of a single number.

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


def parse_numbers(option: str, text: str, wanted: str = "numbers of at least 1 such as 1,2,4") -> list[int]:
    """Return whole numbers of at least 1 that commas separate, each once.

    Raises:
        ConfigError: if the text holds anything else.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"{option} {text}: give {wanted}")
    return list(dict.fromkeys(found))


def parse_choices(option: str, text: str, known: Sequence[Choice]) -> list[Choice]:
    """Return the choices that commas separate, each once.

    Raises:
        ConfigError: if a word is none of them.
    """
    words = list(dict.fromkeys(text.split(",")))
    for word in words:
        if word not in known:
            raise ConfigError(f"{option} {text}: {word or 'nothing'} is none of {', '.join(known)}")
    return [choice for word in words for choice in known if choice == word]


def run_verb(
    program: str, usage: str, verbs: Mapping[str, Callable[[list[str]], int]], given: Sequence[str]
) -> int:
    """Run a verb of a command on the words after it, or print the usage, and return the exit code.

    Raises:
        ConfigError: if there is no such verb.
    """
    if not given or given[0] in ("-h", "--help"):
        print(f"usage: {usage}")
        return 0 if given else EXIT_USER
    if given[0] not in verbs:
        raise ConfigError(f"{program} {given[0]}: there is no such verb; the verbs are {', '.join(verbs)}")
    return verbs[given[0]](list(given[1:]))


def run_command(program: str, command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command, also if its output fails; an error that the user can correct is one line and exit code 2."""
    early_signals.guard_output()
    try:
        with early_signals.tidy_end():
            return command(arguments)
    except (UserError, OSError) as error:
        if (told := of_user(error)) is None:
            raise
        print(f"{program}: {' '.join(str(told).split())}", file=sys.stderr)
        return EXIT_USER
    except KeyboardInterrupt as error:
        print(f"{program}: interrupted{error}", file=sys.stderr)
        return EXIT_INTERRUPTED
