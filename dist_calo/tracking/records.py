"""What the files of a spool hold, and proof that they do."""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, make_dataclass
from pathlib import Path
from typing import Any, Literal

from dist_calo.errors import TrackingError
from dist_calo.files import from_json, read_bytes

Record = dict[str, Any]
"""A line of the journal."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """``run.json``: which run of which store this is."""

    spool_id: str
    run_id: str | None
    uri: str
    experiment: str
    run_name: str | None
    started_ms: int
    job: str | None = None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A line of ``refused.jsonl``."""

    reason: str
    record: Record


_ENTRIES: dict[str, dict[str, Any]] = {
    "start": {"time_ms": int, "parameters": dict, "tags": dict, "datasets": dict[str, dict[str, Any]]},
    "metrics": {"time_ms": int, "step": int, "values": dict[str, float]},
    "system": {"time_ms": int, "values": dict[str, float]},
    "artifact": {"file": str, "folder": str | None},
    "tags": {"tags": dict},
    "end": {"time_ms": int, "status": Literal["FINISHED", "FAILED", "KILLED"]},
}
"""What a line of the journal holds besides its ``kind``."""
_FORMS = {kind: make_dataclass(kind, entries.items()) for kind, entries in _ENTRIES.items()}


def require_ordinary(folder: Path) -> None:
    """Check that the files of a spool that are there have an end.

    Raises:
        TrackingError: if one is a pipe, a device or a folder.
    """
    for name in ("journal.jsonl", "sent", "sending", "refused.jsonl", "lock"):
        if (folder / name).exists() and not (folder / name).is_file():
            raise TrackingError(f"{folder / name}: is not an ordinary file; remove it")


def line_at(file: Path, position: int) -> int:
    """Number of the line of a file that begins at a position, from 1."""
    with file.open("rb") as lines:
        return 1 + sum(lines.read(min(left, 65536)).count(b"\n") for left in range(position, 0, -65536))


def read_refused(file: Path) -> list[Record]:
    """What a store has not taken, as ``{"reason": ..., "record": ...}``; nothing if there is no file.

    Raises:
        TrackingError: if a line is damaged.
    """
    found: list[Record] = []
    with suppress(FileNotFoundError):
        for number, line in enumerate(read_bytes(file).splitlines(), start=1):
            try:
                refused = from_json(line, Refused)
                kind = refused.record.get("kind")
                if kind == "artifact":
                    record_of(json.dumps(refused.record).encode())
                elif not isinstance(kind, str):
                    raise ValueError(f"record.kind is {kind!r}: must be a text")
                found.append(asdict(refused))
            except ValueError as error:
                raise TrackingError(f"{file}, line {number}: {error}; remove that line") from None
    return found


def first_batch(waiting: Iterable[tuple[Record, int]], most_points: int) -> tuple[list[Record], int]:
    """The first records that are sent together, and the position behind them: of points, or one of another kind.

    Args:
        waiting: records, each with the position behind it.
        most_points: in one batch.

    Raises:
        TrackingError: if the first is damaged.
    """
    taken: list[Record] = []
    points, end = 0, 0
    try:
        for record, position in waiting:
            is_points = record["kind"] in ("metrics", "system")
            points += len(record.get("values", ()))
            if taken and (not is_points or points > most_points):
                break
            taken.append(record)
            end = position
            if not is_points:
                break
    except TrackingError:  # first what comes before it
        if not taken:
            raise
    return taken, end


def record_of(line: bytes) -> Record:
    """The record of a line of the journal.

    Raises:
        ValueError: if it is none.
    """
    record: Record = from_json(line, dict[str, Any])
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in _FORMS:
        raise ValueError(f"kind is {kind!r}: must be one of {', '.join(_FORMS)}")
    from_json(line, _FORMS[kind])
    # What was sent is deleted with its folder.
    if kind == "artifact" and not re.fullmatch(
        r"(files/\w+|/.+/dist_calo-[0-9a-f]{32})/[^/]+", record["file"]
    ):
        raise ValueError(f"file is {record['file']!r}: must be a file in a folder of files/")
    return record
