"""Numbers that are not in the file: nothing is ever made up for them, and names that lead nowhere are told."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dist_calo.cli.data import main
from dist_calo.config import DataConfig
from dist_calo.data.conditions import read_conditions
from dist_calo.data.formats import data_sets
from dist_calo.data.formats.whole_files import open_file
from dist_calo.data.manifest import build_manifest, manifest_of, matching_files
from dist_calo.errors import DataError
from tests.support.shower_files import SHAPE, energies, showers, write_lcd

ROWS = 8


def virtual(path: Path, *sources: tuple[str, str, int], rows: int = ROWS) -> Path:
    """A file whose ECAL is a virtual data set of (file, data set, rows) one after the other."""
    write_lcd(path, ROWS, ECAL=None, energy=energies(rows))
    layout = h5py.VirtualLayout(shape=(rows, *SHAPE), dtype="f4")
    first = 0
    for file, name, count in sources:
        layout[first : first + count] = h5py.VirtualSource(file, name, shape=(count, *SHAPE))
        first += count
    with h5py.File(path, "a", libver="latest") as made:
        made.create_virtual_dataset("ECAL", layout)
    return path


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder with part0.h5 and part1.h5, of 4 rows each."""
    for number in range(2):
        write_lcd(tmp_path / f"part{number}.h5", 4, first=4 * number, chunk=2)
    return tmp_path


HALVES = ("part0.h5", "ECAL", 4), ("part1.h5", "ECAL", 4)


def gone(folder: Path) -> None:
    (folder / "part1.h5").unlink()


def all_gone(folder: Path) -> None:
    gone(folder)
    (folder / "part0.h5").unlink()


def without_data_set(folder: Path) -> None:
    with h5py.File(folder / "part1.h5", "a") as file:
        del file["ECAL"]


def shorter(folder: Path) -> None:
    write_lcd(folder / "part1.h5", 3)


def no_hdf5(folder: Path) -> None:
    (folder / "part1.h5").write_text("nothing")


def a_group(folder: Path) -> None:
    without_data_set(folder)
    with h5py.File(folder / "part1.h5", "a") as file:
        file.create_group("ECAL")


def unwritten(folder: Path) -> None:
    write_lcd(folder / "part1.h5", 4, ECAL=None)
    with h5py.File(folder / "part1.h5", "a") as file:
        file.create_dataset("ECAL", (4, *SHAPE), "f4", chunks=(1, *SHAPE))[:2] = showers(2)


def itself_gone(folder: Path) -> None:
    (folder / "deep.h5").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (gone, "source part1.h5 is missing"),
        (all_gone, "source part0.h5 is missing"),
        (without_data_set, "part1.h5: data set ECAL is missing; the file holds energy"),
        (shorter, r"source /?ECAL in .*part1.h5 has shape \(3, 25, 25, 25\), less than"),
        (no_hdf5, "part1.h5: not an HDF5 file"),
        (a_group, "part1.h5: ECAL is a group"),
        (unwritten, r"part1.h5: data set ECAL, row 2: was never written.*2 of 4 rows"),
    ],
)
def test_a_source_of_a_virtual_data_set_that_cannot_be_read_is_told(
    parts: Path, spoil: Callable[[Path], None], message: str
) -> None:
    whole = virtual(parts / "whole.h5", *HALVES)
    assert manifest_of([str(whole)]).rows == ROWS
    spoil(parts)
    with pytest.raises(DataError, match=message):
        manifest_of([str(whole)])
    with pytest.raises(DataError, match=message):
        read_conditions(str(whole))
    assert main(["validate", str(whole)]) == 2


def test_sources_of_sources_are_looked_at(parts: Path) -> None:
    shutil.move(parts / "part1.h5", parts / "deep.h5")
    virtual(parts / "part1.h5", ("deep.h5", "ECAL", 4), rows=4)
    whole = virtual(parts / "whole.h5", *HALVES)
    (entry,) = manifest_of([str(whole)]).files
    assert [os.path.basename(source.path) for source in entry.sources] == ["part0.h5", "part1.h5", "deep.h5"]
    (parts / "deep.h5").unlink()
    with pytest.raises(DataError, match=r"part1.h5: data set ECAL: its source deep.h5 is missing"):
        manifest_of([str(whole)])


def test_a_virtual_data_set_with_a_gap_or_made_of_itself_is_told(parts: Path) -> None:
    gap = virtual(parts / "gap.h5", HALVES[0])
    with pytest.raises(DataError, match="ECAL, row 4: comes from no source file"):
        manifest_of([str(gap)])
    virtual(parts / "one.h5", ("two.h5", "ECAL", ROWS))
    virtual(parts / "two.h5", ("one.h5", "ECAL", ROWS))
    with pytest.raises(DataError, match="made of itself"):
        manifest_of([str(parts / "one.h5")])


