"""What an error advises is true: each fault here is mended by following its message, and is gone.

The faults are all those of files of showers and of recipes whose messages name a command, an option, a setting or a
line of Python. What a message tells people to do with their own hands, such as copying a file, is not among them.
"""

import ast
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from dist_calo.__main__ import main as dist_calo
from dist_calo.config import DataConfig, RunConfig
from dist_calo.data.conditions import read_conditions
from dist_calo.data.formats.binning import binning_text
from dist_calo.data.manifest import build_manifest
from dist_calo.errors import EXIT_USER, ConfigError, DataError
from dist_calo.geometry import CylindricalLayers
from dist_calo.models import build_model
from tests.support.calochallenge_files import layers, write, write_calochallenge
from tests.support.ranks import ROOT
from tests.support.shower_files import SHAPE, energies, showers, write_lcd

CALOGAN = {
    name: values * np.float32(1000) if name != "energy" else values for name, values in layers(40).items()
}


def lcd(path: Path, attributes: dict[str, Any] | None = None, **data_sets: Any) -> Path:
    write_lcd(path, 40, **data_sets)
    with h5py.File(path, "a") as file:
        file.attrs.update(attributes or {})
    return path


def signals(path: Path, attributes: dict[str, Any]) -> Path:
    counts = np.random.default_rng(1).normal(100, 10, (40, 9, 16)).astype(np.float32)
    write(path, signals=counts, energy=np.full(40, 5.0))
    with h5py.File(path, "a") as file:
        told = {"sample_ns": 0.5, "noise": 1.5} | attributes
        file["signals"].attrs.update({name: value for name, value in told.items() if value is not None})
    return path


def other_binning(path: Path) -> Path:
    rings = CylindricalLayers(r_edges=((0.0, 5.0, 10.0), (0.0, 5.0)), sectors=(2, 3))
    (path.parent / "FILE.xml").mkdir()
    (path.parent / "FILE.xml" / "binning.xml").write_text(binning_text(rings))
    return write_calochallenge(path, rings.cells)


def folder_of_files(path: Path) -> None:
    path.mkdir()
    lcd(path / "EleEscan_0.h5")


Made = Callable[[Path], object]
FAULTS: dict[str, tuple[Made, list[str]]] = {
    "cells in MeV": (lambda path: lcd(path, ECAL=1000 * showers(40)), []),
    "cells and energy in MeV": (
        lambda path: lcd(path, ECAL=1000 * showers(40), energy=1000 * energies(40)),
        [],
    ),
    "energy in MeV": (lambda path: lcd(path, energy=1e3 * energies(40), ECAL=50 * showers(40)), []),
    "layers in GeV": (lambda path: write(path, None, **layers(40)), []),
    "unit asked for wrongly": (lambda path: write(path, None, **CALOGAN), ["--cells-unit", "GeV"]),
    "challenge in GeV": (lambda path: write_calochallenge(path, 368, unit=1.0), []),
    "two units of cells": (lambda path: lcd(path, {"units": "GeV, MeV"}), []),
    "two units of cells, in the attribute": (lambda path: lcd(path, {"cell_units": "GeV, MeV"}), []),
    "two units of energy": (lambda path: lcd(path, {"energy_units": "GeV, MeV"}), []),
    "angle in degrees": (lambda path: lcd(path, theta=np.full(40, 90.0)), []),
    "no noise": (lambda path: signals(path, {"noise": None}), []),
    "no sampling time": (lambda path: signals(path, {"sample_ns": None}), []),
    "sampling time in seconds": (lambda path: signals(path, {"sample_ns": 2e-10}), []),
    "baseline that is no number": (lambda path: signals(path, {"baseline": np.nan}), []),
    "channels that do not fit": (lambda path: signals(path, {"channels": "2x2"}), []),
    "unit of waveforms": (lambda path: signals(path, {}), ["--cells-unit", "MeV"]),
    "cell size": (lambda path: lcd(path, {"cell_size_mm": [5.0, 5.0]}), []),
    "cell sizes": (lambda path: write(path, {"cell_sizes_mm": [5.0], "units": "GeV"}, **layers(40)), []),
    "cells that no binning has": (other_binning, []),
    "a folder": (folder_of_files, []),
}


