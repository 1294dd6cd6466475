"""What a run leaves in MLflow, and what is refused before it starts."""

import json

import pytest

from dist_calo.errors import TrackingError
from dist_calo.tracking.spool import SPOOL_PREFIX
from dist_calo.tracking.tracker import NullTracker, Tracker, make_tracker
from tests.support.ranks import wait_until
from tests.support.tracked import (
    PNG,
    drawing,
    log_losses,
    losses,
    make_config,
    spools,
)


def test_a_run_is_recorded_whole(config, store, tmp_path):
    checkpoint = tmp_path / "step_3.pt"
    checkpoint.write_bytes(b"weights")
    checkpoint.with_suffix(".json").write_text("{}")
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "notes" / "deep" / "a.txt").write_text("a")
    generator = tmp_path / "generator.pt"
    generator.write_bytes(b"generator")

    tracker = Tracker(config)
    tracker.start(
        {"train.seed": 7, "data.files": ["a.h5", "b.h5"]},
        {"host": "node01"},
        {"training": {"name": "EleEscan", "digest": "0123abcd", "source": "/data", "rows": 200}},
    )
    tracker.metrics({"loss": 0.5, "rate": 10}, 1)
    tracker.metrics({"loss": 0.25}, 2)
    tracker.figure(drawing(), "pictures/drawn", step=2)
    tracker.figure(drawing, "pictures/later.png")
    tracker.artifact(tmp_path / "notes", "notes")
    tracker.checkpoint(checkpoint)
    tracker.model(generator, {"network": "generator"})
    for path in (checkpoint, generator):
        path.unlink()  # the record has its own copy
    assert tracker.finish("FINISHED")

    run = store.only_run(config.experiment)
    run_id = run.info.run_id
    assert run_id == tracker.run_id
    assert run.info.status == "FINISHED"
    assert run.info.start_time <= run.info.end_time
    assert run.data.params == {"train.seed": "7", "data.files": "['a.h5', 'b.h5']"}
    assert run.data.tags["host"] == "node01"
    assert store.points(run_id, "loss") == [(1, 0.5), (2, 0.25)]
    assert store.points(run_id, "rate") == [(1, 10.0)]
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("EleEscan", "0123abcd")
    assert json.loads(used.dataset.profile) == {"rows": 200}
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert store.files(run_id) == [
        "checkpoints/step_3.json",
        "checkpoints/step_3.pt",
        "model/generator.pt",
        "model/model.json",
        "notes/deep/a.txt",
        "pictures/drawn_step000002.png",
        "pictures/later.png",
    ]
    assert store.read(run_id, "checkpoints/step_3.pt", tmp_path) == b"weights"
    assert store.read(run_id, "pictures/drawn_step000002.png", tmp_path).startswith(PNG)
    assert json.loads(store.read(run_id, "model/model.json", tmp_path)) == {
        "network": "generator",
        "file": "generator.pt",
    }
    assert spools(config) == []


def test_checkpoints_stay_out_if_the_configuration_says_so(uri, store, tmp_path, request):
    config = make_config(uri, tmp_path, request.node.name, log_checkpoints=False)
    (tmp_path / "step_1.pt").write_bytes(b"weights")
    tracker = Tracker(config)
    tracker.start({})
    tracker.checkpoint(tmp_path / "step_1.pt")
    assert tracker.finish("FINISHED")
    assert store.files(tracker.run_id) == []


def test_system_load_is_recorded(uri, store, tmp_path, request):
    config = make_config(uri, tmp_path, request.node.name, system_metrics=True)
    tracker = Tracker(config)
    tracker.start({})
    run_id = tracker.named_run_id()
    wait_until(lambda: "system/cpu_utilization_percentage" in store.client.get_run(run_id).data.metrics)
    assert tracker.finish("FINISHED")


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_the_end_of_a_run_is_recorded(config, store, status):
    tracker = Tracker(config)
    tracker.start({})
    assert tracker.finish(status)
    assert store.only_run(config.experiment).info.status == status


def test_a_resumed_run_is_the_same_run(config, store):
    first = Tracker(config)
    first.start({"train.seed": 7, "train.max_steps": 10})
    log_losses(first, 1, 10)
    assert first.finish("KILLED")

    second = Tracker(config, first.run_id)
    second.start({"train.seed": 7, "train.max_steps": 20})
    wait_until(lambda: store.only_run(config.experiment).info.status == "RUNNING", what="status RUNNING")
    log_losses(second, 6, 20)  # from the checkpoint of step 5
    assert second.finish("FINISHED")

    run = store.only_run(config.experiment)
    assert run.info.run_id == first.run_id == second.run_id
    assert run.info.status == "FINISHED"
    assert store.points(run.info.run_id, "loss") == losses(1, 20)
    assert run.data.params["train.max_steps"] == "10"
    assert run.data.tags["changed.train.max_steps"] == "20"
    assert "changed.train.seed" not in run.data.tags


