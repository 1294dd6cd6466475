"""Sharing of a layer's energy among its cells, common to `layers_gan` and `layers_vae`.

A cell of layer k with share ``s`` of the layer's energy ``E_k`` is hit ``m = s E_k r_k(E_k) / v`` times on average,
where v is the energy of a hit in this cell, and each hit's energy is exponential: a compound Poisson distribution,
with::

    P(empty) = exp(-m)      mean = m v      variance = 2 m v^2

The sampling fluctuations of a calorimeter of absorber and active medium are of this kind. r_k, near 1, is there because
a layer of little energy has had small hits rather than few. Shares fluctuate from shower to shower::

    ln s = t(e) + sum_j a_j d_j + (a_1^2 - 1) d_11 + (a_2^2 - 1) d_22 + a_1 a_2 d_12 + sum_j b_j f_j / sqrt(h) + ...

up to a constant a layer, with ``e`` the logarithm of the incident energy, amounts ``a_j = A_j(z_j)`` of what is alike
at all energies, such as the point of impact, with quantile functions A and z ~ N(0, 1); and b ~ N(0, 1) times what
falls with the number h of hits of the layer, since a particle of a shower makes many. A particle that crosses the
border of two cells is seen in both: the normal numbers behind the hits of neighbours are correlated.

Both models learn the shares and how far nature departs from the above; calibration fits all constants to training
showers (`dist_calo.models.layered.shape_calibration`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dist_calo.geometry import LayeredReadout
from dist_calo.models.layered import shape_calibration as fit
from dist_calo.models.layered.calibration import LEVELS, REACH
from dist_calo.models.layered.energies import in_float32, interpolated, inverted, probability
from dist_calo.models.layered.layout import pictures
from dist_calo.models.nn.blocks import fill
from dist_calo.randomness import Draws

MOST_HITS = 12.0
"""Logarithm of the largest mean number of hits of a cell; minus twice this, of the smallest."""
FARTHEST = 2.5
"""Standard deviations of the logarithm of a layer's energy beyond which its number of hits is corrected no further."""
ROUNDS, AT_ONCE = 3, 1024
"""Times that showers are generated and compared with nature's in a calibration, and showers generated at once."""


