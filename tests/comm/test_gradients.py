"""Buckets of gradients: the right sums, in a fixed order, sent while the backward pass runs, and nothing else sent."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_calo.comm import connect
from dist_calo.comm.gradients import GradientAverager
from dist_calo.comm.single import SingleCommunicator
from dist_calo.errors import ConfigError
from dist_calo.launching.environment import World
from tests.support.collectives import expected_gradients, network, reports, samples
from tests.support.ranks import LAUNCHERS

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 3e-3}
JOBS = [
    pytest.param(
        job, id=f"{job[1]}-by-{job[0]}", marks=[pytest.mark.requires(name) for name in LAUNCHERS[job[0]]]
    )
    for job in [
        ("single", "single", 1),
        ("local", "torch", 3),
        ("mpirun", "mpi", 3),
        ("horovodrun", "horovod", 3),
        ("horovodrun-mpi", "horovod", 2),
    ]
]


class Recorder(SingleCommunicator):
    """Remembers what was sent, and pretends that a second rank has the same gradients."""

    def __init__(self) -> None:
        super().__init__(World(size=2))
        self.sent: list[int] = []

    def all_reduce_async(self, tensor: Tensor, reduction: Any = "sum") -> Any:
        self.sent.append(tensor.numel())
        tensor.mul_(2)
        return super().all_reduce_async(tensor, reduction)


def backward(averager: GradientAverager, net: nn.Module, inputs: Tensor) -> None:
    with averager.reducing():
        net(inputs).square().sum().backward()


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("wire", TOLERANCE)
def test_ranks_with_unequal_shares_find_the_gradient_of_the_global_batch(job: Any, wire: str) -> None:
    for report in reports(*job):
        for update in ("first", "second"):
            assert report["gradients"][f"{wire}/{update}"]["error"] < TOLERANCE[wire]


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("wire", TOLERANCE)
def test_an_update_sends_every_parameter_once_and_micro_steps_nothing(job: Any, wire: str) -> None:
    parameters = sum(p.numel() for p in network().parameters())
    width = {"fp32": 4, "bf16": 2, "fp16": 2}[wire]
    for report in reports(*job):
        seen = report["gradients"][f"{wire}/second"]
        assert seen["accumulating"] == 0
        assert seen["promised"] == parameters * width
        widened = wire == "bf16" and job[1] == "horovod"
        assert seen["sent"] == parameters * (4 if widened else width)


@pytest.mark.parametrize("job", JOBS)
def test_all_ranks_find_the_same_norm(job: Any) -> None:
    expected = sum(float(g.double().square().sum()) for g in expected_gradients())
    norms = {report["gradients"]["fp32/first"]["norm"] for report in reports(*job)}
    assert len(norms) == 1
    assert norms.pop() == pytest.approx(expected, rel=1e-5)


def test_gradients_are_views_in_the_layout_of_their_parameters() -> None:
    net = network()
    averager = GradientAverager(net, Recorder())
    backward(averager, net, samples())
    averager.finish()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()
    storages = {p.grad.untyped_storage().data_ptr() for p in net.parameters()}  # type: ignore[union-attr]
    assert len(storages) == 1
    for parameter, single in zip(net.parameters(), expected_gradients(), strict=True):
        torch.testing.assert_close(parameter.grad, 2 * len(samples()) * single)


def test_buckets_leave_during_the_backward_pass_last_layers_first() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 1))
    recorder = Recorder()
    averager = GradientAverager(net, recorder, bucket_mb=1e-9)
    under_way: list[int] = []
    first = net[0].weight
    assert isinstance(first, nn.Parameter)
    first.register_hook(lambda _: under_way.append(len(recorder.sent)))
    backward(averager, net, torch.ones(2, 3))
    assert under_way[0] >= 4
    averager.finish()
    assert recorder.sent == [p.numel() for p in net.parameters()][::-1]


def test_the_order_is_fixed_whatever_is_ready_first() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 3), nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            return (
                self.second(x).sum() + self.first(x).sum()
                if self.swap
                else self.first(x).sum() + self.second(x).sum()
            )

        swap = False

    orders = []
    for swap in (False, True):
        net, recorder = Fork(), Recorder()
        net.swap = swap
        averager = GradientAverager(net, recorder, bucket_mb=1e-9)
        backward(averager, net, torch.ones(1, 2))
        averager.finish()
        orders.append(recorder.sent)
    assert orders[0] == orders[1] == [4, 8, 3, 6]


@pytest.mark.parametrize("bucket_mb", [1e-9, 16 * 4 / 2**20, 4.0])
def test_buckets_hold_about_what_was_asked_for(bucket_mb: float) -> None:
    net, recorder = nn.Sequential(*[nn.Linear(3, 2) for _ in range(6)]), Recorder()
    GradientAverager(net, recorder, bucket_mb=bucket_mb).finish()
    assert sum(recorder.sent) == 6 * 8
    assert len(recorder.sent) == {1e-9: 12, 16 * 4 / 2**20: 3, 4.0: 1}[bucket_mb]


def test_parameters_without_a_gradient_are_sent_as_zeros() -> None:
    net, recorder = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)}), Recorder()
    averager = GradientAverager(net, recorder, bucket_mb=1e-9)
    backward(averager, net["used"], torch.ones(1, 2))
    averager.finish()
    assert sum(recorder.sent) == 6
    assert not net["unused"].weight.grad.any()  # type: ignore[operator,union-attr]
    assert net["used"].weight.grad.any()  # type: ignore[operator,union-attr]


def test_a_rank_without_samples_takes_part_by_finish_alone() -> None:
    net, recorder = nn.Linear(2, 1), Recorder()
    averager = GradientAverager(net, recorder)
    averager.finish()
    assert recorder.bytes_sent == averager.bytes_per_update == 12


def test_two_networks_with_the_same_names_send_only_their_own() -> None:
    generator, discriminator = nn.Linear(3, 3), nn.Linear(3, 3)
    recorders = Recorder(), Recorder()
    of_generator = GradientAverager(generator, recorders[0])
    of_discriminator = GradientAverager(discriminator, recorders[1])
    for _ in range(2):
        discriminator.requires_grad_(False)
        backward(of_generator, nn.Sequential(generator, discriminator), torch.ones(2, 3))
        of_generator.finish()
        discriminator.requires_grad_(True)
        assert not discriminator.weight.grad.any()  # type: ignore[union-attr]
        of_generator.zero()
        with of_discriminator.reducing():
            discriminator(generator(torch.ones(2, 3)).detach()).sum().backward()
        of_discriminator.finish()
        assert not generator.weight.grad.any()  # type: ignore[union-attr]
        of_discriminator.zero()
    assert [recorder.bytes_sent for recorder in recorders] == [2 * 12 * 4, 2 * 12 * 4]


def test_a_network_that_was_not_frozen_is_an_error() -> None:
    generator, discriminator = nn.Linear(3, 3), nn.Linear(3, 3)
    of_generator = GradientAverager(generator, Recorder())
    GradientAverager(discriminator, Recorder())
    with pytest.raises(RuntimeError, match="freeze this network"):
        backward(of_generator, nn.Sequential(generator, discriminator), torch.ones(2, 3))


def test_a_second_backward_pass_while_buckets_travel_is_an_error() -> None:
    net = nn.Linear(2, 1)
    averager = GradientAverager(net, Recorder())
    with averager.reducing():
        net(torch.ones(1, 2)).sum().backward()
        with pytest.raises(RuntimeError, match=r"second gradient inside reducing\(\)"):
            net(torch.ones(1, 2)).sum().backward()
    with pytest.raises(RuntimeError, match=r"before finish\(\)"), averager.reducing():
        pass


def test_gradients_that_others_replaced_are_taken_back() -> None:
    net = nn.Linear(2, 1)
    averager = GradientAverager(net, Recorder())
    net.zero_grad(set_to_none=True)
    backward(averager, net, torch.ones(1, 2))
    averager.finish()
    assert averager.squared_norm() > 0
    before = net.weight.grad.clone()  # type: ignore[union-attr]
    averager.scale(0.5)
    torch.testing.assert_close(net.weight.grad, before / 2)
    averager.zero()
    assert averager.squared_norm() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("wire", ["fp32", "bf16", "fp16"])
def test_the_norm_shows_what_is_not_finite(wire: str, bad: float) -> None:
    net = nn.Linear(2, 1)
    averager = GradientAverager(net, Recorder(), wire)
    backward(averager, net, torch.tensor([[1.0, bad]]))
    averager.finish()
    assert not torch.isfinite(averager.squared_norm())


def test_fp16_overflow_is_seen() -> None:
    net = nn.Linear(2, 1)
    averager = GradientAverager(net, Recorder(), "fp16")
    with averager.reducing():
        (40000.0 * net(torch.ones(1, 2))).sum().backward()
    averager.finish()
    assert torch.isinf(averager.squared_norm())


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"comm\.wire=int8"):
        GradientAverager(nn.Linear(2, 1), Recorder(), "int8")
    with pytest.raises(ConfigError, match=r"parameter weight is torch\.float64"):
        GradientAverager(nn.Linear(2, 1).double(), Recorder())


def test_frozen_networks_and_empty_ones_cost_nothing() -> None:
    communicator = connect("single", World())
    averager = GradientAverager(nn.Linear(2, 1).requires_grad_(False), communicator)
    averager.finish()
    averager.zero()
    assert (communicator.bytes_sent, averager.bytes_per_update, float(averager.squared_norm())) == (0, 0, 0.0)
