"""What is written is what is read, in each geometry's schema, and what `dist-calo data` makes of it."""

import json

import h5py
import numpy as np
import pytest

from dist_calo.cli.command_line import run_command
from dist_calo.cli.data import main
from dist_calo.data.formats import ShowerWriter, open_file, read_deposits, recognise
from dist_calo.data.manifest import manifest_of
from dist_calo.errors import ConfigError
from dist_calo.generation.partial_output import _copy, _like
from dist_calo.geometry import CylindricalLayers, LayeredGrid, VoxelGrid, Waveforms
from tests.support.calochallenge_files import binning, write_calochallenge

GEOMETRIES = {
    "lcd": VoxelGrid(shape=(25, 25, 25), conditions=("energy", "theta"), cell_size=(5.0, 5.0, 4.0)),
    "layers": LayeredGrid(
        layers=((3, 8), (4, 4)), cell_sizes=((1.5, 2.0), (3.0, 0.1)), conditions=("energy", "theta")
    ),
    "calochallenge": CylindricalLayers(
        r_edges=((0.0, 1.0, 4.65), (), (0.0,), (0.1, 0.7)),
        sectors=(2, 1, 1, 3),
        conditions=("energy", "theta"),
    ),
    "signals": Waveforms(rows=2, columns=3, samples=20, sample_ns=0.25, noise=0.125, unit="mV"),
}


def showers_of(geometry, rows=23):
    """Plausible showers and conditions of a geometry."""
    numbers = np.random.default_rng(0)
    conditions = numbers.uniform(1, 3, (rows, len(geometry.conditions))).astype(np.float32)
    if geometry.signed:
        return numbers.normal(size=(rows, *geometry.shape)).astype(np.float32), conditions
    cells = numbers.exponential(size=(rows, *geometry.shape)) * 0.5 / geometry.cells
    return cells.astype(np.float32), conditions


def write(path, geometry, **options):
    showers, conditions = showers_of(geometry)
    with ShowerWriter(path, geometry, {"particle": "e-", "origin": "here"}, **options) as writer:
        for first, last in [(0, 1), (1, 9), (9, 9), (9, 22), (22, 23)]:
            writer.append(showers[first:last], conditions[first:last])
    return showers, conditions


def read_all(path):
    with open_file(path) as file:
        schema = recognise(file)
        return schema.rows(file).read(0, schema.describe(file).rows)


