import json

import h5py
import numpy as np
import pytest

from dist_calo.cli.command_line import run_command
from dist_calo.cli.data import main
from dist_calo.config import DataConfig
from dist_calo.data.formats import open_file, recognise
from dist_calo.data.manifest import build_manifest, read_manifest
from dist_calo.data.row_blocks import split_blocks
from tests.support.shower_files import energies, rows_of, showers, write_lcd


@pytest.fixture
def data(tmp_path):
    """Two files of 120 and 80 rows; returns their glob."""
    (tmp_path / "data").mkdir()
    write_lcd(tmp_path / "data" / "EleEscan_0.h5", 120, ecal_compression="gzip")
    write_lcd(tmp_path / "data" / "EleEscan_1.h5", 80, first=120)
    return str(tmp_path / "data" / "*.h5")


def run(*arguments):
    return run_command("dist-calo data", main, [str(argument) for argument in arguments])


def read_all(path):
    with open_file(path) as file:
        schema = recognise(file)
        return schema.rows(file).read(0, schema.describe(file).rows)


def test_inspect_prints_a_table(data, capsys):
    assert run("inspect", data) == 0
    shown = capsys.readouterr().out
    assert "200 showers of 25 x 25 x 25 cells in 2 file(s)" in shown
    assert "particle e-, conditions energy" in shown
    line = next(line for line in shown.splitlines() if line.startswith("EleEscan_0.h5"))
    assert "120" in line
    assert "32 rows" in line
    assert "gzip" in line
    assert "10 to 10.12" in line


def test_inspect_shows_the_good_files_and_names_the_bad_ones(data, tmp_path, capsys):
    (tmp_path / "data" / "EleEscan_1.h5").write_bytes(b"no shower")
    (tmp_path / "data" / "EleEscan_2.h5").write_bytes(b"")
    assert run("inspect", data) == 2
    shown = capsys.readouterr()
    assert "120 showers of 25 x 25 x 25 cells in 1 file(s)" in shown.out
    assert [line.split(": ")[1].rpartition("/")[2] for line in shown.err.splitlines()] == [
        "EleEscan_1.h5",
        "EleEscan_2.h5",
    ]


def test_inspect_prints_json(data, capsys):
    assert run("inspect", data, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["shape"], summary["particle"]) == (200, [25, 25, 25], "e-")
    first = summary["files"][0]
    assert (first["rows"], first["chunk_rows"], first["storage"]) == (120, 32, "gzip")
    assert first["sampled_rows"] == 120
    assert first["energy_max"] == pytest.approx(10.119)
    expected = np.mean((np.arange(1, 121) / 256 + 0.5) / energies(120)[:, 0])
    assert first["sampling_fraction"] == pytest.approx(expected)
    assert first["empty_cells"] == pytest.approx(1 - 2 / 25**3)


def test_validate_names_every_problem(data, tmp_path, capsys):
    assert run("validate", data) == 0
    assert "200 showers in 2 file(s), no problem found" in capsys.readouterr().out
    cells = showers(80)
    cells[7, 1, 1, 1], cells[9] = -1, 0
    write_lcd(tmp_path / "data" / "EleEscan_1.h5", 80, ECAL=cells)
    truncated = tmp_path / "data" / "EleEscan_0.h5"
    truncated.write_bytes(truncated.read_bytes()[:-500])
    write_lcd(tmp_path / "data" / "EleEscan_2.h5", 5, energy=None)
    assert run("validate", data) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "EleEscan_0.h5: not a complete HDF5 file" in lines[0]
    assert lines[1].endswith("EleEscan_1.h5: data set ECAL, row 7: a cell has negative energy")
    assert lines[2].endswith("EleEscan_1.h5: data set ECAL, row 9: the shower has no energy in any cell")
    assert "EleEscan_2.h5: data set energy (or target) is missing" in lines[3]
    assert lines[4] == "4 problem(s) found"


def test_validate_refuses_a_mixture(data, tmp_path, capsys):
    write_lcd(tmp_path / "data" / "GammaEscan_0.h5", 5)
    assert run("validate", data) == 2
    assert "its particle is gamma" in capsys.readouterr().out


