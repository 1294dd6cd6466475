import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dist_calo.errors import ConfigError
from dist_calo.models.nn.batch_norm import SyncBatchNorm, synchronise_batch_norm
from dist_calo.models.nn.blocks import Dropout, glorot_uniform, he_uniform, same_padding
from dist_calo.randomness import Draws
from tests.support.simulated_ranks import on_simulated_ranks

SHAPES = {1: (6, 3), 2: (5, 3, 4), 4: (4, 3, 5, 2), 5: (5, 3, 2, 4, 3)}
TORCH_LAYERS = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def alone(tensor):
    """The sum over the ranks of a job with one rank."""


def random_layer(channels=3, **kwargs):
    layer = SyncBatchNorm(channels, **kwargs)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 1.5, channels))
        layer.bias.copy_(torch.linspace(-1.0, 1.0, channels))
    return layer


def results(layer, values, out_weights):
    """Output, gradients and running statistics of one training step."""
    values = values.clone().requires_grad_()
    out = layer(values)
    (out * out_weights).sum().backward()
    gradients = [values.grad, layer.weight.grad, layer.bias.grad]
    return [out.detach(), *gradients, layer.running_mean.clone(), layer.running_var.clone()]


@pytest.mark.parametrize("dimensions", SHAPES)
@pytest.mark.parametrize("reduce", [None, alone], ids=["local", "one_rank"])
def test_batch_norm_of_one_rank_is_that_of_torch(dimensions, reduce):
    source = torch.Generator().manual_seed(dimensions)
    values = 3.0 + 2.0 * torch.randn(SHAPES[dimensions], generator=source)
    out_weights = torch.randn(values.shape, generator=source)
    ours = random_layer(eps=1e-3, momentum=0.2)
    ours.reduce = reduce
    theirs = TORCH_LAYERS[dimensions](3, eps=1e-3, momentum=0.2)
    theirs.load_state_dict(ours.state_dict(), strict=False)

    for _ in range(2):
        for mine, reference in zip(
            results(ours, values, out_weights), results(theirs, values, out_weights), strict=True
        ):
            torch.testing.assert_close(mine, reference, rtol=2e-5, atol=2e-6)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(values), theirs(values))


@settings(max_examples=20, deadline=None)
@given(
    shares=st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(lambda s: sum(s) > 1),
    seed=st.integers(0, 9),
)
def test_shares_of_a_batch_are_normalised_like_the_whole(shares, seed):
    source = torch.Generator().manual_seed(seed)
    shape = (sum(shares), 3, 2, 3, 2)
    values = 1.0 + torch.randn(shape, generator=source, dtype=torch.float64)
    out_weights = torch.randn(shape, generator=source, dtype=torch.float64)
    template = random_layer().double()
    parts = list(zip(values.split(shares), out_weights.split(shares), strict=True))

    def one_rank(rank, all_reduce):
        layer = copy.deepcopy(template)
        assert synchronise_batch_norm(layer, all_reduce) == 1
        return results(layer, *parts[rank])

    ranks = on_simulated_ranks(len(shares), one_rank)
    out, of_values, of_weight, of_bias, mean, var = results(copy.deepcopy(template), values, out_weights)
    torch.testing.assert_close(torch.cat([r[0] for r in ranks]), out)
    torch.testing.assert_close(torch.cat([r[1] for r in ranks]), of_values)
    torch.testing.assert_close(sum(r[2] for r in ranks), of_weight)
    torch.testing.assert_close(sum(r[3] for r in ranks), of_bias)
    for r in ranks:
        torch.testing.assert_close(r[4], mean)
        torch.testing.assert_close(r[5], var)


def test_a_gradient_penalty_through_shares_is_that_of_the_whole():
    shares = [2, 0, 3]
    source = torch.Generator().manual_seed(0)
    values = torch.randn(5, 2, 3, generator=source, dtype=torch.float64)
    torch.manual_seed(0)
    template = nn.Sequential(nn.Conv1d(2, 3, 2), SyncBatchNorm(3), nn.Softplus(), nn.Conv1d(3, 1, 2)).double()

    def penalty_gradients(network, part):
        part = part.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(part).square().sum(), part, create_graph=True)
        gradient.flatten(1).square().sum().backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]

    def one_rank(rank, all_reduce):
        network = copy.deepcopy(template)
        synchronise_batch_norm(network, all_reduce)
        return penalty_gradients(network, values.split(shares)[rank])

    whole = penalty_gradients(copy.deepcopy(template), values)
    for parts, expected in zip(zip(*on_simulated_ranks(3, one_rank), strict=True), whole, strict=True):
        torch.testing.assert_close(sum(parts), expected)


