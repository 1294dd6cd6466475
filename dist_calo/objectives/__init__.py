"""The objectives of learning, by name.

An objective knows the updates of a training step and the losses of each. Losses are sums over the samples it is given
divided by the size of the global batch: over the ranks and micro-batches of a step they add up to the mean over the
global batch, however it was shared.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dist_calo.config import ObjectiveConfig
from dist_calo.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from dist_calo.models.interfaces import Model, Statistics
    from dist_calo.randomness import Draws
    from dist_calo.transforms import Transform

OBJECTIVES: dict[str, str] = {
    "vanilla": "dist_calo.objectives.adversarial:vanilla",
    "hinge": "dist_calo.objectives.adversarial:hinge",
    "wgan": "dist_calo.objectives.wgan:wgan",
    "wgan_gp": "dist_calo.objectives.wgan:wgan_gp",
    "vae": "dist_calo.objectives.vae:vae",
}
"""Module and function that build each objective: ``build(config, model, transform) -> Objective``."""


KL_SETTINGS = ("kl_weight", "kl_warmup_steps")
"""Settings that autoencoders alone have."""


def refuse_settings(config: ObjectiveConfig, names: tuple[str, ...]) -> None:
    """Check that what an objective does not use was left alone.

    Raises:
        ConfigError: naming the first setting that was not.
    """
    unused = ObjectiveConfig()
    for name in names:
        if getattr(config, name) != getattr(unused, name):
            raise ConfigError(
                f"objective.{name}={getattr(config, name)}: objective.name={config.name} has no use for it; "
                "leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class Update:
    """One optimizer step of one network within a training step."""

    network: str
    """Name of the network whose parameters move; all others are frozen."""
    name: str
    """Unique within the training step, such as ``generator/1``."""
    weight_limit: float | None = None
    """Bound of the absolute values of the network's weights after the step; None leaves them free."""


class Objective(Protocol):
    """Interface of an objective, one way to learn."""

    updates: tuple[Update, ...]
    """The updates of one training step, in order."""

    def losses(
        self, update: Update, showers: "Tensor", conditions: "Tensor", draws: "Draws", global_size: int
    ) -> "dict[str, Tensor]":
        """Return the losses of some samples in one update.

        Args:
            update: one of ``updates``.
            showers: real showers in network units, shape (B, ...); B may be 0.
            conditions: theirs, in GeV and rad, shape (B, C).
            draws: random numbers of these samples for this update alone.
            global_size: size of the global batch that these samples belong to.

        Returns:
            Scalars: the sum over these samples divided by ``global_size``. ``total`` is to be differentiated, all
            others are detached.
        """

    def calibrate(self, statistics: "Statistics") -> None:
        """Take constants from the training data, here and in the model; once, before the first step of a new run."""

    def state_dict(self) -> "dict[str, Tensor]":
        """Return the constants that ``calibrate`` found."""

    def load_state_dict(self, state: "Mapping[str, Tensor]") -> None:
        """Continue from what ``state_dict`` returned."""


def build_objective(config: ObjectiveConfig, model: "Model", transform: "Transform") -> Objective:
    """Build the objective of a configuration.

    Args:
        config: its settings.
        model: the networks; what they must offer is stated by the objective.
        transform: its ``inverse`` turns showers in network units into GeV.

    Raises:
        ConfigError: if the name is not known, or a term needs what the model or the data do not have.
    """
    if config.name not in OBJECTIVES:
        raise ConfigError(
            f"objective.name={config.name}: there is no such objective; choose from "
            f"{', '.join(sorted(OBJECTIVES))}"
        )
    module, function = OBJECTIVES[config.name].split(":")
    build: Callable[[ObjectiveConfig, Model, Transform], Objective]
    build = getattr(importlib.import_module(module), function)
    return build(config, model, transform)
