import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from dist_calo.config import DataConfig, RunConfig
from dist_calo.data.formats import ReadOptions
from dist_calo.data.manifest import (
    Manifest,
    build_manifest,
    find_problems,
    matching_files,
    read_manifest,
    require_same_files,
    scan_rows,
)
from dist_calo.errors import CheckpointError, ConfigError, DataError
from dist_calo.geometry import VoxelGrid
from dist_calo.training.checkpoint import Checkpoint
from dist_calo.training.restore import require_same_run
from tests.support.shower_files import energies, showers, write_lcd


@pytest.fixture
def data(tmp_path):
    """Three files of 40, 7 and 33 rows; returns their glob."""
    for name, first, rows in [("EleEscan_b.h5", 40, 7), ("EleEscan_a.h5", 0, 40), ("EleEscan_c.h5", 47, 33)]:
        write_lcd(tmp_path / name, rows, first)
    return str(tmp_path / "*.h5")


def manifest_at(pattern, **settings):
    return build_manifest(DataConfig(path=pattern, **settings))


def test_files_are_sorted_and_numbered_through(data):
    manifest = manifest_at(data)
    assert [entry.name for entry in manifest.files] == ["EleEscan_a.h5", "EleEscan_b.h5", "EleEscan_c.h5"]
    assert [entry.rows for entry in manifest.files] == [40, 7, 33]
    assert manifest.rows == 80
    assert manifest.first_ids.tolist() == [0, 40, 47, 80]
    assert (manifest.format, manifest.particle) == ("lcd", "e-")
    assert [entry.chunk_rows for entry in manifest.files] == [32, 7, 32]


def test_the_text_of_a_manifest_round_trips(data, tmp_path):
    manifest = manifest_at(data)
    assert Manifest.from_dict(json.loads(manifest.to_json())) == manifest
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    assert manifest_at(data, manifest=str(tmp_path / "manifest.json")) == manifest


def test_texts_that_are_no_manifest(data, tmp_path):
    values = manifest_at(data).to_dict()
    for wrong in ({}, {**values, "version": 9}, {**values, "checksum": "0" * 64}, {**values, "files": [{}]}):
        with pytest.raises(DataError, match="dist-calo data validate --manifest"):
            Manifest.from_dict(wrong)
    (tmp_path / "none.json").write_text("{")
    with pytest.raises(DataError, match=r"none.json: is damaged, line 1 is no JSON"):
        read_manifest(tmp_path / "none.json")
    (tmp_path / "none.json").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path / "none.json")


def test_the_checksum_tells_data_sets_apart_but_not_folders(data, tmp_path):
    before = manifest_at(data)
    shutil.copytree(tmp_path, tmp_path / "copy")
    copy = manifest_at(str(tmp_path / "copy" / "*.h5"))
    assert copy.checksum == before.checksum
    require_same_files(before, copy)
    write_lcd(tmp_path / "EleEscan_b.h5", 7, first=99)
    assert manifest_at(data).checksum != before.checksum


def test_a_changed_file_is_found(data, tmp_path):
    before = manifest_at(data)
    stored = tmp_path / "manifest.json"
    stored.write_text(before.to_json())
    with h5py.File(tmp_path / "EleEscan_b.h5", "a") as file:
        file["energy"][3] = 50
    with pytest.raises(DataError, match=r"manifest.json: .*EleEscan_b.h5 has changed since .*--renew"):
        manifest_at(data, manifest=str(stored))


def test_missing_and_new_files_are_found(data, tmp_path):
    before = manifest_at(data)
    (tmp_path / "EleEscan_c.h5").rename(tmp_path / "EleEscan_d.h5")
    with pytest.raises(DataError, match=r"EleEscan_c.h5 is in the manifest and does not match"):
        require_same_files(before, manifest_at(data))
    write_lcd(tmp_path / "EleEscan_c.h5", 33, 47)
    with pytest.raises(DataError, match=r"EleEscan_d.h5 matches data.path and is not in the manifest"):
        require_same_files(before, manifest_at(data))


def test_patterns_that_name_nothing(tmp_path):
    with pytest.raises(
        DataError, match=r"data.path=.*none\*.h5: no such file and no file matches, looked from"
    ):
        manifest_at(str(tmp_path / "none*.h5"))
    with pytest.raises(DataError, match=r"is a folder: name the files in it, such as .*/\*.h5"):
        manifest_at(str(tmp_path))


def test_patterns_go_into_folders(data, tmp_path):
    (tmp_path / "deep").mkdir()
    write_lcd(tmp_path / "deep" / "EleEscan_a.h5", 3)
    manifest = manifest_at(str(tmp_path / "**" / "*.h5"))
    assert [entry.name for entry in manifest.files][-1] == "deep/EleEscan_a.h5"
    both = matching_files(data, str(tmp_path / "EleEscan_a.h5"))
    assert len(both) == 3


