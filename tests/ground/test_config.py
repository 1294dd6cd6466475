"""Every rule of the configuration refuses with the value seen."""

import dataclasses

import pytest

from dist_calo.config import (
    CheckpointConfig,
    CommConfig,
    DataConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TransformConfig,
)
from dist_calo.errors import ConfigError
from dist_calo.values import flattened

BROKEN = [
    (DataConfig, {"validation_fraction": 1.2}, "data.validation_fraction=1.2"),
    (DataConfig, {"validation_fraction": 0.6, "test_fraction": 0.5}, "sum must be below 1"),
    (DataConfig, {"shuffle_window": 0}, "data.shuffle_window=0"),
    (DataConfig, {"prefetch_batches": -1}, "data.prefetch_batches=-1"),
    (TransformConfig, {"scale": 0.0}, "transform.scale=0.0"),
    (TransformConfig, {"threshold": -1e-6}, "transform.threshold=-1e-06"),
    (ObjectiveConfig, {"discriminator_steps": 0}, "objective.discriminator_steps=0"),
    (ObjectiveConfig, {"label_flip": 1.0}, "objective.label_flip=1.0"),
    (ObjectiveConfig, {"energy_weight": -0.1}, "objective.energy_weight=-0.1"),
    (OptimizerConfig, {"learning_rate": float("nan")}, "optimizer.learning_rate=nan"),
    (OptimizerConfig, {"network_factors": {"generator": 0.0}}, "optimizer.network_factors.generator=0.0"),
    (OptimizerConfig, {"beta2": 1.0}, "optimizer.beta2=1.0"),
    (OptimizerConfig, {"warmup_steps": -1}, "optimizer.warmup_steps=-1"),
    (TrainConfig, {"global_batch_size": 0}, "train.global_batch_size=0"),
    (TrainConfig, {"ema_decay": 1.0}, "train.ema_decay=1.0"),
    (TrainConfig, {"accumulation": 65}, "train.accumulation=65"),
    (TrainConfig, {"seed": -1}, "train.seed=-1"),
    (TrainConfig, {"patience": -1}, "train.patience=-1"),
    (TrainConfig, {"max_epochs": 0.0}, "train.max_epochs=0"),
    (TrainConfig, {"max_time": "an hour"}, "train.max_time=an hour"),
    (TrainConfig, {"max_time": "0m"}, "train.max_time=0"),
    (CommConfig, {"threads": 0}, "comm.threads=0"),
    (CheckpointConfig, {"keep": 0}, "checkpoint.keep=0"),
]


@pytest.mark.parametrize(("section", "values", "message"), BROKEN)
def test_a_broken_rule_names_setting_and_value(section, values, message):
    with pytest.raises(ConfigError) as caught:
        section(**values)
    assert message in str(caught.value)


def test_settings_cannot_be_changed_or_given_by_position():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 3
    with pytest.raises(TypeError):
        TrainConfig(3)


def test_flattened_names_are_dotted_and_complete():
    flat = dict(flattened(RunConfig().to_dict()))
    assert flat["train.global_batch_size"] == 64
    assert flat["model.options"] == {}
    assert all(not isinstance(value, dict) or not value for value in flat.values())


def test_every_setting_is_documented():
    import inspect

    for section in dataclasses.fields(RunConfig):
        source = inspect.getsource(section.default_factory)
        for setting in dataclasses.fields(section.default_factory):
            after = source.split(f"\n    {setting.name}:", 1)[1].split("\n", 1)[1].lstrip()
            assert after.startswith('"""'), f"{section.name}.{setting.name} has no docstring"
