"""Generators in MLflow's registry: loaded and served where dist_calo is not installed, with what is known of them."""

import json
import os
import signal
import subprocess
import sysconfig
import urllib.error
import urllib.request
import venv
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dist_calo.cli.command_line import run_command
from dist_calo.cli.generate import main as generate
from dist_calo.cli.register import main as register
from dist_calo.deployment.serving import ShowerModel, input_columns, output_name
from dist_calo.geometry import VoxelGrid, Waveforms
from dist_calo.tracking.store import SPOOL_TAG, experiment_id
from dist_calo.training.checkpoint import Checkpoint
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.restore import restore_generator
from tests.support.mlflow_store import Store, made_store
from tests.support.ranks import free_port, wait_until
from tests.support.untrained import untrained_state

METRICS = {
    "score": 0.057,
    "score_definition": 3,
    "metrics": {
        "wasserstein/visible energy": {"value": 0.012, "error": 0.001, "floor": 0.011, "sigmas": 0.9},
        "auc": {"value": 0.8, "error": 0.01, "floor": 0.5, "sigmas": 30.0},
        "undefined": {"value": None, "error": None, "floor": None, "sigmas": None},
    },
}
SHOWERS, SEED = 5, 11
IN_A_FRESH_PROCESS = """
import importlib.util, json, sys
assert importlib.util.find_spec("dist_calo") is None, "dist_calo is installed here: this proves nothing"
import mlflow, numpy, pandas
uri, table, out, seed = sys.argv[1:]
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model("models:/showers/1")
cells = model.predict(pandas.read_json(table), params={"seed": int(seed)})["cells_GeV"]
numpy.save(out, cells)
print(json.dumps([sys.modules["dist_calo"].__file__, sorted({"h5py", "rich", "horovod"} & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def state(folder):
    state = untrained_state(
        VoxelGrid(shape=(25, 25, 25)),
        run_id="0" * 32,
        manifest={"particle": "e-", "checksum": "c0ffee"},
        optimizers={"generator": torch.zeros(10)},
    )
    CheckpointFolder(folder / "checkpoints").save(state, {})
    return state


@pytest.fixture(scope="module")
def version(folder, state):
    """The registered version, with an evaluation and an alias."""
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    assert registered(folder, "--metrics", str(folder / "metrics.json"), "--alias", "champion") == 0
    return Store(made_store(folder)).client.get_model_version("showers", "1")


@pytest.fixture(scope="module")
def python(folder):
    """The interpreter of an environment with all that is installed here but dist_calo."""
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    for packages in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(packages).iterdir():
            link = site / entry.name
            if "dist_calo" not in entry.name and not link.exists():
                link.symlink_to(entry)
    # The one program that MLflow calls by name; pip would have written it.
    uvicorn = python.with_name("uvicorn")
    uvicorn.write_text(f'#!/bin/sh\nexec "{python}" -m uvicorn "$@"\n')
    uvicorn.chmod(0o755)
    return python


@pytest.fixture(scope="module")
def address(folder, version, python):
    """The address of ``mlflow models serve`` in the fresh environment."""
    port = free_port()
    command = [python, "-m", "mlflow", "models", "serve", "--model-uri=models:/showers@champion"]
    command += ["--env-manager=local", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    log = folder / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=folder / "venv",
            env=clean_environment(python, MLFLOW_TRACKING_URI=made_store(folder)),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def answers():
        assert server.poll() is None, log.read_text()
        with suppress(OSError):
            return urllib.request.urlopen(f"{url}/ping", timeout=5).status == 200

    try:
        wait_until(answers, 120, f"an answer of {url}")
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def clean_environment(python, **more):
    """The environment of a user who has never heard of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    return kept | quiet | {"PATH": f"{python.parent}:{os.environ['PATH']}"} | more


def registered(folder, *options, name="showers", uri=None):
    given = ["--checkpoint", str(folder / "checkpoints"), "--name", name]
    given += ["--tracking-uri", uri or made_store(folder), *options]
    return run_command("dist-calo register", register, given)


