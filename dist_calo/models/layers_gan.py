"""A GAN of all layers of a calorimeter together, which learns how the layers depend on each other.

With ``z ~ N(0, 1)`` of length ``latent``, ``e`` the logarithm of the incident energy and the energies of K layers as
normal numbers ``w_0`` (the total) and ``w_1 ... w_{K-1}`` (the share of a layer in what those before it left) as in
`dist_calo.models.layers_energies`, the **generator** has one stream a layer, which is told of the layers before it
(cf. the attention from layer to layer of CaloGAN, arXiv:1712.10321)::

    h = dense(z, e)
    w_k = (C z)_k + W_k(h, w_0 ... w_{k-1})               E_1 ... E_K follow from all w
    g_k = dense(h, w, g_{k-1}, cells of layer k-1 as sqrt of their shares)
    s_k = softmax(t_k(e) + sum_j a_jk z_{K+j} d_jk + S_k(g_k))               shares of the cells of layer k
    m = s_k E_k / v                                       mean number of hits; v is the energy of a hit in this cell
    q = max(0, ln(1 - exp(-m)) - ln(1 - u))               u uniform, one for each cell
    y = sqrt(q) (c_0 + c_1 (1 - exp(-m)) + c_2 sqrt(m)) + max(0, c_3 sqrt(m) - c_4)
    x = y sqrt(E_k / sum y^2)                             amplitudes: network units are sqrt(scale E)

C is the Cholesky factor of the correlation of w, d are the principal fluctuations of the shapes, t their means: fitted
to training showers (`LayersGan.calibrate`), so that learning starts from layer energies that are right each, with
normal correlations. ``W``, ``S``, ``a``, ``c`` and what v deviates from the fit by are learned. The explicit energy of
a layer is the sum of its cells, exactly; see `dist_calo.models.layers_cells` for the fluctuation of cells.

The discriminator is in `dist_calo.models.layers_discriminator`.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_calo.errors import ConfigError
from dist_calo.geometry import Geometry, LayeredReadout
from dist_calo.models.gan import GanModel
from dist_calo.models.layers_cells import LayerCells
from dist_calo.models.layers_discriminator import LayersDiscriminator
from dist_calo.models.layers_energies import LayerEnergies
from dist_calo.models.layers_fit import require_amplitudes
from dist_calo.models.lcd_fast_layers import leaky
from dist_calo.models.requirements import column, require_kind
from dist_calo.randomness import Draws

COMPOUND_POISSON = (1.04, 0.46, 0.0, 1.0, 1.31)
"""Constants c with which a cell follows the compound Poisson distribution, as in `dist_calo.models.lcd_fast`."""
ROUNDING = 0.003
"""Rounds off the infinite slope of the square root at no energy."""
START, ENERGY_START = 0.1, 0.03
"""Factors on what the networks add to the fitted shapes and energies, so that they start with little and learn slowly
what is fitted well."""


class LayersGenerator(nn.Module):
    """See the module's docstring.

    Args:
        geometry: any layered read-out.
        latent: normal numbers of a shower, besides one number of each cell.
        hidden: width of the streams.
        modes: principal fluctuations of the shapes.
    """

    def __init__(self, geometry: LayeredReadout, latent: int, hidden: int, modes: int) -> None:
        super().__init__()
        self.geometry, self.latent = geometry, latent
        self.energies = LayerEnergies(geometry)
        self.cells = LayerCells(self.energies, geometry.cells, modes)
        sizes = self.cells.sizes
        count = len(sizes)
        self.dense = nn.ModuleList([nn.Linear(latent + 1, hidden), nn.Linear(hidden, hidden)])
        self.normal = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden + k, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
            for k in range(count)
        )
        self.streams = nn.ModuleList(
            nn.Linear(hidden + count + (hidden + sizes[k - 1] if k else 0), hidden) for k in range(count)
        )
        self.shapes = nn.ModuleList(nn.Linear(hidden, size) for size in sizes)
        self.mode_weights = nn.Parameter(torch.ones(modes, count))
        self.constants = nn.Parameter(torch.tensor(COMPOUND_POISSON)[:, None].repeat(1, count))
        self.log_hit = nn.Parameter(torch.zeros(geometry.cells))

    def forward(self, conditions: Tensor, latent: Tensor, uniform: Tensor) -> Tensor:
        """Amplitudes (B, V) of conditions (B, C), noise (B, latent) and uniform numbers (B, V)."""
        incident = column(conditions, self.geometry, "energy")
        e = self.energies.standardised(incident)
        h = torch.cat([latent, e[:, None]], dim=1)
        for layer in self.dense:
            h = leaky(layer(h))
        normal = self.normal_energies(h, latent)
        layers = self.energies(normal, incident)
        logits = self.cells.mean_logits(e) + self._modes(latent)
        told = torch.cat([h, normal], dim=1)
        pictures: list[Tensor] = []
        for k, (stream, shape) in enumerate(zip(self.streams, self.shapes, strict=True)):
            g = leaky(stream(told))
            pictures.append(self._layer(k, logits, START * shape(g), layers[:, k : k + 1], uniform))
            root = layers[:, k : k + 1].clamp(min=1e-12).sqrt()
            told = torch.cat([h, normal, g, pictures[-1] / root], dim=1)
        return torch.cat(pictures, dim=1)

    def normal_energies(self, h: Tensor, latent: Tensor) -> Tensor:
        """The coordinates w (B, K) of the energies of layers, given features h (B, hidden) and noise (B, latent)."""
        correlated = latent[:, : len(self.shapes)] @ self.energies.copula.T
        normal = correlated[:, :0]
        for k, network in enumerate(self.normal):
            shift = ENERGY_START * network(torch.cat([h, normal], dim=1))
            normal = torch.cat([normal, correlated[:, k : k + 1] + shift], dim=1)
        return normal

    def _modes(self, latent: Tensor) -> Tensor:
        """Principal fluctuations of the logits, (B, V)."""
        amounts = latent[:, len(self.shapes) :][:, : len(self.cells.modes)]
        return amounts @ (self.cells.modes * self.cells.spread(self.mode_weights))

    def _layer(self, k: int, logits: Tensor, change: Tensor, energy: Tensor, uniform: Tensor) -> Tensor:
        """Amplitudes of the cells of layer k, whose squares add up to its energy (B, 1)."""
        cut = self.cells.slices[k]
        log_hit = (self.cells.hit + self.log_hit)[cut]
        u = uniform[:, cut].clamp(1e-7, 1.0 - 1e-6)
        expected = self.cells.log_hits(logits[:, cut] + change, energy, log_hit)
        mean = expected.exp()
        root, seen = mean.sqrt(), -torch.expm1(-mean)
        beyond = F.relu(seen.log() - torch.log1p(-u))
        hit = beyond / ((beyond + ROUNDING).sqrt() + ROUNDING**0.5)  # sqrt(beyond), rounded off
        c = self.constants[:, k]
        amplitudes = hit * (c[0] + c[1] * seen + c[2] * root) + F.relu(c[3] * root - c[4])
        # Hits arrive at a rate m; a layer with energy has at least the hit that arrives first.
        first = (-u.log()).log() - expected
        return self.cells.normalised(amplitudes * (0.5 * log_hit).exp(), first, energy)


class LayersGan(GanModel):
    """Both networks; `calibrate` fits where learning starts from."""

    generator: LayersGenerator
    discriminator: LayersDiscriminator

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Generate showers of conditions (B, C): amplitudes (B, V)."""
        latent = draws.normal("latent", self.generator.latent).to(conditions)
        uniform = draws.uniform("cells", self.geometry.cells).to(conditions)
        showers: Tensor = self.generator(conditions, latent, uniform)
        return showers

    def calibrate(self, statistics: Mapping[str, np.ndarray]) -> None:
        """Fit where learning starts from; deterministic.

        Args:
            statistics: of a sample of training showers: ``energy`` (n,) in GeV, ``showers`` (n, V) in GeV and
                ``network_units`` (n, V), the same as the networks see them.

        Raises:
            ConfigError: if the network units are not sqrt(scale E).
        """
        require_amplitudes("layers_gan", statistics["showers"], statistics["network_units"])
        energy = statistics["energy"].astype(np.float64)
        cells = statistics["network_units"].astype(np.float64) ** 2
        ours, theirs = self.generator, self.discriminator
        ours.energies.fit(cells, energy)
        ours.cells.fit(cells, ours.energies.fitted_at(energy))
        theirs.energies.load_state_dict(ours.energies.state_dict())
        theirs.cells.load_state_dict(ours.cells.state_dict())
        theirs.fit(statistics["network_units"], statistics["energy"])


