"""The interface of every generative adversarial model: a generator, a discriminator, and what the latter says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from dist_calo.errors import ConfigError
from dist_calo.geometry import Geometry
from dist_calo.randomness import Draws


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a discriminator reads off showers.

    Attributes:
        score: logit of "this is a real shower" (no sigmoid applied; the critic's value for wgan_gp), shape (B,).
        energy: incident energy in GeV, shape (B,); None if the discriminator has no such head.
    """

    score: Tensor
    energy: Tensor | None = None


class Generator(Protocol):
    """A network from conditions and noise to showers."""

    latent: int
    """Normal numbers that a shower is made from."""

    def __call__(self, conditions: Tensor, noise: Tensor) -> Tensor:
        """Showers in network units, shape (B, X, Y, Z), of conditions (B, C) in GeV and rad and noise (B, latent)."""


class GanModel(nn.Module):
    """A generator and a discriminator; each of the two is optimised alone.

    A model with constants that come from the training data overrides ``calibrate``.

    Args:
        geometry: the read-out that showers have.
        generator: a module that is a `Generator`.
        discriminator: a module called with showers in network units, shape (B, X, Y, Z), their conditions, shape
            (B, C), and the draws of these samples (for dropout); it returns a `Verdict`.
    """

    generating: tuple[str, ...] = ("generator",)
    """Networks needed to generate showers."""

    def __init__(self, geometry: Geometry, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.geometry = geometry
        self.generator = generator
        self.discriminator = discriminator

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What is optimised, each network by its own optimizer."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Generate showers.

        Args:
            conditions: in the order of ``geometry.conditions``, in GeV and rad, shape (B, C).
            draws: random numbers of these B samples; what is drawn is called ``latent``.

        Returns:
            Cells in network units, shape (B, X, Y, Z).
        """
        noise = draws.normal("latent", int(self.generator.latent))  # type: ignore[arg-type]
        showers: Tensor = self.generator(conditions, noise.to(conditions))
        return showers

    def calibrate(self, statistics: Mapping[str, np.ndarray]) -> None:
        """Take constants from the training data into buffers; called once before a run that starts anew.

        Args:
            statistics: of a sample of n training showers: ``energy`` (n,), ``energy_sum`` (n,) and ``showers``
                (n, ...) in GeV, and ``network_units`` (n, ...), the same showers as the networks see them.
        """


def require_grid(
    model: str, geometry: Geometry, shape: tuple[int, int, int], conditions: tuple[str, ...]
) -> None:
    """Check that a model made for one grid gets showers of this grid.

    Raises:
        ConfigError: if the shape differs or a condition is missing.
    """
    if geometry.shape != shape:
        raise ConfigError(
            f"model.name={model}: the data have {_cells(geometry.shape)} cells, this model is for {_cells(shape)}; "
            "choose another model or other data"
        )
    missing = [name for name in conditions if name not in geometry.conditions]
    if missing:
        raise ConfigError(
            f"model.name={model}: the data have no {', '.join(missing)} (only {', '.join(geometry.conditions)}), which "
            "this model is conditioned on; choose another model or other data"
        )


def column(conditions: Tensor, geometry: Geometry, name: str) -> Tensor:
    """One quantity of the conditions (B, C), shape (B,).

    Raises:
        ConfigError: if the geometry has no such condition.
    """
    if name not in geometry.conditions:
        raise ConfigError(
            f"condition {name!r} is needed, but the data have only {', '.join(geometry.conditions)}"
        )
    return conditions[:, geometry.conditions.index(name)]


def _cells(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)
