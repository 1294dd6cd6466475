"""GAN of all layers of a calorimeter together, which learns the correlations between layers.

The energies of K layers are normal numbers ``w_0`` (the total) and ``w_1 ... w_{K-1}`` (the share of a layer in what
those before it left), as in `dist_calo.models.layered.energies`. With ``z ~ N(0, 1)`` and ``e`` the logarithm of the
incident energy, the generator of **energies** computes one after the other::

    w_k = (C z)_k + W_k(dense(z, e), w_0 ... w_{k-1})     E_1 ... E_K follow from all w

and the generator of **cells** has one stream a layer, with the layers before it as input (cf. the attention from
layer to layer of CaloGAN, arXiv:1712.10321), with noise z' of its own::

    h = dense(z', e, w)
    g_k = dense(h, w, g_{k-1}, cells of layer k-1 as sqrt of their shares)
    s_k = softmax(t_k(e) + fluctuations(z', a) + S_k(g_k))               shares of the cells of layer k
    m = s_k E_k r_k(E_k) / v                              mean number of hits; v is the energy of a hit in this cell
    q = max(0, ln(1 - exp(-m)) - ln(1 - u))               u uniform, one for each cell, correlated among neighbours
    y = q^(1/2 + (p - 1) exp(-m) / 2) (c_0 + c_1 (1 - exp(-m)) + c_2 sqrt(m)) + max(0, c_3 sqrt(m) - c_4)
    x = y sqrt(E_k / sum y^2)                             amplitudes: network units are sqrt(scale E)

C is the Cholesky factor of the correlation of w; mean shapes t, fluctuations, r, v and p are those of
`dist_calo.models.layered.cells`. All are fitted to training showers (`LayersGan.calibrate`), so that learning starts
from layer energies that are right each, with normal correlations, and from cells whose means, widths and numbers of
hits are nearly so. ``W``, ``S``, ``c``, factors a on the fluctuations of each layer and what v deviates from the fit by
are learned. The explicit energy of a layer is the sum of its cells, exactly.

Each generator plays a game of its own (`dist_calo.models.layered.gan_discriminator`), the first about w, the second
about whole showers. In one game about showers, the energies would move away from what is right to make up for cells
that are not yet: a layer of less energy has fewer cells that could look wrong.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_calo.errors import ConfigError
from dist_calo.geometry import Geometry, LayeredReadout
from dist_calo.models.interfaces import Game, Model, Statistics
from dist_calo.models.layered.calibration import squared_amplitudes
from dist_calo.models.layered.cells import LayerCells
from dist_calo.models.layered.energies import LayerEnergies
from dist_calo.models.layered.gan_discriminator import EnergiesDiscriminator, LayersDiscriminator
from dist_calo.models.layered.layout import Mirrors
from dist_calo.models.nn.blocks import Dense, leaky
from dist_calo.models.nn.requirements import column, require_conditions, require_kind, require_sizes
from dist_calo.randomness import Draws

COMPOUND_POISSON = (1.04, 0.46, 0.0, 1.0, 1.31)
"""Constants c with which a cell follows the compound Poisson distribution, as in `lcd_fast`."""
ROUNDING = 0.003
"""Rounds off the infinite slope of the square root at no energy."""
START, ENERGIES_START = 0.1, 0.03
"""Factors on what the networks add to the fitted shapes and energies, so that they start with little."""
EXTRA, ENERGIES_WIDTH = 4, 48
"""Normal numbers of the energies of a shower beyond one a layer, and width of the networks that play about energies."""


class EnergiesGenerator(nn.Module):
    """Generator of the energies of layers as normal numbers; see the module's docstring.

    Args:
        geometry: any layered read-out.
        hidden: width of the dense layers.
    """

    def __init__(self, geometry: LayeredReadout, hidden: int) -> None:
        super().__init__()
        self.energies = LayerEnergies(geometry)
        count = self.energies.coordinates
        self.latent = count + EXTRA
        self.dense = Dense(self.latent + 1, [hidden, hidden])
        self.normal = nn.ModuleList(Dense(hidden + k, [hidden]) for k in range(count))
        self.change = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(count))

    def forward(self, incident: Tensor, latent: Tensor) -> Tensor:
        """Return the coordinates w (B, K) at incident energies (B,), given noise (B, latent)."""
        e = self.energies.standardised(incident)
        h = self.dense(torch.cat([latent, e[:, None]], dim=1))
        start = latent[:, : self.energies.coordinates] @ self.energies.copula.T
        normal = start[:, :0]
        for k, (dense, change) in enumerate(zip(self.normal, self.change, strict=True)):
            shift = ENERGIES_START * change(dense(torch.cat([h, normal], dim=1)))
            normal = torch.cat([normal, start[:, k : k + 1] + shift], dim=1)
        return normal


class CellsGenerator(nn.Module):
    """Generator of the cells of layers of given energies; see the module's docstring.

    Args:
        geometry: any layered read-out.
        latent: normal numbers of a shower, besides one number of each cell.
        hidden: width of the streams.
        modes: principal fluctuations of the shapes.
    """

    def __init__(self, geometry: LayeredReadout, latent: int, hidden: int, modes: int) -> None:
        super().__init__()
        self.latent = latent
        self.cells = LayerCells(geometry, modes, min(modes, latent - modes))
        sizes = self.cells.sizes
        count = len(sizes)
        self.dense = Dense(latent + 1 + count, [hidden, hidden])
        self.streams = nn.ModuleList(
            nn.Linear(hidden + count + (hidden + sizes[k - 1] if k else 0), hidden) for k in range(count)
        )
        self.shapes = nn.ModuleList(nn.Linear(hidden, size) for size in sizes)
        self.mode_weights = nn.Parameter(torch.ones(modes, count))
        self.constants = nn.Parameter(torch.tensor(COMPOUND_POISSON)[:, None].repeat(1, count))
        self.log_hit = nn.Parameter(torch.zeros(geometry.cells))

    def forward(self, e: Tensor, normal: Tensor, layers: Tensor, latent: Tensor, uniform: Tensor) -> Tensor:
        """Return the amplitudes (B, V).

        Args:
            e: logarithm of the incident energies, in [-1, 1], shape (B,).
            normal: coordinates w of the energies of layers, (B, K).
            layers: the energies of layers in network units squared, (B, K).
            latent: noise, (B, latent).
            uniform: uniform numbers, (B, V).
        """
        h = self.dense(torch.cat([latent, e[:, None], normal], dim=1))
        logits = self.cells.mean_logits(e) + self.cells.fluctuations(latent, self.mode_weights, layers)
        told, uniform = torch.cat([h, normal], dim=1), self.cells.correlated(uniform)
        pictures: list[Tensor] = []
        for k, (stream, shape) in enumerate(zip(self.streams, self.shapes, strict=True)):
            g = leaky(stream(told))
            pictures.append(self._layer(k, logits, START * shape(g), layers[:, k : k + 1], uniform))
            root = layers[:, k : k + 1].clamp(min=1e-12).sqrt()
            told = torch.cat([h, normal, g, pictures[-1] / root], dim=1)
        return torch.cat(pictures, dim=1)

    def _layer(self, k: int, logits: Tensor, change: Tensor, energy: Tensor, uniform: Tensor) -> Tensor:
        """Return the amplitudes of the cells of layer k, whose squares sum to its energy (B, 1)."""
        cut = self.cells.slices[k]
        log_hit = (self.cells.hit + self.log_hit)[cut]
        u = uniform[:, cut]
        expected = self.cells.log_hits(k, logits[:, cut] + change, energy, log_hit)
        mean = expected.exp()
        root, seen = mean.sqrt(), -torch.expm1(-mean)
        beyond = F.relu(seen.log() - torch.log1p(-u))
        # beyond^(power / 2), rounded off at 0, where a single hit is seen; sqrt(beyond) where many are.
        bend = (beyond + ROUNDING).log() * (0.5 * (self.cells.power - 1.0) * (1.0 - seen))
        hit = beyond / ((beyond + ROUNDING).sqrt() + ROUNDING**0.5) * bend.exp()
        c = self.constants[:, k]
        amplitudes = hit * (c[0] + c[1] * seen + c[2] * root) + F.relu(c[3] * root - c[4])
        # Hits arrive at a rate m; a layer with energy has at least the hit that arrives first.
        first = (-u.log()).log() - expected
        return self.cells.normalised(amplitudes * (0.5 * log_hit).exp(), first, energy)


class LayersGan(Model):
    """Networks of both games; `calibrate` fits their starting point.

    Args:
        geometry: any layered read-out.
        latent: normal numbers of a shower, besides those of its energies and one of each cell.
        hidden: width of the generator's streams.
        modes: principal fluctuations of the shapes.
        discriminator_width: width of each stream of the discriminator.
        blur: noise on what the discriminators read.
        mirrored: whether mirror images of a shower are equally likely.
        closely: whether the discriminator reads hottest cells and second moments.
    """

    generating = ("energies", "generator")
    geometry: LayeredReadout

    def __init__(
        self,
        geometry: LayeredReadout,
        latent: int,
        hidden: int,
        modes: int,
        discriminator_width: int,
        blur: float,
        *,
        mirrored: bool,
        closely: bool,
    ) -> None:
        super().__init__(geometry)
        self.mirrors = Mirrors(geometry) if mirrored else None
        self.energies = EnergiesGenerator(geometry, ENERGIES_WIDTH)
        self.energies_discriminator = EnergiesDiscriminator(geometry, ENERGIES_WIDTH, blur)
        self.generator = CellsGenerator(geometry, latent, hidden, modes)
        self.discriminator = LayersDiscriminator(
            geometry, discriminator_width, self.generator.cells, blur, mirrored=mirrored, closely=closely
        )

    @property
    def games(self) -> tuple[Game, ...]:
        """Two games: the logarithms of the energies of layers, (B, K), and whole showers."""
        return (
            Game(
                generator="energies",
                discriminator="energies_discriminator",
                view=self.energies_discriminator.view,
                generate=self._generate_energies,
                judge=self.energies_discriminator,
                whole=False,
            ),
            Game(
                generator="generator",
                discriminator="discriminator",
                view=lambda showers: showers,
                generate=self.generate,
                judge=self.discriminator,
            ),
        )

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Generate showers of conditions (B, C): amplitudes (B, V)."""
        incident = column(conditions, self.geometry, "energy")
        normal = self._normal(incident, draws)
        latent = draws.normal("latent", self.generator.latent).to(conditions)
        uniform = draws.uniform("cells", self.geometry.cells).to(conditions)
        energies = self.energies.energies
        e, layers = energies.standardised(incident), energies(normal, incident)
        showers: Tensor = self.generator(e, normal, layers, latent, uniform)
        return self.mirrors(showers, draws) if self.mirrors else showers

    def _normal(self, incident: Tensor, draws: Draws) -> Tensor:
        """Return the coordinates w of generated energies of layers, (B, K)."""
        noise = draws.normal("energies", self.energies.latent).to(incident)
        normal: Tensor = self.energies(incident, noise)
        return normal

    def _generate_energies(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Return the input of the first game for generated energies of layers, (B, K)."""
        incident = column(conditions, self.geometry, "energy")
        return self.energies_discriminator.seen(
            self.energies.energies(self._normal(incident, draws), incident)
        )

    def calibrate(self, statistics: Statistics) -> None:
        """Fit the starting point of the training; deterministic.

        Args:
            statistics: of a sample of training showers: ``energy`` (n,) in GeV, ``showers`` (n, V) in GeV and
                ``network_units`` (n, V), the same as the networks see them.

        Raises:
            ConfigError: if the network units are not sqrt(scale E).
        """
        cells, energy = squared_amplitudes("layers_gan", statistics)
        amplitudes = statistics["network_units"]
        if self.mirrors:
            cells, amplitudes, energy = self.mirrors.expanded(cells, amplitudes, energy)
        fitted = self.energies.energies
        fitted.fit(cells, energy)
        self.generator.cells.fit(cells, energy, fitted.fitted_at(energy), self.generate)
        for other in (self.energies_discriminator, self.discriminator):
            other.energies.load_state_dict(fitted.state_dict())
        self.discriminator.cells.load_state_dict(self.generator.cells.state_dict(), strict=False)
        self.discriminator.fit(amplitudes, energy)


def layers_gan(
    geometry: Geometry,
    *,
    latent: int = 32,
    hidden: int = 128,
    modes: int = 8,
    discriminator_width: int = 64,
    blur: float = 0.5,
    mirrored: bool = False,
    closely: bool = False,
) -> LayersGan:
    """Build the two networks for any layered read-out.

    Args:
        geometry: the read-out.
        latent: normal numbers of a shower, besides those of its energies; the first are the fitted fluctuations.
        hidden: width of the generator's dense layers.
        modes: fitted principal fluctuations of the shapes of layers.
        discriminator_width: width of each stream of the discriminator.
        blur: noise on what the discriminators read, in units of the width of each number.
        mirrored: whether the beam stands in the middle of symmetric layers, so that mirror images of a shower are
            equally likely (`dist_calo.models.layered.layout.Mirrors`).
        closely: whether the discriminator reads hottest cells and second moments of each layer.

    Raises:
        ConfigError: if the data have no layers or other conditions than the energy, or an option is too small.
    """
    layered = require_kind("layers_gan", geometry, LayeredReadout)
    require_conditions("layers_gan", geometry, ("energy",))
    require_sizes(modes=modes, hidden=hidden)
    require_sizes(least=modes, latent=latent)
    require_sizes(least=2, discriminator_width=discriminator_width)
    if blur < 0:
        raise ConfigError(f"model.options.blur={blur}: must not be negative")
    return LayersGan(
        layered, latent, hidden, modes, discriminator_width, blur, mirrored=mirrored, closely=closely
    )