def asked(address, content):
    """Status and content of the answer to a JSON request."""
    body = json.dumps(content).encode()
    request = urllib.request.Request(
        f"{address}/invocations", body, {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def generated(folder, state):
    """Energies and cells that ``dist-calo generate`` makes."""
    out = folder / "generated.h5"
    options = ["--n", str(SHOWERS), "--seed", str(SEED), "--out", str(out), "--force"]
    assert generate(["--checkpoint", str(folder / "checkpoints"), *options]) == 0
    with h5py.File(out) as file:
        return file["energy"][:, 0], file["ECAL"][:]


def test_a_version_says_where_it_comes_from_and_how_good_it_is(version):
    assert version.tags["step"] == "7"
    assert version.tags["training_run"] == "0" * 32
    assert version.tags["data_checksum"] == "c0ffee"
    assert (version.tags["score"], version.tags["score_definition"]) == ("0.057", "3")
    assert version.tags["metric.wasserstein/visible energy"] == "0.012 ± 0.001, floor 0.011, 0.9 sigmas"
    assert version.tags["metric.undefined"] == "undefined"
    assert version.aliases == ["champion"]


def test_the_evaluation_is_logged_as_metrics_of_a_run_of_its_own(folder, version):
    run = Store(made_store(folder)).client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {
        "evaluation/score": 0.057,
        "evaluation/wasserstein/visible energy": 0.012,
        "evaluation/wasserstein/visible energy.floor": 0.011,
        "evaluation/auc": 0.8,
        "evaluation/auc.floor": 0.5,
    }


def test_a_fresh_environment_generates_what_dist_calo_generate_does(folder, version, python, generated):
    energies, cells = generated
    (folder / "table.json").write_text(json.dumps({"energy_GeV": energies.astype(float).tolist()}))
    command = [python, "-I", "-c", IN_A_FRESH_PROCESS, made_store(folder), folder / "table.json"]
    done = subprocess.run(
        [*command, folder / "cells.npy", str(SEED)],
        cwd=folder / "venv",
        env=clean_environment(python),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    module, not_needed = json.loads(done.stdout.splitlines()[-1])
    assert Path(module).parts[-3:] == ("code", "dist_calo", "__init__.py")
    assert not_needed == []
    np.testing.assert_allclose(np.load(folder / "cells.npy"), cells, rtol=1e-4, atol=1e-8)


def test_the_model_is_served_over_http(address, generated):
    energies, cells = generated
    rows = [{"energy_GeV": float(energy)} for energy in energies[2:4]]
    # The third and fourth shower of the stream of this seed.
    status, answer = asked(address, {"dataframe_records": rows, "params": {"seed": SEED, "first_sample": 2}})
    assert status == 200
    np.testing.assert_allclose(answer["predictions"]["cells_GeV"], cells[2:4], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"dataframe_records": [{"energy_GeV": 20}, {"energy_GeV": -3}]},
            "row 1: energy_GeV=-3 must be above",
        ),
        ({"dataframe_records": [{"energy": 20}]}, "missing inputs ['energy_GeV']"),
        ({"dataframe_records": [{"energy_GeV": "warm"}]}, "warm"),
        ({"dataframe_records": [{"energy_GeV": 20}], "params": {"seed": -1}}, "seed=-1"),
        ({"energy_GeV": 20}, "dataframe_records"),
    ],
)
def test_a_bad_request_is_answered_by_what_is_wrong(address, content, message):
    status, answer = asked(address, content)
    assert status == 400
    assert message in answer["message"]
    assert "Traceback" not in json.dumps(answer)


