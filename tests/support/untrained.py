"""A checkpoint without any training, as quick as can be, for tests of what is done with checkpoints."""

from typing import Any

import torch

from dist_calo.config import ModelConfig, RunConfig
from dist_calo.models import build_model
from dist_calo.transforms import Transform


def untrained_state(geometry, **more) -> dict[str, Any]:
    """The state of a fresh `lcd_fast` at step 7; what is given besides replaces entries or adds some."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(), geometry)
    state = {
        "step": 7,
        "run_id": "abc",
        "config": RunConfig().to_dict(),
        "geometry": geometry.to_dict(),
        "manifest": {"particle": "e-"},
        "transform": Transform(scale=1000.0, power=0.5).to_dict(),
        "model": model.state_dict(),
        "average": {"generator": model.networks["generator"].state_dict()},
        "condition_ranges": {"energy": [15.0, 60.0]},
    }
    return state | more