class LayerCells(nn.Module):
    """Constants of the cells, which `fit` takes from training showers.

    Those that a checkpoint of an earlier version does not have are as they are before a fit, which is what that version
    computed.

    Args:
        geometry: any layered read-out.
        modes: principal fluctuations of the shapes that are alike at all energies.
        sampling: those that fall with the number of hits.
    """

    shape: Tensor
    hit: Tensor
    modes: Tensor
    amounts: Tensor
    products: Tensor
    sampling: Tensor
    usual: Tensor
    rates: Tensor
    power: Tensor
    neighbours: Tensor
    member: Tensor

    def __init__(self, geometry: LayeredReadout, modes: int, sampling: int) -> None:
        super().__init__()
        cells = geometry.cells
        self.slices = [cut for cut in geometry.layer_slices if cut.stop > cut.start]
        self.sizes = [cut.stop - cut.start for cut in self.slices]
        self.pictures = pictures(geometry)
        count = len(self.sizes)
        self.register_buffer("shape", torch.zeros(2, cells))
        self.register_buffer("hit", torch.zeros(cells))
        self.register_buffer("modes", torch.zeros(modes, cells))
        self.register_buffer("amounts", torch.linspace(-REACH, REACH, LEVELS).repeat(modes, 1))
        self.register_buffer("products", torch.zeros(3, cells))
        self.register_buffer("sampling", torch.zeros(sampling, cells))
        self.register_buffer("usual", torch.tensor([0.0, 1.0]).repeat(count, 1))
        self.register_buffer("rates", torch.zeros(count, fit.RATE_DEGREE + 1))
        self.register_buffer("power", torch.tensor(1.0))
        self.register_buffer("neighbours", torch.zeros(count, 2))
        member = torch.zeros(cells, count)
        for number, cut in enumerate(self.slices):
            member[cut, number] = 1.0
        self.register_buffer("member", member, persistent=False)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        known = dict(self.named_buffers())
        for name in ("amounts", "products", "sampling", "usual", "rates", "power", "neighbours"):
            state_dict.setdefault(prefix + name, known[name])  # type: ignore[attr-defined]
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @in_float32
    def mean_logits(self, e: Tensor) -> Tensor:
        """Return the log of the mean shares, up to a constant a layer, (B, V), at energies e (B,) in [-1, 1]."""
        return self.shape[0] + e.clamp(-1.0, 1.0)[:, None] * self.shape[1]

    def fluctuations(self, normal: Tensor, weights: Tensor, layers: Tensor) -> Tensor:
        """Return the principal fluctuations of the logits, (B, V).

        Args:
            normal: standard normal numbers, at least one a mode of both kinds, (B, N).
            weights: factors on the modes that are alike at all energies in each layer, (modes, K).
            layers: energies of the layers, (B, K).
        """
        modes, sampling = len(self.modes), len(self.sampling)
        amounts = interpolated(self.amounts.expand(normal.shape[0], -1, -1), normal[:, :modes])
        a, b = amounts[:, 0], amounts[:, min(1, modes - 1)]
        products = torch.stack([a * a - 1.0, b * b - 1.0, a * b], dim=1)
        return (
            amounts @ (self.modes * self.spread(weights))
            + products @ self.products
            + normal[:, modes : modes + sampling] @ self.sampling * self._falling(layers)
        )

    def posterior(self, roots: Tensor, e: Tensor, layers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what showers say of the normal numbers of `fluctuations`, to first order.

        Roots of shares move by sqrt(share) / 2 times a mode and fluctuate by (2 hits)^-1/2: a linear model.

        Args:
            roots: of the shares of cells, (B, V).
            e: logarithm of the incident energies, in [-1, 1], shape (B,).
            layers: energies of the layers, (B, K).

        Returns:
            Deviations of the roots from their mean (B, V), means and variances of the numbers, (B, N) each.
        """
        logits = self.mean_logits(e)
        usual = torch.cat([logits[:, cut].softmax(1) for cut in self.slices], dim=1)
        deviations = roots - usual.sqrt()
        precision = 2.0 * self.spread(layers) * (-self.hit).exp()
        falling = self._falling(layers)
        pull, weight = 0.5 * precision * usual.sqrt() * deviations, 0.25 * precision * usual
        found = torch.cat([pull @ self.modes.T, (pull * falling) @ self.sampling.T], dim=1)
        known = 1.0 + torch.cat(
            [weight @ self.modes.square().T, (weight * falling.square()) @ self.sampling.square().T], dim=1
        )
        modes = len(self.modes)
        means = found / known
        normal = inverted(self.amounts.expand(means.shape[0], -1, -1), means[:, :modes])
        return deviations, torch.cat([normal, means[:, modes:]], dim=1), known.reciprocal()

    def _falling(self, layers: Tensor) -> Tensor:
        """Return the size of what falls with the number of hits of each cell's layer, (B, V)."""
        return (self.spread(layers) * (-self.hit).exp() + fit.FEW).rsqrt()

    @in_float32
    def correlated(self, uniform: Tensor) -> Tensor:
        """Return uniform numbers of all cells (B, V), correlated among neighbours, from independent ones."""
        normal = torch.special.ndtri(uniform.clamp(1e-7, 1.0 - 1e-6))
        parts = [
            picture.correlated(normal[:, cut], weights)
            for picture, cut, weights in zip(self.pictures, self.slices, self.neighbours, strict=True)
        ]
        return probability(torch.cat(parts, dim=1)).clamp(1e-7, 1.0 - 1e-6)

    @in_float32
    def spread(self, layers: Tensor) -> Tensor:
        """Repeat numbers of layers (B, K) for each of their cells, (B, V)."""
        return layers @ self.member.T

    @in_float32
    def totals(self, cells: Tensor) -> Tensor:
        """Sum numbers (B, V) over the cells of each layer, (B, K)."""
        return cells @ self.member

    def log_hits(self, k: int, logits: Tensor, energy: Tensor, log_hit: Tensor) -> Tensor:
        """Return the logarithm of the mean number of hits of each of the N cells of one layer, (B, N).

        Args:
            k: the layer's place among those with cells.
            logits: of the shares, (B, N).
            energy: of the layer, (B, 1), in network units squared.
            log_hit: logarithm of the energy of a hit of each cell, (N,).
        """
        log_energy = energy.clamp(min=1e-12).log()
        x = ((log_energy - self.usual[k, 0]) / self.usual[k, 1]).clamp(-FARTHEST, FARTHEST)
        powers = torch.cat([x**power for power in range(fit.RATE_DEGREE + 1)], dim=1)
        expected = logits.log_softmax(1) + log_energy + (powers @ self.rates[k])[:, None] - log_hit
        return expected.clamp(-2 * MOST_HITS, MOST_HITS)

    def normalised(self, amplitudes: Tensor, first: Tensor, energy: Tensor) -> Tensor:
        """Scale amplitudes (B, N) of the cells of a layer so that their squares sum to its energy (B, 1).

        Args:
            amplitudes: not negative, not normalised.
            first: any numbers (B, N), smallest in the cell that takes all the energy if no cell has any.
            energy: of the layer, in network units squared.
        """
        sums = amplitudes.square().sum(1, keepdim=True)
        nothing = sums < 1e-12
        chosen = torch.zeros_like(amplitudes).scatter(1, first.argmin(1, keepdim=True), 1.0)
        some = energy > 0
        ratio = torch.where(some, energy, 1.0) / torch.where(nothing, 1.0, sums)
        return torch.where(nothing, chosen, amplitudes) * torch.where(some, ratio.sqrt(), 0.0)

    def fit(
        self,
        cells: np.ndarray,
        incident: np.ndarray,
        e: np.ndarray,
        generate: Callable[[Tensor, Draws], Tensor],
    ) -> None:
        """Take the constants from training showers, then correct them for what generated ones have otherwise.

        Args:
            cells: in network units squared, (n, V).
            incident: energies (n,) in GeV.
            e: their logarithm, in [-1, 1], (n,).
            generate: amplitudes of showers (B, V) for conditions (B, 1) and draws.
        """
        shares, sums = self._shares(cells)
        shape = fit.mean_shape(shares, e)
        mean = np.exp(shape[0] + e[:, None] * shape[1])
        for cut in self.slices:
            mean[:, cut] /= mean[:, cut].sum(axis=1, keepdims=True)
        hit = fit.hit_energies(cells, sums * mean, tuple(self.slices))
        expected = sums * mean / hit
        levels = torch.special.ndtr(torch.linspace(-REACH, REACH, LEVELS).double()).numpy()
        counts = len(self.modes), len(self.sampling)
        found = fit.fluctuations(shares, mean, sums / hit, counts, levels)
        neighbours = [
            fit.neighbour_weights(cells[:, cut] > 0, expected[:, cut], picture)
            for picture, cut in zip(self.pictures, self.slices, strict=True)
        ]
        fill(
            self,
            shape=shape,
            hit=np.log(hit),
            power=fit.hit_power(cells, expected, hit),
            usual=[fit.usual_log(sums[:, cut.start]) for cut in self.slices],
            neighbours=neighbours,
            **vars(found),
        )
        conditions = torch.from_numpy(incident).to(self.shape)[:, None].split(AT_ONCE)
        for number in range(ROUNDS):
            with torch.no_grad():
                made = [
                    generate(part, Draws(number, block, np.arange(len(part)), "calibration")).cpu()
                    for block, part in enumerate(conditions)
                ]
            self._match(cells, torch.cat(made).double().square().numpy(), e)

    def _match(self, cells: np.ndarray, made: np.ndarray, e: np.ndarray) -> None:
        """Correct constants for what generated cells (n, V) have otherwise than nature's of the same energies."""
        (real, sums), (fake, made_sums) = self._shares(cells), self._shares(made)
        known, fewer = fit.compared_hits(cells, made)
        shape, hit, rates, modes = (
            values.double().cpu().numpy() for values in (self.shape, self.hit, self.rates, self.modes)
        )
        high = e >= np.median(e)
        middle, half = self.usual.double().cpu().numpy().T
        for k, cut in enumerate(self.slices):
            places = [
                np.clip(
                    (np.log(np.maximum(total[:, cut.start], 1e-12)) - middle[k]) / half[k],
                    -FARTHEST,
                    FARTHEST,
                )
                for total in (sums, made_sums)
            ]
            counts = [(sample[:, cut] > 0).sum(axis=1) for sample in (cells, made)]
            rates[k] += fit.log_ratio(places[0], counts[0], places[1], counts[1])
            for mode in modes:
                width = [(np.sqrt(share[high][:, cut]) @ mode[cut]).std() for share in (real, fake)]
                mode[cut] *= np.clip(width[0] / max(width[1], 1e-12), 0.9, 1.1)
        shape = shape + known * (fit.mean_shape(real, e) - fit.mean_shape(fake, e))
        fill(self, shape=shape, hit=hit + fewer, rates=rates, modes=modes)

    def _shares(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return shares of cells (n, V) in the energy of their layer, 0 in empty ones, and that energy."""
        shares, sums = np.zeros_like(cells), np.zeros_like(cells)
        for cut in self.slices:
            sums[:, cut] = cells[:, cut].sum(axis=1, keepdims=True)
        np.divide(cells, sums, out=shares, where=sums > 0)
        return shares, sums
