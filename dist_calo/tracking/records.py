"""The lines of a spool's files, and proof of their form."""

import json
import re
import time
from dataclasses import asdict, dataclass, make_dataclass
from typing import Any, Literal

from dist_calo.documents import from_json

Record = dict[str, Any]
"""A line of the journal."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The run of a spool, as ``run.json`` holds it."""

    spool_id: str
    """Name of the run that holds even if its store was never reached."""
    run_id: str | None
    """Name that the store gave the run; None before it was reached."""
    uri: str
    """Tracking store of the run."""
    experiment: str
    run_name: str | None
    """Name that a user gave the run."""
    started_ms: int
    """Time of the first start here, in ms since 1970."""
    job: str | None = None
    """Name of a batch job's attempts at one training."""


def now_ms() -> int:
    """Return the time since 1970 in ms, as MLflow counts it."""
    return time.time_ns() // 1_000_000


_ENTRIES: dict[str, dict[str, Any]] = {
    "start": {"time_ms": int, "parameters": Record, "tags": Record, "datasets": dict[str, dict[str, Any]]},
    "metrics": {"time_ms": int, "step": int, "values": dict[str, float]},
    "system": {"time_ms": int, "values": dict[str, float]},
    "artifact": {"file": str, "folder": str | None},
    "tags": {"tags": Record},
    "end": {"time_ms": int, "status": Literal["FINISHED", "FAILED", "KILLED"]},
}
"""Entries of a line of the journal besides its ``kind``."""
_FORMS = {kind: make_dataclass(kind, entries.items()) for kind, entries in _ENTRIES.items()}
_REFUSED = make_dataclass("Refused", {"reason": str, "record": Record}.items())


def record_of(line: bytes) -> Record:
    """Return the record of a line of the journal.

    Raises:
        ValueError: if it is none.
    """
    record: Record = from_json(line, dict[str, Any])
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in _FORMS:
        raise ValueError(f"kind is {kind!r}: must be one of {', '.join(_FORMS)}")
    from_json(line, _FORMS[kind])
    # A file that was sent is deleted with its folder.
    inside = r"(files/\w+|/.+/dist_calo-[0-9a-f]{32})/[^/]+"
    if kind == "artifact" and not re.fullmatch(inside, record["file"]):
        raise ValueError(f"file is {record['file']!r}: must be a file in a folder of files/")
    return record


def refused_of(line: bytes) -> Record:
    """Return ``{"reason": ..., "record": ...}`` of a line of ``refused.jsonl``.

    Raises:
        ValueError: if it is none.
    """
    refused: Record = asdict(from_json(line, _REFUSED))
    kind = refused["record"].get("kind")
    if kind == "artifact":
        record_of(json.dumps(refused["record"]).encode())
    elif not isinstance(kind, str):
        raise ValueError(f"record.kind is {kind!r}: must be a text")
    return refused
