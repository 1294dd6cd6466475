"""Readers of YAML and other texts that a user writes: bounded, and with one clear line for each fault.

What a plain word of YAML means depends on what it is for: ``no`` is a text for ``checkpoint.resume`` and false for
``train.channels_last``. So words stay texts (`Word`) until `value_of` is told the declared type.
"""

import difflib
import errno
import os
import re
import select
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from dist_calo.errors import ConfigError, shown
from dist_calo.files import decode, read_bytes
from dist_calo.masking import hidden

if TYPE_CHECKING:
    from yaml import Event

LARGEST_TEXT = 2**20
"""Most bytes of a text that is written by hand."""
PIPE_WITHIN_S = 5.0
"""Time for which a pipe may say nothing, in seconds."""
MOST_ENTRIES, DEEPEST = 100_000, 30
"""Bounds of a YAML document, counted with all that its aliases repeat."""
LARGEST_NUMBER, LARGEST_FLOAT = 2**64, 3.4e38
"""Bounds of whole numbers, and of others, with which networks compute in float32."""
TRUE, FALSE, NULL = ("true", "yes", "on"), ("false", "no", "off"), ("", "~", "null")
TAGS = ("!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")))


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


def read_text(path: str | Path) -> str:
    """Return the UTF-8 text of a file or pipe.

    Raises:
        ConfigError: if it cannot be read, is no such text, or is larger than a person would write.
    """
    try:
        data = _piped(path) if Path(path).is_fifo() else read_bytes(path, LARGEST_TEXT)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)!r}: {reason}; name a file that can be read") from error
    try:
        return decode(data)
    except ValueError as error:
        raise ConfigError(f"{path}, {error}; save the file as UTF-8") from None


def _piped(path: str | Path) -> bytes:
    """Return what is written to a pipe until its end, such as that of ``--config <(program)``."""
    data = b""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], PIPE_WITHIN_S)[0]:
            part = pipe.read(LARGEST_TEXT)
            if not part:
                return data
            data += part
            if len(data) > LARGEST_TEXT:
                raise OSError(errno.EFBIG, f"is larger than {LARGEST_TEXT} bytes")
    raise OSError(errno.ETIMEDOUT, "nobody writes to this pipe")


def load_yaml(path: str | Path) -> Any:
    """Return dicts, lists and `Word` of a YAML file; None where there is nothing in it.

    Raises:
        ConfigError: if the file cannot be read, is no YAML, or more than a person would write.
    """
    text = read_text(path)
    with errors_of(path):
        return parse_yaml(text)


@contextmanager
def errors_of(path: str | Path) -> Iterator[None]:
    """Name the file in every `ConfigError` about what is in it, and the line where that is known."""
    try:
        yield
    except ConfigError as error:
        line = f", line {error.line}" if isinstance(error, _Fault) else ""
        raise ConfigError(f"{path}{line}: {error}") from None


def parse_yaml(text: str) -> Any:
    """Return what `load_yaml` returns, of a text.

    Raises:
        ConfigError: if it is no YAML, or more than a person would write.
    """
    import yaml

    # The parser of libyaml is ten times as fast; not every build of PyYAML has it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Document(iter(yaml.parse(text, Loader=loader))).whole()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(filter(None, (error.context, error.problem)))
        raise _Fault(f"is no YAML ({said})", mark.line + 1 if mark else 1) from None
    except yaml.reader.ReaderError as error:
        raise _Fault(f"is no YAML ({error.reason})", text.count("\n", 0, error.position) + 1) from None


