"""``dist-calo evaluate`` of a generator that makes bad showers: counted and measured; the reference must be sound."""

import shutil

import h5py
import numpy as np
import pytest
import torch

from dist_calo.cli.data import main as data_tools
from dist_calo.cli.evaluate import main as evaluate
from dist_calo.config import RunConfig, TrackingConfig
from dist_calo.data.formats import ShowerWriter
from dist_calo.data.manifest import manifest_of
from dist_calo.errors import EXIT_USER
from dist_calo.geometry import LayeredGrid, VoxelGrid, Waveforms
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.restore import TrainedGenerator
from tests.support.evaluations import metrics_of
from tests.support.geometries import rough_showers
from tests.support.untrained import untrained_state

COUNT = 60
GEOMETRIES = {
    "voxels": VoxelGrid(shape=(25, 25, 25)),
    "layers": LayeredGrid(layers=((3, 8), (4, 4), (4, 2))),
    "signals": Waveforms(),
}


def written(folder, name):
    path = folder / f"{name}.h5"
    with ShowerWriter(path, GEOMETRIES[name]) as writer:
        writer.append(*rough_showers(GEOMETRIES[name], COUNT))
    return path


@pytest.fixture(scope="module", params=GEOMETRIES)
def any_reference(request, tmp_path_factory):
    return written(tmp_path_factory.mktemp("any"), request.param)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return written(tmp_path_factory.mktemp("one"), "layers")


def cells_of(file):
    return next(file[name] for name in ("ECAL", "layer_0", "signals") if name in file)


def all_cells(file):
    return [file[name] for name in file if name in ("ECAL", "signals") or name.startswith("layer_")]


def spoil(file):
    """One of each fault and the counts that are expected; the showers of the last have a twentieth of their energy."""
    cells, energy = cells_of(file), file["energy"]
    energy[0], energy[1] = 0.0, np.nan
    for row, value in ((2, np.nan), (3, np.inf), (4, 1e30)):
        values = cells[row]
        values.flat[0] = value
        cells[row] = values
    signed = "signals" in file
    for part in all_cells(file):
        part[5] = 0.0
        part[7:11] = part[7:11] / 20
    if not signed:
        values = cells[6]
        values.flat[0] = -1e-6
        cells[6] = values
    counts = {"energy": 2, "not_finite": 3, "empty": 1, "negative": 1, "response": 4}
    return counts | {"empty": 0, "negative": 0, "response": 5} if signed else counts


def spoiled(reference, path, how=spoil):
    shutil.copy(reference, path)
    with h5py.File(path, "a") as file:
        return how(file)


def given(real, fake, out, *more):
    return ["--real", str(real), "--fake", str(fake), "--out", str(out), "--tracking-uri", "none", *more]


def test_bad_showers_are_counted_and_measured(any_reference, tmp_path, capsys):
    counts = spoiled(any_reference, tmp_path / "fake.h5")
    assert evaluate(given(any_reference, tmp_path / "fake.h5", tmp_path / "out", "--no-report")) == 0
    found = metrics_of(tmp_path / "out")
    bad = found["bad_showers"]
    assert {fault: bad[fault] for fault in counts} == counts
    assert bad["share"] == pytest.approx(sum(counts.values()) / COUNT)
    assert bad["left_out"] == 5
    assert found["showers"] == {"real": COUNT, "fake": COUNT}
    assert found["metrics"]["shift/response"]["value"] < -0.1
    assert f"{sum(counts.values())} of {COUNT} generated showers" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["no number", "empty", "negative", "other unit", "energies out of range"])
def test_a_sample_of_nothing_but_bad_showers_is_judged(reference, what, tmp_path, capsys):
    def how(file):
        factor = {"no number": np.nan, "empty": 0.0, "negative": -1.0, "other unit": 1000.0}.get(what, 1.0)
        for part in all_cells(file):
            part[...] = part[:] * np.float32(factor)
        if what == "energies out of range":
            file["energy"][...] = file["energy"][:] * 1000

    spoiled(reference, tmp_path / "fake.h5", how)
    assert evaluate(given(reference, tmp_path / "fake.h5", tmp_path / "out", "--no-report")) == 0
    found = metrics_of(tmp_path / "out")
    assert found["bad_showers"]["share"] == 1
    assert bool(found["metrics"]) == (what != "no number")
    if what == "energies out of range":
        assert found["bad_showers"]["outside_of_energy_bins"] == COUNT
    suspected = {"other unit": "cell_units", "energies out of range": "energy_units"}
    if what in suspected:
        assert any(f"tell it in the attribute {suspected[what]}" in note for note in found["notes"])
        assert f"the attribute {suspected[what]}" in capsys.readouterr().out


