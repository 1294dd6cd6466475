"""Whole commands on files as people have them: early schemas, odd names, data that lie in other files."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from dist_calo.__main__ import main as dist_calo
from dist_calo.data.conditions import read_conditions
from dist_calo.data.manifest import manifest_of
from tests.support.small_runs import SAMPLE

ROWS = 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Early LCD files in a folder with an awkward name: one plain, one virtual over parts elsewhere, one of links."""
    made, parts = tmp_path / "früh [2019] *", tmp_path / "Teile"
    made.mkdir()
    parts.mkdir()
    with h5py.File(sorted(SAMPLE.glob("*.h5"))[0]) as sample:
        cells, energy = sample["ECAL"][:ROWS], sample["energy"][:ROWS]
    target = np.full((ROWS, 1, 5), 11, dtype=np.float32)
    target[:, 0, 1] = energy[:, 0]
    for number in range(2):
        with h5py.File(parts / f"part{number}.h5", "w") as file:
            file["ECAL"] = cells[number::2]
    with h5py.File(made / "EleEscan_plain.h5", "w") as file:
        file["ECAL"], file["target"] = cells, target[:, 0]
    with h5py.File(made / "EleEscan_virtual.h5", "w", libver="latest") as file:
        layout = h5py.VirtualLayout(shape=cells.shape, dtype="f4")
        for number in range(2):
            shape = cells[number::2].shape
            layout[number::2] = h5py.VirtualSource(f"../Teile/part{number}.h5", "ECAL", shape=shape)
        file.create_virtual_dataset("ECAL", layout)
        file["target"] = target
    with h5py.File(made / "EleEscan_links.h5", "w") as file:
        file["ECAL"] = h5py.ExternalLink("EleEscan_plain.h5", "/ECAL")
        file["old/target"] = target[:, 0, 1]
        file["target"] = h5py.SoftLink("/old/target")
    return made


def test_early_files_become_training_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = f"{folder}/*.h5"
    assert dist_calo(["data", "validate", pattern]) == 0
    said = capsys.readouterr().out
    assert "incident energy: data set target in GeV, target[:, 1] in GeV, target[:, 0, 1] in GeV" in said
    new = folder.parent / "neu"
    assert dist_calo(["data", "convert", pattern, "--out", f"{new}/all.h5"]) == 0
    assert dist_calo(["data", "split", f"{new}/all.h5", "--out", f"{new}/split"]) == 0
    assert dist_calo(["data", "inspect", f"{new}/split/*.h5"]) == 0
    assert "energy in GeV" in capsys.readouterr().out
    names, energies = read_conditions(f"{new}/all.h5")
    assert names == ("energy",)
    thirds = energies.reshape(3, ROWS)
    np.testing.assert_array_equal(thirds[0], thirds[1])
    np.testing.assert_array_equal(thirds[0], thirds[2])
    with h5py.File(f"{new}/all.h5") as file:
        cells = file["ECAL"][:].reshape(3, ROWS, 25, 25, 25)
    np.testing.assert_array_equal(cells[0], cells[1])
    np.testing.assert_array_equal(cells[0], cells[2])
    assert manifest_of([f"{new}/all.h5"]).rows == 3 * ROWS


@pytest.mark.parametrize("lost", ["Teile/part1.h5", "früh [2019] */EleEscan_plain.h5"])
def test_a_file_that_others_need_is_missed_by_every_command(
    folder: Path, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.parent / lost).unlink()
    out = folder.parent / "out"
    for command in (
        ["validate"],
        ["inspect"],
        ["convert", "--out", f"{out}/"],
        ["split", "--out", f"{out}/"],
    ):
        assert dist_calo(["data", command[0], f"{folder}/*.h5", *command[1:]]) == 2
        shown = capsys.readouterr()
        assert Path(lost).name in shown.out + shown.err
        assert not list(out.glob("*.h5"))
