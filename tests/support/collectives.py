"""A rank that uses every collective and reports what it saw; `reports` runs it once for each launcher and backend."""

import functools
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from dist_calo.comm import Communicator, Reduction, connect
from dist_calo.comm.gradients import WIRES, GradientAverager
from dist_calo.comm.threads import set_threads
from dist_calo.launching.environment import find_world
from tests.support.ranks import run_ranks

DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64)
}
SAMPLES = 12


@functools.cache
def reports(launcher: str, backend: str, ranks: int) -> list[dict[str, Any]]:
    """What every rank saw, in rank order."""
    with tempfile.TemporaryDirectory() as folder:
        run = run_ranks(
            [sys.executable, "-m", "tests.support.collectives", backend, folder], ranks, launcher, timeout=150
        )
        assert run.returncode == 0, run.output
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(ranks)]


def network() -> nn.Sequential:
    """A small network, the same in every process, whose second layer is laid out in another order."""
    torch.manual_seed(7)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5), nn.ReLU(), nn.Linear(5, 1)
    )
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def samples() -> Tensor:
    torch.manual_seed(8)
    return torch.randn(SAMPLES, 2, 6, 6)


def expected_gradients() -> list[Tensor]:
    """Gradients of the mean over the global batch, by one process."""
    net = network()
    return list(torch.autograd.grad(net(samples()).square().sum() / SAMPLES, list(net.parameters())))


def share(rank: int, size: int) -> Tensor:
    """Unequal shares; with three ranks the last has none."""
    cut = SAMPLES if size == 1 else 5
    return [samples()[:cut], samples()[cut:], samples()[:0]][rank]


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(
        tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    ).hexdigest()


def reductions(communicator: Communicator) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    rank = communicator.world.rank
    for name, dtype in DTYPES.items():
        for reduction in get_args(Reduction):
            before = communicator.bytes_sent
            blocking = torch.full((3, 4), rank + 1).to(dtype)
            communicator.all_reduce(blocking, reduction)
            sent = communicator.bytes_sent - before
            several = [torch.full((5,), rank + 1 + k).to(dtype) for k in range(3)]
            works = [communicator.all_reduce_async(tensor, reduction) for tensor in several]
            for work in works[::-1]:
                work.wait()
            seen[f"{name}/{reduction}"] = {
                "blocking": sorted(set(blocking.reshape(-1).tolist())),
                "async": [sorted(set(tensor.tolist())) for tensor in several],
                "bytes": sent,
            }
    return seen


def bits(communicator: Communicator) -> dict[str, str]:
    torch.manual_seed(communicator.world.rank)
    values = torch.randn(30011)
    seen = {}
    for name in ("float32", "float64", "bfloat16", "float16"):
        tensor = values.to(DTYPES[name])
        communicator.all_reduce(tensor)
        seen[f"{name}/blocking"] = digest(tensor)
        tensor = values.to(DTYPES[name])
        communicator.all_reduce_async(tensor).wait()
        seen[f"{name}/async"] = digest(tensor)
    return seen


def exchanges(communicator: Communicator) -> dict[str, Any]:
    rank, last = communicator.world.rank, communicator.world.size - 1
    seen: dict[str, Any] = {"broadcast": []}
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
        tensor = torch.full((2, 3), rank).to(dtype)
        communicator.broadcast(tensor, last)
        seen["broadcast"].append(bool((tensor == torch.full((2, 3), last).to(dtype)).all()))
    seen["object"] = communicator.broadcast_object({"from": rank}, last)
    seen["objects"] = communicator.all_gather_object({"from": rank})
    communicator.barrier()
    return seen


def gradients(communicator: Communicator) -> dict[str, Any]:
    """Largest relative error of the summed gradients, and the bytes sent, for every wire format."""
    world = communicator.world
    mine = share(world.rank, world.size)
    half = len(mine) // 2
    expected = expected_gradients()
    seen: dict[str, Any] = {}
    for wire in WIRES:
        net = network()
        averager = GradientAverager(net, communicator, wire, bucket_mb=0.0005)
        for update in ("first", "second"):
            before = communicator.bytes_sent
            with averager.accumulating():
                (net(mine[:half]).square().sum() / SAMPLES).backward()
            between = communicator.bytes_sent
            with averager.reducing():
                (net(mine[half:]).square().sum() / SAMPLES).backward()
            averager.finish()
            errors = [
                float((p.grad - g).abs().max() / g.abs().max())  # type: ignore[operator]
                for p, g in zip(net.parameters(), expected, strict=True)
            ]
            seen[f"{wire}/{update}"] = {
                "error": max(errors),
                "accumulating": between - before,
                "sent": communicator.bytes_sent - between,
                "promised": averager.bytes_per_update,
                "norm": float(averager.squared_norm()),
            }
            averager.zero()
    return seen


def main(backend: str, folder: str) -> None:
    communicator = connect(backend, find_world(os.environ), timeout_s=60)
    world = communicator.world
    torch.manual_seed(world.rank)
    convolution = nn.Conv3d(1, 2, 2).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    net = nn.Sequential(convolution, nn.BatchNorm3d(2))
    net.load_state_dict(communicator.broadcast_object(net.state_dict()))
    report = {
        "backend": type(communicator).__name__,
        "named": communicator.backend,
        "world": vars(world),
        "reductions": reductions(communicator),
        "bits": bits(communicator),
        "exchanges": exchanges(communicator),
        "gradients": gradients(communicator),
        "weights": digest(convolution.weight),
        "threads": set_threads(communicator),
        "waited": communicator.wait_s,
    }
    communicator.close()
    (Path(folder) / f"{world.rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
