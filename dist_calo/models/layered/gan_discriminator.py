"""Discriminators of `dist_calo.models.layered.gan`.

That of energies reads the normal coordinates w of the energies of layers (`dist_calo.models.layered.energies`). That
of showers has streams. One a layer reads its cells, as deviations from their mean at this incident energy; it is told
of the layer before it. One more reads explicit energies and what physicists look at: w, the logarithms of the
energies, hits above four levels, how concentrated a layer is, and how much of each principal fluctuation its shape
shows; and, if it is to look closely, the shares of the two hottest cells of each layer and its second moments. Scores
are conditional projections (arXiv:1802.05637); all layers up to them are divided by their spectral norm
(arXiv:1802.05957), computed afresh from the weights. Noise is added to all that is read, so that single training
showers cannot be learned by heart (arXiv:1701.04862). Nothing depends on other showers of a batch.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from dist_calo.geometry import LayeredReadout
from dist_calo.models.interfaces import Verdict
from dist_calo.models.layered.cells import LayerCells
from dist_calo.models.layered.energies import LayerEnergies, in_float32
from dist_calo.models.layered.layout import Mirrors
from dist_calo.models.nn.blocks import SpectralNorm, fill, leaky
from dist_calo.models.nn.requirements import column
from dist_calo.randomness import Draws

LEVELS = (0.1, 0.5, 2.0, 8.0)
"""Amplitudes about which hits are counted, in units of that of a usual cell with energy."""
FLOOR = 1e-4
"""Energy, in units of that of a usual cell, below which nothing is told apart."""
EMPTY = 1e-9
"""Energy of a layer in network units squared below which it is empty."""
NARROWEST = 0.05
"""Smallest width that a number is measured in."""


class EnergiesDiscriminator(nn.Module):
    """Discriminator of energies of layers, read as normal coordinates w given the incident energy.

    Args:
        geometry: any layered read-out.
        width: of the dense layers.
        blur: width of the noise added to each coordinate.
    """

    def __init__(self, geometry: LayeredReadout, width: int, blur: float) -> None:
        super().__init__()
        self.geometry, self.blur = geometry, blur
        self.energies = LayerEnergies(geometry)
        self.dense = nn.ModuleList([nn.Linear(self.energies.coordinates + 1, width), nn.Linear(width, width)])
        self.score, self.projection = nn.Linear(width, 1), nn.Linear(width, 1)
        for layer in (*self.dense, self.score, self.projection):
            register_parametrization(layer, "weight", SpectralNorm())

    def view(self, showers: Tensor) -> Tensor:
        """Return the input of `forward` for amplitudes (B, V): `seen` of the energies of their layers, (B, K)."""
        return self.seen(self.energies.of_cells(showers.square()))

    def seen(self, layers: Tensor) -> Tensor:
        """Return the log of energies of layers (B, K) in network units squared, bounded below."""
        return layers.clamp(min=EMPTY).log()

    def forward(self, logs: Tensor, conditions: Tensor, draws: Draws) -> Verdict:
        """Judge logarithms of energies of layers (B, K)."""
        incident = column(conditions, self.geometry, "energy")
        e = self.energies.standardised(incident)
        layers = torch.where(logs > math.log(2 * EMPTY), logs, 0.0).exp()
        layers = torch.where(logs > math.log(2 * EMPTY), layers, 0.0)
        normal = self.energies.normal(layers, incident).values
        noise = draws.normal("blur", normal.shape[1]).to(normal)
        h = torch.cat([normal + self.blur * noise, e[:, None]], dim=1)
        for layer in self.dense:
            h = leaky(layer(h))
        score = self.score(h) + e[:, None] * self.projection(h)
        return Verdict(score=score.squeeze(1))


class LayersDiscriminator(nn.Module):
    """Discriminator of whole showers; see the module's docstring.

    Args:
        geometry: any layered read-out.
        width: of each stream.
        cells: the generator's, of which it has a copy of the same sizes.
        blur: width of the noise added to all that is read, in units of its own width.
        mirrored: whether mirror images of a shower are equally likely; it reads a random one then.
        closely: whether it reads hottest cells and second moments of each layer.
    """

    unit: Tensor
    picture_means: Tensor
    picture_widths: Tensor
    means: Tensor
    widths: Tensor
    offsets: Tensor

    def __init__(
        self,
        geometry: LayeredReadout,
        width: int,
        cells: LayerCells,
        blur: float,
        *,
        mirrored: bool,
        closely: bool,
    ) -> None:
        super().__init__()
        self.geometry, self.blur = geometry, blur
        self.mirrors = Mirrors(geometry) if mirrored else None
        self.energies = LayerEnergies(geometry)
        modes = len(cells.modes)
        self.cells = LayerCells(geometry, modes, len(cells.sampling))
        count = len(self.cells.sizes)
        observables = count * (4 + len(LEVELS) + modes + (4 if closely else 0))
        self.closely = closely
        offsets = torch.zeros(geometry.cells, count, 2)
        for k, (cut, picture) in enumerate(zip(self.cells.slices, self.cells.pictures, strict=True)):
            offsets[cut, k] = picture.squared_offsets()
        self.register_buffer("offsets", offsets.flatten(1), persistent=False)
        self.register_buffer("unit", torch.tensor(1.0))
        self.register_buffer("picture_means", torch.zeros(3, 2 * geometry.cells))
        self.register_buffer("picture_widths", torch.ones(2 * geometry.cells))
        self.register_buffer("means", torch.zeros(3, observables))
        self.register_buffer("widths", torch.ones(observables))
        self.streams = nn.ModuleList(
            nn.Linear(2 * size + 1 + count + (width if k else 0), width)
            for k, size in enumerate(self.cells.sizes)
        )
        self.dense = nn.ModuleList([nn.Linear(observables + 1, 2 * width), nn.Linear(2 * width, width)])
        self.both = nn.Linear((count + 1) * width, width)
        self.score, self.projection = nn.Linear(width, 1), nn.Linear(width, 1)
        for layer in (*self.streams, *self.dense, self.both, self.score, self.projection):
            register_parametrization(layer, "weight", SpectralNorm())

    def forward(self, showers: Tensor, conditions: Tensor, draws: Draws) -> Verdict:
        """Judge amplitudes (B, V)."""
        incident = column(conditions, self.geometry, "energy")
        e = self.energies.standardised(incident)
        if self.mirrors:
            showers = self.mirrors(showers, draws)
        pictures, measured = self.deviations(showers, incident)
        noise = self.blur * draws.normal("blur", pictures.shape[1] + measured.shape[1]).to(pictures)
        pictures = pictures + noise[:, : pictures.shape[1]]
        measured = measured + noise[:, pictures.shape[1] :]
        told = torch.cat([e[:, None], measured[:, : len(self.streams)]], dim=1)
        near, far = pictures.chunk(2, dim=1)
        seen: list[Tensor] = []
        for stream, cut in zip(self.streams, self.cells.slices, strict=True):
            inputs = [near[:, cut], far[:, cut], told, *seen[-1:]]
            seen.append(leaky(stream(torch.cat(inputs, dim=1))))
        observed = torch.cat([measured, e[:, None]], dim=1)
        for layer in self.dense:
            observed = leaky(layer(observed))
        both = leaky(self.both(torch.cat([*seen, observed], dim=1)))
        score = self.score(both) + e[:, None] * self.projection(both)
        return Verdict(score=score.squeeze(1))

    @in_float32
    def deviations(self, showers: Tensor, incident: Tensor) -> tuple[Tensor, Tensor]:
        """Standardise pictures (B, 2 V) and observables (B, N) by their mean and width at this energy."""
        e = self.energies.standardised(incident)
        powers = torch.stack([torch.ones_like(e), e, e.square()], dim=1)
        pictures = (self.pictures(showers) - powers @ self.picture_means) / self.picture_widths
        measured = (self.observables(showers, incident) - powers @ self.means) / self.widths
        return pictures, measured

    def pictures(self, x: Tensor) -> Tensor:
        """Return the input of the streams for amplitudes (B, V): their log and whether a cell is hit, (B, 2 V)."""
        return torch.cat([torch.log1p(2.0 * x / self.unit), soft_hits(x, 0.5 * self.unit)], dim=1)

    def observables(self, x: Tensor, incident: Tensor) -> Tensor:
        """Return smooth observables (B, N) of amplitudes (B, V); the first K are w."""
        squares = x.square() / self.unit.square()
        layers = self.cells.totals(squares)
        normal = self.energies.normal(layers * self.unit.square(), incident).values
        shares = squares / self.cells.spread(layers + FLOOR)
        roots = (shares + 1e-6).sqrt()
        # Sums over each layer's cells of the roots of the shares times each mode.
        along = (self.cells.modes.T[:, :, None] * self.cells.member[:, None]).flatten(1)
        counts = [(self.cells.totals(soft_hits(x, level * self.unit)) + 1e-2).sqrt() for level in LEVELS]
        parts = [
            normal,
            (layers + FLOOR).log() - incident.log()[:, None],
            (self.cells.totals(shares.square()) + 1e-4).log(),
            (self.cells.totals(roots) + 1e-2).log(),
            *counts,
            roots @ along,
        ]
        if self.closely:
            for cut, size in zip(self.cells.slices, self.cells.sizes, strict=True):
                hottest = shares[:, cut].topk(min(2, size), dim=1).values
                parts.append((torch.cat([hottest, hottest], dim=1)[:, :2] + 1e-3).log())
            parts.append((shares @ self.offsets + 1e-2).log())
        return torch.cat(parts, dim=1)

    def fit(self, amplitudes: np.ndarray, energy: np.ndarray) -> None:
        """Take units, means and widths from training showers, (n, V) and (n,), after energies and cells did."""
        fill(self, unit=np.median(amplitudes[amplitudes > 0]))
        device = self.unit.device
        x, incident = (torch.from_numpy(values).float().to(device) for values in (amplitudes, energy))
        with torch.no_grad():
            pictures = self.pictures(x).double().cpu().numpy()
            observables = self.observables(x, incident).double().cpu().numpy()
        e = self.energies.fitted_at(energy.astype(np.float64))
        powers = np.stack([np.ones_like(e), e, e**2], axis=1)
        for values, means, widths in (
            (pictures, "picture_means", "picture_widths"),
            (observables, "means", "widths"),
        ):
            found = np.linalg.lstsq(powers, values, rcond=None)[0]
            deviations = (values - powers @ found).std(axis=0)
            fill(self, **{means: found, widths: np.maximum(deviations, NARROWEST)})


def soft_hits(x: Tensor, level: Tensor) -> Tensor:
    """Return x / (x + level): near 1 in cells of amplitude above a level, 0 in empty ones."""
    return 1.0 - level * (x + level).reciprocal()