def follow(message: str, arguments: list[str], folder: Path) -> list[str]:
    """Do what a message says in the folder of the files; the arguments that it leads to."""
    code = re.search(r'h5py\.File\("([^"]+)", "a"\)(\[.*) = (.+)$', message, re.MULTILINE)
    removed = re.search(
        r"attribute (\w+)(?: of data set (\w+))? is .*?(?:correct or remove it|remove it)", message
    )
    attribute = re.search(r"set the attribute (\w+) to (\w+)", message)
    given = re.findall(r"\((--[\w-]+) (\w+)\)", message.split(" or data.")[0])
    if code:
        with h5py.File(folder / code[1], "a") as file:
            exec(f"file{code[2]} = {code[3]}", {"file": file})
    elif given:
        names = [name for name, _ in given]
        kept = [
            word for at, word in enumerate(arguments) if word not in names and arguments[at - 1] not in names
        ]
        arguments = [*kept, *(word for pair in given for word in pair)]
    elif removed or attribute:
        with h5py.File(folder / "EleEscan_a.h5", "a") as file:
            holder = file[removed[2]] if removed and removed[2] else file
            if removed:
                del holder.attrs[removed[1]]
            else:
                assert attribute
                holder.attrs[attribute[1]] = attribute[2]
    elif "leave it at auto" in message:
        arguments = []
    elif "(--binning)" in message:
        arguments = [*arguments, "--binning", str(folder / "FILE.xml" / "binning.xml")]
    elif told := re.search(r"name the files in (?:it|them), such as (\S+)", message):
        arguments = [told[1]]
    else:
        raise AssertionError(f"nothing to follow in: {message}")
    return arguments


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_file_is_gone_once_its_advice_is_followed(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, options = FAULTS[fault]
    path = tmp_path / "EleEscan_a.h5"
    make(path)
    for _ in range(3):  # a mended file may have another fault
        code = validate(path, options)
        shown = capsys.readouterr()
        message = shown.out + shown.err
        if code == 0:
            break
        options = follow(message, options, tmp_path)
    assert code == 0, message
    assert _ > 0, f"{fault} was accepted"


def test_units_are_told_by_attributes_where_no_option_does(tmp_path: Path) -> None:
    path = lcd(tmp_path / "a.h5", ECAL=1000 * showers(40), energy=1000 * energies(40))
    with pytest.raises(DataError, match="into the file's attributes cell_units and energy_units"):
        read_conditions(str(path))
    with h5py.File(path, "a") as file:
        file.attrs.update({"cell_units": "MeV", "energy_units": "MeV"})
    np.testing.assert_allclose(read_conditions(str(path))[1], energies(40), rtol=1e-6)


def validate(path: Path, options: list[str]) -> int:
    """Exit code of the command, whose problems are printed."""
    files = [] if options and not options[0].startswith("--") else [str(path)]
    return dist_calo(["data", "validate", *files, *options])


def test_a_message_names_settings_options_and_commands_that_there_are() -> None:
    """Over all texts of the modules that read data."""
    with redirect_stdout(io.StringIO()) as shown, suppress(SystemExit):
        dist_calo(["data", "convert", "--help"])
    helps = shown.getvalue()
    for command in ("validate", "split", "inspect"):
        with redirect_stdout(io.StringIO()) as shown, suppress(SystemExit):
            dist_calo(["data", command, "--help"])
        helps += shown.getvalue()
    sections = {section.name: section.default_factory for section in fields(RunConfig)}
    settings = {f"{name}.{setting.name}" for name, kind in sections.items() for setting in fields(kind)}  # type: ignore[arg-type]
    seen = 0
    for path in [*(ROOT / "dist_calo" / "data").rglob("*.py"), ROOT / "dist_calo" / "cli" / "data.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            for option in re.findall(r"(?<![\w-])--([a-z][\w.-]*\w)", node.value):
                assert f"--{option}" in helps or option in settings | {"conditions"}, (
                    f"{path.name}: --{option}"
                )
                seen += 1
            for setting in re.findall(
                r"(?<![\w.])(?:data|train|checkpoint)\.[a-z_]+\b(?=[=:, ])", node.value
            ):
                assert setting in settings, f"{path.name}: {setting}"
                seen += 1
            for command in re.findall(r"dist-calo data (\w+)", node.value):
                assert command in ("inspect", "validate", "convert", "split"), f"{path.name}: {command}"
                seen += 1
    assert seen > 30


@pytest.mark.parametrize("variable", ["HDF5_VDS_PREFIX", "HDF5_EXTFILE_PREFIX"])
def test_sources_are_found_in_the_folder_that_a_variable_names(variable: str, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    path = lcd(tmp_path / "a.h5", ECAL=None)
    with h5py.File(path, "a") as file:
        if variable == "HDF5_VDS_PREFIX":
            lcd(away / "part.h5")
            layout = h5py.VirtualLayout(shape=(40, *SHAPE), dtype="f4")
            layout[:] = h5py.VirtualSource("part.h5", "ECAL", shape=(40, *SHAPE))
            file.create_virtual_dataset("ECAL", layout)
        else:
            showers(40).tofile(away / "raw.bin")
            raw = [("raw.bin", 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("ECAL", (40, *SHAPE), "f4", external=raw)
    command = [sys.executable, "-m", "dist_calo", "data", "validate", str(path)]
    lost = subprocess.run(command, check=False, capture_output=True, text=True)
    assert lost.returncode == EXIT_USER
    assert f"name its folder in {variable}" in lost.stdout
    environment = os.environ | {variable: str(away)}
    found = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert "no problem found" in found.stdout, found.stdout


# The CaloChallenge's files are its own; tests/evaluation/test_calochallenge.py reads its recipes.
RECIPES = [
    path for path in sorted((ROOT / "configs").glob("*.yaml")) if not path.name.startswith("calochallenge_")
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_its_data_or_says_how_to_make_them(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = yaml.safe_load(recipe.read_text())
    config = RunConfig.from_dict(settings)
    monkeypatch.chdir(ROOT)
    manifest = build_manifest(config.data)
    try:
        build_model(config.model, manifest.geometry)
    except ConfigError as error:
        told = re.search(r"dist-calo (simulate .*) makes for --data.path=(\S+)$", str(error))
        if told is None:
            raise
        monkeypatch.chdir(tmp_path)
        assert dist_calo(shlex.split(told[1].replace("--n 5000", "--n 20"))) == 0
        build_model(config.model, build_manifest(DataConfig(path=told[2])).geometry)
