"""What goes to the local disks of a job's nodes."""

import h5py
import pytest

from dist_calo.cli import job
from dist_calo.data.staging import files_to_stage
from dist_calo.errors import DataError
from tests.support.shower_files import write_lcd


def test_the_files_of_a_glob_and_their_binning_are_staged(tmp_path):
    for name in ("b 1.h5", "a.h5", "binning.xml", "notes.txt"):
        (tmp_path / name).touch()
    expected = [f"{tmp_path}/{name}" for name in ("a.h5", "b 1.h5", "binning.xml")]
    assert files_to_stage(f"{tmp_path}/*.h5") == expected


def test_files_of_several_folders_stay_where_they_are(tmp_path, capsys):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.h5").touch()
    with pytest.raises(DataError, match="files of 2 folders"):
        files_to_stage(f"{tmp_path}/**/*.h5")
    assert job.files_to_stage(f"{tmp_path}/**/*.h5") == []
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "not staged" in shown.err


def test_files_that_take_data_from_others_stay_where_they_are(tmp_path):
    write_lcd(tmp_path / "a.h5", 4)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["ECAL"] = h5py.ExternalLink("a.h5", "/ECAL")
    assert files_to_stage(f"{tmp_path}/a.h5") == [f"{tmp_path}/a.h5"]
    with pytest.raises(DataError, match=r"b.h5 takes data from other files"):
        files_to_stage(f"{tmp_path}/*.h5")
