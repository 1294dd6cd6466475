"""Measurement of the training step on all ranks: the real loader, learner and collectives, after a warm-up."""

import platform
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from dist_calo import __version__
from dist_calo.comm import local_device
from dist_calo.comm.protocol import Communicator
from dist_calo.comm.threads import available_cores, processor_quota, set_threads
from dist_calo.config import RunConfig
from dist_calo.data.loader import Loader
from dist_calo.data.manifest import Manifest
from dist_calo.launching.node import EnergyCounter, kernel_id, peak_memory_bytes
from dist_calo.scaling.plan import Measurement
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.dataset import shared_manifest
from dist_calo.training.learner import Learner
from dist_calo.training.preemption import StopRequest
from dist_calo.training.setup import build_learner, build_validator, open_loader, require_enough_samples
from dist_calo.training.trainer import TrainState
from dist_calo.transforms import Transform


@dataclass(frozen=True)
class RankFacts:
    """Resources of one rank, gathered from all of them."""

    node: str
    kernel: str
    cores: tuple[int, ...]
    threads: int
    quota: float | None = None
    """Processor time a second, in cores, that the ranks of its node may use together; None without a limit."""


class MeasurementStopped(Exception):
    """Request to stop that some rank has received: the measurement is void."""


def measure(
    config: RunConfig, measurement: Measurement, communicator: Communicator, startup_s: float
) -> dict[str, Any]:
    """Measure one repeat; collective, and the same result on all ranks.

    Times of a step are in seconds: ``step_s`` is that of the slowest rank, all others are means over ranks, and
    compute, waiting for communication and waiting for data add up to a rank's own time. Compute and waiting for
    communication are None where the host does not wait for a GPU's collectives and so cannot tell them apart.

    Args:
        config: settings of the point.
        measurement: how many steps, and whether validation and checkpoint are timed as well.
        communicator: how the ranks talk.
        startup_s: from the start of the process until now.

    Raises:
        UserError: if data or settings are at fault.
        MeasurementStopped: if some rank has received a signal.
    """
    world = communicator.world
    began = time.perf_counter()
    require_enough_samples(config, world.size)
    threads, _ = set_threads(communicator, config.comm.threads)
    mine = RankFacts(world.node, kernel_id(), tuple(sorted(available_cores())), threads, processor_quota())
    facts = [RankFacts(*values) for values in communicator.all_gather_object(tuple(vars(mine).values()))]
    device = torch.device(local_device(config.train.device, world))
    manifest = shared_manifest(config.data, communicator)
    learner = build_learner(
        config, manifest, Transform.from_config(config.transform), communicator, device, None
    )
    with open_loader(config, manifest, communicator, TrainState()) as loader:
        steps = _Steps(learner, loader, communicator)
        build_s = time.perf_counter() - began
        warmup_s = sum(steps.take(measurement.warmup_steps))
        communicator.barrier()
        # Over MPI gradients travel from the host, after the GPU has computed them.
        split = device.type == "cpu" or config.comm.backend == "mpi"
        values = _training(steps, measurement.steps, facts, config.train.global_batch_size, split)
    if measurement.end_to_end:
        values |= _once_a_job(config, manifest, learner, communicator)
    spent = torch.tensor([startup_s, build_s, warmup_s, startup_s + time.perf_counter() - began])
    communicator.all_reduce(spent, "max")
    values |= dict(zip(("startup_s", "build_s", "warmup_s", "end_to_end_s"), spent.tolist(), strict=True))
    return values | _where(facts, communicator, device)


class _Steps:
    """Training steps, as the trainer takes them between two log lines."""

    def __init__(self, learner: Learner, loader: Loader, communicator: Communicator) -> None:
        self.learner, self.loader, self.communicator = learner, loader, communicator
        self._step = 0

    def take(self, count: int) -> list[float]:
        """Take some steps and return the time of each on this rank."""
        seconds = []
        with StopRequest(self.communicator) as stop:
            before = time.perf_counter()
            for _ in range(count):
                stop.ask()
                batch = next(self.loader)
                self._step += 1
                self.learner.learn(batch, self._step)
                stopped_by = stop.agreed()
                if stopped_by:
                    raise MeasurementStopped(stopped_by)
                now = time.perf_counter()
                seconds.append(now - before)
                before = now
        return seconds

    def counters(self) -> tuple[float, float, float, float]:
        """Return the seconds waited for ranks and for data, bytes handed over and collectives, since the start."""
        meter = self.communicator
        return meter.wait_s, self.loader.wait_s, float(meter.bytes_sent), float(meter.collectives)


