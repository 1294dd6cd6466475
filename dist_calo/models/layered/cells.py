"""Sharing of a layer's energy among its cells, common to `layers_gan` and `layers_vae`.

A cell of layer k with share ``s`` of the layer's energy ``E_k`` is hit ``m = s E_k / w`` times on average, where w is
the energy of a hit in this cell, and each hit's energy is exponential: a compound Poisson distribution, with::

    P(empty) = exp(-m)      mean = m w      variance = 2 m w^2

The sampling fluctuations of a calorimeter of absorber and active medium are of this kind. Both models learn the shares
s, given the shower, and how far nature departs from the above; calibration fits the mean share of each cell as a
function of the incident energy, its principal fluctuations, and w, from how often the cell is empty.
"""

import numpy as np
import torch
from torch import Tensor, nn

from dist_calo.models.layered import calibration as fit
from dist_calo.models.layered.energies import LayerEnergies, in_float32
from dist_calo.models.nn.blocks import fill

MOST_HITS = 12.0
"""Logarithm of the largest mean number of hits of a cell; minus twice this, of the smallest."""


class LayerCells(nn.Module):
    """Constants of the cells, which `fit` takes from training showers.

    Args:
        energies: the layers.
        cells: cells of all layers.
        modes: principal fluctuations of the shapes that are kept.
    """

    shape: Tensor
    hit: Tensor
    modes: Tensor
    member: Tensor

    def __init__(self, energies: LayerEnergies, cells: int, modes: int) -> None:
        super().__init__()
        self.slices = [energies.slices[k] for k in energies.read]
        self.sizes = [cut.stop - cut.start for cut in self.slices]
        self.register_buffer("shape", torch.zeros(2, cells))
        self.register_buffer("hit", torch.zeros(cells))
        self.register_buffer("modes", torch.zeros(modes, cells))
        member = torch.zeros(cells, len(self.sizes))
        for number, cut in enumerate(self.slices):
            member[cut, number] = 1.0
        self.register_buffer("member", member, persistent=False)

    @in_float32
    def mean_logits(self, e: Tensor) -> Tensor:
        """Return the log of the mean shares, up to a constant a layer, (B, V), at energies e (B,) in [-1, 1]."""
        return self.shape[0] + e.clamp(-1.0, 1.0)[:, None] * self.shape[1]

    @in_float32
    def spread(self, layers: Tensor) -> Tensor:
        """Repeat numbers of layers (B, K) for each of their cells, (B, V)."""
        return layers @ self.member.T

    @in_float32
    def totals(self, cells: Tensor) -> Tensor:
        """Sum numbers (B, V) over the cells of each layer, (B, K)."""
        return cells @ self.member

    def log_hits(self, logits: Tensor, energy: Tensor, log_hit: Tensor) -> Tensor:
        """Return the logarithm of the mean number of hits of each of the N cells of one layer, (B, N).

        Args:
            logits: of the shares, (B, N).
            energy: of the layer, (B, 1), in network units squared.
            log_hit: logarithm of the energy of a hit of each cell, (N,).
        """
        expected = logits.log_softmax(1) + energy.clamp(min=1e-12).log() - log_hit
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

    def fit(self, cells: np.ndarray, e: np.ndarray) -> None:
        """Take the constants from training showers: cells (n, V) in network units squared, e (n,) in [-1, 1]."""
        shares, sums = np.zeros_like(cells), np.zeros_like(cells)
        for cut in self.slices:
            sums[:, cut] = cells[:, cut].sum(axis=1, keepdims=True)
        np.divide(cells, sums, out=shares, where=sums > 0)
        shape = fit.mean_shape(shares, e)
        mean = np.exp(shape[0] + e[:, None] * shape[1])
        for cut in self.slices:
            mean[:, cut] /= mean[:, cut].sum(axis=1, keepdims=True)
        hit = fit.hit_energies(cells, sums * mean, tuple(self.slices))
        modes = fit.shape_modes(shares, mean, sums / hit, len(self.modes))
        fill(self, shape=shape, hit=np.log(hit), modes=modes)
