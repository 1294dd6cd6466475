"""Values in their declared types, of texts that a person writes and of files of our own.

What a plain word of YAML means depends on what it is for: ``no`` is a text for ``checkpoint.resume`` and false for
``train.channels_last``. So words stay texts (`Word`) until `value_of` is told the declared type. Any other value
has its type already, and must be of the declared one.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dist_calo.errors import ConfigError, shown
from dist_calo.masking import hidden

LARGEST_NUMBER, LARGEST_FLOAT = 2**64, 3.4e38
"""Bounds of whole numbers, and of others, with which networks compute in float32."""
TRUE, FALSE, NULL = ("true", "yes", "on"), ("false", "no", "off"), ("", "~", "null")
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


class Word(str):
    """A scalar of YAML, or a value of the command line, as it was written."""

    plain: bool
    """It stands without quotes, so that it may be a number, true, false or null."""
    line: int | None
    """Its line in the file, counted from 1; None on the command line."""

    def __new__(cls, text: str, plain: bool = True, line: int | None = None) -> "Word":
        """Keep where and how the text was written."""
        word = super().__new__(cls, text)
        word.plain, word.line = plain, line
        return word


class Fault(ConfigError):
    """An error at a line of a text, counted from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@contextmanager
def errors_of(path: str | Path) -> Iterator[None]:
    """Name the file in every `ConfigError` about what is in it, and the line where that is known."""
    try:
        yield
    except ConfigError as error:
        line = f", line {error.line}" if isinstance(error, Fault) else ""
        raise ConfigError(f"{path}{line}: {error}") from None


def value_of(kind: Any, value: Any, name: str) -> Any:
    """Return a value in its declared type.

    Args:
        kind: str, int, float, bool, Any, a Literal of texts, list[...], tuple[...], dict[str, ...], a dataclass of
            these, or a union of them and None.
        value: what `dist_calo.documents.load_yaml` returns, or an ordinary value.
        name: what a message calls it; empty for the whole of a file.

    Passwords in a text are masked (`dist_calo.masking`). Entries that a dataclass does not know are refused where a
    person wrote them, and else left out: a later version may have added them.

    Raises:
        ConfigError: if the value has no clear meaning for this type: with file and line, if it knows them.

    Example:
        >>> value_of(int, Word("20"), "train.max_steps")
        20
        >>> value_of(list[float], [Word("1"), 2.5], "edges")
        [1.0, 2.5]
    """
    options, origin = get_args(kind), get_origin(kind)
    is_null = _is_null(value)
    if kind is Any:
        return _resolved(value, name)
    if origin in (UnionType, Union):
        if NoneType in options and is_null:
            return None
        kinds = [option for option in options if option is not NoneType]
        choices = [each for each in kinds if get_origin(each) is Literal and _choice(get_args(each), value)]
        lists = [each for each in kinds if get_origin(each) is list and isinstance(value, list | tuple)]
        others = [each for each in kinds if get_origin(each) not in (Literal, list)]
        return value_of([*choices, *lists, *others, *kinds][0], value, name)
    if origin in (list, tuple):
        return origin(_entries(options if origin is tuple else (*options, ...), value, name))
    if origin is dict or is_dataclass(kind):
        if value is None:  # in a file of our own
            raise _wrong(name, value, "must hold names and values")
        entries = section_of(value, name)
        if origin is not dict:
            return _built(kind, entries, name)
        return {str(key): value_of(options[1], each, _at(name, key)) for key, each in entries.items()}
    types = {float: (int, float)}.get(kind, str if origin is Literal else kind)
    is_other = isinstance(value, bool) != (kind is bool) or not isinstance(value, types)
    if is_null or isinstance(value, dict | list | tuple) or (is_other and not isinstance(value, Word)):
        advice = "; a text may stand in quotes" if is_null and kind is str else ""
        raise _wrong(name, value, f"must be {NAMES.get(kind, 'a text')}{advice}")
    if origin is Literal:
        if (found := _choice(options, value)) is None:
            raise _wrong(name, value, f"choose from {', '.join(options)}")
        return found
    text = str(value)
    if kind is bool:
        if text.lower() not in TRUE + FALSE:
            raise _wrong(name, value, "must be true or false")
        return text.lower() in TRUE
    if kind is str or isinstance(value, float):
        return hidden(text) if kind is str else value
    return _number(kind, text, name, value)