def numbered(path: Path, rows: int = 0) -> None:
    """ECAL made of part0.h5, part1.h5, ... as many as there are."""
    write_lcd(path, 4, ECAL=None, energy=energies(rows))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    unlimited = (h5py.h5s.UNLIMITED, *SHAPE)
    space = h5py.h5s.create_simple((0, *SHAPE), unlimited)
    space.select_hyperslab((0,) * 4, (h5py.h5s.UNLIMITED, 1, 1, 1), stride=(4, 1, 1, 1), block=(4, *SHAPE))
    source = h5py.h5s.create_simple((4, *SHAPE))
    plist.set_virtual(space, b"part%b.h5", b"ECAL", source)
    with h5py.File(path, "a", libver="latest") as file:
        whole = h5py.h5s.create_simple((0, *SHAPE), unlimited)
        h5py.h5d.create(file.id, b"ECAL", h5py.h5t.IEEE_F32LE, whole, plist)


def test_numbered_sources_have_no_gap(parts: Path) -> None:
    write_lcd(parts / "part2.h5", 4, first=8)
    numbered(parts / "whole.h5", rows=12)
    (entry,) = manifest_of([str(parts / "whole.h5")]).files
    assert (entry.rows, len(entry.sources)) == (12, 3)
    gone(parts)
    numbered(parts / "whole.h5", rows=4)
    with pytest.raises(DataError, match=r"source part1.h5 \(ECAL\) is missing, and number 2 is there"):
        manifest_of([str(parts / "whole.h5")])


def test_raw_files_are_there_and_long_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as file:
        file["energy"] = energies(ROWS)
        file.create_dataset("ECAL", (ROWS, *SHAPE), "f4", external=[("raw.bin", 16, h5py.h5f.UNLIMITED)])[
            :
        ] = showers(ROWS)
    (entry,) = manifest_of(["a.h5"]).files
    assert [source.path for source in entry.sources] == ["raw.bin"]
    os.truncate("raw.bin", os.path.getsize("raw.bin") - 4)
    with pytest.raises(DataError, match=r"raw file raw.bin has 500012 bytes, must have 500016"):
        manifest_of(["a.h5"])
    os.remove("raw.bin")
    with pytest.raises(DataError, match=r"raw file raw.bin cannot be read \(No such file"):
        manifest_of(["a.h5"])


@pytest.mark.parametrize("chunks", [(1, *SHAPE), (3, 5, 5, 5), None], ids=["whole", "pieces", "contiguous"])
def test_rows_that_were_never_written_are_told(tmp_path: Path, chunks: tuple[int, ...] | None) -> None:
    path = write_lcd(tmp_path / "a.h5", 6, ECAL=None)
    with h5py.File(path, "a") as file:
        cells = file.create_dataset("ECAL", (6, *SHAPE), "f4", chunks=chunks)
        if chunks:
            cells[:3] = showers(3)
    row, count = (3, 3) if chunks else (0, 6)
    with pytest.raises(DataError, match=rf"ECAL, row {row}: was never written.*{count} of 6 rows"):
        manifest_of([str(path)])


def test_what_may_be_left_to_a_fill_value(tmp_path: Path) -> None:
    """Corners where no shower has energy, and a condition whose value the file's author chose."""
    path = write_lcd(tmp_path / "a.h5", 6, ECAL=None)
    with h5py.File(path, "a") as file:
        cells = file.create_dataset("ECAL", (6, *SHAPE), "f4", chunks=(3, 5, 5, 5))
        cells[:, :5, :5, :5] = showers(6)[:, :5, :5, :5]
        file.create_dataset("theta", (6, 1), "f4", chunks=(2, 1), fillvalue=1.5)
    assert manifest_of([str(path)]).rows == 6
    with h5py.File(path, "a") as file:
        del file["theta"]
        file.create_dataset("theta", (6, 1), "f4", chunks=(2, 1))
    with pytest.raises(DataError, match="theta, row 0: was never written"):
        manifest_of([str(path)])


def test_what_is_carried_along_is_stored(tmp_path: Path) -> None:
    path = write_lcd(tmp_path / "a.h5", 6)
    with h5py.File(path, "a") as file:
        file.create_dataset("impact", (6, 2), "f4")
    with pytest.raises(DataError, match="impact, row 0: was never written"):
        main(["convert", str(path), "--out", str(tmp_path / "b.h5")])
    assert not (tmp_path / "b.h5").exists()


