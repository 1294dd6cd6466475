"""Generator of `dist_calo.models.voxels.lcd_fast.model` whose start has factors, as described there."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dist_calo.geometry import VoxelGrid
from dist_calo.models.nn.blocks import fill
from dist_calo.models.voxels.lcd_fast import calibration as fit
from dist_calo.models.voxels.lcd_fast import factor_fit
from dist_calo.models.voxels.lcd_fast.calibration import Array
from dist_calo.models.voxels.lcd_fast.discriminator import FLOOR
from dist_calo.models.voxels.lcd_fast.generator import ROUNDING, FastGenerator
from dist_calo.randomness import Draws

BATCH = 128
"""Showers that are made together."""
CORRECTIONS = 2
"""Times that the mean shapes are corrected by those of generated showers."""
FACTORS = 2
"""Depth and longitudinal width."""
DIGITS = 4096.0
"""The uniform number of a cell is cut behind so many steps; what is behind decides whether the cell shares a hit."""
TERMS = (20, 4)
"""Monomials of energy and factors up to the third and the first degree."""


RISE = 0.1
"""Part of the chance of a hit over which its energy rises."""


class FactorGenerator(FastGenerator):
    """Generator that starts from depth, longitudinal width and impact point of a shower."""

    means: Tensor
    spreads: Tensor
    bends: Tensor
    correlation: Tensor
    core: Tensor
    core_modes: Tensor
    sharing: Tensor
    cell_start = factor_fit.CELL

    def __init__(self, geometry: VoxelGrid, latent: int, width: int, hidden: int, patterns: int) -> None:
        super().__init__(geometry, latent, width, hidden, patterns)
        with torch.no_grad():  # What is learned begins small beside the fit.
            for layer in (self.total, self.layers, self.pattern_weights, self.finer[-1]):
                for parameter in layer.parameters():
                    parameter.mul_(0.1)

    @staticmethod
    def fitted_latent(geometry: VoxelGrid) -> int:
        return FACTORS + 2 + factor_fit.CORE_MODES + 1 + geometry.shape[2]

    def _register_fit(self) -> int:
        x, y, z = self.geometry.shape
        modes = 1 + FACTORS + len(factor_fit.DEGREES)
        means = torch.zeros(TERMS[0], 1 + z)
        means[0] = torch.tensor([0.02, *[1.0 / z] * z]).log()
        self.register_buffer("means", means)
        self.register_buffer("spreads", torch.zeros(TERMS[1], 1 + z))
        self.register_buffer("bends", torch.zeros(2 + len(factor_fit.BENDS), 1 + z))
        self.register_buffer("correlation", torch.stack([torch.eye(1 + z), torch.zeros(1 + z, 1 + z)]))
        self.register_buffer("transverse_modes", torch.zeros(modes, x, y, z))
        self.register_buffer("core_modes", torch.zeros(factor_fit.CORE_MODES, z))
        self.register_buffer("core", torch.from_numpy(factor_fit.core((x, y))).float())
        self.register_buffer("sharing", torch.zeros(2))
        return modes

    def _start(self, energy: Tensor, e: Tensor, h: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        response, shares = 0.005 * self.total(h)[:, 0].float(), 0.03 * self.layers(h).float()
        sizes = [FACTORS, 2, factor_fit.CORE_MODES, 1 + self.geometry.shape[2]]
        with torch.autocast(latent.device.type, enabled=False):
            factors, impact, core, normal, _ = latent.split([*sizes, self.latent - sum(sizes)], dim=1)
            c = torch.cat([e, factors], dim=1)
            values = self._logarithms(c, normal)
            visible = self.scale * energy * (values[:, 0] + response).exp()
            # Layers may be empty.
            parts = F.relu((values[:, 1:] + shares).exp() - factor_fit.SHARE_FLOOR) + FLOOR
            layers = visible[:, None] * parts / parts.sum(1, keepdim=True) + FLOOR
            amounts = torch.cat([c, legendre(torch.erf(impact / math.sqrt(2.0)))], dim=1)
            weighted = (self.mode_weights[:, None, None, :] * self.transverse_modes).flatten(1)
            modes = (amounts @ weighted).unflatten(1, self.geometry.shape)
            return layers, modes + self.core[:, :, None] * (core @ self.core_modes)[:, None, None, :]

    def _logarithms(self, c: Tensor, normal: Tensor) -> Tensor:
        """Return the fitted logarithms of response and shares, (B, 1 + Z), for e and factors c and normal numbers."""
        e, (a, b) = c[:, :1], self.correlation
        # Squares of the columns of a + e b, which are 1 at two energies alone.
        variances = (a * a).sum(0) + 2.0 * e * (a * b).sum(0) + e.square() * (b * b).sum(0)
        scores = (normal @ a + e * (normal @ b)) * variances.rsqrt()
        left = self.bends[0] + self.bends[1] * scores
        for bend, slope in zip(factor_fit.BENDS, self.bends[2:], strict=True):
            left = left + slope * F.relu(scores - float(bend))
        return monomials(c, 3) @ self.means + left * (monomials(c, 1) @ self.spreads).exp()

    def _expected_hits(self, layers: Tensor) -> Tensor:
        # Given the energy of exponential hits, the number of all but one follows the Poisson distribution.
        return (layers / (self.hit * self.log_hit.exp()) + 1.0).log()

    def _sampled(self, expected: Tensor, uniform: Tensor) -> Tensor:
        # Written with few passes over the cells, which are what generation costs beside the convolutions.
        c = self.cell
        mean = expected.clamp(-25.0, 12.0).exp()
        root, none = mean.sqrt(), (-mean).exp()
        seen = -torch.expm1(-mean) * torch.addcmul(torch.ones_like(c[9]), mean, none * c[9], value=-1.0)
        chances = -torch.log1p(-uniform.clamp(max=1.0 - 1e-6))
        decides, copies = self._shared(chances, uniform)
        beyond = seen.log() + decides
        # A layer with energy has a hit.
        beyond = F.relu(beyond + F.relu(1e-3 - beyond.flatten(1, 2).max(1).values)[:, None, None, :])
        s = beyond / ((beyond + ROUNDING).sqrt() + ROUNDING**0.5)  # sqrt(beyond), rounded off
        # Rounding must not decide about much energy: where no hit is possible, what it has rises from 0.
        risen = torch.add(F.relu(root - 2.0), beyond, alpha=1.0 / RISE).clamp(max=1.0).detach()
        # The energy of a hit that comes from the neighbour is a cell's own.
        s = torch.addcmul(s, copies, (risen * chances.sqrt() - s).detach())
        curved = torch.addcmul(torch.addcmul(c[5], c[7], none), s, torch.addcmul(c[6], c[8], none))
        slope = torch.addcmul(torch.addcmul(torch.addcmul(c[0], c[1], seen), c[2], root), s, curved)
        return torch.addcmul(s * slope, risen, F.relu(c[3] * root - c[4]))

    def _shared(self, values: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values that decide about hits, some of which are a neighbour's, and 1 where they are, else 0."""
        digits = uniform * DIGITS
        behind = digits - digits.floor()
        right, both = self.sharing[0], 2.0 * self.sharing[0]
        along_x, along_y = _next(values, 1), _next(values, 2)
        # 1 or 0, with which lerp takes the one or the other exactly; torch.where is many times slower.
        is_right, is_beside, copies = (
            F.relu((limit - behind).sign()) for limit in (right, both, both + self.sharing[1])
        )
        other = torch.lerp(_next(along_x, 2), torch.lerp(along_y, along_x, is_right), is_beside)
        return torch.lerp(values, other, copies), copies

    def calibrate(self, showers: Array, energy: Array, scale: float) -> None:
        """Fit the start to showers (n, X, Y, Z) of incident energies (n,), both in GeV."""
        e = self._calibrate_scales(showers, energy, scale)
        layers = showers.sum(axis=(1, 2), dtype=np.float64)
        factors, longitudinal = factor_fit.longitudinal(layers, energy, e)
        given = np.concatenate([e[:, None], factors, factor_fit.legendre(factor_fit.impact(showers))], axis=1)
        template, modes = factor_fit.transverse(
            showers, given, fit.template(showers), float(self.hit / self.scale)
        )
        cells = factor_fit.cells(showers, given, template, modes, float(self.hit / self.scale))
        constants = cells.pop("cell")
        fill(self, template=template, transverse_modes=modes, **longitudinal, **cells)
        with torch.no_grad():
            self.cell.copy_(torch.from_numpy(constants)[:, None])
        self._correct(showers[: factor_fit.CELL_SHOWERS], energy)

    @torch.no_grad()
    def _correct(self, showers: Array, energy: Array) -> None:
        """Bring the mean shapes of layers to those of showers, which fluctuations about them shift."""
        count, device = len(showers), self.template.device
        energies = torch.from_numpy(energy[:count]).float().to(device)
        for number in range(CORRECTIONS):
            made = []
            for first in range(0, count, BATCH):
                part = energies[first : first + BATCH]
                conditions = torch.ones(len(part), len(self.geometry.conditions), device=device)
                conditions[:, self.geometry.conditions.index("energy")] = part
                draws = Draws(number, 0, np.arange(first, first + len(part)), "correction")
                noise = draws.normal("latent", self.latent).to(device)
                uniform = draws.uniform("cells", self.geometry.cells).to(device)
                made.append((self(conditions, noise, uniform).square() / self.scale).cpu().numpy())
            change = factor_fit.correction(showers, np.concatenate(made), float(self.hit / self.scale))
            self.template += torch.from_numpy(change).float().to(device)


def _next(values: Tensor, axis: int) -> Tensor:
    """Return the values of the next cell along an axis, of the first one for the last."""
    return torch.cat([values.narrow(axis, 1, values.shape[axis] - 1), values.narrow(axis, 0, 1)], dim=axis)


def monomials(c: Tensor, degree: int) -> Tensor:
    """Return all monomials of c (B, k) up to a degree, in the order of `factor_fit.polynomials`."""
    columns = c.unbind(1)
    found, last = [torch.ones_like(c[:, 0])], [(torch.ones_like(c[:, 0]), 0)]
    for _ in range(degree):
        last = [(value * columns[i], i) for value, least in last for i in range(least, len(columns))]
        found += [value for value, _ in last]
    return torch.stack(found, dim=1)


def legendre(point: Tensor) -> Tensor:
    """Return products of Legendre polynomials of points (B, 2), as `factor_fit.legendre`."""
    powers = [
        torch.ones_like(point),
        point,
        1.5 * point.square() - 0.5,
        2.5 * point**3 - 1.5 * point,
    ]
    return torch.stack([powers[i][:, 0] * powers[j][:, 1] for i, j in factor_fit.DEGREES], dim=1)