def _training(
    steps: _Steps, count: int, facts: list[RankFacts], global_batch: int, split: bool
) -> dict[str, Any]:
    """Measure the steps between warm-up and validation."""
    communicator = steps.communicator
    rank = communicator.world.rank
    # One rank of a kernel reads its counters.
    reporter = [fact.kernel for fact in facts].index(facts[rank].kernel) == rank
    energy = EnergyCounter() if reporter else None
    before, processor = steps.counters(), time.process_time()
    seconds = steps.take(count)
    processor = time.process_time() - processor
    waits = [now - then for now, then in zip(steps.counters(), before, strict=True)]
    used_j = energy.used_j() if energy else None
    slowest = torch.tensor(seconds, dtype=torch.float64)
    communicator.all_reduce(slowest, "max")
    everyone: list[tuple[Any, ...]] = communicator.all_gather_object(
        (sum(seconds), *waits, processor, peak_memory_bytes(), reporter, used_j)
    )
    elapsed, _, data, sent, collectives, cpu, memory, reporters, joules = zip(*everyone, strict=True)
    told = [value for value, reports in zip(joules, reporters, strict=True) if reports]
    total_j = None if None in told else sum(told)
    showers = count * global_batch
    size = communicator.world.size
    return {
        "step_s": max(elapsed) / count,
        "steps_s": [round(value, 6) for value in slowest.tolist()],
        "showers_per_s": showers / max(elapsed),
        **step_parts(everyone, count, [fact.node for fact in facts], split),
        "wait_data_s": sum(data) / size / count,
        "cpu_s": sum(cpu) / size / count,
        "bytes_per_step": sum(sent) / size / count,
        "collectives_per_step": sum(collectives) / size / count,
        "peak_memory_bytes": None if None in memory else max(memory),
        "energy_j": total_j,
        "energy_j_per_shower": None if total_j is None else total_j / showers,
    }


def step_parts(
    everyone: Sequence[Sequence[float]], count: int, nodes: Sequence[str], split: bool
) -> dict[str, Any]:
    """Return computing and waiting for communication in a step, and the processor time of the worst served rank.

    Args:
        everyone: of each rank seconds elapsed, waiting for ranks and for data, two counters, processor seconds.
        count: steps.
        nodes: name of each rank's node.
        split: the host can tell computing from communication; otherwise all values are None.
    """
    if not split:
        names = ("compute_s", "compute_slowest_s", "compute_slowest_node", "wait_comm_s", "core_share_least")
        return dict.fromkeys(names)
    compute = [(elapsed - comm - data) / count for elapsed, comm, data, *_ in everyone]
    return {
        "compute_s": sum(compute) / len(compute),
        "compute_slowest_s": max(compute),
        "compute_slowest_node": nodes[compute.index(max(compute))],
        "wait_comm_s": sum(comm for _, comm, *_ in everyone) / len(compute) / count,
        "core_share_least": min(ranks[5] / count / own for ranks, own in zip(everyone, compute, strict=True)),
    }


def _once_a_job(
    config: RunConfig, manifest: Manifest, learner: Learner, communicator: Communicator
) -> dict[str, float]:
    """Time a validation, if showers are held out, and of a checkpoint in the scratch folder, which is removed."""
    values = {}
    validator = build_validator(
        config, manifest, learner, Transform.from_config(config.transform), communicator
    )
    began = time.perf_counter()
    if validator is not None:
        with learner.average.applied():
            validator.run()
        communicator.barrier()
        values["validation_s"] = time.perf_counter() - began
    began = time.perf_counter()
    learner.digest()
    if communicator.world.rank == 0:
        CheckpointFolder(config.checkpoint.dir).save({"step": 1, **learner.state_dict()}, {})
    communicator.barrier()
    values["checkpoint_s"] = time.perf_counter() - began
    if communicator.world.rank == 0:
        shutil.rmtree(Path(config.checkpoint.dir), ignore_errors=True)
    return values


def _where(facts: list[RankFacts], communicator: Communicator, device: torch.device) -> dict[str, Any]:
    return {
        "ranks": len(facts),
        "nodes": len({fact.node for fact in facts}),
        "node_names": sorted({fact.node for fact in facts})[:64],
        "threads": min(fact.threads for fact in facts),
        "cores": len({(fact.kernel, core) for fact in facts for core in fact.cores}),
        "threads_per_core": threads_per_core(facts),
        "thread_quota": min(_thread_quotas(facts)),
        "launcher": communicator.world.launcher,
        "device": str(device),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "dist_calo": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def threads_per_core(facts: list[RankFacts]) -> float:
    """Return the compute threads for each core of the fullest machine; above 1 the ranks take turns.

    What shares a kernel shares its cores, so that virtual nodes on one machine are seen through. A thread that a quota
    allows a part of a core's time counts as this part.
    """
    threads: dict[str, float] = defaultdict(float)
    cores: dict[str, set[int]] = defaultdict(set)
    for fact, quota in zip(facts, _thread_quotas(facts), strict=True):
        threads[fact.kernel] += fact.threads * quota
        cores[fact.kernel] |= set(fact.cores)
    return max(threads[kernel] / max(len(cores[kernel]), 1) for kernel in threads)


def _thread_quotas(facts: list[RankFacts]) -> list[float]:
    """Return the time of a core that a thread of each rank may use a second, at most 1."""
    threads: Counter[str] = Counter()
    for fact in facts:
        threads[fact.node] += fact.threads
    return [1.0 if fact.quota is None else min(1.0, fact.quota / threads[fact.node]) for fact in facts]