@pytest.mark.parametrize(
    ("name", "thing", "message"),
    [
        ("ECAL", "group", "ECAL is a group, must be a data set of numbers"),
        ("ECAL", h5py.SoftLink("/nowhere"), "ECAL is a link to /nowhere, which the file does not hold"),
        ("theta", h5py.SoftLink("/nowhere"), "theta is a link to /nowhere"),
        ("theta", h5py.ExternalLink("no.h5", "/x"), "theta is a link to /x in the file no.h5, which cannot"),
        ("energy", np.zeros(4, dtype=[("a", "f4")]), "energy holds .*must hold numbers"),
        ("energy", "text", "energy holds object, must hold numbers"),
        ("energy", np.zeros(4, complex), "energy holds complex128"),
        ("energy", h5py.Empty("f4"), "energy has shape None"),
        ("theta", np.float32(1), r"theta has shape \(\)"),
        ("target", np.dtype("f4"), "target is a data type"),
    ],
)
def test_a_name_that_cannot_be_used_is_told_from_one_that_is_missing(
    tmp_path: Path, name: str, thing: object, message: str
) -> None:
    drop: dict[str, Any] = {name: None} | ({"energy": None} if name == "target" else {})
    path = write_lcd(tmp_path / "a.h5", 4, **drop)
    with h5py.File(path, "a") as file:
        if isinstance(thing, str) and thing == "group":
            file.create_group(name)
        else:
            file[name] = thing
    with pytest.raises(DataError, match=message):
        manifest_of([str(path)])


def test_a_filter_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A number that no filter has: hdf5plugin may be here.
    monkeypatch.setitem(data_sets.PLUGINS, 32767, "zstd")
    path = write_lcd(tmp_path / "a.h5", 4, ECAL=None)
    with h5py.File(path, "a") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4, *SHAPE))
        plist.set_filter(32767, h5py.h5z.FLAG_OPTIONAL, (3,))
        cells = h5py.h5d.create(
            file.id, b"ECAL", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4, *SHAPE)), plist
        )
        cells.write_direct_chunk((0, 0, 0, 0), b"packed")
    monkeypatch.setattr(data_sets, "load_plugins", lambda: False)
    with pytest.raises(DataError, match=r"ECAL is stored with filter 32767 \(zstd\).*pip install hdf5plugin"):
        manifest_of([str(path)])
    monkeypatch.setattr(data_sets, "load_plugins", lambda: True)
    with pytest.raises(DataError, match=r"filter 32767 \(zstd\).*h5repack -f GZIP=4"):
        manifest_of([str(path)])


def test_brackets_in_a_folder_s_name_mean_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "run [1]*?"
    folder.mkdir()
    write_lcd(folder / "a[0].h5", 40)
    write_lcd(folder / "b.h5", 40)
    assert len(matching_files(f"{folder}/*.h5")) == 2
    assert matching_files(f"{folder}/a[0].h5") == [f"{folder}/a[0].h5"]
    assert build_manifest(DataConfig(path=f"{folder}/*.h5")).rows == 80
    assert len(matching_files(f"{tmp_path}/run*/*.h5")) == 2


def test_names_that_lead_to_no_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(DataError, match="only folders match"):
        matching_files(f"{tmp_path}/*.h5")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe matches, which is no regular file"):
        matching_files(f"{tmp_path}/pip*")
    write_lcd(tmp_path / "a.h5", 4)
    (tmp_path / "b.h5").symlink_to("gone.h5")
    with pytest.raises(DataError, match=r"b.h5: is a link to gone.h5, which does not exist"):
        manifest_of(matching_files(f"{tmp_path}/*.h5"))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 5), (4, 1, 5), (4, 1, 1)])
def test_early_targets_are_read_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...]
) -> None:
    target = np.full(shape, 11, dtype=np.float32)
    target.reshape(4, -1)[:, 1 if 5 in shape else 0] = energies(4)[:, 0]
    path = write_lcd(tmp_path / "a.h5", 4, energy=None, target=target)
    np.testing.assert_allclose(read_conditions(str(path))[1], energies(4))
    place = {(4, 5): "[:, 1]", (4, 1, 5): "[:, 0, 1]"}.get(shape, "")
    for command in ("inspect", "validate"):
        assert main([command, str(path)]) == 0
        assert f"incident energy: data set target{place} in GeV\n" in capsys.readouterr().out


@pytest.mark.parametrize("locking", [False, True, "best-effort"])
def test_a_file_is_read_that_this_process_has_open_with_any_locking(locking, tmp_path):
    path = tmp_path / "EleEscan_0.h5"
    write_lcd(path, 20)
    with h5py.File(path, "r", locking=locking), open_file(path) as file:
        assert len(file["energy"]) == 20