@pytest.mark.parametrize("named_by", ["store", "spool"])
def test_a_model_belongs_to_the_run_that_trained_it(folder, state, version, tmp_path, named_by):
    client = Store(made_store(folder)).client
    experiment = client.create_experiment(named_by, artifact_location=tmp_path.as_uri())
    run = client.create_run(experiment, tags={SPOOL_TAG: "spool-1"})
    client.set_tag(run.info.run_id, "mlflow.source.git.commit", "f00d")
    client.set_terminated(run.info.run_id, "KILLED", end_time=123)
    name = run.info.run_id if named_by == "store" else "spool-1"
    CheckpointFolder(tmp_path / "checkpoints").save(state | {"run_id": name}, {})
    assert registered(tmp_path, name=f"by {named_by}", uri=made_store(folder)) == 0
    found = client.get_model_version(f"by {named_by}", "1")
    assert found.run_id == found.tags["training_run"] == run.info.run_id
    assert found.tags["training_commit"] == "f00d"
    after = client.get_run(run.info.run_id)
    assert (after.info.status, after.info.end_time) == ("KILLED", 123)
    assert [output.model_id for output in after.outputs.model_outputs]


def test_a_deleted_experiment_comes_back_when_it_is_written_to(folder, version):
    uri = made_store(folder)
    client = Store(uri).client
    made = experiment_id(client, uri, "short lived")
    client.delete_experiment(made)
    assert experiment_id(client, uri, "short lived") == made
    assert client.get_experiment(made).lifecycle_stage == "active"


def test_the_registry_holds_one_checkpoint_without_optimizers(folder, version):
    client = Store(made_store(folder)).client
    model = Path(client.get_model_version_download_uri("showers", "1").removeprefix("file://"))
    (file,) = model.rglob("*.pt")
    kept = torch.load(file, weights_only=True)
    assert kept["step"] == 7
    assert "optimizers" not in kept
    requirements = (model / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in requirements] == ["mlflow", "torch", "numpy"]


def test_names_of_inputs_and_outputs_have_units():
    angle = VoxelGrid(shape=(51, 51, 25), conditions=("energy", "theta"))
    assert input_columns(angle) == ["energy_GeV", "theta_rad"]
    assert output_name(angle) == "cells_GeV"
    assert output_name(Waveforms()) == "samples_ADC_counts"


def test_an_answer_that_would_not_fit_into_memory_is_refused(state):
    from mlflow.exceptions import MlflowException

    model = ShowerModel(restore_generator(Checkpoint.from_dict(state)))
    with pytest.raises(MlflowException, match="at most 17179 showers of 25 x 25 x 25 cells"):
        model.predict({"energy_GeV": np.full(20_000, 50.0)})


def test_a_server_that_is_away_is_one_line(folder, state, capsys):
    uri = f"http://127.0.0.1:{free_port()}"
    assert registered(folder, uri=uri) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert uri in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "a/b"], "--name 'a/b'"),
        (["--alias", "v3"], "--alias 'v3'"),
        (["--alias", "latest"], "--alias 'latest'"),
        (["--metrics", "/nowhere.json"], "/nowhere.json"),
        (["--tracking-uri", "file:///tmp"], "file:///tmp"),
        (["--checkpoint", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_options_are_one_line(folder, state, capsys, options, message):
    assert registered(folder, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("fact", [{"training step": "8"}, {"MLflow run": "1" * 32}])
def test_the_evaluation_of_another_checkpoint_is_refused(folder, state, tmp_path, capsys, fact):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({**METRICS, "facts": {"Model": fact}}))
    assert registered(folder, "--metrics", str(path)) == 2
    assert f"{path} is of another checkpoint: {next(iter(fact))}" in capsys.readouterr().err


def test_an_evaluation_without_a_score_is_registered(folder, state, tmp_path, capsys):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({**METRICS, "score": None}))
    assert registered(folder, "--metrics", str(path), name="unscored") == 0
    assert "step 7, in " in capsys.readouterr().out
    found = Store(made_store(folder)).client.get_model_version("unscored", "1")
    assert "score" not in found.tags
    assert found.tags["metric.undefined"] == "undefined"


@pytest.mark.parametrize("text", ["{", "[]", '{"score": "good"}', '{"score": 1, "metrics": {"a": 3}}'])
def test_metrics_of_another_kind_are_refused(folder, state, tmp_path, capsys, text):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    assert registered(folder, "--metrics", str(path)) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert "the metrics.json of dist-calo evaluate" in said
