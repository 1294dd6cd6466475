"""Interface of generative adversarial models: a generator, a discriminator, and its output."""

from typing import Protocol

from torch import Tensor, nn

from dist_calo.geometry import Geometry
from dist_calo.models.interfaces import Game, Model
from dist_calo.randomness import Draws


class Generator(Protocol):
    """Network from conditions and noise to showers."""

    latent: int
    """Normal numbers that a shower is made from."""

    def __call__(self, conditions: Tensor, noise: Tensor) -> Tensor:
        """Return showers in network units (B, X, Y, Z) for conditions (B, C) in GeV and rad and noise (B, latent)."""


class GanModel(Model):
    """Generator and discriminator, each with its own optimizer.

    A model with constants that come from the training data overrides ``calibrate``.

    Args:
        geometry: the read-out that showers have.
        generator: a module that is a `Generator`.
        discriminator: a module called with showers in network units, shape (B, X, Y, Z), their conditions, shape
            (B, C), and the draws of these samples (for dropout); it returns a `Verdict`.
    """

    generating = ("generator",)

    def __init__(self, geometry: Geometry, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__(geometry)
        self.generator = generator
        self.discriminator = discriminator

    @property
    def games(self) -> tuple[Game, ...]:
        """The adversarial games: here one about whole showers."""
        return (
            Game(
                generator="generator",
                discriminator="discriminator",
                view=lambda showers: showers,
                generate=self.generate,
                judge=self.discriminator,
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
