"""Showers by Geant4: the same on any number of ranks and after a kill, and those of the stored sample."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing.context import SpawnProcess

import h5py
import numpy as np
import psutil
import pytest

from dist_calo.__main__ import main
from dist_calo.errors import EXIT_USER
from dist_calo.generation import simulated
from dist_calo.generation.simulated import SimulationRequest
from dist_calo.launching.early_signals import STOP_SIGNALS
from dist_calo.simulation.beam import Beam
from dist_calo.simulation.detectors import DETECTORS, find_detector
from dist_calo.simulation.geant4 import process
from dist_calo.simulation.geant4.process import Geant4Process, rows_of
from tests.simulation.test_parametrised import lcd_sample
from tests.support.ranks import run_ranks

ORDER = ("--engine", "geant4", "--detector", "lcd25", "--n", "70", "--energy", "0.5:1.5", "--seed", "3")
"""Parts of 32 showers: three, the last one of six."""

needs_geant4 = pytest.mark.requires("geant4")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one rank makes without a break."""
    path = tmp_path_factory.mktemp("whole") / "showers.h5"
    assert main(["simulate", *ORDER, "--out", str(path)]) == 0
    assert os.listdir(path.parent) == ["showers.h5"]
    return path


def command(out, *options):
    return [sys.executable, "-m", "dist_calo", "simulate", *ORDER, "--out", str(out), *options]


def geant4_of(started):
    """Processes that a command has started, however deep."""
    return psutil.Process(started.pid).children(recursive=True)


@needs_geant4
def test_the_number_of_ranks_changes_no_bit(whole, tmp_path):
    out = tmp_path / "showers.h5"
    run = run_ranks(command(out), 3).check()
    assert "70 showers of lcd25, 0.5 to 1.5 GeV" in run.ranks[0]
    assert out.read_bytes() == whole.read_bytes()
    assert os.listdir(tmp_path) == ["showers.h5"]


@needs_geant4
@pytest.mark.parametrize("n", [1, 524_288, 700_000, 10_000_000])
def test_the_number_of_parts_is_bounded(n, tmp_path):
    request = SimulationRequest(detector="lcd25", out=tmp_path / "showers.h5", engine="geant4", n=n)
    assert 1 <= simulated._set_up(request).partition.count <= simulated.MOST_PARTS


@needs_geant4
def test_a_killed_simulation_continues_and_leaves_no_geant4_behind(whole, tmp_path, capsys):
    out = tmp_path / "showers.h5"
    parts = tmp_path / "showers.h5.parts"
    with subprocess.Popen(command(out), stdout=subprocess.DEVNULL) as started:
        limit = time.monotonic() + 120
        while not list(parts.glob("part-*.h5")) and started.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        children = geant4_of(started)
        os.kill(started.pid, signal.SIGKILL)
    kept = len(list(parts.glob("part-*.h5")))
    assert 1 <= kept < 3, "it was killed too late, or never wrote a part"
    assert children
    assert not psutil.wait_procs(children, timeout=60)[1]
    assert main(["simulate", *ORDER, "--out", str(out), "--seed", "4"]) == EXIT_USER
    assert "--seed 4" in capsys.readouterr().err
    assert main(["simulate", *ORDER, "--out", str(out)]) == 0
    assert f"continuing: {32 * kept} of 70 showers" in capsys.readouterr().out
    assert out.read_bytes() == whole.read_bytes()


@needs_geant4
def test_the_file_says_what_was_simulated(whole):
    with h5py.File(whole) as file:
        assert sorted(file) == ["ECAL", "energy", "impact"]
        assert file.attrs["particle"] == "e-"
        assert "25 layers of 3.4 mm G4_W + 0.5 mm G4_Si + 1.2 mm G4_AIR" in file.attrs["geometry"]
        assert "no data sets" in file.attrs["physics"]
        assert np.abs(file["impact"][:]).max() <= 5.1 / 2


@needs_geant4
def test_showers_are_those_of_the_stored_sample():
    """Means of 40 showers of 10 to 20 GeV beside those of the sample, within 4 standard errors."""
    real, energies = lcd_sample()
    chosen = energies[:, 0] < 20
    with Geant4Process(find_detector("lcd25"), Beam(energy=(10.0, 20.0)), seed=1) as geant4:
        events = list(geant4.simulate(range(40)))
        (again,) = geant4.simulate(range(7, 8))
    np.testing.assert_array_equal(again.energies, events[7].energies)
    np.testing.assert_array_equal(again.cells, events[7].cells)
    fake = np.concatenate([rows_of(event, find_detector("lcd25"), 1, 0)[0] for event in events])
    incident = np.array([event.primary.energy for event in events])
    for name, one, other in zip(
        ("response", "depth", "width", "hits", "hottest"),
        observables(fake, incident),
        observables(real[chosen], energies[chosen, 0]),
        strict=True,
    ):
        error = np.hypot(one.std() / len(one) ** 0.5, other.std() / len(other) ** 0.5)
        assert abs(one.mean() - other.mean()) < 4 * error, name
        assert one.std() == pytest.approx(other.std(), rel=0.5), name


