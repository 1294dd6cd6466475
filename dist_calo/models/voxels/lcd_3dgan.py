"""Published 3DGANs of the LCD calorimeter: 25x25x25 cells, and 51x51x25 cells with the angle of incidence.

Fixed angle: Carminati et al., ACAT 2017, J. Phys. Conf. Ser. 1085 (2018) 032016. Variable angle: Khattak, Vallecorsa,
Carminati, Khan, Eur. Phys. J. C 82, 386 (2022). Both see a shower as a picture with one channel and read the real-or-
fake score and the energy off it; the sum of cells and the angle, which the originals also put out, are functions of the
shower alone and belong to the objective. The score is a logit: the sigmoid of the originals is part of the loss here.

The published numbers of parameters count what is trained: weights, biases, and the scale and shift of batch
normalisation, without its running statistics.

============================  =========  =============  ==================
cells                         generator  discriminator  of it, batch norm
============================  =========  =============  ==================
25x25x25                      872,808    73,402         140 and 48
51x51x25                      1,364,983  87,354         64 and 48
============================  =========  =============  ==================
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from dist_calo.geometry import Geometry
from dist_calo.models.gan import GanModel
from dist_calo.models.interfaces import Verdict
from dist_calo.models.nn.batch_norm import SyncBatchNorm
from dist_calo.models.nn.blocks import Dropout, glorot_uniform, he_uniform, same_padding
from dist_calo.models.nn.requirements import column, require_grid, require_sizes
from dist_calo.randomness import Draws

ENERGY_UNIT = 100.0
"""The networks see incident energies in units of this many GeV."""
LEAK = 0.3
"""Slope of the leaky rectifiers below zero: Keras' default, which the originals use."""
MOMENTUM = 0.01
"""Weight of a batch in the running statistics: Keras' default, which it calls momentum 0.99."""

Triple = tuple[int, int, int]


