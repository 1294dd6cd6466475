"""Files that appear whole or not at all."""

import os

import pytest

from dist_calo.errors import REMEDIES, of_user
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


@pytest.mark.parametrize("number", REMEDIES)
def test_an_error_of_the_system_is_one_line_that_names_the_file(number, tmp_path):
    path = tmp_path / "result.json"
    with pytest.raises(OSError) as failure:
        fail_half_way(path, OSError(number, os.strerror(number)))
    assert failure.value.errno == number
    said = str(of_user(failure.value))
    assert said.startswith(f"{path} cannot be written ({os.strerror(number)}): ")
    assert said.endswith(f"{REMEDIES[number]}; what was there before stays")


def test_hdf5_tells_the_reason_in_words(tmp_path):
    words = (
        "Can't write data (time = now, filename = 'x', errno = 122, error message = 'Disk quota exceeded')"
    )
    for error in (RuntimeError(words), OSError(words), OSError(122, words)):
        with pytest.raises(OSError, match=r"^\[Errno 122\] Disk quota exceeded: ") as failure:
            fail_half_way(tmp_path / "fake.h5", error)
        assert str(of_user(failure.value)).startswith(f"{tmp_path / 'fake.h5'} cannot be written (Disk quota")
    with pytest.raises(RuntimeError, match="no errno"):
        fail_half_way(tmp_path / "fake.h5", RuntimeError("no errno"))


def test_only_errors_of_files_are_the_users():
    assert of_user(ConnectionResetError(104, "Connection reset by peer")) is None
    assert of_user(PermissionError(1, "Operation not permitted")) is None  # of a signal
    assert of_user(ValueError("a fault of ours")) is None
    assert str(of_user(FileNotFoundError(2, "No such file or directory", "x"))).startswith(
        "x cannot be used (No such"
    )
    assert "a file cannot be used (No space left" in str(of_user(OSError(28, "No space left on device")))


def test_what_was_never_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), write_whole(tmp_path / "result.json"):
        pass
    assert not os.listdir(tmp_path)