class _Fault(ConfigError):
    """An error at a line of a text, counted from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class _Document:
    """A YAML document: builds values from a parser's events, and counts them."""

    events: "Iterator[Event]"
    anchors: dict[str, tuple[Any, int] | None] = field(default_factory=dict)
    """For each anchor its value and how many entries that has; None while it is being read."""
    entries: int = 0

    def whole(self) -> Any:
        """Return the values of the only document."""
        import yaml

        found: list[Any] = []
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if found:
                    raise _Fault("begins a second document (---); one file holds one", _line(event))
                found.append(self._value(next(self.events), 0))
        return found[0] if found else None

    def _value(self, event: "Event", depth: int) -> Any:
        import yaml

        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            known = self.anchors.get(str(event.anchor))
            if known is None:
                why = "lies in itself" if event.anchor in self.anchors else "is defined nowhere above"
                raise _Fault(
                    f"*{shown(event.anchor)} {why}; a text that begins with * stands in quotes", line
                )
            self._count(known[1], line)
            return known[0]
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag is not None and event.tag not in TAGS:
            raise _Fault(f"the tag {shown(event.tag)} is not known here; leave it out", line)
        if depth > DEEPEST:
            raise _Fault(f"is nested more than {DEEPEST} deep", line)
        before = self.entries
        self._count(1, line)
        if event.anchor:
            self.anchors[event.anchor] = None
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = Word(event.value, event.implicit[0], line)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = [self._value(each, depth + 1) for each in self._until(yaml.SequenceEndEvent)]
        else:
            value = self._mapping(depth + 1)
        if event.anchor:
            self.anchors[event.anchor] = value, self.entries - before
        return value

    def _until(self, end: type) -> "Iterator[Event]":
        while not isinstance(event := next(self.events), end):
            yield event

    def _mapping(self, depth: int) -> dict[str, Any]:
        import yaml

        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for event in self._until(yaml.MappingEndEvent):
            line = _line(event)
            key = self._value(event, depth)
            value = self._value(next(self.events), depth)
            if not isinstance(key, Word):
                raise _Fault("a name must be a word, not a list or a section", line)
            if key == "<<" and key.plain:
                parts = value if isinstance(value, list) else [value]
                if not all(isinstance(part, dict) for part in parts):
                    raise _Fault("<< takes the entries of a section (*NAME) or of a list of sections", line)
                for part in parts:
                    merged = {**part, **merged}
            elif key in own:
                raise _Fault(f"{shown(key)} stands here a second time; leave one", line)
            else:
                own[key] = value
        return {**merged, **own}

    def _count(self, entries: int, line: int) -> None:
        self.entries += entries
        if self.entries > MOST_ENTRIES:
            raise _Fault(f"with all that aliases repeat it has more than {MOST_ENTRIES:,} entries", line)


def _line(event: "Event") -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def value_of(kind: Any, value: Any, name: str) -> Any:
    """Return a value in the declared type of a setting.

    Args:
        kind: str, int, float, bool, Any, a Literal of texts, list[...], dict[str, ...], a dataclass of these, or a
            union of them and None.
        value: what `load_yaml` returns, or an ordinary value.
        name: what a message calls it.

    Passwords in a text are masked (`dist_calo.masking`).

    Raises:
        ConfigError: if the value has no clear meaning for this type: with file and line, if it knows them.

    Example:
        >>> value_of(int, "20", "train.max_steps")
        20
        >>> value_of(list[float], ["1", 2.5], "edges")
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
        if not isinstance(value, list | tuple):
            raise _wrong(name, value, "must be a list")
        return origin(value_of(options[0], each, name) for each in value)
    if is_dataclass(kind):
        return _built(kind, section_of(value, name), name)
    if origin is dict:
        entries = section_of(value, name)
        return {str(key): value_of(options[1], each, f"{name}.{key}") for key, each in entries.items()}
    if isinstance(value, dict | list | tuple) or is_null:
        what = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")
        advice = "; a text may stand in quotes" if is_null and kind is str else ""
        raise _wrong(name, value, f"must be {what}{advice}")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if origin is Literal:
        if (found := _choice(options, value)) is None:
            raise _wrong(name, value, f"choose from {', '.join(options)}")
        return found
    if kind is bool:
        if text.lower() not in TRUE + FALSE:
            raise _wrong(name, value, "must be true or false")
        return text.lower() in TRUE
    return hidden(text) if kind is str else _number(kind, text, name, value)


def _choice(options: tuple[str, ...], value: Any) -> str | None:
    """Return the option that a value means, in any case; false and off stand for no, true and on for yes."""
    text = str(value).lower()
    same = next((words for words in (TRUE, FALSE) if text in words), (text,))
    return next((option for option in options if option.lower() in same), None)


def _built(kind: Any, values: Mapping[str, Any], name: str) -> Any:
    hints = get_type_hints(kind)
    known = {each.name: each for each in fields(kind)}
    for key in values:
        if key not in known:
            raise unknown("entry", key, known)
    for key, each in known.items():
        if key not in values and each.default is MISSING and each.default_factory is MISSING:
            raise ConfigError(f"{name}: {key} is missing")
    return kind(**{str(key): value_of(hints[key], value, f"{name}.{key}") for key, value in values.items()})


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
        return {str(key): _resolved(each, f"{name}.{key}") for key, each in value.items()}
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
    return _fault(f"{name}={shown(value)}: {rule}", value)


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error about an unknown name, with the nearest known one."""
    nearest = difflib.get_close_matches(name[:80], list(known), n=1, cutoff=0.0)[0]
    return _fault(f"{shown(name)}: there is no such {kind}; the nearest is {nearest}", name)


def _fault(message: str, word: Any) -> ConfigError:
    """Return an error about a word, with its line where that is known."""
    line = getattr(word, "line", None)
    return ConfigError(message) if line is None else _Fault(message, line)