def test_the_report_says_so_first(reference, tmp_path, monkeypatch):
    for figures in ("draw_chapters", "draw_bins"):
        monkeypatch.setattr(f"dist_calo.evaluation.evaluate.{figures}", lambda evaluation: [])
    spoiled(reference, tmp_path / "fake.h5")
    assert evaluate(given(reference, tmp_path / "fake.h5", tmp_path / "out")) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "11 of 60 generated showers (18.3 %) are bad" in page[: page.index("</header>")]


def test_a_reference_with_a_bad_shower_is_refused(reference, tmp_path, capsys):
    spoiled(reference, tmp_path / "bad.h5")
    assert evaluate(given(tmp_path / "bad.h5", reference, tmp_path / "out")) == EXIT_USER
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "row 0: the incident energy is not" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [0.0, -1e-3])
def test_advice_on_a_bad_shower_of_the_reference_is_true(reference, value, tmp_path, capsys):
    def how(file):
        for part in all_cells(file):
            part[5] = value

    spoiled(reference, tmp_path / "bad.h5", how)
    assert evaluate(given(tmp_path / "bad.h5", reference, tmp_path / "out")) == EXIT_USER
    said = capsys.readouterr().err.strip().splitlines()[-1]
    words = said[said.index("convert --") :].split()[:3]
    options = [*words[1:], "--min-sum", "0"] if value else words[1:]
    assert data_tools(["convert", str(tmp_path / "bad.h5"), *options, "--out", str(tmp_path / "new.h5")]) == 0
    assert evaluate(given(tmp_path / "new.h5", reference, tmp_path / "out", "--no-report")) == 0


def missing(file):
    del file["energy"]


def shorter(file):
    values = file["energy"][:-1]
    del file["energy"]
    file["energy"] = values


@pytest.mark.parametrize(("how", "rule"), [(missing, "energy"), (shorter, "must be equal")])
def test_a_file_that_cannot_be_compared_is_refused(reference, how, rule, tmp_path, capsys):
    spoiled(reference, tmp_path / "fake.h5", how)
    assert evaluate(given(reference, tmp_path / "fake.h5", tmp_path / "out")) == EXIT_USER
    assert rule in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_truncated_file_is_refused(reference, tmp_path, capsys):
    (tmp_path / "fake.h5").write_bytes(reference.read_bytes()[:-5000])
    assert evaluate(given(reference, tmp_path / "fake.h5", tmp_path / "out")) == EXIT_USER
    assert "truncated" in capsys.readouterr().err.strip().splitlines()[-1]


def checkpoint_of(folder, real, geometry):
    config = RunConfig(tracking=TrackingConfig(uri="none")).to_dict()
    manifest = manifest_of([str(real)]).to_dict()
    state = untrained_state(geometry, run_id=None, epoch=1, config=config, manifest=manifest)
    CheckpointFolder(folder / "checkpoints").save(state, {})
    return str(folder / "checkpoints")


def test_a_checkpoint_that_generates_bad_showers_is_judged(tmp_path, monkeypatch, capsys):
    geometry = GEOMETRIES["voxels"]
    real = written(tmp_path, "voxels")
    generate = TrainedGenerator.generate

    def diverged(self, conditions, draws):
        showers = generate(self, conditions, draws)
        showers[::10] = torch.nan
        return showers

    monkeypatch.setattr(TrainedGenerator, "generate", diverged)
    command = [
        "--checkpoint",
        checkpoint_of(tmp_path, real, geometry),
        "--real",
        str(real),
        "--out",
        str(tmp_path / "out"),
    ]
    assert evaluate([*command, "--tracking-uri", "none", "--no-report"]) == 0
    assert metrics_of(tmp_path / "out")["bad_showers"]["not_finite"] >= COUNT / 10
    assert "are bad: a cell that is NaN" in capsys.readouterr().out


def test_a_reference_may_have_more_conditions_than_the_generator_and_not_fewer(tmp_path, capsys):
    geometry, tilted = GEOMETRIES["voxels"], VoxelGrid(shape=(25, 25, 25), conditions=("energy", "theta"))
    real = written(tmp_path, "voxels")
    with ShowerWriter(tmp_path / "tilted.h5", tilted) as writer:
        writer.append(*rough_showers(tilted, 30))
    command = ["--checkpoint", checkpoint_of(tmp_path, real, geometry), "--real", str(tmp_path / "tilted.h5")]
    command += ["--out", str(tmp_path / "out"), "--tracking-uri", "none", "--no-report"]
    assert evaluate(command) == 0
    assert "shift/angle" in metrics_of(tmp_path / "out")["metrics"]
    more = given(real, tmp_path / "tilted.h5", tmp_path / "more", "--no-report")
    assert evaluate(more) == 0
    capsys.readouterr()
    assert evaluate(given(tmp_path / "tilted.h5", real, tmp_path / "fewer")) == EXIT_USER
    assert "add the data set theta" in capsys.readouterr().err
