"""What comes with the package is found by name, and a file of the user's own wins."""

from pathlib import Path

import pytest

from dist_calo.config import DataConfig
from dist_calo.documents import load_yaml
from dist_calo.errors import ConfigError
from dist_calo.resources import SAMPLES, described_showers, recipe, recipes, resource, shower_pattern

ROOT = Path(__file__).resolve().parents[2]


def test_a_checkout_keeps_them_where_people_look():
    assert resource("configs") == ROOT / "configs"


@pytest.mark.parametrize("name", ["lcd_fast", "lcd_fast.yaml", "configs/lcd_fast.yaml", "configs/lcd_fast"])
def test_a_recipe_has_several_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lcd_fast").mkdir()
    assert recipe(name) == str(ROOT / "configs/lcd_fast.yaml")
    own = tmp_path / "own" / name
    own.parent.mkdir(parents=True)
    own.touch()
    monkeypatch.chdir(tmp_path / "own")
    assert recipe(name) == name


def test_searches_are_recipes_of_their_own():
    assert recipe("signals_300", "configs/sweeps") == str(ROOT / "configs/sweeps/signals_300.yaml")
    assert set(recipes("configs/sweeps")) == {"lcd_fast", "signals_300"}


def test_an_unknown_recipe_lists_the_choices():
    with pytest.raises(
        ConfigError, match=r"lcd_fats: there is no such file and .* the nearest is lcd_fast; .* demo, "
    ):
        recipe("lcd_fats")


@pytest.mark.parametrize("name", ["other/lcd_fast", "mine.yaml", "", "/etc"])
def test_other_paths_are_left_to_their_reader(name):
    assert recipe(name) == name


def test_the_sample_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = str(ROOT / "data/sample/*.h5")
    assert shower_pattern("data/sample/*.h5") == packaged
    assert described_showers("data/sample/*.h5") == (
        f"{packaged} (of the package: nothing here is named data/sample/*.h5)"
    )
    for own in ("data/mine/*.h5", "data/sample/EleEscan_lcd25_0.h5", "data/layers/layers_electrons.h5"):
        assert shower_pattern(own) == described_showers(own) == own
    (tmp_path / "data/sample").mkdir(parents=True)
    (tmp_path / "data/sample/own.h5").touch()
    assert shower_pattern("data/sample/*.h5") == described_showers("data/sample/*.h5") == "data/sample/*.h5"


def test_the_samples_are_those_that_recipes_name():
    data = [load_yaml(path).get("data") or {} for path in recipes().values()]
    named = {values.get("path", DataConfig().path) for values in data}
    assert set(SAMPLES) == {path for path in named if not path.startswith("data/calochallenge/")}
    assert DataConfig().path == SAMPLES[0]
