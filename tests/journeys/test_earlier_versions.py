"""What an earlier version left unfinished is finished by this one (tests/support/earlier/README.md)."""

import json
import tarfile
from pathlib import Path

import h5py
import pytest

from dist_calo.cli import generate, runs, scale, sweep
from dist_calo.data.ledger import read_ledger
from dist_calo.errors import ConfigError
from dist_calo.physics.metrics.metric_definitions import SCORE_DEFINITION
from dist_calo.sweeping.definition import read_sweep
from dist_calo.sweeping.stored_sweep import store
from dist_calo.train import main as train
from tests.support.mlflow_store import Store, made_store
from tests.support.ranks import ROOT

ARCHIVES = sorted((ROOT / "tests" / "support" / "earlier").glob("*.tar.xz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def earlier(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as an earlier version left it, which is the working folder."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_goes_on_with_its_ledger(earlier: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = ["--train.max_steps=6", "--checkpoint.resume=auto", "--tracking.uri=none"]
    assert train(["--config=recipe.yaml", "--data.ledger=ledger", *settings]) == 0
    assert "continuing after step 4" in capfd.readouterr().out
    assert (earlier / "checkpoints" / "step-00000006.pt").exists()
    assert sorted(step for _, step in read_ledger(earlier / "ledger")) == [1, 2, 3, 4, 5, 6]


def test_a_spool_is_sent(earlier: Path) -> None:
    uri = made_store(earlier)
    assert runs.main(["sync", f"--tracking.uri={uri}", "--spool=spool"]) == 0
    store = Store(uri)
    run = store.only_run("dist_calo")
    assert [step for step, _ in store.points(run.info.run_id, "autoencoder/0/total")] == [1, 2, 3, 4]
    assert run.info.status == "FINISHED"


def test_a_sample_is_completed(earlier: Path) -> None:
    with h5py.File(earlier / "half.h5.parts" / "part-0000000.h5") as part:
        first = part["layer_0"][:]
    command = ["--checkpoint=checkpoints", "--n=3000", "--batch-size=10", "--out=half.h5"]
    assert generate.main(command) == 0
    with h5py.File("half.h5") as sample:
        assert len(sample["layer_0"]) == 3000
        assert (sample["layer_0"][: len(first)] == first).all()


def test_a_scaling_study_goes_on(earlier: Path) -> None:
    plan = earlier / "scaling" / "plan.yaml"
    plan.write_text(plan.read_text().replace("/tmp/old", str(earlier)))
    point = earlier / "scaling" / "points" / "0000"
    before = (point / "repeat-0.json").read_bytes()
    assert scale.main(["run", "scaling"]) == 0
    assert (point / "repeat-0.json").read_bytes() == before
    assert (point / "repeat-1.json").exists()
    assert scale.main(["report", "scaling", "--out", "scaling/report"]) == 0


def test_a_sweep_goes_on_with_the_trial_that_was_cut_off(
    earlier: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stored = earlier / "sweep" / "sweep.json"
    with pytest.raises(ConfigError, match="scores of an earlier version's, which those of this version"):
        store(earlier / "sweep", read_sweep("sweep.yaml"))
    assert sweep.main(["show", "sweep"]) == 0
    # All else of a sweep is read as it was.
    stored.write_text(json.dumps({**json.loads(stored.read_text()), "score_definition": SCORE_DEFINITION}))
    finished = (earlier / "sweep" / "trials" / "0000" / "checkpoints" / "step-00000004.pt").stat().st_mtime_ns
    assert sweep.main(["run", "sweep.yaml", "--study", "sweep"]) == 0
    said = capfd.readouterr().out
    assert "continuing after step 2" in said
    assert "(2 of 2 finished)" in said
    trials = earlier / "sweep" / "trials"
    assert (trials / "0000" / "checkpoints" / "step-00000004.pt").stat().st_mtime_ns == finished
    assert (trials / "0001" / "checkpoints" / "step-00000004.pt").exists()
