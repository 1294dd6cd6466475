"""Readers of texts: YAML that a person writes, JSON of our own; bounded, and with one clear line for each fault."""

import errno
import json
import os
import re
import select
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dist_calo.errors import ConfigError, UserError, shown
from dist_calo.files import MOST_BYTES, read_bytes
from dist_calo.values import Fault, Word, errors_of, value_of

if TYPE_CHECKING:
    from yaml import Event

Form = TypeVar("Form")

LARGEST_TEXT = 2**20
"""Most bytes of a text that is written by hand."""
PIPE_WITHIN_S = 5.0
"""Time for which a pipe may say nothing, in seconds."""
MOST_ENTRIES, DEEPEST = 100_000, 30
"""Bounds of a YAML document, counted with all that its aliases repeat."""
TAGS = ("!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")))


def read_text(
    path: str | Path,
    error: type[UserError] = ConfigError,
    remedy: str = "name a file that can be read, in UTF-8",
    most: int = LARGEST_TEXT,
) -> str:
    """Return the UTF-8 text of a file or pipe, without a byte order mark.

    Args:
        path: the file.
        error: what is raised.
        remedy: what the user can do about it.
        most: size of the largest one, in bytes.

    Raises:
        error: if it cannot be read, is no such text, or is larger.
    """
    try:
        data = _piped(path) if Path(path).is_fifo() else read_bytes(path, most)
    except (OSError, ValueError) as reason:  # ValueError: a NUL in the name
        told = getattr(reason, "strerror", None) or reason
        raise error(f"{str(path)!r}: {told}; {remedy}") from reason
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line, byte = data.count(b"\n", 0, reason.start) + 1, data[reason.start]
        raise error(f"{path}, line {line}: the byte {byte:#04x} is no UTF-8; {remedy}") from None


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
        raise Fault(f"is no YAML ({said})", mark.line + 1 if mark else 1) from None
    except yaml.reader.ReaderError as error:
        raise Fault(f"is no YAML ({error.reason})", text.count("\n", 0, error.position) + 1) from None


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
                    raise Fault("begins a second document (---); one file holds one", _line(event))
                found.append(self._value(next(self.events), 0))
        return found[0] if found else None

    def _value(self, event: "Event", depth: int) -> Any:
        import yaml

        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            known = self.anchors.get(str(event.anchor))
            if known is None:
                why = "lies in itself" if event.anchor in self.anchors else "is defined nowhere above"
                raise Fault(f"*{shown(event.anchor)} {why}; a text that begins with * stands in quotes", line)
            self._count(known[1], line)
            return known[0]
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag is not None and event.tag not in TAGS:
            raise Fault(f"the tag {shown(event.tag)} is not known here; leave it out", line)
        if depth > DEEPEST:
            raise Fault(f"is nested more than {DEEPEST} deep", line)
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
                raise Fault("a name must be a word, not a list or a section", line)
            if key == "<<" and key.plain:
                parts = value if isinstance(value, list) else [value]
                if not all(isinstance(part, dict) for part in parts):
                    raise Fault("<< takes the entries of a section (*NAME) or of a list of sections", line)
                for part in parts:
                    merged = {**part, **merged}
            elif key in own:
                raise Fault(f"{shown(key)} stands here a second time; leave one", line)
            else:
                own[key] = value
        return {**merged, **own}

    def _count(self, entries: int, line: int) -> None:
        self.entries += entries
        if self.entries > MOST_ENTRIES:
            raise Fault(f"with all that aliases repeat it has more than {MOST_ENTRIES:,} entries", line)


def _line(event: "Event") -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def read_json(path: str | Path, form: type[Form], error: type[UserError], remedy: str) -> Form:
    """Read a JSON file of our own and check its form.

    Args:
        path: the file.
        form: a type that `value_of` knows, such as a data class, of which unknown entries are left out.
        error: what is raised of a file that is damaged.
        remedy: what the user can do about it.

    Raises:
        FileNotFoundError: if there is no such file.
        error: if it cannot be read, is no JSON or has another form; names the file, the place and the rule.
    """
    try:
        text = read_text(path, error, remedy, MOST_BYTES)
    except error as reason:
        if isinstance(reason.__cause__, FileNotFoundError):
            raise reason.__cause__ from None
        raise
    try:
        return from_json(text, form)
    except ValueError as reason:
        raise error(f"{path}: {reason}; {remedy}") from None


def from_json(text: bytes | str, form: type[Form]) -> Form:
    """Read a JSON text and check its form, as `read_json` does.

    Raises:
        ValueError: if it is no JSON or has another form: the place and the rule, in one line.
    """
    text = text if isinstance(text, str) else text.decode("utf-8-sig")
    try:
        found = json.loads(text, parse_int=_whole_number)
        if re.search(r"\\ud[89a-f]", text, re.IGNORECASE):
            json.dumps(found, ensure_ascii=False).encode()  # half a pair of these is no character
        return value_of(form, found, "")
    except json.JSONDecodeError as error:
        rule = error.msg[:1].lower() + error.msg[1:]
        raise ValueError(f"is damaged, line {error.lineno} is no JSON ({rule})") from None
    except RecursionError:
        raise ValueError("is damaged, its JSON is nested too deeply") from None
    except UserError as error:
        raise ValueError(str(error)) from None


def _whole_number(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"is damaged, a number of {len(digits)} digits")
    return int(digits)
