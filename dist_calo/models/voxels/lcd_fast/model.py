"""Small generator and discriminator of showers at normal incidence, which train on a laptop.

A shower factorises into its visible energy, its longitudinal profile, the transverse shape of each layer, and the
sampling fluctuation of each cell. The networks see amplitudes ``x = sqrt(scale E_cell)``, in which Poisson
fluctuations have the same width in every cell. With ``z ~ N(0, 1)`` of length ``latent``, the standardised
``e = (ln E - <ln E>) / std(ln E)`` and dense features ``h(z, e)``, the **generator** computes::

    E_vis = f E exp(a z_0 / sqrt(E) + T(h))                       f sampling fraction, a stochastic term
    E_l   = E_vis softmax_l(p_l(e) + sum_k z_k d_kl + P_l(h))     energy of layer l
    m_lxy = E_l / w_l softmax_xy(t_lxy + S_lxy(z, h))             expected number of hits in a cell, of energy w_l
    q_lxy = max(0, ln(1 - exp(-m)) - ln(1 - u))                   u uniform, one for each cell
    y_lxy = sqrt(q) (c_0 + c_1 (1 - exp(-m)) + c_2 sqrt(m)) + max(0, c_3 sqrt(m) - c_4)
    x_lxy = y_lxy sqrt(scale E_l / sum_xy y_lxy^2)                so that the layer's energy is E_l

The last but one line begins as a cell in which a Poisson number of exponential hits is seen: ``y > 0`` with probability
``1 - exp(-m)``, a single hit's energy is exponential, and for large m the width of y is that of compound Poisson
statistics. ``S`` sums principal modes of the transverse shape, learned transverse patterns weighted in each layer, and
a stack of transposed convolutions. The mean response and its stochastic term, ``p``, the principal modes ``d`` of the
longitudinal profile and those of the transverse shape, the mean shape ``t`` and the hit energy are fitted to training
showers before the first step (`LcdFast.calibrate`): this is the starting point of the training. ``T``, ``P``, ``c``
and what ``S`` and ``w`` deviate from the fit by are learned by adversarial training. A shower is put into a random one
of the eight orientations of its square cross-section, all equally likely in nature.

With ``start=factors`` the fit is finer (`factors`, `factor_fit`). Normal numbers ``a_1, a_2`` stand for the depth and
the longitudinal width of a shower, ``c = (e, a_1, a_2)``; ``v_0`` is the log of the response, ``v_l`` that of a layer's
share, and all fluctuate together::

    v   = B . mono_3(c) + g((M_0 + e M_1) n) exp(D . mono_1(c))   mono_k monomials up to degree k, n normal, g bends
    S   = sum_k A_k(x, y, l) phi_k(c, u) + core(x, y) C_l . n'    u impact point in the middle cell, phi its polynomials
    m   = (E_l / w_l + 1) softmax_xy(t + S + learned)             given their energy, one hit more than a Poisson number

``A`` comes from a Poisson regression of the hits of cells, ``C`` from the covariance of the middle cells' energies in
different layers. Hits spread over two cells: a cell takes the hit, not the energy, of a neighbour with a chance that is
fitted to the correlation of neighbours (`FactorGenerator._sampled`; a few more constants c make a hit's energy that of
electrons in silicon). At last the mean shapes are corrected by those of generated showers.

The **discriminator** reads a shower, in a random orientation too, in two ways: strided convolutions of ln(1 + 4x), and
dense layers on observables (visible energy, profiles, hits, core; with ``start=factors`` also widths, cores and
likeness of layers; cf. CaloGAN, arXiv:1712.10321) as deviations from
their mean at the incident energy. The score is a conditional projection (arXiv:1802.05637). All layers up to the score
are divided by their spectral norm (arXiv:1802.05957), computed afresh from the weights: a norm that is iterated from
call to call, as is usual, would depend on the number of micro-batches.
"""

import numpy as np
import torch
from torch import Tensor

from dist_calo.errors import ConfigError
from dist_calo.geometry import Geometry, VoxelGrid
from dist_calo.models.gan import GanModel
from dist_calo.models.interfaces import Statistics
from dist_calo.models.nn.blocks import fill
from dist_calo.models.nn.requirements import require_conditions, require_kind, require_sizes
from dist_calo.models.voxels.lcd_fast import calibration as fit
from dist_calo.models.voxels.lcd_fast.discriminator import FastDiscriminator
from dist_calo.models.voxels.lcd_fast.factors import FactorGenerator
from dist_calo.models.voxels.lcd_fast.generator import FastGenerator
from dist_calo.models.voxels.lcd_fast.orientation import oriented
from dist_calo.randomness import Draws

