"""Putting a run together."""

import torch
from torch import nn

from dist_calo.training.setup import keep_channels_last


def test_3d_convolutions_are_laid_out_channels_last_and_others_are_left_alone():
    model = nn.ModuleList([nn.Conv3d(2, 3, 2), nn.Conv2d(2, 3, 2), nn.Conv1d(2, 3, 2), nn.Linear(2, 3)])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    keep_channels_last(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(layer.weight.is_contiguous() for layer in model[1:])
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