class UpsamplingGenerator(nn.Module):
    """Generator with a dense layer to a coarse picture of 8 channels, then upsampling and convolutions.

    Args:
        geometry: names the columns of the conditions.
        latent: normal numbers that a shower is made from.
        inputs: numbers that enter the dense layer.
        coarse: shape of the coarse picture.
        layers: from (B, 8, *coarse) to (B, 1, X, Y, Z); the last of them that has weights is a convolution.
    """

    def __init__(
        self, geometry: Geometry, latent: int, inputs: int, coarse: Triple, layers: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.geometry, self.latent, self.coarse = geometry, latent, coarse
        self.dense = nn.Linear(inputs, 8 * prod(coarse))
        self.layers = nn.Sequential(*layers)
        self.layers.apply(he_uniform)
        glorot_uniform(self.dense)
        last = [layer for layer in layers if isinstance(layer, nn.Conv3d)][-1]
        nn.init.xavier_normal_(last.weight)

    def forward(self, conditions: Tensor, noise: Tensor) -> Tensor:
        """Return showers (B, X, Y, Z) in network units for conditions (B, C) in GeV and rad and noise (B, latent)."""
        coarse = self.dense(self.start(conditions, noise)).view(-1, 8, *self.coarse)
        showers: Tensor = self.layers(coarse)
        return showers.squeeze(1)

    def start(self, conditions: Tensor, noise: Tensor) -> Tensor:
        """Return the input of the dense layer: noise times E / 100 GeV, shape (B, inputs)."""
        return noise * (column(conditions, self.geometry, "energy") / ENERGY_UNIT).unsqueeze(1)


class AngleGenerator(UpsamplingGenerator):
    """Generator like `UpsamplingGenerator` whose input is E / 100 GeV, theta and noise side by side."""

    def start(self, conditions: Tensor, noise: Tensor) -> Tensor:
        """Return the input of the dense layer, shape (B, 2 + latent)."""
        energy = column(conditions, self.geometry, "energy") / ENERGY_UNIT
        theta = column(conditions, self.geometry, "theta")
        return torch.cat([torch.stack([energy, theta], dim=1), noise], dim=1)


class PictureDiscriminator(nn.Module):
    """Discriminator with convolutions, dropout, average pooling, and two linear heads: score and energy.

    Args:
        blocks: convolutions with what follows them up to the dropout; the first takes (B, 1, X, Y, Z).
        features: numbers that are left of a shower after pooling.
        dropout: chance of an element to be dropped after each block.
    """

    def __init__(self, blocks: Sequence[nn.Sequential], features: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.dropouts = nn.ModuleList(Dropout(dropout, f"block{i}") for i in range(len(blocks)))
        self.pool = nn.AvgPool3d(2)
        self.score = nn.Linear(features, 1)
        self.energy = nn.Linear(features, 1)
        self.apply(glorot_uniform)

    def forward(self, showers: Tensor, conditions: Tensor, draws: Draws) -> Verdict:
        """Judge showers (B, X, Y, Z) in network units; conditions are estimated from the picture, not used."""
        x = showers.unsqueeze(1)
        for block, dropout in zip(self.blocks, self.dropouts, strict=True):
            x = dropout(block(x), draws)
        features = self.pool(x).flatten(1)
        return Verdict(
            score=self.score(features).squeeze(1), energy=ENERGY_UNIT * self.energy(features).squeeze(1)
        )


def fixed_angle(geometry: Geometry, *, latent: int = 200, dropout: float = 0.2) -> GanModel:
    """Build the 3DGAN for 25x25x25 cells, conditioned on energy: the noise is multiplied by E / 100 GeV.

    Args:
        geometry: must have 25x25x25 cells.
        latent: normal numbers that a shower is made from.
        dropout: chance of an element to be dropped in the discriminator.

    Raises:
        ConfigError: if the geometry does not fit or an option breaks a rule.
    """
    require_grid("lcd_3dgan", geometry, (25, 25, 25), ("energy",))
    require_sizes(latent=latent)

    layers = [
        same_padding((6, 6, 8)),
        nn.Conv3d(8, 64, (6, 6, 8)),
        nn.LeakyReLU(LEAK),
        SyncBatchNorm(64, eps=1e-3, momentum=MOMENTUM),
        nn.Upsample(scale_factor=(2, 2, 2)),
        nn.Conv3d(64, 6, (6, 5, 8), padding=(2, 2, 0)),
        nn.LeakyReLU(LEAK),
        SyncBatchNorm(6, eps=1e-3, momentum=MOMENTUM),
        nn.Upsample(scale_factor=(2, 2, 3)),
        nn.Conv3d(6, 6, (3, 3, 8), padding=(1, 0, 3)),
        nn.LeakyReLU(LEAK),
        nn.Conv3d(6, 1, 2, bias=False),
        nn.ReLU(),
    ]
    blocks = [
        nn.Sequential(nn.Conv3d(1, 32, 5, padding=2), nn.LeakyReLU(LEAK)),
        _judging_block(32, (5, 5, 5), (2, 2, 2), eps=1e-3),
        _judging_block(8, (5, 5, 5), (2, 2, 2), eps=1e-3),
        _judging_block(8, (5, 5, 5), (1, 1, 1), eps=1e-3),
    ]
    return GanModel(
        geometry,
        UpsamplingGenerator(geometry, latent, latent, (7, 7, 8), layers),
        PictureDiscriminator(blocks, 8 * 11 * 11 * 11, dropout),
    )


def variable_angle(geometry: Geometry, *, latent: int = 256, dropout: float = 0.2) -> GanModel:
    """Build the 3DGAN for 51x51x25 cells, conditioned on energy and angle: input E / 100 GeV, theta and noise.

    Args:
        geometry: must have 51x51x25 cells and the condition ``theta``.
        latent: numbers that a shower is made from, of which two are E and theta.
        dropout: chance of an element to be dropped in the discriminator.

    Raises:
        ConfigError: if the geometry does not fit or an option breaks a rule.
    """
    require_grid("lcd_3dgan_angle", geometry, (51, 51, 25), ("energy", "theta"))
    require_sizes(least=3, latent=latent)

    layers = [
        nn.Upsample(scale_factor=(6, 6, 6)),
        *_generating_block(8, 8, (6, 6, 8), (0, 0, 0)),
        *_generating_block(8, 6, (4, 4, 6), (2, 2, 1)),
        *_generating_block(6, 6, (4, 4, 6), (2, 2, 1)),
        *_generating_block(6, 6, (4, 4, 6), (2, 2, 1)),
        *_generating_block(6, 6, (3, 3, 5), (1, 1, 0)),
        nn.Conv3d(6, 6, (3, 3, 3), padding=(1, 1, 0)),
        nn.ReLU(),
        nn.Conv3d(6, 1, 2),
        nn.ReLU(),
    ]
    blocks = [
        nn.Sequential(same_padding((5, 6, 6)), nn.Conv3d(1, 16, (5, 6, 6)), nn.LeakyReLU(LEAK)),
        _judging_block(16, (5, 6, 6), (0, 0, 1), eps=1e-6),
        _judging_block(8, (5, 6, 6), (0, 0, 1), eps=1e-6),
        _judging_block(8, (5, 6, 6), (0, 0, 0), eps=1e-6),
    ]
    return GanModel(
        geometry,
        AngleGenerator(geometry, latent - 2, latent, (9, 9, 8), layers),
        PictureDiscriminator(blocks, 8 * 19 * 18 * 7, dropout),
    )


def _generating_block(inputs: int, outputs: int, kernel: Triple, padding: Triple) -> list[nn.Module]:
    return [
        nn.Conv3d(inputs, outputs, kernel, padding=padding),
        nn.ReLU(),
        SyncBatchNorm(outputs, eps=1e-6, momentum=MOMENTUM),
    ]


def _judging_block(inputs: int, kernel: Triple, padding: Triple, eps: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, 8, kernel, padding=padding),
        nn.LeakyReLU(LEAK),
        SyncBatchNorm(8, eps=eps, momentum=MOMENTUM),
    )