def observables(showers, energies):
    showers = showers.astype(np.float64)
    total = showers.sum((1, 2, 3))
    layers, places = np.arange(25), np.arange(25) - 12
    depth = showers.sum((1, 2)) @ layers / total
    width = showers.sum((2, 3)) @ places**2 / total
    hits = (showers > 1e-5).sum((1, 2, 3)) / energies
    return total / energies, depth, width, hits, showers.max((1, 2, 3)) / total


@needs_geant4
def test_tilted_showers_follow_their_axis():
    detector = find_detector("lcd25")
    with Geant4Process(detector, Beam(energy=(10.0, 10.0), theta=(1.2, 1.2)), seed=2) as geant4:
        showers = sum(rows_of(event, detector, 2, 0)[0][0] for event in geant4.simulate(range(30)))
    # Albedo and soft photons of the tail do not point along the axis: the layers between.
    between = np.arange(1, 13)
    centroid = np.arange(-12, 13) @ showers.sum(0)[:, between] / showers.sum((0, 1))[between]
    slope, offset = np.polyfit(between + 3.65 / 5.1, centroid, 1)
    assert slope == pytest.approx(1 / np.tan(1.2), rel=0.1)
    assert slope * detector.pivot / 5.1 + offset == pytest.approx(0.0, abs=0.5)


@needs_geant4
@pytest.mark.parametrize(("name", "response"), [("layers", 0.19), ("signals", 0.168)])
def test_other_detectors_are_read_and_valid(tmp_path, capsys, name, response):
    path = tmp_path / "showers.h5"
    options = ["--engine", "geant4", "--detector", name, "--n", "12", "--energy", "2:4", "--out", str(path)]
    assert main(["simulate", *options]) == 0
    assert main(["data", "validate", str(path)]) == 0
    assert "12 showers in 1 file(s), no problem found" in capsys.readouterr().out
    with h5py.File(path) as file:
        cells = (
            [file[f"layer_{layer}"][:].sum() for layer in range(3)] if name == "layers" else file["edep"][:]
        )
        assert np.sum(cells) / file["energy"][:].sum() == pytest.approx(response, rel=0.1)
        if name == "signals":
            deposits, light = file["edep"][:].sum((1, 2, 3)), file["signals"][:].sum((1, 2))
            assert np.corrcoef(deposits, light)[0, 1] > 0.95


def test_plates_of_the_layered_detector_are_cut_where_cells_change():
    slabs = find_detector("layers").slabs
    assert sum(slab.thickness for slab in slabs) == pytest.approx(480.0)
    cut = [slab for slab in slabs if slab.layer is not None and slab.thickness != pytest.approx(4.0)]
    assert [(slab.thickness, slab.layer) for slab in cut] == [
        (pytest.approx(3.0), 1),
        (pytest.approx(1.0), 2),
    ]
    for detector in DETECTORS.values():
        assert {slab.layer for slab in detector.slabs} == {None, *range(len(detector.cells.columns))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--energy", "0.01"],
            "--energy 0.01: its models here are meant for electromagnetic showers; stay between",
        ),
        (["--engine", "delphes"], "invalid choice: 'delphes'"),
    ],
)
def test_bad_options_are_one_line(tmp_path, capsys, options, message):
    assert main(["simulate", *ORDER, "--out", str(tmp_path / "showers.h5"), *options]) == EXIT_USER
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_missing_wheel_is_named_with_its_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(process, "installed", lambda: None)
    assert main(["simulate", *ORDER, "--out", str(tmp_path / "showers.h5")]) == EXIT_USER
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs geant4-pybind 0.1.3, found none: pip install 'dist_calo[geant4]'" in line


@needs_geant4
def test_a_geant4_that_dies_is_told_and_one_that_is_asked_to_goes_on(capfd, monkeypatch):
    def start(started):
        begin(started)
        for number in STOP_SIGNALS:
            os.kill(started.pid, number)

    begin = SpawnProcess.start
    monkeypatch.setattr(SpawnProcess, "start", start)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with Geant4Process(find_detector("lcd25"), Beam(energy=(1.0, 1.0)), seed=0) as geant4:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
        showers = geant4.simulate(range(10_000))
        next(showers)
        geant4._process.kill()
        with pytest.raises(process.DataError, match="Geant4 ended with -9"):
            list(showers)
