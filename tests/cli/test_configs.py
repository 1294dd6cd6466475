"""``dist-calo configs``: the recipes, and a schema of the settings that holds for each of them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_calo.__main__ import main
from dist_calo.config import setting_names

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


@pytest.fixture
def schema(capsys):
    assert main(["configs", "--schema"]) == 0
    return json.loads(capsys.readouterr().out)


def fits(value, rule, whole) -> bool:
    """Tell whether a value fits a schema, by the words that pydantic uses in ours."""
    unknown = set(rule) - {
        "title",
        "description",
        "default",
        "$defs",
        "$schema",
        "$ref",
        "anyOf",
        "enum",
        "type",
    }
    assert unknown <= {"properties", "additionalProperties", "items"}
    if "$ref" in rule:
        return fits(value, whole["$defs"][rule["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in rule:
        return any(fits(value, each, whole) for each in rule["anyOf"])
    if "enum" in rule and value not in rule["enum"]:
        return False
    if "type" in rule and not isinstance(value, TYPES[rule["type"]]):
        return False
    if isinstance(value, bool) and rule.get("type") in ("integer", "number"):
        return False
    if isinstance(value, list):
        return all(fits(each, rule["items"], whole) for each in value)
    if isinstance(value, dict):
        others = rule.get("additionalProperties", True)
        rules = {key: rule.get("properties", {}).get(key, others) for key in value}
        return all(each is True or (each and fits(value[key], each, whole)) for key, each in rules.items())
    return True


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_fits_the_schema(path, schema):
    assert fits(yaml.safe_load(path.read_text()), schema, schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": {"max_stepz": 1}},
        {"train": {"max_steps": "many"}},
        {"trian": {}},
        {"comm": {"backend": "nccl"}},
        {"data": {"path": [1]}},
        {"optimizer": {"network_factors": {"generator": "fast"}}},
    ],
    ids=str,
)
def test_the_schema_sees_what_is_wrong(wrong, schema):
    assert not fits(wrong, schema, schema)


def test_the_schema_explains_every_setting(schema):
    told = {
        f"{section}.{name}"
        for section, rule in schema["properties"].items()
        if "$ref" in rule
        for name, setting in schema["$defs"][rule["$ref"].rpartition("/")[2]]["properties"].items()
        if setting["description"]
    }
    assert told == set(setting_names())


def test_all_recipes_are_listed_and_shown(capsys):
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {path.stem} " in listed for path in RECIPES)
    for name in ("lcd_fast", "sweeps/signals_300"):
        assert main(["configs", "--show", name]) == 0
        assert capsys.readouterr().out == (ROOT / f"configs/{name}.yaml").read_text()


def test_recipes_without_showers_here_are_marked(tmp_path, capsys, monkeypatch):
    """As in a wheel, which has a few showers for the recipes of one calorimeter alone."""
    package = tmp_path / "package/dist_calo"
    shutil.copytree(ROOT / "configs", package / "packaged/configs")
    (package / "packaged/data/sample").mkdir(parents=True)
    (package / "packaged/data/sample/some.h5").touch()
    monkeypatch.setattr("dist_calo.resources.files", lambda _: package)
    monkeypatch.chdir(tmp_path)
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out
    line = {words[0]: text for text in listed.splitlines() if (words := text.split())}
    assert "[needs" not in line["lcd_fast"]
    assert line["layers_gan"].endswith(" [needs data/layers/*.h5]")
    assert line["calochallenge_2"].endswith(" [needs data/calochallenge/dataset_2_1.hdf5]")
    made = re.findall(r"mkdir -p (\S+) && dist-calo (simulate .*) --n 10000 --out (.*)", listed)
    assert [folder for folder, _, _ in made] == ["data/layers", "data/signals"]
    for folder, command, out in made:
        Path(folder).mkdir(parents=True)
        assert main([*command.split(), "--n", "4", "--out", out]) == 0
    capsys.readouterr()
    assert main(["configs"]) == 0
    assert set(re.findall(r"\[needs (\w+/\w+)", capsys.readouterr().out)) == {"data/calochallenge"}


def test_an_unknown_recipe_is_one_line(capsys):
    assert main(["configs", "--show", "other/lcd_fast"]) == 2
    assert main(["configs", "--show", "lcd_fats"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "'other/lcd_fast': No such file" in first
    assert "the nearest is lcd_fast" in second
