"""``sweep.json`` in a study's folder: the sweep of the study, and the name that no other study has."""

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from dist_calo.documents import read_json
from dist_calo.errors import ConfigError
from dist_calo.files import write_text
from dist_calo.leases.short_lock import locked
from dist_calo.sweeping.definition import Sweep, read_definition

CHANGEABLE = ("trials", "abandoned_after_s")
"""Entries that commands may raise when they join a study."""


def store(folder: Path, sweep: Sweep) -> str:
    """Store a sweep in the folder of its study, or raise what may be raised in the one that is there.

    A study is never made shorter, nor less patient with silent workers: a command that was given before another one
    raised these may be started anew at any time.

    Returns:
        The name that no other study has.

    Raises:
        ConfigError: if the folder holds another sweep.
        OSError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "study.lock"):
        stored, uid = sweep, uuid.uuid4().hex[:12]
        if (folder / "sweep.json").exists():
            known, uid = stored_sweep(folder)
            _check_same(folder, known, sweep)
            stored = replace(
                known,
                trials=max(known, sweep, key=lambda each: each.total).trials,
                abandoned_after_s=max(known.abandoned_after_s, sweep.abandoned_after_s),
            )
            if stored == known:
                return uid
        write_text(folder / "sweep.json", json.dumps({"uid": uid, **stored.to_dict()}, indent=2) + "\n")
    return uid


def stored_sweep(folder: Path) -> tuple[Sweep, str]:
    """Return the sweep of the study in a folder, and the name that no other study has.

    Raises:
        ConfigError: if there is none.
    """
    file, anew = folder / "sweep.json", "dist-calo sweep run SWEEP.yaml --study FOLDER makes one"
    remedy = f"name another folder: {anew}"
    try:
        values = read_json(file, dict[str, Any], ConfigError, remedy)
        uid = values.pop("uid", None)
        if not isinstance(uid, str):
            raise ConfigError(f"uid is {uid!r}: must be a text")
        return read_definition(values), uid
    except FileNotFoundError:
        raise ConfigError(f"{folder}: holds no study; {anew}") from None
    except ConfigError as error:
        raise (
            error if str(error).startswith(str(file)) else ConfigError(f"{file}: {error}; {remedy}")
        ) from None


def _check_same(folder: Path, known: Sweep, sweep: Sweep) -> None:
    if known.identity == sweep.identity:
        return
    old, new = known.to_dict(), sweep.to_dict()
    changed = [name for name in old if old[name] != new[name] and name not in CHANGEABLE]
    raise ConfigError(
        f"{folder} holds a study with other {', '.join(changed)}: name another folder with --study, or put the sweep "
        "file back as it was"
    )