def _at(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _entries(kinds: tuple[Any, ...], value: Any, name: str) -> list[Any]:
    """Return the entries of a list, each in its type."""
    if not isinstance(value, list | tuple):
        raise _wrong(name, value, "must be a list")
    kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
    if len(kinds) != len(value):
        raise _wrong(name, value, f"must be a list of {len(kinds)}")
    return [value_of(kind, each, name) for kind, each in zip(kinds, value, strict=True)]


def _choice(options: tuple[str, ...], value: Any) -> str | None:
    """Return the option that a value means, in any case; false and off stand for no, true and on for yes."""
    text = str(value).lower()
    same = next((words for words in (TRUE, FALSE) if text in words), (text,))
    return next((option for option in options if option.lower() in same), None)


def _built(kind: Any, values: Mapping[str, Any], name: str) -> Any:
    hints, required = _fields(kind)
    for key in values:
        if key not in hints and isinstance(key, Word):
            raise unknown("entry", key, hints)
    found = {}
    for key, hint in hints.items():
        if key in values:
            found[key] = value_of(hint, values[key], _at(name, key))
        elif key in required:
            raise ConfigError(f"{_at(name, key)} is missing")
    return kind(**found)


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the types of the fields of a dataclass, and the names of those that it needs."""
    hints, all_fields = get_type_hints(kind), fields(kind)
    needed = [each.name for each in all_fields if each.default is each.default_factory is MISSING]
    return {each.name: hints[each.name] for each in all_fields}, needed


def section_of(value: Any, name: str) -> dict[str, Any]:
    """Return the names and values of a section; none where nothing stands below its name.

    Raises:
        ConfigError: if it is a list or a single value.
    """
    if _is_null(value):
        return {}
    if not isinstance(value, dict):
        raise _wrong(name, value, "must hold names and values, such as {NAME: VALUE}")
    return value


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, Word) and value.plain and value.lower() in NULL)


def _number(kind: type, text: str, name: str, value: Any) -> float:
    wanted = "a whole number, such as 1000" if kind is int else "a number, such as 0.001"
    text = text.strip()
    if re.fullmatch(r"[-+]?0[\d_]+", text):
        raise _wrong(name, value, "a number does not begin with 0: leave that out (octal: 0o17)")
    try:
        if kind is int and re.fullmatch(r"0[xob][\da-fA-F_]+", text):
            return int(text, 0)
        exact = Decimal(text)
    except (InvalidOperation, ValueError):
        raise _wrong(name, value, f"must be {wanted}") from None
    if not exact.is_finite() or abs(exact) > LARGEST_FLOAT:
        raise _wrong(name, value, "must be finite: the largest number of 32 bits is about 3.4e38")
    if kind is float:
        return float(exact)
    if abs(exact) >= LARGEST_NUMBER:
        raise _wrong(name, value, "is too large: must be below 2**64")
    if exact != exact.to_integral_value():
        raise _wrong(name, value, f"must be {wanted}")
    return int(exact)


def _resolved(value: Any, name: str) -> Any:
    """Return a value for which no type is declared: words without quotes may be numbers, true, false or null."""
    if isinstance(value, dict):
        if not isinstance(next(iter(value), None), Word):
            return value  # not of YAML, whose names are words: a manifest has millions of entries
        return {str(key): _resolved(each, _at(name, key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each, name) for each in value]
    if not isinstance(value, Word):
        return value
    if not value.plain:
        return str(value)
    text = value.lower()
    if _is_null(value):
        return None
    if text in TRUE + FALSE:
        return text in TRUE
    if re.fullmatch(r"[-+]?\d[\d_]*|0[xo][\da-f_]+", text):
        return _number(int, text, name, value)
    if re.fullmatch(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?\.(inf|nan)", text):
        return _number(float, text, name, value)
    return str(value)


def _wrong(name: str, value: Any, rule: str) -> ConfigError:
    return _fault(f"{name}{'=' * bool(name)}{shown(value)}: {rule}", value)


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error about an unknown name, with the nearest known one."""
    nearest = difflib.get_close_matches(name[:80], list(known), n=1, cutoff=0.0)[0]
    return _fault(f"{shown(name)}: there is no such {kind}; the nearest is {nearest}", name)


def _fault(message: str, word: Any) -> ConfigError:
    """Return an error about a word, with its line where that is known."""
    line = getattr(word, "line", None)
    return ConfigError(message) if line is None else Fault(message, line)


def seconds_of(text: str, name: str) -> float:
    """Return a time such as ``90``, ``50m`` or ``2h`` in seconds.

    Raises:
        ConfigError: if it is none; it says so of this setting.

    Example:
        >>> seconds_of("1.5h", "train.max_time")
        5400.0
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?)([smhd]?)", text)
    if found is None:
        raise ConfigError(f"{name}={text}: give a number with s, m, h or d, such as 50m")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def flattened(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield dotted names and plain values of a nested dict, as MLflow parameters need them."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
