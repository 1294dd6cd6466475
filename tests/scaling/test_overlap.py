"""Buckets sent during the backward pass or after it: the same gradients, the same order."""

import pytest
import torch
from torch import nn

from dist_calo.comm.gradients import GradientAverager
from dist_calo.comm.single import SingleCommunicator
from dist_calo.launching.environment import World


class Recorder(SingleCommunicator):
    """Remembers what was sent, and pretends that a second rank has the same gradients."""

    def __init__(self):
        super().__init__(World(size=2))
        self.sent = []

    def all_reduce_async(self, tensor, reduction="sum"):
        self.sent.append(tensor.numel())
        tensor.mul_(2)
        return super().all_reduce_async(tensor, reduction)


def gradients(wire, overlap):
    """Gradients of two updates, the buckets in the order of their sending, and how many left during the backward."""
    torch.manual_seed(5)
    net, recorder, during = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), Recorder(), []
    averager = GradientAverager(net, recorder, wire, bucket_mb=1e-9, overlap=overlap)
    for _ in range(2):
        averager.zero()
        with averager.accumulating():
            net(torch.ones(1, 3)).square().sum().backward()
        before = len(recorder.sent)
        with averager.reducing():
            net(torch.full((2, 3), 0.3)).square().sum().backward()
        during.append(len(recorder.sent) - before)
        averager.finish()
    return [parameter.grad.clone() for parameter in net.parameters()], recorder.sent, during


@pytest.mark.parametrize("wire", ["fp32", "bf16", "fp16"])
def test_sending_after_the_backward_pass_changes_no_bit(wire):
    early, order, during = gradients(wire, overlap=True)
    late, late_order, late_during = gradients(wire, overlap=False)
    assert all(torch.equal(one, other) for one, other in zip(early, late, strict=True))
    assert order == late_order
    assert (during, late_during) == ([4, 4], [0, 0])
