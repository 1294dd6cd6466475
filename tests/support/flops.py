"""Arithmetic operations of a model, counted and not measured."""

import numpy as np
import torch

from dist_calo.geometry import CONDITION_UNITS
from dist_calo.models.gan import GanModel
from dist_calo.randomness import Draws

_TYPICAL = {"GeV": 100.0, "rad": np.pi / 2}


def forward_flops(model: GanModel) -> dict[str, int]:
    """Return the floating-point operations of convolutions and dense layers for one shower, forward.

    A multiplication and an addition count as two; everything else is left out, as is usual.

    Returns:
        The number for the generator and for the discriminator.
    """
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    names = model.geometry.conditions
    conditions = torch.tensor([[_TYPICAL[CONDITION_UNITS[name]] for name in names]], device=device)
    draws = Draws(0, 0, [0])
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            with FlopCounterMode(display=False) as generating:
                showers = model.generate(conditions, draws)
            with FlopCounterMode(display=False) as judging:
                model.discriminator(showers, conditions, draws)
    finally:
        model.train(was_training)
    return {"generator": generating.get_total_flops(), "discriminator": judging.get_total_flops()}
