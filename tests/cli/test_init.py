"""``dist-calo init``: a working folder, new or in an empty one that stays what it was."""

import os
import re
from pathlib import Path

import pytest

from dist_calo.__main__ import main


@pytest.mark.parametrize("name", [".", "new/folder"])
def test_a_folder_is_filled_where_it_stands(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = os.stat(".").st_ino
    assert main(["init", name]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / name}: edit ")
    assert os.stat(tmp_path).st_ino == os.stat(".").st_ino == before
    folder = Path(name)
    assert sorted(os.listdir(folder)) == ["README.md", "configs", "launch", "slurm"]
    assert main(["init", name]) == 2
    commands = re.findall(r"^    .*", (folder / "README.md").read_text(), re.MULTILINE)
    own = [word for line in commands for word in line.split() if word.endswith((".yaml", ".sh"))]
    assert "configs/lcd_fast.yaml" in own
    assert all((folder / path).is_file() for path in own)
