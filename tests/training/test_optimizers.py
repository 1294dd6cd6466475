"""Optimizers: the updates and the state of torch's own classes, bit for bit, without the import of its compiler."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from dist_calo.config import OptimizerConfig
from dist_calo.training.optimizers import Optimizer

TORCH = {
    "adam": lambda parameters: torch.optim.Adam(parameters, betas=(0.5, 0.9), eps=1e-7),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, alpha=0.9, eps=1e-7),
    "sgd": lambda parameters: torch.optim.SGD(parameters, momentum=0.5),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Conv1d(1, 3, 3))


def set_gradients(net, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def ours(name, net):
    return Optimizer(OptimizerConfig(name=name, beta1=0.5, beta2=0.9, epsilon=1e-7), net)


@pytest.mark.parametrize("name", TORCH)
def test_updates_and_states_are_those_of_torch(name):
    net, reference = network(), network()
    optimizer, theirs = ours(name, net), TORCH[name](reference.parameters())
    for step in range(1, 7):
        set_gradients(net, step)
        set_gradients(reference, step)
        optimizer.step(1e-2 / step)
        theirs.param_groups[0]["lr"] = 1e-2 / step
        theirs.step()
        for one, other in zip(net.parameters(), reference.parameters(), strict=True):
            assert torch.equal(one, other)
        if step == 3:  # each goes on with the state of the other
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer.load_state_dict(copy.deepcopy(theirs.state_dict()))
            theirs.load_state_dict(saved)


@pytest.mark.parametrize("name", TORCH)
def test_a_parameter_without_a_gradient_stays(name):
    net = network()
    before = [parameter.clone() for parameter in net.parameters()]
    set_gradients(net, 1)
    net[0].weight.grad = None
    optimizer = ours(name, net)
    optimizer.step(0.1)
    same = [torch.equal(one, other) for one, other in zip(net.parameters(), before, strict=True)]
    assert same == [True, False, False, False]
    assert list(optimizer.state_dict()["state"]) == [1, 2, 3]


def test_the_state_of_another_optimizer_or_network_is_refused():
    net = network()
    set_gradients(net, 1)
    adam = ours("adam", net)
    adam.step(0.1)
    with pytest.raises(ValueError, match=r"square_avg of the optimizer does not fit optimizer.name=rmsprop"):
        ours("rmsprop", net).load_state_dict(adam.state_dict())
    with pytest.raises(ValueError, match="optimizer of 4 parameters, the network has 2"):
        ours("adam", nn.Linear(5, 7)).load_state_dict(adam.state_dict())


def test_no_compiler_is_imported():
    code = (
        "import sys, torch; from dist_calo.config import OptimizerConfig; "
        "from dist_calo.training.optimizers import Optimizer; net = torch.nn.Linear(2, 2); "
        "net(torch.ones(1, 2)).sum().backward(); Optimizer(OptimizerConfig(), net).step(0.1); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr
