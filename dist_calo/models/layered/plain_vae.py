"""Plain variational autoencoder of the cells of all layers: the baseline of `dist_calo.models.layered.vae`.

With ``x`` the shower in network units over their root mean square, ``e`` the logarithm of the incident energy and a
latent ``z ~ N(0, 1)``::

    q(z | x) = N(mu, sigma)               encoder of x and e
    p(x | z) = N(decoder(z, e), s_k)      the width s_k of layer k is learned (optimal sigma, arXiv:2006.13202)

What is generated is the mean, never below 0: no energy is explicit and no cell fluctuates by itself, so layer energies
come out as sums of many smooth cells.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_calo.geometry import Geometry, LayeredReadout
from dist_calo.models.autoencoder import Encoder, divergence, sampled, widths
from dist_calo.models.interfaces import Elbo, Model, Statistics
from dist_calo.models.layered.calibration import energy_range
from dist_calo.models.nn.blocks import Dense, fill
from dist_calo.models.nn.requirements import column, require_conditions, require_kind, require_sizes
from dist_calo.randomness import Draws


class PlainAutoencoder(nn.Module):
    """Encoder and decoder; see the module's docstring.

    Args:
        geometry: any layered read-out.
        latent: latent numbers.
        hidden: width of the widest layers.
    """

    unit: Tensor
    energy_range: Tensor

    def __init__(self, geometry: LayeredReadout, latent: int, hidden: int) -> None:
        super().__init__()
        self.sizes = [cells for cells in geometry.layer_cells if cells]
        self.register_buffer("unit", torch.tensor(1.0))
        self.register_buffer("energy_range", torch.tensor([2.3, 2.3]))
        self.encoder = Encoder(geometry.cells + 1, hidden, latent)
        self.decoder = Dense(latent + 1, widths(hidden, latent)[::-1])
        self.means = nn.Linear(hidden, geometry.cells)
        self.log_width = nn.Parameter(torch.zeros(len(self.sizes)))

    def encoded(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and log variance of z, (B, latent) each, of cells (B, V) and e (B,)."""
        mean, log_variance = self.encoder(torch.cat([x, e[:, None]], dim=1))
        return mean, log_variance

    def decoded(self, z: Tensor, e: Tensor) -> Tensor:
        """Return the means of the cells, (B, V)."""
        means: Tensor = self.means(self.decoder(torch.cat([z, e[:, None]], dim=1)))
        return means

    def log_widths(self) -> Tensor:
        """Return the logarithm of the width of each cell, (V,)."""
        return torch.cat([w.expand(size) for w, size in zip(self.log_width, self.sizes, strict=True)])


class PlainVae(Model):
    """Plain autoencoder as a model.

    Args:
        geometry: any layered read-out.
        latent: latent numbers.
        hidden: width of the widest layers.
    """

    generating = ("autoencoder",)
    geometry: LayeredReadout

    def __init__(self, geometry: LayeredReadout, latent: int, hidden: int) -> None:
        super().__init__(geometry)
        self.latent = latent
        self.autoencoder = PlainAutoencoder(geometry, latent, hidden)

    def elbo(self, showers: Tensor, conditions: Tensor, draws: Draws) -> Elbo:
        """Return minus the evidence lower bound of showers in network units (B, V) with conditions (B, C)."""
        net = self.autoencoder
        e = self._energy(conditions)
        x = showers / net.unit
        mean, log_variance = net.encoded(x, e)
        z = sampled(mean, log_variance, draws.normal("posterior", self.latent))
        log_widths = net.log_widths().clamp(min=math.log(1e-3))
        deviations = (x - net.decoded(z, e)) * (-log_widths).exp()
        return Elbo(
            reconstruction={"cells": (0.5 * deviations.square() + log_widths).sum(1)},
            kl=divergence(mean, log_variance),
        )

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Generate showers of conditions (B, C) in network units, (B, V)."""
        z = draws.normal("latent", self.latent).to(conditions)
        return F.relu(self.autoencoder.decoded(z, self._energy(conditions))) * self.autoencoder.unit

    def calibrate(self, statistics: Statistics) -> None:
        """Take the unit of the cells and the range of incident energies from training showers."""
        squares = np.square(statistics["network_units"], dtype=np.float64)
        fill(
            self.autoencoder,
            unit=max(float(squares.mean()) ** 0.5, 1e-6),
            energy_range=energy_range(statistics["energy"].astype(np.float64)),
        )

    def _energy(self, conditions: Tensor) -> Tensor:
        middle, half = self.autoencoder.energy_range
        return (column(conditions, self.geometry, "energy").log() - middle) / half


def layers_vae_plain(geometry: Geometry, *, latent: int = 20, hidden: int = 240) -> PlainVae:
    """Build the plain autoencoder for any layered read-out.

    Args:
        geometry: the read-out.
        latent: latent numbers of a shower.
        hidden: width of the widest layers.

    Raises:
        ConfigError: if the data have no layers or other conditions than the energy, or a size is too small.
    """
    layered = require_kind("layers_vae_plain", geometry, LayeredReadout)
    require_conditions("layers_vae_plain", geometry, ("energy",))
    require_sizes(latent=latent, hidden=hidden)
    return PlainVae(layered, latent, hidden)