def test_files_of_different_kinds_are_refused(data, tmp_path):
    write_lcd(tmp_path / "EleEscan_wide.h5", 2, ECAL=showers(2, shape=(51, 51, 25)))
    with pytest.raises(DataError, match=r"EleEscan_wide.h5: its geometry is .*all files must have the same"):
        manifest_at(data)
    (tmp_path / "EleEscan_wide.h5").unlink()
    write_lcd(tmp_path / "GammaEscan_a.h5", 2)
    with pytest.raises(DataError, match=r"GammaEscan_a.h5: its particle is gamma and that of .* is e-"):
        manifest_at(data)
    with pytest.raises(ConfigError, match="choose auto or one of"):
        manifest_at(data, format="cube")


def test_a_file_that_does_not_tell_its_particle_goes_with_the_others(data, tmp_path):
    write_lcd(tmp_path / "more.h5", 2)
    assert manifest_at(data).particle == "e-"


def test_every_bad_row_is_found_by_one_rank(data, tmp_path):
    cells, energy = showers(33, 47), energies(33, 47)
    cells[5, 1, 1, 1], cells[8, 1, 1, 1], cells[32], energy[32] = np.nan, np.nan, 0, -1
    write_lcd(tmp_path / "EleEscan_c.h5", 33, chunk=4, ECAL=cells, energy=energy)
    bad = showers(40)
    bad[39, 0, 1, 0] = -1
    write_lcd(tmp_path / "EleEscan_a.h5", 40, chunk=4, ECAL=bad)
    manifest = manifest_at(data)
    expected = [
        ("EleEscan_a.h5", "ECAL", 39),
        ("EleEscan_c.h5", "ECAL", 5),
        ("EleEscan_c.h5", "ECAL", 32),
        ("EleEscan_c.h5", "energy", 32),
    ]
    found = [(entry.name, problem.data_set, problem.row) for entry, problem in find_problems(manifest)]
    assert found == expected
    for size in (2, 3, 7, 50):
        shared = [found for rank in range(size) for found in find_problems(manifest, rank, size)]
        places = [(entry.name, problem.data_set, problem.row) for entry, problem in shared]
        # Ranks do not know of each other: a rule may be told once by each, but no row twice.
        assert len(set(places)) == len(places)
        assert set(expected) <= set(places)
    with pytest.raises(DataError, match=r"EleEscan_a.h5: data set ECAL, row 39: a cell has negative energy"):
        scan_rows(manifest)


def test_a_clean_data_set_passes_the_scan(data):
    for size in (1, 3):
        for rank in range(size):
            scan_rows(manifest_at(data), rank, size)


def test_other_options_are_another_data_set_and_the_usual_ones_are_not(data):
    manifest = manifest_at(data)
    plain = replace(manifest, options=ReadOptions())
    assert plain.checksum == manifest.checksum
    for name, unit in (("cell_unit", "keV"), ("energy_unit", "MeV")):
        told = replace(manifest, options=ReadOptions(**{name: unit}))
        assert told.checksum != manifest.checksum
        assert Manifest.from_dict(json.loads(told.to_json())) == told
        with pytest.raises(
            DataError, match=rf"data.{name}={unit}, and the manifest was made with auto: .*data.{name}=auto"
        ):
            require_same_files(manifest, told)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"geometry": VoxelGrid(shape=(25, 25, 25), cell_size=(5.0, 5.0, 4.0))},
            r"geometry cell_size is \(5.0",
        ),
        ({"particle": "gamma"}, "particle is 'gamma', and in the manifest 'e-'"),
        ({"format": "layers"}, "format is 'layers', and in the manifest 'lcd'"),
    ],
)
def test_the_same_files_taken_for_something_else_are_told(data, change, message):
    manifest = manifest_at(data)
    with pytest.raises(DataError, match=message):
        require_same_files(manifest, replace(manifest, **change))


@pytest.mark.parametrize("option", ["cell_unit", "energy_unit"])
def test_a_run_does_not_go_on_with_energies_in_another_unit(option):
    saved = Checkpoint(step=1, config=RunConfig().to_dict())
    require_same_run(RunConfig(), saved)
    changed = RunConfig(data=DataConfig(**{option: "MeV"}))
    with pytest.raises(CheckpointError, match=rf"data.{option}=MeV: .* started with auto; give the same"):
        require_same_run(changed, saved)


def test_a_manifest_of_a_readout_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"format": "lcd", "geometry": {"kind": "sphere"}, "particle": null, "files": []}')
    with pytest.raises(
        DataError, match=r"manifest\.json: not a manifest \(geometry kind 'sphere' is not known"
    ):
        read_manifest(path)
