"""Sweep files: what they vary, how a grid is counted, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.cli.sweep import _configure
from dist_calo.errors import ConfigError
from dist_calo.sweeping.definition import read_definition, read_sweep
from tests.support.sweeps import RANGE, RATE, sweep

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))


def test_the_talks_experiments_are_exactly_300():
    (path,) = (path for path in SWEEPS if path.stem == "signals_300")
    found = read_sweep(path)
    grid = found.parameters.grid()
    assert found.total == 300
    assert len({json.dumps(chosen, sort_keys=True) for chosen in grid}) == 300
    families = [chosen["config"] for chosen in grid]
    assert {families.count(name) for name in families} == {100}
    assert all(
        ("model.options.width" in chosen) == (chosen["model.options.network"] == "cnn") for chosen in grid
    )
    penalised = [chosen for chosen in grid if "objective.gradient_penalty" in chosen]
    assert {chosen["objective.name"] for chosen in penalised} == {"wgan_gp"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_files_of_the_project_make_valid_trials(path, monkeypatch):
    monkeypatch.chdir(path.parent.parent.parent)
    configs = read_sweep(path).check(_configure)
    assert len({config.objective.name for config in configs}) == 3
    assert all(config.train.max_steps == configs[0].train.max_steps for config in configs)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_a_grid_multiplies_only_settings_that_count(sizes, data):
    names = [f"data.n{place}" for place in range(len(sizes))]
    parameters = {}
    for place, size in enumerate(sizes):
        parameters[names[place]] = {"choices": list(range(size))}
        if place and data.draw(st.booleans()):
            parameters[names[place]]["when"] = {names[place - 1]: 0}
    grid = sweep(parameters=parameters, sampler="grid", trials=None).parameters.grid()

    def count(place: int, chosen: dict) -> int:
        if place == len(sizes):
            return 1
        when = parameters[names[place]].get("when", {})
        if any(chosen.get(name) != value for name, value in when.items()):
            return count(place + 1, chosen)
        return sum(count(place + 1, chosen | {names[place]: value}) for value in range(sizes[place]))

    assert len(grid) == count(0, {})
    assert len({json.dumps(chosen, sort_keys=True) for chosen in grid}) == len(grid)


def test_a_definition_survives_being_stored():
    given = sweep(
        parameters={RATE: RANGE, "objective.name": ["hinge", "wgan_gp"]}, overrides=["--data.path=x"], steps=3
    )
    again = read_definition(given.to_dict())
    assert again == given
    assert again.identity == given.identity


def test_the_identity_is_that_of_the_trials():
    one = sweep()
    assert sweep(trials=9).identity == one.identity
    assert sweep(overrides=["--tracking.uri=none"]).identity == one.identity
    assert sweep(steps=5).identity != one.identity
    assert sweep(seed=5).identity != one.identity


def test_the_command_in_full_trains_as_long_as_the_settings_say():
    found = sweep(
        config="a.yaml",
        steps=10,
        settings={"train.seed": 2, "train.validate_every_steps": 5, "tracking.log_pictures": False},
        overrides=["--train.max_steps=5", "--data.path=x y"],
    )
    trial = found.arguments({RATE: 0.5})
    expected = ["--config=a.yaml", "--train.seed=2", "--train.validate_every_steps=5"]
    expected += ["--tracking.log_pictures=false", "--train.max_steps=10"]
    assert trial == [*expected, "--train.max_steps=5", "--data.path=x y", f"--{RATE}=0.5"]
    assert found.command({RATE: 0.5}, "out") == (
        f"python -m dist_calo.train --config=a.yaml --train.seed=2 '--data.path=x y' --{RATE}=0.5 --checkpoint.dir=out"
    )
    assert "--train.validate_every_steps=5" in replace(found, steps=None).command({RATE: 0.5}, "out")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"paramters": {}}, "paramters: there is no such entry; the nearest is parameters"),
        ({"sampler": "grit"}, "sampler=grit: choose from tpe, random, grid"),
        ({"direction": "down"}, "direction=down: choose from minimize, maximize"),
        ({"trials": 0}, "trials=0: must be above 0"),
        ({"trials": "many"}, "trials=many: must be a whole number"),
        ({"trials": None}, "say how many trials"),
        ({"parameters": {}}, "at least one setting"),
        ({"parameters": {RATE: {"low": 1.0, "high": 0.5}}}, "low=1.0 must be below high=0.5"),
        ({"parameters": {RATE: {"low": 0.0, "high": 0.5, "log": True}}}, "wants low=0.0 above 0"),
        ({"parameters": {RATE: {"low": 1.0}}}, "a range has both"),
        ({"parameters": {RATE: {"lo": 1.0}}}, "there is no such entry; there are choices, low"),
        ({"parameters": {RATE: {"choices": [1.0], "low": 1.0}}}, "give either choices, or low and high"),
        ({"parameters": {RATE: [1.0, 1.0]}}, "at least one, and none twice"),
        ({"parameters": {RATE: [[1.0]]}}, "must be a number"),
        (
            {"parameters": {RATE: {**RANGE, "when": {"data.format": "x"}}}},
            "must be a parameter above this one",
        ),
        ({"parameters": {RATE: RANGE}, "sampler": "grid"}, "a grid needs choices"),
        ({"parameters": {"train.max_steps": [1, 2]}}, "is the same for all trials"),
        ({"parameters": {"train.max_epochs": [1, 2]}}, "is the same for all trials"),
        ({"settings": {"train.max_epochs": 2}, "steps": 3}, "the entry steps says how long"),
        ({"parameters": {"checkpoint.dir": ["a"]}}, "a sweep gives each trial its own"),
        ({"settings": {RATE: 0.1}}, "is a parameter of this sweep"),
        ({"overrides": [f"--{RATE}=0.1"]}, "is a parameter of this sweep"),
        ({"parameters": {"config": ["a"]}, "config": "b"}, "is also a parameter"),
        ({"objective": "generator/total"}, "must be a number of the validations"),
        ({"parameters": {"optimizer.learning_rat": RANGE}}, "the nearest is optimizer.learning_rate"),
        (
            {"parameters": {RATE: {"low": -1.0, "high": 1.0}}},
            r"optimizer.learning_rate=-1.0: must be above 0",
        ),
        ({"settings": {"data.validation_fraction": 0}}, "by showers that are held out"),
        (
            {"pruner": "median", "settings": {"train.max_epochs": 2}},
            "train.max_epochs=2 does not say how many",
        ),
        (
            {"pruner": "median", "settings": {"train.validate_every_steps": 0}},
            "never looked at before their end",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused(entries, message):
    with pytest.raises(ConfigError, match=message):
        sweep(**entries).check(_configure)


@pytest.mark.parametrize(("text", "message"), [("x: [", "is no YAML"), ("- 1", "must hold names and values")])
def test_files_that_are_no_sweeps_are_refused(tmp_path, text, message):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_sweep(tmp_path / "sweep.yaml")
    with pytest.raises(ConfigError, match="No such file"):
        read_sweep(tmp_path / "none.yaml")


def test_words_mean_what_the_type_of_their_setting_says(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "trials: 1e1\nseed: '5'\nobjective: validation/score\n"
        "settings: {tracking.experiment: no, train: {max_steps: 1e2, channels_last: off}, data.path: [a.h5, 2]}\n"
        "parameters:\n"
        "  data.format: [no, 1234]\n"
        "  train.accumulation: {low: 1, high: 1e1}\n"
        "  comm.overlap: [yes, no]\n"
        "  model.options.width: {low: 8, high: 16, when: {data.format: no}}\n"
        "  optimizer.learning_rate: {low: 1e-4, high: '1e-2', log: on}\n"
    )
    found = read_sweep(file)
    assert (found.trials, found.seed) == (10, 5)
    assert found.settings == {
        "tracking.experiment": "no",
        "train.max_steps": 100,
        "train.channels_last": False,
        "data.path": ["a.h5", "2"],
    }
    by_name = {parameter.name: parameter for parameter in found.parameters.parameters}
    assert by_name["data.format"].choices == ("no", "1234")
    assert by_name["train.accumulation"].whole
    assert by_name["comm.overlap"].choices == (True, False)
    assert by_name["model.options.width"].when == {"data.format": ("no",)}
    assert (by_name[RATE].low, by_name[RATE].high, by_name[RATE].log) == (1e-4, 1e-2, True)
    assert read_definition(found.to_dict()) == found
    config = found.check(_configure)[0]
    assert (config.tracking.experiment, config.data.patterns) == ("no", ["a.h5", "2"])