BATCH = 512
"""Showers whose observables are computed together."""
USUAL_LATENT = 32
"""Normal numbers of a shower unless told otherwise or more are needed."""
STARTS = {"modes": FastGenerator, "factors": FactorGenerator}
"""Generators by what their fit is made of."""


class LcdFast(GanModel):
    """Both networks; `calibrate` fits their starting point."""

    geometry: VoxelGrid
    generator: FastGenerator
    discriminator: FastDiscriminator
    calibration_numbers = 2**26

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Generate showers of conditions (B, C): amplitudes (B, X, Y, Z)."""
        latent = draws.normal("latent", self.generator.latent).to(conditions)
        uniform = draws.uniform("cells", self.geometry.cells).to(conditions)
        return oriented(self.generator(conditions, latent, uniform), draws)

    def calibrate(self, statistics: Statistics) -> None:
        """Fit the starting point of the training; deterministic.

        Args:
            statistics: of a sample of training showers: ``energy`` (n,) in GeV, ``showers`` (n, X, Y, Z) in GeV and
                ``network_units`` (n, X, Y, Z), the same as the networks see them.

        Raises:
            ConfigError: if the network units are not sqrt(scale E).
        """
        showers, amplitudes = statistics["showers"], statistics["network_units"]
        scale = fit.amplitude_scale(showers, amplitudes)
        energy = statistics["energy"].astype(np.float64)
        self.generator.calibrate(showers, energy, scale)
        log_energy = self.generator.log_energy.cpu().double().numpy()
        e = (np.log(energy) - log_energy[0]) / log_energy[1]
        judge = self.discriminator
        parts = [slice(first, first + BATCH) for first in range(0, len(energy), BATCH)]
        observed = np.concatenate(
            [
                judge.observables(
                    *(torch.from_numpy(values[part]).to(judge.means) for values in (amplitudes, energy))
                )
                .cpu()
                .double()
                .numpy()
                for part in parts
            ]
        )
        powers = np.stack([np.ones_like(e), e, e**2], axis=1)
        means = np.linalg.lstsq(powers, observed, rcond=None)[0]
        left = observed - powers @ means
        widths = left.std(axis=0) + 1e-3
        if judge.fine:
            fill(judge, whitening=fit.whitening(left / widths))
        fill(
            judge,
            log_energy=log_energy,
            means=means,
            widths=widths,
            fraction=scale * showers.sum(dtype=np.float64) / energy.sum(),
        )


def lcd_fast(
    geometry: Geometry,
    *,
    latent: int = 0,
    width: int = 8,
    hidden: int = 128,
    patterns: int = 12,
    discriminator_width: int = 16,
    start: str = "modes",
) -> LcdFast:
    """Build the two networks for any voxel grid.

    Args:
        geometry: the read-out.
        latent: normal numbers of a shower; the first ones (11, or 8 more than there are layers) feed the fitted
            fluctuations too. 0: 32, or more where these are more.
        width: channels of the finest transposed convolution; coarser ones have twice and four times as many.
        hidden: width of the dense layers of both networks.
        patterns: learned transverse patterns.
        discriminator_width: channels of the first convolution; the others have twice as many.
        start: what the fit is made of, ``modes`` or the better ``factors``; a checkpoint that does not say has modes.

    Raises:
        ConfigError: if the data are no voxel grid or have other conditions than the energy, or a size is too small.
    """
    grid = require_kind("lcd_fast", geometry, VoxelGrid)
    require_conditions("lcd_fast", geometry, ("energy",))
    if start not in STARTS:
        raise ConfigError(f"model.options.start={start}: choose from {', '.join(STARTS)}")
    generator = STARTS[start]
    x, y, z = grid.shape
    if start == "factors" and (min(x, y) < 3 or z < 2):
        raise ConfigError(
            f"model.options.start=factors: the data have {x}x{y}x{z} cells, it needs 3x3 in 2 layers at least; use "
            "model.options.start=modes"
        )
    least = generator.fitted_latent(grid)
    latent = latent or max(USUAL_LATENT, least)
    if latent < least:
        raise ConfigError(
            f"model.options.latent={latent}: lcd_fast needs at least {least}, which its fitted modes use"
        )
    require_sizes(width=width, hidden=hidden, patterns=patterns, discriminator_width=discriminator_width)
    return LcdFast(
        grid,
        generator(grid, latent, width, hidden, patterns),
        FastDiscriminator(grid, discriminator_width, hidden, fine=start == "factors"),
    )
