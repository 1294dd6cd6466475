"""Measurements of one rank without the others: cores, memory, the speed of disks and of its own training steps."""

import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import psutil
import torch

from dist_calo.comm.protocol import Value
from dist_calo.comm.single import SingleCommunicator
from dist_calo.comm.threads import available_cores
from dist_calo.config import RunConfig
from dist_calo.data.loader import training_loader
from dist_calo.data.manifest import FileEntry, Manifest
from dist_calo.launching.environment import World
from dist_calo.launching.node import kernel_id
from dist_calo.training.learner import Learner
from dist_calo.training.setup import build_learner
from dist_calo.transforms import Transform

_PIECE = 4 << 20
_READ_BYTES, _READ_S = 256 << 20, 5.0
_WRITE_BYTES, _WRITE_S = 32 << 20, 3.0
# At most so many steps, for about so long; three of them even if that takes longer.
_MOST_STEPS, _STEPS_S = 20, 3.0
_LEAST_STEPS, _LEAST_S = 3, 30.0


def hardware() -> dict[str, Any]:
    """Return the cores that this rank may use, memory of its node in bytes, its GPUs, and the kernel they are under."""
    memory = psutil.virtual_memory()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "kernel": kernel_id(),
        "cores": sorted(available_cores()),
        "hardware_threads": os.cpu_count() or 1,
        "memory_bytes": memory.total,
        "memory_free_bytes": memory.available,
        "gpus": [torch.cuda.get_device_name(number) for number in gpus],
    }


def reading_rate(files: Iterable[FileEntry], part: int, parts: int) -> tuple[int, float]:
    """Read a share of the files' bytes, from the disk where the system lets go of what it has in memory.

    Returns:
        Bytes read, at most 256 MiB, and the seconds that took, at most about 5.

    Raises:
        OSError: if a file cannot be read here.
    """
    entries = list(files)
    total = sum(entry.bytes for entry in entries)
    first, last = total * part // parts, total * (part + 1) // parts
    last = min(last, first + _READ_BYTES)
    read, seconds, start = 0, 0.0, 0
    for entry in entries:
        begin, end = max(first - start, 0), min(last - start, entry.bytes)
        start += entry.bytes
        if begin >= end or seconds > _READ_S:
            continue
        file = os.open(entry.path, os.O_RDONLY)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file, begin, end - begin, os.POSIX_FADV_DONTNEED)
            began = time.perf_counter()
            while begin < end and time.perf_counter() - began + seconds < _READ_S:
                piece = len(os.pread(file, min(_PIECE, end - begin), begin))
                if piece == 0:
                    raise OSError(f"{entry.path} is shorter here than its {entry.bytes} bytes on rank 0")
                begin, read = begin + piece, read + piece
            seconds += time.perf_counter() - began
        finally:
            os.close(file)
    return read, seconds


def writing_rate(folder: str | Path) -> float:
    """Measure the bytes a second that reach the disk of a folder, or of the one that it would be made in.

    Raises:
        OSError: if it cannot be written.
    """
    wanted = Path(folder).absolute()
    existing = next(parent for parent in (wanted, *wanted.parents) if parent.exists())
    piece, written = os.urandom(_PIECE), 0
    began = time.perf_counter()
    with tempfile.TemporaryFile(dir=existing) as file:
        while written < _WRITE_BYTES and time.perf_counter() - began < _WRITE_S:
            written += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        return written / (time.perf_counter() - began)


def step_statistics(times: Sequence[float]) -> dict[str, float]:
    """Return the median of some times, its standard error, and their mean, all in seconds.

    The error is that of normal times with the scatter of the middle ones, 1.4826 times their median deviation from the
    median (Hampel, J. Am. Stat. Assoc. 69 (1974) 383), whose median scatters sqrt(pi/2) = 1.25 times as much as a mean.
    """
    middle = statistics.median(times)
    scatter = 1.4826 * statistics.median([abs(value - middle) for value in times])
    error = math.sqrt(math.pi / 2 / len(times)) * scatter
    return {"step_s": middle, "scatter_s": error, "step_mean_s": statistics.fmean(times)}


class Alone(SingleCommunicator):
    """A rank of a world that trains by itself, and counts what it would have sent.

    Args:
        world: this process among the ranks.
        fresh: what rank 0 starts from, for the others.
    """

    def __init__(self, world: World, fresh: Any = None) -> None:
        super().__init__(world)
        self.fresh = fresh

    def broadcast_object(self, value: Value | None, root: int = 0) -> Value:
        """Return the value of rank 0, which came here another way."""
        if self.world.rank == root:
            self.fresh = value
        return cast(Value, self.fresh)


class LoneSteps:
    """Training steps of the configured model on this rank alone, each on as many showers as the busiest rank takes.

    Args:
        config: the run's settings.
        manifest: the data set.
        communicator: `Alone`, with the state of rank 0 unless this is rank 0.
        device: where to compute.
    """

    def __init__(
        self, config: RunConfig, manifest: Manifest, communicator: Alone, device: torch.device
    ) -> None:
        self._config, self._manifest, self._communicator = config, manifest, communicator
        self._device = device
        self.showers = -(-config.train.global_batch_size // communicator.world.size)
        transform = Transform.from_config(config.transform)
        self.learner: Learner = build_learner(config, manifest, transform, communicator, device, saved=None)

    @property
    def gradient_bytes(self) -> int:
        """Return the bytes of all gradients in the format in which they travel."""
        return sum(averager.bytes_per_update for averager in self.learner.averagers.values())

    def measure(self) -> dict[str, float]:
        """Time some steps: their `step_statistics`, and the bytes and collectives that a step would send."""
        train = self._config.train
        loader = training_loader(
            self._manifest,
            self._config.data,
            seed=train.seed,
            global_batch_size=self.showers,
            accumulation=min(train.accumulation, self.showers),
        )
        times: list[float] = []
        with loader:
            batch = next(loader)
            self._learn(batch, 1)
            sent, collectives = self._communicator.bytes_sent, self._communicator.collectives
            began = time.perf_counter()
            while not times or (
                (elapsed := time.perf_counter() - began) < _LEAST_S
                and len(times) < (_MOST_STEPS if elapsed < _STEPS_S else _LEAST_STEPS)
            ):
                times.append(self._learn(batch, len(times) + 2))
        return step_statistics(times) | {
            "bytes": (self._communicator.bytes_sent - sent) / len(times),
            "collectives": (self._communicator.collectives - collectives) / len(times),
        }

    def _learn(self, batch: Any, step: int) -> float:
        began = time.perf_counter()
        self.learner.learn(batch, step)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began
