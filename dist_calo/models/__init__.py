"""Models by name."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dist_calo.config import ModelConfig
from dist_calo.errors import ConfigError
from dist_calo.geometry import Geometry

if TYPE_CHECKING:
    from dist_calo.models.interfaces import Model

MODELS: dict[str, str] = {
    "lcd_3dgan": "dist_calo.models.voxels.lcd_3dgan:fixed_angle",
    "lcd_3dgan_angle": "dist_calo.models.voxels.lcd_3dgan:variable_angle",
    "lcd_fast": "dist_calo.models.voxels.lcd_fast.model:lcd_fast",
    "signals_factorised": "dist_calo.models.waveforms.factorised.model:signals_factorised",
    "layers_gan": "dist_calo.models.layered.gan:layers_gan",
    "layers_vae": "dist_calo.models.layered.vae:layers_vae",
    "layers_vae_plain": "dist_calo.models.layered.plain_vae:layers_vae_plain",
    "signals_full": "dist_calo.models.waveforms.published.families:full",
    "signals_shapes_amplitudes": "dist_calo.models.waveforms.published.families:shapes_and_amplitudes",
    "signals_simplified": "dist_calo.models.waveforms.published.families:simplified",
}
"""Module and function that build each model: ``build(geometry, *, option=default, ...) -> Model``.

The keyword-only parameters of the function are the model's options; an option is of the type of its default.
"""


Option = bool | int | float | str
"""A value of `ModelConfig.options`."""


def build_model(config: ModelConfig, geometry: Geometry) -> "Model":
    """Build the model of a configuration; its weights come from torch's global generator, so seed it before.

    Raises:
        ConfigError: if the name or an option is not known, an option has the wrong type or breaks a rule of the
            model, or the model does not fit the geometry.
    """
    build, options = _builder(config)
    return build(geometry, **options)


def check_model(config: ModelConfig) -> None:
    """Check the name and the options of a model before there are data; loads torch.

    Raises:
        ConfigError: if the name or an option is not known, or an option has the wrong type.
    """
    _builder(config)


def _builder(config: ModelConfig) -> "tuple[Callable[..., Model], dict[str, Option]]":
    """Return the function that builds the model, and its options."""
    if config.name not in MODELS:
        raise ConfigError(
            f"model.name={config.name}: there is no such model; choose from {', '.join(sorted(MODELS))}"
        )
    module, function = MODELS[config.name].split(":")
    build: Callable[..., Model] = getattr(importlib.import_module(module), function)
    return build, _checked_options(config.name, config.options, inspect.signature(build))


def _checked_options(
    name: str, options: Mapping[str, Option], signature: inspect.Signature
) -> dict[str, Option]:
    """Return the options with numbers in the type of their defaults."""
    defaults = {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    checked = {}
    for key, value in options.items():
        if key not in defaults:
            choices = f"its options are {', '.join(defaults)}" if defaults else "it has no options"
            raise ConfigError(
                f"model.options.{key}={value!r}: the model {name} has no such option; {choices}"
            )
        kind = type(defaults[key])
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (type(value) is kind or (kind is float and whole)):
            raise ConfigError(
                f"model.options.{key}={value!r}: must be of type {kind.__name__}, such as the default {defaults[key]!r}"
            )
        checked[key] = kind(value)
    return checked
