"""Every text file that is read again, damaged at random: one line or as if nothing were wrong, never a traceback."""

import json
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from dist_calo import documents
from dist_calo.cli import runs, scale, status, sweep
from dist_calo.config import DataConfig, RunConfig, TrackingConfig, TrainConfig
from dist_calo.data.ledger import Ledger, LedgerRun, claim_ledger, read_ledger, truncate_after
from dist_calo.data.manifest import build_manifest, read_manifest
from dist_calo.deployment.registry import read_metrics
from dist_calo.errors import UserError
from dist_calo.generation.partial_output import PartialOutput
from dist_calo.leases import short_lock
from dist_calo.leases.lease import Lease
from dist_calo.scaling.plan import PLAN_FILE, read_plan
from dist_calo.scaling.point_summaries import summarise
from dist_calo.sweeping import claims
from dist_calo.sweeping.definition import read_definition
from dist_calo.tracking.sender import Sender
from dist_calo.tracking.server import address_of
from dist_calo.tracking.spool import Spool
from dist_calo.tracking.store_uri import checked_uri
from dist_calo.tracking.tracker import make_tracker
from dist_calo.training.beginning import note_beginning, read_beginning
from dist_calo.training.checkpoint_folder import CheckpointFolder
from tests.support.scaling_results import point, write_experiment
from tests.support.sweeps import WorkedStudy

MUTATIONS = 25
ODD = [None, True, -1, 0, 2.5, "x", "", [], {}, [1], {"a": 1}, float("nan"), "\0", "\ud800", 10**19]
TOKENS = ["9" * 400, "9" * 6000, "[" * 5000, "-", "1e999"]
WHOLE = [
    b"",
    b"\n",
    b"null",
    b"[]",
    b"{}",
    b"1",
    b"[" * 100_000,
    b"9" * 400,
    bytes(4096),
    b"\xff\xfe\x00\xd8",
]


def places(value, path=()):
    yield path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, entry in entries:
        yield from places(entry, (*path, key))


def other_type(line, rng):
    """A JSON text with another value, none, or a number of 400 digits in one place; as it is if it is no JSON."""
    try:
        value = json.loads(line)
    except ValueError:
        return line
    *path, last = rng.choice([place for place in places(value) if place] or [(None,)])
    parent = value
    for key in path:
        parent = parent[key]
    if last is None:
        return json.dumps(rng.choice(ODD)).encode()
    kind = rng.randrange(4)
    parent[last] = "TOKEN" if kind == 0 else rng.choice(ODD)
    if kind == 1:
        del parent[last]
    return json.dumps(value).replace('"TOKEN"', rng.choice(TOKENS)).encode()