def test_validate_makes_and_checks_a_manifest(data, tmp_path, capsys):
    stored = tmp_path / "manifest.json"
    assert run("validate", data, "--manifest", stored) == 0
    assert read_manifest(stored) == build_manifest(DataConfig(path=data))
    assert run("validate", data, "--manifest", stored) == 0
    assert "the files are those of the manifest" in capsys.readouterr().out
    with h5py.File(tmp_path / "data" / "EleEscan_1.h5", "a") as file:
        file["energy"][3] = 50
    assert run("validate", data, "--manifest", stored) == 2
    assert "EleEscan_1.h5 has changed since the manifest was made" in capsys.readouterr().out
    assert run("validate", data, "--manifest", stored, "--renew") == 0
    assert read_manifest(stored) == build_manifest(DataConfig(path=data))
    assert run("validate", data, "--manifest", tmp_path / "none" / "manifest.json") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_convert_brings_older_files_into_the_package_schema(tmp_path):
    cells = showers(50)
    cells[:, 9, 9, 9] = 1e-7
    target = np.column_stack([np.zeros(50), energies(50)[:, 0] * 1000])
    path = write_lcd(
        tmp_path / "GammaEscan_old.h5", 50, chunk=None, ECAL=cells * 1000, energy=None, target=target
    )
    with h5py.File(path, "a") as file:
        file.attrs["origin"] = "somewhere"
    units = ("--cells-unit", "MeV", "--energy-unit", "MeV", "--cut", "1e-6")
    stored = ("--chunk-rows", "20", "--compression", "lzf")
    assert run("convert", path, "--out", tmp_path / "new" / "made.h5", *units, *stored) == 0
    found, conditions = read_all(tmp_path / "new" / "made.h5")
    np.testing.assert_allclose(found, showers(50), rtol=1e-6)
    np.testing.assert_allclose(conditions, energies(50), rtol=1e-6)
    with h5py.File(tmp_path / "new" / "made.h5") as file:
        assert sorted(file) == ["ECAL", "energy"]
        assert (file["ECAL"].chunks[0], file["ECAL"].compression) == (20, "lzf")
        assert file.attrs["particle"] == "gamma"
        assert file.attrs["origin"] == "somewhere"
        assert file.attrs["converted_from"] == "GammaEscan_old.h5"


def test_convert_merges_or_goes_file_by_file(data, tmp_path, capsys):
    assert run("convert", data, "--out", tmp_path / "one.h5") == 0
    assert rows_of(read_all(tmp_path / "one.h5")[0]).tolist() == list(range(200))
    assert run("convert", data, "--out", f"{tmp_path}/many/") == 0
    assert run("convert", data, "--out", tmp_path / "folder") == 0
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == sorted(
        path.name for path in (tmp_path / "many").iterdir()
    )
    assert rows_of(read_all(tmp_path / "many" / "EleEscan_1.h5")[0]).tolist() == list(range(120, 200))
    capsys.readouterr()
    assert run("convert", data, "--out", tmp_path / "one.h5") == 2
    assert "exists; name another --out or replace it with --force" in capsys.readouterr().err
    assert run("convert", data, "--out", tmp_path / "one.h5", "--force") == 0
    assert run("convert", data, "--out", tmp_path / "data", "--force") == 2
    assert "is one of the files to be read" in capsys.readouterr().err


def test_convert_leaves_out_weak_showers_only_when_asked(tmp_path, capsys):
    cells = showers(40)
    cells[3] = 0
    path = write_lcd(tmp_path / "a.h5", 40, ECAL=cells)
    assert run("convert", path, "--out", tmp_path / "b.h5") == 2
    assert "row 3: the shower has no energy in any cell" in capsys.readouterr().err
    assert not (tmp_path / "b.h5").exists()
    assert run("convert", path, "--out", tmp_path / "b.h5", "--min-sum", "0.538") == 0
    assert rows_of(read_all(tmp_path / "b.h5")[0]).tolist() == list(range(9, 40))
    assert run("convert", path, "--out", tmp_path / "c.h5", "--min-sum", "1e9") == 2
    assert "no shower is left" in capsys.readouterr().err


def test_split_writes_what_training_would_use(data, tmp_path):
    assert run("split", data, "--out", tmp_path / "splits", "--test-fraction", "0.2") == 0
    config = DataConfig(path=data, test_fraction=0.2)
    manifest = build_manifest(config)
    for split in ("train", "validation", "test"):
        blocks = split_blocks(manifest, split, config)
        expected = [f + r for f, n in zip(blocks.first_ids, blocks.rows, strict=True) for r in range(n)]
        assert rows_of(read_all(tmp_path / "splits" / f"{split}.h5")[0]).tolist() == expected
    assert run("split", data, "--out", tmp_path / "two", "--test-fraction", "0") == 0
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["train.h5", "validation.h5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("inspect",), "the following arguments are required: path"),
        (("inspect", "none*.h5"), "none*.h5: no such file and no file matches"),
        (("inspect", "{data}", "--format", "cube"), "choose auto or one of lcd"),
        (("convert", "{data}", "--out", "x.h5", "--chunk-rows", "0"), "--chunk-rows 0: must be above 0"),
        (("convert", "{data}", "--out", "x.h5", "--level", "10"), "levels go from 1 to 9"),
        (("convert", "{data}", "--out", "x.h5", "--cut", "-1"), "--cut -1.0: must not be negative"),
        (("split", "{data}", "--out", "x", "--test-fraction", "0.95"), "their sum must be below 1"),
    ],
)
def test_wrong_options_are_one_line(data, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(*(argument.format(data=data) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
