"""What comes with the package is found by name, and a file of the user's own wins."""

from pathlib import Path

import pytest

from dist_calo.errors import ConfigError
from dist_calo.resources import recipe, recipes, resource, shower_pattern

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
    assert shower_pattern("data/sample/*.h5") == str(ROOT / "data/sample/*.h5")
    assert shower_pattern("data/mine/*.h5") == "data/mine/*.h5"
    (tmp_path / "data/sample").mkdir(parents=True)
    (tmp_path / "data/sample/own.h5").touch()
    assert shower_pattern("data/sample/*.h5") == "data/sample/*.h5"