def damaged(content, rng):
    """What a power cut, a bad disk or a hand may make of a file."""
    some = bytearray(content)
    lines = content.splitlines(keepends=True)
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    kind = rng.randrange(8)
    if kind == 0:
        some[min(first, len(some) - 1)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del some[first:]
    elif kind == 2:
        some[first:last] = bytes(last - first)
    elif kind == 3:
        rng.shuffle(lines)
        some = b"".join(lines)
    elif kind == 4:
        some[first:first] = rng.choice(
            [b"\xff", b"\0", b"\n", b'"', b"{", b"9" * 400, b"\xef\xbb\xbf", b"\r"]
        )
    elif kind == 5:
        some = rng.choice(WHOLE)
    else:
        number = rng.randrange(len(lines))
        whole = len(lines) > 1 and rng.random() < 0.5
        lines = [content] if whole else lines
        number = 0 if whole else number
        lines[number] = other_type(lines[number], rng) + b"\n"
        some = b"".join(lines)
    return bytes(some)


def ledger(folder):
    run = LedgerRun(uid="a", checkpoints="/runs/a")
    claim_ledger(folder / "led", run, 0, 2)
    for rank in (0, 1):
        written = Ledger(folder / "led", rank)
        for step in range(1, 13):
            written.write(step // 5, step, range(step * 3 + rank, step * 3 + rank + 4))
        written.close()

    def read():
        starts = claim_ledger(folder / "led", run, 8, 2)
        for rank in (0, 1):
            truncate_after(folder / "led", 8, starts, rank=rank, ranks=2, rows=100)
        read_ledger(folder / "led")

    return {"ledger": ("led/rank-00001.tsv", read), "ledger's run": ("led/run.json", read)}


def spool(folder):
    root = folder / "spool"
    kept = Spool.open(root, None, {"uri": "sqlite:///x.db", "experiment": "e", "run_name": None, "job": None})
    inside = kept.keep_file("a.txt", lambda path: path.write_text("x"))
    kept.journal.append(
        [
            {"kind": "start", "time_ms": 1, "parameters": {"a": 1}, "tags": {"t": "u"}, "datasets": {}},
            *({"kind": "metrics", "time_ms": i, "step": i, "values": {"loss": 0.5}} for i in range(6)),
            {"kind": "artifact", "file": inside, "folder": None},
            {"kind": "end", "time_ms": 10, "status": "FINISHED"},
        ]
    )
    kept.refuse({"kind": "artifact", "file": inside, "folder": "pictures"}, "why")
    kept.journal.confirm(20)
    config = TrackingConfig(uri=f"sqlite:///{folder}/x.db", spool=str(root), system_metrics=False)

    def read():
        tracker = make_tracker(config, kept.identity.spool_id)  # never ends a training
        tracker.start({})
        tracker.finish("FINISHED", 5.0)

    def sync():
        runs.main(["list", f"--spool={root}"])
        runs.main(["sync", f"--spool={root}"])

    name = f"spool/{kept.identity.spool_id}"
    found = {
        file: (f"{name}/{file}", sync) for file in ("run.json", "journal.jsonl", "sent", "refused.jsonl")
    }
    return found | {"journal.jsonl of a run under way": (f"{name}/journal.jsonl", read)}


def checkpoints(folder):
    run = CheckpointFolder(folder / "ck")
    facts = {"epoch": 1, "best_score": 0.5, "best_step": 3, "run_id": "r", "ranks": 1}
    run.save({"step": 5}, {**facts, "config": RunConfig().to_dict()})
    note_beginning(run.folder, {"job": "7", "resume": "no", "uid": "x"})
    run.abandon_run("a")
    (folder / "lock").write_text("other 7\n")

    def lock_of():
        found = Lease(folder / "lock")
        with suppress(OSError):  # as it says, and as its users know
            return found.held_by, found.is_busy(), found.acquire(), found.release()

    return {
        "step.json": ("ck/step-00000005.json", lambda: status.main([str(folder / "ck")])),
        "begun.json": ("ck/begun.json", lambda: read_beginning(run.folder).get("uid")),
        "runs.json": ("ck/abandoned/runs.json", lambda: "x" in run.abandoned_runs),
        "run lock": ("lock", lock_of),
    }


def parts(folder):
    def read():
        made = PartialOutput(folder / "o.h5")
        try:
            made.open({"n": 3, "seed": 0, "energies": [1.0, 2.0]}, renew=False)
        finally:
            made.close()

    read()
    (folder / "o.h5.parts" / "part-0000001.h5").write_bytes(b"")
    return {"request.json": ("o.h5.parts/request.json", read)}


def scaling(folder):
    write_experiment(folder / "sc", [point(1, ranks) for ranks in (1, 2, 4)])
    return {
        "plan": (f"sc/{PLAN_FILE}", lambda: scale.main(["show", str(folder / "sc"), "--point=1"])),
        "scaling point": (
            "sc/points/0001/repeat-1.json",
            lambda: summarise(folder / "sc", read_plan(folder / "sc")),
        ),
    }


def named(folder):
    """Files that a user names."""
    (folder / "m.json").write_text(build_manifest(DataConfig()).to_json())
    numbers = {"a": {"value": 1.0, "error": 0.1, "floor": 0.2, "sigmas": 3.0}, "b": {"value": 2}}
    (folder / "metrics.json").write_text(json.dumps({"score": 1.5, "metrics": numbers}))
    (folder / "server.env").write_text("export MLFLOW_TRACKING_URI=http://10.0.0.1:5000\n# a 'comment'\n")

    def server():
        try:
            address_of(checked_uri(str(folder / "server.env")))
        except ConnectionError as error:
            raise UserError(str(error)) from None

    return {
        "manifest": ("m.json", lambda: read_manifest(folder / "m.json")),
        "metrics": ("metrics.json", lambda: read_metrics(folder / "metrics.json")),
        "server.env": ("server.env", server),
    }


def a_study(folder):
    values = {"optimizer.learning_rate": {"low": 1e-4, "high": 1e-2}, "model.name": ["lcd_fast", "lcd_3dgan"]}
    what = read_definition({"parameters": values, "trials": 4, "steps": 10})
    train = TrainConfig(max_steps=10, validate_every_steps=2)
    joined = WorkedStudy.join(folder / "study", what, train)
    for number in range(3):
        task = joined.claims.next()
        joined.results.report(task, 2, 1.0 + number, last=True)
        if number < 2:
            joined.results.complete(task)

    def read():
        sweep.main(["show", str(folder / "study")])
        again, asked = WorkedStudy.join(folder / "study", what, train), []
        task = again.claims.next(lambda: asked.append(1) or len(asked) > 2)
        if task:
            again.results.report(task, 2, 1.0, last=True)
            again.results.complete(task)

    files = ("sweep.json", "journal.log", "trials/0002/owner.json")
    return {name: (f"study/{name}", read) for name in files}


KINDS = (
    ledger,
    spool,
    checkpoints,
    parts,
    scaling,
    named,
    a_study,
)


@pytest.fixture
def kind(request, tmp_path, monkeypatch):
    """Files of a kind and their readers; a store that takes everything."""

    class Anything:
        def __getattr__(self, name):
            return lambda *arguments, **options: None

    def connected(sender):
        sender._run_id = "r"
        return Anything()

    monkeypatch.setattr(Sender, "_connected", connected)
    monkeypatch.setattr(documents, "PIPE_WITHIN_S", 0.01)
    monkeypatch.setattr(claims, "POLL_S", 0.01)
    monkeypatch.setattr(claims, "HELD_S", 0.05)
    monkeypatch.setattr(short_lock, "ABANDONED_S", 0.2)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    folder = tmp_path / "sound"
    folder.mkdir()
    readers = request.param(folder)
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)

    def tried(file, read, damage):
        """Read a file once it is damaged; afterwards all is as it was."""
        damage(folder / file)
        said = ""
        try:
            read()
        except UserError as error:
            said = str(error)
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        return said

    return readers, tried


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_no_damage_ends_in_a_traceback(kind):
    readers, tried = kind
    for name, (file, read) in readers.items():
        rng = random.Random(name)
        for _ in range(MUTATIONS // 8 if "under way" in name else MUTATIONS):
            said = tried(file, read, lambda path, rng=rng: path.write_bytes(damaged(path.read_bytes(), rng)))
            assert "\n" not in said


def in_its_place(path, make):
    path.unlink()
    make(path)


@pytest.mark.parametrize("kind", KINDS, indirect=True)
@pytest.mark.parametrize(
    "make",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: None, Path.touch],
    ids=["folder", "pipe", "device", "nothing", "empty"],
)
def test_what_is_no_file_is_no_traceback_either(kind, make):
    readers, tried = kind
    for file, read in readers.values():
        assert "\n" not in tried(file, read, lambda path: in_its_place(path, make))
