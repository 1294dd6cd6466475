"""The interfaces between models, objectives and the trainer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from dist_calo.geometry import Readout
from dist_calo.randomness import Draws

Statistics = Mapping[str, np.ndarray]
"""A sample of n training showers: ``energy`` (n,), ``energy_sum`` (n,), ``showers`` (n, ...) in physical units, and
``network_units`` (n, ...), the same showers as the networks see them."""


class Model(nn.Module, ABC):
    """A generative model: named networks, of which some generate.

    Args:
        geometry: the read-out that showers have.
    """

    generating: tuple[str, ...]
    """Networks whose weights generate; the moving average is theirs."""
    calibration_numbers = 2**24
    """Most numbers of the training showers that the model is calibrated with."""
    geometry: Readout

    def __init__(self, geometry: Readout) -> None:
        super().__init__()
        self.geometry = geometry

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Networks by name, each with its own optimizer: the modules of the model that have weights."""
        return {
            name: module for name, module in self.named_children() if any(True for _ in module.parameters())
        }

    @abstractmethod
    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Generate showers in network units (B, *geometry.shape); a pure function of conditions (B, C) and draws."""

    def calibrate(self, statistics: Statistics) -> None:
        """Take constants from training showers into buffers; once, before a run that starts anew."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Numbers that a discriminator reads off showers."""

    score: Tensor
    """Logit of "this is a real shower" (no sigmoid applied; a critic's value for wgan and wgan_gp), shape (B,)."""
    energy: Tensor | None = None
    """Incident energy in GeV, shape (B,); None if the discriminator has no such head."""


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
    """The discriminator's view of showers in network units (B, ...): (B, ...), with no gradient needed."""
    generate: Callable[[Tensor, Draws], Tensor]
    """Such views, generated for conditions (B, C) and the draws of these samples."""
    judge: Callable[[Tensor, Tensor, Draws], Verdict]
    """The discriminator's verdict on views, given their conditions and draws."""
    whole: bool = True
    """True if a view is the whole shower, so that its energy can be summed."""
    reads_energy: bool = False
    """True if the verdict tells the incident energy."""


class AdversarialModel(Protocol):
    """The part of a `Model` that adversarial objectives need."""

    @property
    def geometry(self) -> Readout: ...
    @property
    def games(self) -> Sequence[Game]: ...
    def calibrate(self, statistics: Statistics) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Elbo:
    """Minus the evidence lower bound of B showers, in parts, up to constants."""

    reconstruction: Mapping[str, Tensor]
    """Minus the logarithm of the decoder's likelihood, in parts by name, each of shape (B,)."""
    kl: Tensor
    """Kullback-Leibler divergence of the encoder's distribution from the prior, shape (B,)."""


class AutoencoderModel(Protocol):
    """The part of a `Model` that the variational objective needs; its one network is called ``autoencoder``."""

    def elbo(self, showers: Tensor, conditions: Tensor, draws: Draws) -> Elbo: ...
    def calibrate(self, statistics: Statistics) -> None: ...
