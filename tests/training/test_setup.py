"""Putting a run together."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from dist_calo.comm import connect
from dist_calo.config import CheckpointConfig, RunConfig
from dist_calo.data.loader import training_order
from dist_calo.data.manifest import build_manifest
from dist_calo.errors import CheckpointError, DataError
from dist_calo.launching.environment import find_world
from dist_calo.training.beginning import begin, find_state, open_ledger, run_uid
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.dataset import as_kept
from dist_calo.training.setup import keep_channels_last
from tests.support.small_runs import write_showers

PARTS: dict[str, dict[str, str]] = {name: {} for name in ("model", "average", "geometry", "transform")}
"""Parts of a checkpoint that are read only after it was chosen."""


@pytest.fixture(scope="module")
def manifest():
    return build_manifest(RunConfig().data)


@pytest.fixture
def alone():
    communicator = connect("single", find_world({}))
    yield communicator
    communicator.close()


@pytest.fixture
def start(tmp_path, manifest, monkeypatch, alone):
    """Begins a start of a job and returns its state; ``restarts`` counts its earlier starts."""
    monkeypatch.delenv("DIST_CALO_JOB", raising=False)

    def look(resume, restarts=0, folder="checkpoints", job="7", ledger=None):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        config = RunConfig(checkpoint=CheckpointConfig(dir=str(tmp_path / folder), resume=str(resume)))
        config = replace(config, data=replace(config.data, ledger=ledger))
        found = find_state(config, manifest)
        uid = found.uid if found else run_uid(config, None)
        step = found.checkpoint.step if found else 0
        if ledger := open_ledger(config, alone, uid, step, manifest):
            ledger.close()
        begin(config, uid)
        return {**vars(found), "step": step} if found else None

    return look


@pytest.fixture
def save(tmp_path, manifest):
    """Writes a checkpoint of a run and returns its file."""

    def write(step, run_id="first", folder="checkpoints", **more):
        state = {
            **PARTS,
            **more,
            "step": step,
            "run_id": run_id,
            "config": RunConfig().to_dict(),
            "manifest": manifest.to_dict(),
        }
        return CheckpointFolder(tmp_path / folder).save(state, {})

    return write


def test_a_checkpoint_that_the_user_names_is_where_the_first_start_of_a_job_begins(start, save, tmp_path):
    file = save(20)
    assert start(file)["step"] == 20
    save(30)
    assert start(file, restarts=1)["step"] == 30
    assert CheckpointFolder(tmp_path / "checkpoints").steps() == [20, 30]


def test_so_is_one_of_another_folder(start, save):
    file = save(20, folder="another")
    assert start(file)["step"] == 20
    assert start(file, restarts=1)["step"] == 20  # killed before its first checkpoint
    save(30)
    assert start(file, restarts=1)["step"] == 30
    with pytest.raises(CheckpointError, match="is not one of them"):
        start(file)


def test_other_data_are_refused_with_what_to_do(save, manifest, tmp_path):
    save(3)
    config = RunConfig(checkpoint=CheckpointConfig(dir=str(tmp_path / "checkpoints"), resume="auto"))
    told = r"started with other data: .* is in the checkpoint and does not match data.path; give its own, data.path="
    with pytest.raises(DataError, match=told):
        find_state(config, replace(manifest, files=manifest.files[:1]))


def test_a_start_anew_goes_on_when_its_job_is_started_again(start, save):
    assert start("no") is None
    save(10)
    assert start("no", restarts=1)["step"] == 10
    with pytest.raises(CheckpointError, match="holds checkpoints up to step 10"):
        start("no")


@pytest.mark.parametrize(("job", "step"), [(None, 0), ("8", 20), ("7", 40)])
def test_a_job_ended_before_it_began_still_begins_where_it_was_told(start, save, job, step):
    early = save(20)
    files = {20: early, 40: save(40)}
    if job:  # another job has begun there, or this one elsewhere
        start(files[step], job=job)
        save(40)
    assert start(early, restarts=1)["step"] == 20
    save(30, run_id="second")
    assert start(early, restarts=2)["step"] == 30
    with pytest.raises(CheckpointError, match="holds checkpoints up to step 30"):
        start("no", restarts=1)


@pytest.fixture(scope="module")
def lines(manifest):
    """Lines of a ledger, by steps, as a run on one rank writes them."""
    config = RunConfig()
    order = training_order(manifest, config.data, config.train.seed, config.train.global_batch_size)

    def of(steps):
        places = [(step, *divmod(step - 1, order.steps_per_epoch)) for step in steps]
        ids = [order.share(epoch, index, 0, 1).ids.tolist() for _, epoch, index in places]
        return "".join(
            f"{epoch}\t{step}\t{','.join(map(str, each))}\n"
            for (step, epoch, _), each in zip(places, ids, strict=True)
        )

    return of


def steps_in(ledger):
    return [int(line.split("\t")[1]) for line in (ledger / "rank-00000.tsv").read_text().splitlines()]


def test_a_ledger_is_its_runs_alone(start, save, tmp_path, lines):
    ledger = tmp_path / "ledger"

    def write(*steps):
        with (ledger / "rank-00000.tsv").open("a") as file:
            file.write(lines(steps))

    ledger.mkdir()
    write(1)
    for resume, restarts in (("no", 0), ("no", 1), ("auto", 0)):  # of a version that named no run
        with pytest.raises(DataError, match="holds the ledger of another run, and this is run"):
            start(resume, restarts, ledger=str(ledger))
    (ledger / "rank-00000.tsv").unlink()
    start("no", ledger=str(ledger))
    write(1)
    start("no", restarts=1, ledger=str(ledger))  # killed before its first checkpoint
    assert steps_in(ledger) == []
    write(*range(1, 12))
    save(10, uid=json.loads((ledger / "run.json").read_text())["uid"])
    for resume in ("auto", "no"):  # another run, also if it is given the same command
        with pytest.raises(
            DataError, match=r"ledger of run \w+ .*/checkpoints\), and this is run \w+ .*/other"
        ):
            start(resume, folder="other", ledger=str(ledger))
    assert not (tmp_path / "other").exists()
    assert steps_in(ledger) == list(range(1, 12))
    start("auto", ledger=str(ledger))
    assert steps_in(ledger) == list(range(1, 11))


def test_a_ledger_follows_its_run_into_another_folder_but_not_a_branch_of_it(start, save, tmp_path, lines):
    ledger = tmp_path / "ledger"
    start("no", ledger=str(ledger))
    uid = json.loads((ledger / "run.json").read_text())["uid"]
    (ledger / "rank-00000.tsv").write_text(lines(range(1, 41)))
    early, late = save(20, uid=uid), save(40, uid=uid)
    with pytest.raises(DataError, match=rf"of run {uid} .*, and this is run (?!{uid})"):
        start(early, folder="branch", ledger=str(ledger))
    start(late, folder="ahead", ledger=str(ledger))
    save(60, folder="ahead", uid=uid)
    with pytest.raises(DataError, match=r"up to step 60, and this is run .*/third"):
        start(late, folder="third", ledger=str(ledger))
    assert len(steps_in(ledger)) == 40


def test_a_ledger_of_other_samples_is_not_this_runs(start, save, tmp_path, lines):
    ledger = tmp_path / "ledger"
    start("no", ledger=str(ledger))
    uid = json.loads((ledger / "run.json").read_text())["uid"]
    save(10, uid=uid)
    wrong = lines(range(2, 5)).replace("\t3\t", "\t2\t").splitlines(keepends=True)[1]
    (ledger / "rank-00000.tsv").write_text(lines([1]) + wrong + lines(range(3, 11)))
    with pytest.raises(DataError, match=r"rank-00000.tsv, line 2: not this run's samples of step 2"):
        start("auto", ledger=str(ledger))
    (ledger / "rank-00000.tsv").write_text(lines(range(1, 12)))
    start("auto", ledger=str(ledger))


def test_a_run_of_a_version_without_names_keeps_its_ledger(start, save, tmp_path):
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    (ledger / "rank-00000.tsv").write_text("0\t1\t5\n0\t2\t6\n0\t3\t7\n0\t4")
    save(3)
    uid = start("auto", ledger=str(ledger))["uid"]
    assert steps_in(ledger) == [1, 2, 3]
    assert start("auto", ledger=str(ledger))["uid"] == uid
    save(5)
    with pytest.raises(DataError, match="ends with step 3, before step 5"):
        start("auto", ledger=str(ledger))


def test_going_back_behind_what_a_run_has_recorded_begins_another_run(start, save, tmp_path):
    early, _ = save(20), save(40)
    state = start(early)
    assert (state["run_id"], state["abandoned_run"]) == (None, "first")
    assert CheckpointFolder(tmp_path / "checkpoints").steps() == [20]
    for restarts in (0, 1):  # killed before it has saved anything
        state = start("auto", restarts)
        assert (state["run_id"], state["abandoned_run"]) == (None, "first")
    save(30, run_id="second")
    state = start("auto")
    assert (state["step"], state["run_id"]) == (30, "second")
    assert state["abandoned_run"] is None


def test_a_branch_in_another_folder_is_another_run_unless_nothing_came_after(start, save):
    early, late = save(20), save(40)
    assert start(late, folder="ahead")["run_id"] == "first"
    assert start(early, folder="branch")["abandoned_run"] == "first"


def test_a_damaged_checkpoint_does_not_end_its_run(start, save):
    save(20)
    save(40).write_bytes(b"half")
    assert start("auto")["run_id"] == "first"


def test_checkpoints_name_the_files_that_stay_not_their_copies(tmp_path, monkeypatch, start, save):
    write_showers(tmp_path / "project", (8, 9))
    manifests = {}
    for folder in ("project", "job 1", "job 2"):
        config = replace(RunConfig().data, path=write_showers(tmp_path / folder, (8, 9)))
        manifests[folder] = build_manifest(config)
    monkeypatch.setenv("DIST_CALO_STAGED_FROM", str(tmp_path / "project"))
    data, kept = as_kept(
        replace(RunConfig().data, path=f"{tmp_path}/job 1/EleEscan_*.h5"), manifests["job 1"]
    )
    assert data.path == f"{tmp_path}/project/EleEscan_*.h5"
    assert kept.checksum == manifests["project"].checksum
    assert [entry.path for entry in kept.files] == [entry.path for entry in manifests["project"].files]
    run = CheckpointFolder(tmp_path / "checkpoints")
    facts = {"step": 5, "run_id": None, "config": RunConfig().to_dict(), "manifest": kept.to_dict()}
    run.save({**PARTS, **facts}, {})
    config = RunConfig(checkpoint=CheckpointConfig(dir=str(tmp_path / "checkpoints"), resume="auto"))
    for folder in ("project", "job 2"):
        assert find_state(config, manifests[folder]).checkpoint.step == 5
    monkeypatch.delenv("DIST_CALO_STAGED_FROM")
    assert as_kept(config.data, manifests["job 1"]) == (config.data, manifests["job 1"])


def test_3d_convolutions_are_laid_out_channels_last_and_others_are_left_alone():
    model = nn.ModuleList([nn.Conv3d(2, 3, 2), nn.Conv2d(2, 3, 2), nn.Conv1d(2, 3, 2), nn.Linear(2, 3)])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    keep_channels_last(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(layer.weight.is_contiguous() for layer in model[1:])
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
