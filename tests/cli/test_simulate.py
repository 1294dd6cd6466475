import h5py
import numpy as np
import pytest

from dist_calo.__main__ import main
from dist_calo.simulation.detectors import DETECTORS


def simulate(path, *options, n=100, detector="lcd25"):
    arguments = ["--detector", detector, "--n", str(n), "--out", str(path), *options]
    assert main(["simulate", *arguments]) == 0


def read(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file}, dict(file.attrs)


@pytest.mark.parametrize("detector", DETECTORS)
def test_simulated_files_are_valid(tmp_path, detector, capsys):
    path = tmp_path / "showers.h5"
    simulate(path, "--energy", "10:20", n=10, detector=detector)
    assert main(["data", "validate", str(path)]) == 0
    assert "10 showers in 1 file(s), no problem found" in capsys.readouterr().out


def test_files_say_where_they_come_from(tmp_path):
    simulate(tmp_path / "showers.h5", "--seed", "5", n=3)
    sets, attributes = read(tmp_path / "showers.h5")
    assert sorted(sets) == ["ECAL", "energy"]
    assert attributes["seed"] == 5
    assert attributes["particle"] == "e-"
    assert "hep-ex/0001020" in attributes["generator"]
    assert "Geant4" in attributes["fitted_to"]


def test_the_same_seed_gives_the_same_showers_for_any_number_and_processes(tmp_path):
    simulate(tmp_path / "one.h5", n=150)
    simulate(tmp_path / "two.h5", "--processes", "2", n=150)
    simulate(tmp_path / "fewer.h5", n=70)
    simulate(tmp_path / "other.h5", "--seed", "1", n=70)
    one, two, fewer, other = (read(tmp_path / f"{name}.h5")[0] for name in ("one", "two", "fewer", "other"))
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])
        np.testing.assert_array_equal(values[:70], fewer[name])
        assert not np.array_equal(fewer[name], other[name])


def test_angles_other_than_normal_are_a_condition(tmp_path):
    simulate(tmp_path / "showers.h5", "--theta", "1.2:1.9", n=80)
    theta = read(tmp_path / "showers.h5")[0]["theta"]
    assert theta.shape == (80, 1)
    assert 1.2 <= theta.min() < 1.3 < 1.8 < theta.max() <= 1.9
    assert main(["data", "validate", str(tmp_path / "showers.h5")]) == 0


def test_extrapolated_energies_are_told(tmp_path, capsys):
    simulate(tmp_path / "showers.h5", "--energy", "150", n=2)
    assert "energies outside 10:100 GeV are extrapolated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n", "0"], "--n 0: must be at least 1"),
        (["--processes", "0"], "--launch 0: must be at least 1"),
        (
            ["--energy", "1000"],
            "--energy 1000: lcd25 was fitted from 10 to 100 GeV; stay between 2.5 and 400",
        ),
        (["--energy", "many"], "--energy many: give one number or a range"),
        (["--theta", "90"], "--theta 90: the polar angle must be 0 to 3.1416 rad; 1 degree is 0.01745 rad"),
        (["--energy", "0:50"], "--energy 0:50: the incident energy must be above 0 GeV"),
        (["--theta", "0.1"], "--theta 0.1: angles lie between 0.5 and 2.6416 rad"),
        (["--theta", "1.2", "--detector", "signals"], "showers of signals come at normal incidence only"),
        (["--detector", "atlas"], "invalid choice: 'atlas'"),
    ],
)
def test_bad_options_are_one_line(tmp_path, capsys, options, message):
    arguments = ["--detector", "lcd25", "--out", str(tmp_path / "showers.h5"), *options]
    assert main(["simulate", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_by_force(tmp_path, capsys):
    path = tmp_path / "showers.h5"
    path.write_text("precious")
    assert main(["simulate", "--detector", "lcd25", "--n", "2", "--out", str(path)]) == 2
    assert "add --force" in capsys.readouterr().err
    assert path.read_text() == "precious"
    simulate(path, "--force", n=2)
    assert len(read(path)[0]["ECAL"]) == 2
