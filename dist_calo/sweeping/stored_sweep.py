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
from dist_calo.physics.metrics.metric_definitions import SCORE_DEFINITION
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
        ConfigError: if the folder holds another sweep, or trials whose scores cannot be compared with new ones.
        OSError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "study.lock"):
        stored, uid = sweep, uuid.uuid4().hex[:12]
        if (folder / "sweep.json").exists():
            known, uid, definition = _read(folder)
            _check_same(folder, known, sweep)
            _check_scores(folder, known, definition)
            stored = replace(
                known,
                trials=max(known, sweep, key=lambda each: each.total).trials,
                abandoned_after_s=max(known.abandoned_after_s, sweep.abandoned_after_s),
            )
            if stored == known and definition == SCORE_DEFINITION:
                return uid
        values = {"uid": uid, "score_definition": SCORE_DEFINITION, **stored.to_dict()}
        write_text(folder / "sweep.json", json.dumps(values, indent=2) + "\n")
    return uid


def stored_sweep(folder: Path) -> tuple[Sweep, str]:
    """Return the sweep of the study in a folder, and the name that no other study has.

    Raises:
        ConfigError: if there is none.
    """
    return _read(folder)[:2]


def _read(folder: Path) -> tuple[Sweep, str, int | None]:
    file, anew = folder / "sweep.json", "dist-calo sweep run SWEEP.yaml --study FOLDER makes one"
    remedy = f"name another folder: {anew}"
    try:
        values = read_json(file, dict[str, Any], ConfigError, remedy)
        uid, definition = values.pop("uid", None), values.pop("score_definition", None)
        if not isinstance(uid, str):
            raise ConfigError(f"uid is {uid!r}: must be a text")
        return read_definition(values), uid, definition
    except FileNotFoundError:
        raise ConfigError(f"{folder}: holds no study; {anew}") from None
    except ConfigError as error:
        raise (
            error if str(error).startswith(str(file)) else ConfigError(f"{file}: {error}; {remedy}")
        ) from None


def _check_scores(folder: Path, known: Sweep, definition: int | None) -> None:
    if known.objective != "validation/score" or definition == SCORE_DEFINITION:
        return
    if any(folder.glob("trials/*/owner.json")):
        whose = "an earlier version's" if definition is None else f"definition {definition}"
        raise ConfigError(
            f"{folder} holds trials with scores of {whose}, which those of this version (definition "
            f"{SCORE_DEFINITION}) cannot be compared with: name another folder with --study"
        )


def _check_same(folder: Path, known: Sweep, sweep: Sweep) -> None:
    if known.identity == sweep.identity:
        return
    old, new = known.to_dict(), sweep.to_dict()
    changed = [name for name in old if old[name] != new[name] and name not in CHANGEABLE]
    raise ConfigError(
        f"{folder} holds a study with other {', '.join(changed)}: name another folder with --study, or put the sweep "
        "file back as it was"
    )
