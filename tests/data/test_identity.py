"""Files that change under a run: told with their name and what changed; the same content elsewhere is the same file."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from dist_calo.cli.data import main
from dist_calo.config import DataConfig
from dist_calo.data.loader import Loader, training_loader
from dist_calo.data.manifest import Manifest, build_manifest, manifest_of, scan_rows
from dist_calo.errors import EXIT_USER, DataError
from dist_calo.training.checkpoint_folder import CheckpointFolder
from tests.support.ranks import run_ranks, wait_until
from tests.support.shower_files import write_lcd
from tests.support.small_runs import train_command, write_showers


def deleted(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replaced(path: Path) -> None:
    """By one of the same size and time."""
    before = path.stat()
    write_lcd(path.with_suffix(".new"), 40, first=1000)
    os.utime(path.with_suffix(".new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    path.with_suffix(".new").replace(path)
    assert path.stat().st_size == before.st_size


def edited(path: Path) -> None:
    """In its place, while the loader may have it open, which HDF5 would refuse."""
    copy = shutil.copy(path, path.with_suffix(".copy"))
    with h5py.File(copy, "r+") as file:
        file["energy"][3] = 11.0
    path.write_bytes(Path(copy).read_bytes())


def opened(manifest: Manifest) -> Loader:
    config = DataConfig(validation_fraction=0, test_fraction=0)
    return training_loader(manifest, config, seed=0, global_batch_size=10)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (deleted, "it is gone"),
        (truncated, r"it has \d+ bytes and had \d+"),
        (appended, r"it has \d+ bytes and had \d+"),
        (replaced, "its content is another"),
        (edited, "its content is another"),
    ],
)
def test_a_change_is_told_wherever_the_file_is_opened_and_by_its_name(
    tmp_path: Path, change: Callable[[Path], None], what: str
) -> None:
    path = write_lcd(tmp_path / "b.h5", 40)
    write_lcd(tmp_path / "a.h5", 40)
    manifest = build_manifest(DataConfig(path=f"{tmp_path}/*.h5"))
    with opened(manifest) as loader:
        assert loader.what_changed() is None
        change(path)
        message = rf"b.h5: the file has changed since it was first read: {what}"
        with pytest.raises(DataError, match=message):
            raise DataError(loader.what_changed())
    with pytest.raises(DataError, match=message):
        scan_rows(manifest)
    with opened(manifest) as loader, pytest.raises(DataError, match=message):
        list(zip(range(8), loader, strict=False))


def test_each_rank_looks_at_its_share(tmp_path: Path) -> None:
    for number in range(5):
        write_lcd(tmp_path / f"{number}.h5", 40)
    manifest = build_manifest(DataConfig(path=f"{tmp_path}/*.h5"))
    deleted(tmp_path / "3.h5")
    config = DataConfig(validation_fraction=0, test_fraction=0)
    told = []
    for rank in range(3):
        with training_loader(manifest, config, seed=0, global_batch_size=10, rank=rank, size=3) as loader:
            told.append(loader.what_changed())
    assert [change is None for change in told] == [False, True, True]


def test_the_same_content_is_the_same_file(tmp_path: Path) -> None:
    path = write_lcd(tmp_path / "a.h5", 40)
    manifest = build_manifest(DataConfig(path=str(path)))
    os.utime(path)
    shutil.copy(path, tmp_path / "copy")
    for _ in range(2):
        with opened(manifest) as loader:
            assert loader.what_changed() is None
            assert len(next(loader).showers) == 10
        (tmp_path / "copy").replace(path)
        shutil.copy(path, tmp_path / "copy")
    other = tmp_path / "elsewhere"
    other.mkdir()
    (tmp_path / "copy").rename(other / "a.h5")
    assert manifest_of([str(other / "a.h5")]).checksum == manifest.checksum


def test_manifests_of_earlier_versions_are_read(tmp_path: Path) -> None:
    write_lcd(tmp_path / "a.h5", 40)
    config = DataConfig(path=f"{tmp_path}/a.h5", manifest=f"{tmp_path}/manifest.json")
    values = build_manifest(DataConfig(path=config.path)).to_dict()
    for name in ("mtime_ns", "inode", "sources"):
        del values["files"][0][name]
    before = Manifest.from_dict(values)
    Path(f"{tmp_path}/manifest.json").write_text(before.to_json())
    assert build_manifest(config).rows == 40
    with opened(before) as loader:
        assert loader.what_changed() is None
        assert len(next(loader).showers) == 10


@pytest.mark.parametrize("linked", [False, True], ids=["virtual", "external link"])
def test_a_source_that_is_replaced_is_a_change(tmp_path: Path, linked: bool) -> None:
    write_lcd(tmp_path / "part.h5", 40)
    write_lcd(tmp_path / "whole.h5", 40, ECAL=None)
    with h5py.File(tmp_path / "part.h5") as part, h5py.File(tmp_path / "whole.h5", "a") as whole:
        layout = h5py.VirtualLayout(shape=part["ECAL"].shape, dtype="f4")
        layout[:] = h5py.VirtualSource("part.h5", "ECAL", shape=part["ECAL"].shape)
        if linked:
            whole["ECAL"] = h5py.ExternalLink("part.h5", "/ECAL")
        else:
            whole.create_virtual_dataset("ECAL", layout)
    (tmp_path / "m").mkdir()
    arguments = ["validate", f"{tmp_path}/whole.h5", "--manifest", f"{tmp_path}/m/manifest.json"]
    manifest = manifest_of([f"{tmp_path}/whole.h5"])
    assert main(arguments) == 0
    replaced(tmp_path / "part.h5")
    with opened(manifest) as loader, pytest.raises(DataError, match=r"part.h5: the file has changed"):
        next(loader)
    assert main(arguments) == EXIT_USER


def test_ranks_leave_together_and_the_checkpoint_before_is_sound(tmp_path: Path) -> None:
    data = write_showers(tmp_path / "data")
    folder = CheckpointFolder(tmp_path / "checkpoints")

    def replace_after_a_checkpoint() -> None:
        wait_until((tmp_path / "checkpoints").is_dir, 100)
        wait_until(folder.steps, 100)
        deleted(tmp_path / "data" / "EleEscan_1.h5")

    thread = threading.Thread(target=replace_after_a_checkpoint)
    thread.start()
    quick = ("--data.validate=quick", "--tracking.uri=none", "--checkpoint.every_steps=2")
    command = train_command(data, tmp_path, *quick, "--train.max_steps=5000", "--launch=2")
    run = run_ranks(command, 1, "single", timeout=120)
    thread.join()
    assert run.returncode == EXIT_USER
    said = [line for line in run.output.splitlines() if "has changed" in line]
    assert len(said) == 1, run.output
    assert "EleEscan_1.h5: the file has changed since it was first read: it is gone" in said[0]
    assert folder.newest() is not None