def run(*arguments):
    return run_command("dist-calo data", main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize(
    "compression", ["gzip", "none", pytest.param("zstd", marks=pytest.mark.requires("hdf5plugin"))]
)
def test_what_is_written_is_what_is_read(tmp_path, name, compression):
    geometry = GEOMETRIES[name]
    expected = write(tmp_path / "a.h5", geometry, chunk_rows=4, compression=compression)
    manifest = manifest_of([str(tmp_path / "a.h5")])
    assert (manifest.format, manifest.geometry, manifest.particle, manifest.rows) == (
        name,
        geometry,
        "e-",
        23,
    )
    assert manifest.files[0].chunk_rows == 4
    exact = {} if name == "calochallenge" else {"rtol": 0}  # The challenge's files are in MeV.
    for found, wanted in zip(read_all(tmp_path / "a.h5"), expected, strict=True):
        np.testing.assert_allclose(found, wanted, **({"rtol": 1e-6} | exact))


def test_bytes_of_waveforms_are_stored_apart_and_those_of_energies_are_not(tmp_path):
    for name, data_set, apart in (("signals", "signals", True), ("lcd", "ECAL", False)):
        write(tmp_path / "a.h5", GEOMETRIES[name])
        with open_file(tmp_path / "a.h5") as file:
            assert (file[data_set].compression, file[data_set].shuffle) == ("gzip", apart)


def test_zstd_asks_for_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr("dist_calo.data.formats.writer.load_plugins", lambda: False)
    with pytest.raises(ConfigError, match="pip install hdf5plugin"):
        ShowerWriter(tmp_path / "a.h5", GEOMETRIES["lcd"], compression="zstd")
    assert list(tmp_path.iterdir()) == []


def test_parts_that_versions_of_the_package_stored_differently_are_joined(tmp_path):
    values = np.arange(64, dtype=np.float32).reshape(64, 1)
    with h5py.File(tmp_path / "parts.h5", "w") as file:
        stored = {"chunks": (32, 1), "compression": "gzip", "maxshape": (None, 1)}
        parts = [
            file.create_dataset(str(shuffle), data=values[first : first + 32], shuffle=shuffle, **stored)
            for shuffle, first in ((True, 0), (False, 32))
        ]
        whole = _like(parts[0], file.create_group("whole"), 64)
        for part, first in zip(parts, (0, 32), strict=True):
            _copy(part, whole, first)
        np.testing.assert_array_equal(whole[:], values)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_convert_and_split_keep_geometry_and_showers(tmp_path, capsys, name):
    expected = write(tmp_path / "a.h5", GEOMETRIES[name])
    assert run("convert", tmp_path / "a.h5", "--out", tmp_path / "b.h5") == 0
    assert run("split", tmp_path / "b.h5", "--out", tmp_path / "parts", "--test-fraction", "0.4") == 0
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) == 3
    assert sum(len(read_all(part)[0]) for part in parts) == 23
    for path in (tmp_path / "b.h5", *parts):
        assert manifest_of([str(path)]).geometry == GEOMETRIES[name]
        with h5py.File(path) as file:
            assert file.attrs["origin"] == "here"
    np.testing.assert_allclose(read_all(tmp_path / "b.h5")[0], expected[0], rtol=1e-6)
    assert run("validate", tmp_path / "b.h5") == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "cells", "fraction"),
    [
        ("lcd", "25 x 25 x 25 cells", True),
        ("layers", "2 layers of 3 x 8 and 4 x 4 cells", True),
        ("calochallenge", "7 cells in 2 layers", True),
        ("signals", "6 channels of 20 samples", False),
    ],
)
def test_inspect_tells_what_means_something(tmp_path, capsys, name, cells, fraction):
    showers, conditions = write(tmp_path / "a.h5", GEOMETRIES[name])
    assert run("inspect", tmp_path / "a.h5") == 0
    assert f"23 showers of {cells} in 1 file(s)" in capsys.readouterr().out
    assert run("inspect", tmp_path / "a.h5", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["geometry"]["kind"] == GEOMETRIES[name].kind
    if not fraction:
        assert (summary["sampling_fraction"], summary["empty_cells"]) == (None, None)
        return
    expected = np.mean(showers.reshape(23, -1).sum(axis=1) / conditions[:, 0])
    assert summary["sampling_fraction"] == pytest.approx(expected, rel=1e-4)


def test_an_attribute_that_tells_the_storage_is_not_carried_over(tmp_path, capsys):
    path = write_calochallenge(tmp_path / "a.h5", 368, unit=1.0)
    with h5py.File(path, "a") as file:
        file.attrs["units"] = file.attrs["energy_units"] = "GeV"
        file.attrs["title"] = "showers"
    assert run("convert", path, "--out", tmp_path / "b.h5") == 0
    with h5py.File(tmp_path / "b.h5") as file:
        assert (file.attrs["energy_units"], file.attrs["title"]) == ("MeV", "showers")
        assert file["incident_energies"][0] == pytest.approx(1000)
    assert manifest_of([str(tmp_path / "b.h5")]).geometry == binning("dataset_1_photons")
    np.testing.assert_allclose(read_all(tmp_path / "b.h5")[0], read_all(path)[0], rtol=1e-6)
    capsys.readouterr()


def test_a_wrong_unit_is_one_problem_of_validate_and_an_option_mends_it(tmp_path, capsys):
    path = write_calochallenge(tmp_path / "a.h5", 368, unit=1.0)
    assert run("validate", path) == 2
    lines = capsys.readouterr().out.splitlines()
    assert "data.cell_unit=GeV (--cells-unit GeV) and data.energy_unit=GeV (--energy-unit GeV)" in lines[0]
    assert lines[1:] == ["1 problem(s) found"]
    assert run("validate", path, "--cells-unit", "GeV", "--energy-unit", "GeV") == 0
    assert (
        run("convert", path, "--out", tmp_path / "b.h5", "--cells-unit", "GeV", "--energy-unit", "GeV") == 0
    )
    assert run("validate", tmp_path / "b.h5") == 0
    capsys.readouterr()


@pytest.mark.parametrize("option", [("--cut", "1"), ("--min-sum", "0"), ("--cells-factor", "2")])
def test_waveforms_are_not_cut_or_scaled(tmp_path, capsys, option):
    write(tmp_path / "a.h5", GEOMETRIES["signals"])
    assert run("convert", tmp_path / "a.h5", "--out", tmp_path / "b.h5", *option) == 2
    assert "waveforms have none: leave them out" in capsys.readouterr().err


def add(path, **data_sets):
    with h5py.File(path, "a") as file:
        for name, values in data_sets.items():
            file[name] = values


def test_the_truth_behind_signals_goes_where_they_go(tmp_path, capsys):
    deposits = np.random.default_rng(1).random((23, 16, 2, 3)).astype(np.float32) / 200
    for name in "ab":
        write(tmp_path / f"{name}.h5", GEOMETRIES["signals"], chunk_rows=4)
        start = np.arange(23) + (0 if name == "a" else 100)
        add(tmp_path / f"{name}.h5", edep=deposits, t0=start[:, None], seeds=np.arange(4))
    add(tmp_path / "b.h5", only_here=np.arange(23))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["t0"].attrs["unit"] = "ns"
    assert run("convert", tmp_path / "[ab].h5", "--out", tmp_path / "c.h5", "--chunk-rows", "5") == 0
    said = capsys.readouterr().out
    assert "46 showers, with edep, t0, without seeds, only_here (not a row of numbers a shower" in said
    with h5py.File(tmp_path / "c.h5") as file:
        assert sorted(file) == ["edep", "energy", "signals", "t0"]
        assert (file["edep"].chunks, file["edep"].compression) == ((5, 16, 2, 3), "gzip")
        assert (file["t0"].dtype, file["t0"].attrs["unit"]) == (np.int64, "ns")
        np.testing.assert_array_equal(file["t0"][:, 0], [*range(23), *range(100, 123)])
    np.testing.assert_array_equal(read_deposits(tmp_path / "c.h5", 23, 46), deposits)
    assert run("split", tmp_path / "c.h5", "--out", tmp_path / "parts", "--test-fraction", "0.4") == 0
    both = read_all(tmp_path / "c.h5")[0]
    start = []
    for part in sorted((tmp_path / "parts").iterdir()):
        with h5py.File(part) as file:
            rows = np.array([row - 100 + 23 if row >= 100 else row for row in file["t0"][:, 0]])
            np.testing.assert_array_equal(file["signals"][:], both[rows])
            np.testing.assert_array_equal(file["edep"][:], np.tile(deposits, (2, 1, 1, 1))[rows])
            start += rows.tolist()
    assert sorted(start) == list(range(46))
    capsys.readouterr()


def test_energy_beside_the_cells_follows_their_unit_and_showers_left_out(tmp_path, capsys):
    showers, conditions = showers_of(GEOMETRIES["layers"])
    showers[::3] = 0
    mev = {"layer_0": showers[:, :24].reshape(23, 3, 8), "layer_1": showers[:, 24:].reshape(23, 4, 4)}
    overflow = np.arange(46, dtype=np.float64).reshape(23, 2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in mev.items():
            file[name] = 1000 * values
        file["energy"], file["overflow"], file["impact"] = conditions[:, :1], 1000 * overflow, overflow
    kept = np.arange(23) % 3 != 0
    assert run("convert", tmp_path / "a.h5", "--out", tmp_path / "b.h5", "--min-sum", "0") == 0
    with h5py.File(tmp_path / "b.h5") as file:
        np.testing.assert_allclose(file["layer_1"][:], mev["layer_1"][kept], rtol=1e-6)
        np.testing.assert_allclose(file["overflow"][:], overflow[kept], rtol=1e-6)
        np.testing.assert_array_equal(file["impact"][:], overflow[kept])
    capsys.readouterr()