def layers_gan(
    geometry: Geometry,
    *,
    latent: int = 32,
    hidden: int = 128,
    modes: int = 8,
    discriminator_width: int = 64,
    blur: float = 0.5,
) -> LayersGan:
    """Build the two networks for any layered read-out.

    Args:
        geometry: the read-out.
        latent: normal numbers of a shower; the first feed the fitted fluctuations too, one for each layer with cells
            and one for each mode.
        hidden: width of the generator's dense layers.
        modes: fitted principal fluctuations of the shapes of layers.
        discriminator_width: width of each stream of the discriminator.
        blur: noise on what the discriminator reads, in units of the width of each number.

    Raises:
        ConfigError: if the data have no layers or a size is too small.
    """
    layered = require_kind("layers_gan", geometry, LayeredReadout)
    least = modes + sum(cells > 0 for cells in layered.layer_cells)
    for name, size, smallest in (
        ("modes", modes, 1),
        ("latent", latent, least),
        ("hidden", hidden, 1),
        ("discriminator_width", discriminator_width, 2),
    ):
        if size < smallest:
            raise ConfigError(f"model.options.{name}={size}: must be at least {smallest}")
    if blur < 0:
        raise ConfigError(f"model.options.blur={blur}: must not be negative")
    return LayersGan(
        geometry,
        LayersGenerator(layered, latent, hidden, modes),
        LayersDiscriminator(layered, discriminator_width, modes, blur),
    )