def test_derivatives_of_first_and_second_order():
    layer = random_layer(2).double()
    layer.reduce = alone
    values = torch.randn(
        3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).requires_grad_()

    def normalise(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = (values, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(normalise, inputs)
    assert torch.autograd.gradgradcheck(normalise, inputs)


def test_a_mean_far_above_the_spread_costs_no_accuracy():
    values = 3000.0 + torch.randn(8, 2, 50, generator=torch.Generator().manual_seed(0))
    layer = SyncBatchNorm(2)

    def one_rank(rank, all_reduce):
        own = copy.deepcopy(layer)
        own.reduce = all_reduce
        return own(values[4 * rank : 4 * rank + 4]).detach()

    exact = nn.BatchNorm1d(2).double()(values.double()).detach()
    out = torch.cat(on_simulated_ranks(2, one_rank))
    # The mean itself is known to half a float32 step of 3000, 1.2e-4.
    torch.testing.assert_close(out.double(), exact, atol=3e-4, rtol=3e-4)


def test_channels_last_sums_are_as_accurate_as_others():
    """Where torch's own batch norm loses four digits."""
    values = torch.rand(2, 8, 40, 40, 40, generator=torch.Generator().manual_seed(0))
    exact = nn.BatchNorm3d(8).double()(values.double()).detach()
    out = SyncBatchNorm(8)(values.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(out.double(), exact, atol=3e-6, rtol=1e-5)


def test_one_sum_over_ranks_forward_and_one_backward():
    sizes = []
    layer = SyncBatchNorm(3)
    layer.reduce = lambda tensor: sizes.append(tensor.numel())
    layer(torch.randn(4, 3, 2).requires_grad_()).sum().backward()
    assert sizes == [7, 7]
    layer.eval()
    layer(torch.randn(4, 3, 2))
    assert sizes == [7, 7]


def test_a_frozen_layer_still_passes_the_gradient_on():
    layer = random_layer()
    layer.requires_grad_(False)
    layer.reduce = alone
    values = torch.randn(4, 3, 2).requires_grad_()
    layer(values).square().sum().backward()
    assert values.grad is not None
    assert values.grad.abs().sum() > 0
    assert layer.weight.grad is None
    assert layer.bias.grad is None


def test_an_empty_batch_leaves_local_statistics_alone():
    layer = random_layer()
    before = copy.deepcopy(layer.state_dict())
    assert layer(torch.zeros(0, 3, 4)).shape == (0, 3, 4)
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_batch_norm_keeps_type_and_memory_format():
    layer = random_layer()
    layer.reduce = alone
    values = torch.randn(2, 3, 4, 4, 4).to(torch.bfloat16, memory_format=torch.channels_last_3d)
    out = layer(values)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    exact = nn.functional.batch_norm(values.float(), None, None, layer.weight, layer.bias, training=True)
    torch.testing.assert_close(out.float(), exact, atol=2e-2, rtol=1e-2)


def test_synchronise_batch_norm_reaches_all_layers_and_can_be_undone():
    layers = [SyncBatchNorm(2), SyncBatchNorm(3)]
    model = nn.Sequential(layers[0], nn.Sequential(layers[1], nn.ReLU()))
    assert synchronise_batch_norm(model, alone) == 2
    assert [layer.reduce for layer in layers] == [alone, alone]
    synchronise_batch_norm(model, None)
    assert [layer.reduce for layer in layers] == [None, None]
    assert synchronise_batch_norm(nn.ReLU(), alone) == 0


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 5))
def test_dropout_does_not_depend_on_how_a_batch_is_shared(cut):
    layer = Dropout(0.4, "first")
    values = torch.ones(5, 3, 2, 2, 2)
    whole = layer(values, Draws(1, 2, range(5)))
    parts = [layer(values[:cut], Draws(1, 2, range(cut))), layer(values[cut:], Draws(1, 2, range(cut, 5)))]
    assert torch.equal(torch.cat(parts), whole)


def test_dropout_keeps_the_mean_and_differs_between_layers():
    draws = Draws(0, 0, range(4))
    values = torch.ones(4, 5000)
    out = Dropout(0.2, "a")(values, draws)
    assert set(np.unique(out.numpy())) == {np.float32(0.0), np.float32(1.25)}
    # 20,000 elements with a spread of 0.5 each.
    assert abs(float(out.mean()) - 1.0) < 5 * 0.5 / math.sqrt(20_000)
    assert not torch.equal(out, Dropout(0.2, "b")(values, draws))
    assert Dropout(0.2, "a").eval()(values, draws) is values


def test_dropout_does_not_depend_on_the_memory_format():
    values = torch.ones(2, 4, 3, 3, 3)
    draws = Draws(0, 0, range(2))
    layer = Dropout(0.5, "a")
    assert torch.equal(layer(values, draws), layer(values.to(memory_format=torch.channels_last_3d), draws))


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_dropout_refuses_what_is_no_probability(probability):
    with pytest.raises(ConfigError, match=f"dropout={probability}"):
        Dropout(probability, "a")


def test_same_padding_puts_the_odd_zero_behind_as_keras_does():
    ones = torch.ones(1, 1, 4, 4, 4)
    padded = same_padding((2, 5, 6))(ones)
    assert padded.shape == (1, 1, 5, 8, 9)
    assert padded[0, 0, :, 2, 2].tolist() == [1, 1, 1, 1, 0]
    assert padded[0, 0, 0, :, 2].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert padded[0, 0, 0, 2, :].tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0]
    assert nn.Conv3d(1, 1, (2, 5, 6))(padded).shape == ones.shape


@pytest.mark.parametrize(("initialise", "fans"), [(glorot_uniform, 8 + 16), (he_uniform, 8)])
def test_weights_have_the_variance_of_keras(initialise, fans):
    torch.manual_seed(0)
    layer = nn.Conv3d(8, 16, 5)
    initialise(layer)
    variance = 2.0 / (fans * 125)
    assert float(layer.weight.detach().var()) == pytest.approx(variance, rel=0.03)
    assert float(layer.weight.detach().abs().max()) <= math.sqrt(3 * variance)
    assert layer.bias is not None
    assert not layer.bias.detach().any()
