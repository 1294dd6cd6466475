"""Files that appear whole or not at all."""

import os

import pytest

from dist_calo.files import write_whole


def test_a_file_gets_its_name_once_it_is_complete(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with write_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["result.json"]


def fail_half_way(path, error):
    with write_whole(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(type(error)):
        fail_half_way(path, error)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError), write_whole(tmp_path / "nowhere" / "result.json") as temporary:
        temporary.write_text("text")


def test_what_was_never_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), write_whole(tmp_path / "result.json"):
        pass
    assert not os.listdir(tmp_path)
