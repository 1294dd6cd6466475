"""Speed of all-reduces, and how much of the averaging of gradients hides behind the backward pass.

    dist-calo launch -n 2 -- python benchmarks/bench_comm.py
    mpirun -np 2 python benchmarks/bench_comm.py
    horovodrun -np 2 python benchmarks/bench_comm.py --wire bf16

Rank 0 prints medians over the repeats. Bandwidth is bus bandwidth: 2 (N - 1) / N times the size of the tensor, divided
by the time, which does not depend on the number of ranks N of an ideal ring.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from dist_calo.comm import Communicator, connect, local_device
from dist_calo.comm.gradients import WIRES, GradientAverager
from dist_calo.comm.threads import set_threads
from dist_calo.launching.environment import find_world

SIZES = [2**k for k in range(10, 25, 2)]
BATCH, CHANNELS, LAYERS, CELLS = 8, 32, 6, 12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--wire", default="fp32", choices=list(WIRES))
    parser.add_argument("--bucket-mb", type=float, default=0.25)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    world = find_world(os.environ)
    device = torch.device(local_device(options.device, world))
    communicator = connect(options.backend, world, device=options.device)
    _, threads = set_threads(communicator)
    lines = [f"{type(communicator).__name__}, {world.size} ranks by {world.launcher}, {device}, {threads}"]
    lines += bandwidth(communicator, device, options.repeats)
    lines += overlap(communicator, device, options)
    if world.rank == 0:
        print("\n".join(lines))
    communicator.close()


def bandwidth(communicator: Communicator, device: torch.device, repeats: int) -> list[str]:
    """Time and bus bandwidth of a blocking all-reduce of each size."""
    size = communicator.world.size
    lines = [f"{'MiB':>10} {'ms':>10} {'GB/s':>8}"]
    for width in SIZES:
        tensor = torch.zeros(width // 4, device=device)
        seconds = median_time(communicator, partial(communicator.all_reduce, tensor), repeats, device)
        rate = 2 * (size - 1) / size * width / seconds / 1e9
        lines.append(f"{width / 2**20:10.4f} {1e3 * seconds:10.3f} {rate:8.2f}")
    return lines


def median_time(
    communicator: Communicator, action: Callable[[], object], repeats: int, device: torch.device
) -> float:
    """Median time of an action that all ranks begin together, in seconds, after a warm-up."""
    times = []
    for _ in range(repeats + 3):
        communicator.barrier()
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def overlap(communicator: Communicator, device: torch.device, options: argparse.Namespace) -> list[str]:
    """Times of a training step without traffic, with buckets sent while it computes, and with all sent after it."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(CHANNELS if i else 1, CHANNELS, 3, padding=1) for i in range(LAYERS)]
    net = nn.Sequential(*layers).to(device)
    showers = torch.randn(BATCH, 1, CELLS, CELLS, CELLS, device=device)
    averager = GradientAverager(net, communicator, options.wire, options.bucket_mb)

    def silent() -> None:
        with averager.accumulating():
            net(showers).square().mean().backward()

    def overlapped() -> None:
        with averager.reducing():
            net(showers).square().mean().backward()
        averager.finish()

    def after() -> None:
        silent()
        averager.finish()

    steps = {"no traffic": silent, "overlapped": overlapped, "sent after": after}
    seconds = {name: median_time(communicator, step, options.repeats, device) for name, step in steps.items()}
    lines = [f"step, {averager.bytes_per_update / 1e6:.2f} MB of gradients ({options.wire}):"]
    lines += [f"  {name:<11}{1e3 * value:9.2f} ms" for name, value in seconds.items()]
    exposed, sent_after = (seconds[name] - seconds["no traffic"] for name in ("overlapped", "sent after"))
    lines.append(f"  overlapped / sent after {seconds['overlapped'] / seconds['sent after']:.3f}")
    if sent_after > 0:
        lines.append(f"  {100 * (1 - exposed / sent_after):.0f} % of the communication is hidden")
    return lines


if __name__ == "__main__":
    main()
