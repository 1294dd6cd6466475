"""What goes to the local disks of a job's nodes."""

import pytest

from dist_calo.data.staging import files_to_stage, main
from dist_calo.errors import DataError


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
    assert main([f"{tmp_path}/**/*.h5"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "not staged" in shown.err
