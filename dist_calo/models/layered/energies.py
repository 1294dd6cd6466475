"""Map between the energies of layers and normal numbers, in which `layers_gan` and `layers_vae` learn.

Of K layers with cells, in the order of their depth, energies ``E_1 ... E_K`` of a shower with incident energy E have
the coordinates::

    u_0 = ln((E_1 + ... + E_K) / E)                       the total over the incident energy
    u_k = ln(E_k / (E_{k+1} + ... + E_K)),  k < K         logit of the share of layer k in what the layers before left

A layer without energy has u_k = -inf, one after which nothing is left has u_k = inf; both have a chance of their own,
``p_0(e)`` and ``p_1(e)``, logistic in ``e``, the logarithm of the incident energy. Otherwise ``u = c(e) + s(e) r``
with polynomials c and ln s, and the distribution function ``G(r | e)`` of r is tabulated. With the normal distribution
function ``Phi``, the coordinate in which the networks work is::

    w = Phi^-1(p_0 + (1 - p_0 - p_1) G(r | e))

so that real showers have standard normal w at every energy, and the energies made from any w are never negative and add
up to the total. Below ``Phi^-1(p_0)`` all w mean an empty layer: for a likelihood they are censored (Tobin,
Econometrica 26, 24). What is left for the networks is how the w of a shower depend on each other; a calibration starts
them from the Gaussian copula with the correlation of the training showers.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dist_calo.geometry import LayeredReadout
from dist_calo.models.layered import calibration as fit
from dist_calo.models.nn.blocks import fill

Result = TypeVar("Result")

EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class NormalEnergies:
    """The energies of B showers as normal numbers of K coordinates, each of shape (B, K)."""

    values: Tensor
    """The coordinates w; where censored, the middle of what they may be; 0 where undefined."""
    low: Tensor
    """True if w is anything below ``lowest``: the layer, or the shower, is empty."""
    high: Tensor
    """True if w is anything above ``highest``: all layers after this one are empty."""
    defined: Tensor
    """True if there is energy left to share."""
    lowest: Tensor
    highest: Tensor


def in_float32(method: Callable[..., Result]) -> Callable[..., Result]:
    """Make a method compute in float32 under autocast: energies are accurate to a permille and better."""

    @functools.wraps(method)
    def computed(self: nn.Module, *tensors: Tensor) -> Result:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return method(self, *(tensor.float() for tensor in tensors))

    return computed


def probability(normal: Tensor) -> Tensor:
    """Return the distribution function of normal numbers; `torch.special.ndtr` of float32 is percents off at -5."""
    return 0.5 * torch.special.erfc(-normal * 0.5**0.5)


class LayerEnergies(nn.Module):
    """Map of the module's docstring; its constants come from training showers by `fit`.

    Args:
        geometry: any layered read-out.
    """

    energy_range: Tensor
    nodes: Tensor
    center: Tensor
    log_width: Tensor
    chances: Tensor
    quantiles: Tensor
    copula: Tensor
    normals: Tensor

    def __init__(self, geometry: LayeredReadout) -> None:
        super().__init__()
        self.slices = tuple(geometry.layer_slices)
        self.read = tuple(k for k, cells in enumerate(geometry.layer_cells) if cells)
        count = len(self.read)
        chances = torch.zeros(count, 2, fit.CHANCE_DEGREE + 1)
        chances[..., 0] = fit.NEVER
        normals = torch.linspace(-fit.REACH, fit.REACH, fit.LEVELS)
        self.register_buffer("energy_range", torch.tensor([2.3, 2.3]))
        self.register_buffer("nodes", torch.linspace(-1.0, 1.0, fit.NODES))
        self.register_buffer("center", torch.zeros(count, fit.CENTER_DEGREE + 1))
        self.register_buffer("log_width", torch.zeros(count, fit.WIDTH_DEGREE + 1))
        self.register_buffer("chances", chances)
        self.register_buffer("quantiles", normals.repeat(count, fit.NODES, 1))
        self.register_buffer("copula", torch.eye(count))
        self.register_buffer("normals", normals, persistent=False)

    @property
    def coordinates(self) -> int:
        """Coordinates of a shower: as many as layers with cells."""
        return len(self.read)

    @in_float32
    def of_cells(self, cells: Tensor) -> Tensor:
        """Return the energies of the layers with cells, (B, K), from those of cells, (B, V)."""
        return torch.stack([cells[:, self.slices[k]].sum(1) for k in self.read], dim=1)

    def standardised(self, incident: Tensor) -> Tensor:
        """Return the log of incident energies (B,) in GeV, scaled to [-1, 1] over the fitted range."""
        return (incident.log() - self.energy_range[0]) / self.energy_range[1]

    def fitted_at(self, incident: np.ndarray) -> np.ndarray:
        """Return the same for incident energies (n,) in double precision, as the fits use them."""
        middle, half = self.energy_range.double().cpu().numpy()
        return np.asarray((np.log(incident) - middle) / half)

    @in_float32
    def forward(self, normal: Tensor, incident: Tensor) -> Tensor:
        """Return the energies of the layers with cells (B, K) for coordinates w (B, K) and incident energies (B,)."""
        e = self.standardised(incident).clamp(-1.0, 1.0)
        none, all_ = self._chances(e)
        p = probability(normal).clamp(EDGE, 1.0 - EDGE)
        inner = ((p - none) / (1.0 - none - all_)).clamp(EDGE, 1.0 - EDGE)
        center, width = self._line(e)
        u = center + width * interpolated(self._table(e), torch.special.ndtri(inner))
        low, high = p < none, p > 1.0 - all_
        rest = torch.where(low[:, 0], 0.0, u[:, 0].clamp(max=20.0).exp() * incident)
        layers = []
        for k in range(1, len(self.read)):
            share = torch.where(high[:, k], 1.0, torch.where(low[:, k], 0.0, torch.sigmoid(u[:, k])))
            left = torch.where(high[:, k], 0.0, torch.where(low[:, k], 1.0, torch.sigmoid(-u[:, k])))
            layers.append(rest * share)
            rest = rest * left
        return torch.stack([*layers, rest], dim=1)

    @in_float32
    def normal(self, layers: Tensor, incident: Tensor) -> NormalEnergies:
        """Return the coordinates w for energies (B, K) of the layers with cells and incident energies (B,) in GeV."""
        e = self.standardised(incident).clamp(-1.0, 1.0)
        none, all_ = self._chances(e)
        total = layers.sum(1, keepdim=True)
        after = layers.flip(1).cumsum(1).flip(1)[:, 1:]
        above = torch.cat([total, layers[:, :-1]], dim=1)
        below = torch.cat([incident[:, None], after], dim=1)
        low, high = above <= 0, below <= 0
        center, width = self._line(e)
        u = torch.where(low, 1.0, above).log() - torch.where(high, 1.0, below).log()
        inner = probability(inverted(self._table(e), (u - center) / width))
        p = none + (1.0 - none - all_) * inner
        p = torch.where(low, none / 2, torch.where(high, 1.0 - all_ / 2, p)).clamp(EDGE, 1.0 - EDGE)
        defined = ~(low & high)
        return NormalEnergies(
            values=torch.where(defined, torch.special.ndtri(p), 0.0),
            low=low & defined,
            high=high & defined,
            defined=defined,
            lowest=torch.special.ndtri(none.clamp(EDGE, 1.0 - EDGE)),
            highest=torch.special.ndtri((1.0 - all_).clamp(EDGE, 1.0 - EDGE)),
        )

    def fit(self, cells: np.ndarray, incident: np.ndarray) -> None:
        """Take the constants from training showers: cells (n, V), incident energies (n,) in GeV; deterministic."""
        layers = np.stack([cells[:, self.slices[k]].sum(axis=1) for k in self.read], axis=1)
        middle, half = fit.energy_range(incident)
        e = (np.log(incident) - middle) / half
        nodes = fit.energy_nodes(e)
        levels = torch.special.ndtr(self.normals.double().cpu()).numpy()
        found = [fit.coordinate(u, e, nodes, levels) for u in _coordinates(layers, incident)]
        fill(
            self,
            energy_range=[middle, half],
            nodes=nodes,
            center=[one.center for one in found],
            log_width=[one.log_width for one in found],
            chances=[one.chances for one in found],
            quantiles=[one.quantiles for one in found],
        )
        device = self.nodes.device
        as_tensors = (torch.from_numpy(x).float().to(device) for x in (layers, incident))
        w = self.normal(*as_tensors).values.double()
        correlation = w.T @ w / max(len(w), 1) + 1e-3 * torch.eye(w.shape[1], device=device)
        widths = correlation.diagonal().sqrt()
        self.copula.copy_(torch.linalg.cholesky(correlation / widths / widths[:, None]))

    def _chances(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities of -inf and of inf, (B, K) each; their sum is below 1."""
        logits = _powers(e, fit.CHANCE_DEGREE) @ self.chances.flatten(0, 1).T
        chances = torch.sigmoid(logits.clamp(fit.NEVER, -fit.NEVER)).unflatten(1, (-1, 2))
        chances = torch.where(chances < EDGE, 0.0, chances)
        chances = chances / chances.sum(2, keepdim=True).clamp(min=1.0) * (1.0 - EDGE)
        return chances[..., 0], chances[..., 1]

    def _line(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return the center and width of each coordinate, (B, K) each."""
        return (
            _powers(e, fit.CENTER_DEGREE) @ self.center.T,
            (_powers(e, fit.WIDTH_DEGREE) @ self.log_width.T).exp(),
        )

    def _table(self, e: Tensor) -> Tensor:
        """Return the quantiles of r at each shower's energy, shape (B, K, LEVELS)."""
        above = torch.searchsorted(self.nodes, e.detach().contiguous()).clamp(1, fit.NODES - 1)
        low, high = self.nodes[above - 1], self.nodes[above]
        share = ((e - low) / (high - low)).clamp(0.0, 1.0)[:, None, None]
        table = self.quantiles.transpose(0, 1)
        return table[above - 1] * (1.0 - share) + table[above] * share


def _powers(e: Tensor, degree: int) -> Tensor:
    return torch.stack([e**power for power in range(degree + 1)], dim=1)


def _coordinates(layers: np.ndarray, incident: np.ndarray) -> list[np.ndarray]:
    """Return the coordinates u of energies (n, K), with -inf, inf and NaN."""
    after = layers[:, ::-1].cumsum(axis=1)[:, ::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.log(after[:, 0] / incident)
        shares = [np.log(layers[:, k] / after[:, k + 1]) for k in range(layers.shape[1] - 1)]
    return [total, *shares]


SPACING = 2 * fit.REACH / (fit.LEVELS - 1)
TAIL = round(1.0 / SPACING)
"""Levels over which the slope of the tails is taken."""


def interpolated(table: Tensor, normal: Tensor) -> Tensor:
    """Return the quantile function, linear between levels and beyond them, at normal numbers (B, K)."""
    position = (normal + fit.REACH) / SPACING
    left = position.detach().floor().clamp(0, fit.LEVELS - 2).long()
    low, high = (table.gather(2, index[..., None]).squeeze(2) for index in (left, left + 1))
    inside = low + (high - low) * (position - left).clamp(0.0, 1.0)
    before, behind = _tails(table)
    return (
        inside + before * (normal + fit.REACH).clamp(max=0.0) + behind * (normal - fit.REACH).clamp(min=0.0)
    )


def inverted(table: Tensor, values: Tensor) -> Tensor:
    """Return the normal numbers (B, K) for values of the quantile function, within 5 standard deviations."""
    left = (
        torch.searchsorted(table.detach().contiguous(), values.detach()[..., None].contiguous()).squeeze(2)
        - 1
    )
    left = left.clamp(0, fit.LEVELS - 2)
    low, high = (table.gather(2, index[..., None]).squeeze(2) for index in (left, left + 1))
    inside = (left + ((values - low) / (high - low)).clamp(0.0, 1.0)) * SPACING - fit.REACH
    before, behind = _tails(table)
    beyond = (values - table[..., 0]).clamp(max=0.0) / before + (values - table[..., -1]).clamp(
        min=0.0
    ) / behind
    return (inside + beyond).clamp(-5.0, 5.0)


def _tails(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slopes of the quantile function below its first and above its last level, (B, K) each."""
    run = TAIL * SPACING
    return (table[..., TAIL] - table[..., 0]) / run, (table[..., -1] - table[..., -1 - TAIL]) / run