def test_a_run_tells_what_made_each_of_its_attempts(config, store):
    run_id = None
    in_jobs = [{"slurm_job_id": job} for job in ("1", "1", "2", "3")]
    for number, job in enumerate([*in_jobs, {}]):
        tracker = Tracker(config, run_id)
        host, rate = f"n{number % 2}", [0.1, 0.2, 0.1, 0.3, 0.3][number]
        tracker.start({"rate": rate}, tags={**job, "host": host, "python": "3.11"})
        assert tracker.finish("KILLED")
        run_id = tracker.run_id
    run = store.only_run(config.experiment)
    tags = {
        name: value for name, value in run.data.tags.items() if not name.startswith(("mlflow.", "dist_calo."))
    }
    assert tags == {
        "slurm_job_id": "",
        "earlier.slurm_job_id": "1 | 2 | 3",
        "host": "n0",
        "earlier.host": "n0 | n1",
        "python": "3.11",
        "changed.rate": "0.3",
        "earlier.changed.rate": "0.2 | 0.1",
    }
    assert run.data.params == {"rate": "0.1"}


def test_values_that_are_no_numbers_are_points_too(config, store):
    tracker = Tracker(config)
    tracker.start({})
    tracker.metrics({"loss": float("nan"), "norm": float("inf")}, 1)
    tracker.metrics({"loss": 1.0}, 2)
    assert tracker.finish("FINISHED")
    (first, second) = store.points(tracker.run_id, "loss")
    assert first[0] == 1
    assert second == (2, 1.0)
    assert len(store.points(tracker.run_id, "norm")) == 1


def test_a_name_that_mlflow_refuses_costs_only_its_own_points(config, store):
    tracker = Tracker(config)
    tracker.start({})
    tracker.metrics({"loss": 1.0, "bad;name?*": 2.0}, 1)
    tracker.metrics({"loss": 0.5}, 2)
    assert not tracker.finish("FINISHED")
    run = store.only_run(config.experiment)
    assert store.points(run.info.run_id, "loss") == [(1, 1.0), (2, 0.5)]
    assert run.info.status == "FINISHED"
    (spool,) = spools(config)
    assert [entry["record"]["key"] for entry in spool.refused] == ["bad;name?*"]


def test_a_picture_that_cannot_be_drawn_does_not_end_the_run(config, store):
    def broken():
        raise ValueError("no showers")

    tracker = Tracker(config)
    tracker.start({})
    tracker.figure(broken, "pictures/broken.png")
    tracker.artifact("no/such/file")
    tracker.text("after", "after.txt")
    assert tracker.finish("FINISHED")
    assert store.files(tracker.run_id) == ["after.txt"]


@pytest.mark.parametrize(
    "uri", ["nonsense://somewhere", "file:///tmp/mlruns", "mlruns", "http://", "sqlite://"]
)
def test_an_impossible_store_is_an_error_at_once(uri, tmp_path):
    with pytest.raises(TrackingError, match=r"tracking\.uri="):
        make_tracker(make_config(uri, tmp_path, "any"))
    assert not (tmp_path / "spool").exists()


def test_a_file_that_is_no_database_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("this is a text file, not a database")
    with pytest.raises(TrackingError, match="not an SQLite database"):
        make_tracker(make_config(f"sqlite:///{tmp_path}/notes.txt", tmp_path, "any"))


def test_a_spool_that_cannot_be_written_is_an_error(uri, tmp_path):
    (tmp_path / "spool").write_text("a file where the folder should be")
    with pytest.raises(TrackingError, match=r"tracking\.spool="):
        Tracker(make_config(uri, tmp_path, "any"))


def test_one_run_has_one_writer(config):
    tracker = Tracker(config)
    with pytest.raises(TrackingError, match="another process"):
        Tracker(config, tracker.run_id)
    tracker.finish("FAILED")


def test_a_run_that_never_started_leaves_nothing(config, store):
    tracker = Tracker(config)
    assert tracker.run_id.startswith(SPOOL_PREFIX)
    assert tracker.finish("FAILED")
    assert spools(config) == []
    assert store.runs(config.experiment) == []


@pytest.mark.parametrize(("uri", "rank"), [("none", 0), ("sqlite:///mlflow.db", 1)])
def test_null_tracker(uri, rank, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = make_tracker(make_config(uri, tmp_path, "any"), rank=rank)
    assert isinstance(tracker, NullTracker)
    tracker.start({"a": 1})
    tracker.metrics({"loss": 1.0}, 1)
    tracker.figure(drawing, "pictures/a")
    tracker.artifact("no/such/file")
    tracker.checkpoint("no/such/file")
    tracker.text("text", "a.txt")
    tracker.json({}, "a.json")
    tracker.model("no/such/file", {})
    assert tracker.named_run_id() is None
    assert tracker.run_id is None
    assert tracker.finish("FINISHED")
    assert list(tmp_path.iterdir()) == []
