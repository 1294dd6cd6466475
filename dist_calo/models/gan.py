"""The interface of every generative adversarial model: a generator, a discriminator, and what the latter says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from dist_calo.geometry import Geometry
from dist_calo.randomness import Draws


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a discriminator reads off showers.

    Attributes:
        score: logit of "this is a real shower" (no sigmoid applied; a critic's value for wgan and wgan_gp), shape (B,).
        energy: incident energy in GeV, shape (B,); None if the discriminator has no such head.
    """

    score: Tensor
    energy: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Game:
    """Two networks of a model that learn from each other.

    A model plays one game, or several side by side, each about its own view of a shower: amplitudes, shapes, layers.
    """

    generator: str
    """Name among the model's networks."""
    discriminator: str
    """Name among the model's networks."""
    view: Callable[[Tensor], Tensor]
    """What the discriminator sees of showers in network units (B, ...): (B, ...), with no gradient needed."""
    generate: Callable[[Tensor, Draws], Tensor]
    """Such views, generated for conditions (B, C) and the draws of these samples."""
    judge: Callable[[Tensor, Tensor, Draws], Verdict]
    """What the discriminator says of views, given their conditions and draws."""
    whole: bool = True
    """Whether a view is the whole shower, so that its energy can be summed."""
    reads_energy: bool = False
    """Whether the verdict tells the incident energy."""


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

    @property
    def games(self) -> tuple[Game, ...]:
        """What the networks play: here one game about whole showers."""
        judge: Any = self.discriminator
        return (
            Game(
                generator="generator",
                discriminator="discriminator",
                view=lambda showers: showers,
                generate=self.generate,
                judge=judge,
                reads_energy=True,
            ),
        )

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
