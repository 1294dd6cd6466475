"""Time that a generator takes for a shower, and a score of the showers that it makes."""

import math
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dist_calo.comm.single import SingleCommunicator
from dist_calo.data.manifest import manifest_of, matching_files
from dist_calo.data.row_blocks import Split, split_blocks
from dist_calo.errors import DataError
from dist_calo.generation.incident_conditions import IncidentConditions
from dist_calo.launching.environment import World
from dist_calo.randomness import Draws
from dist_calo.training.checkpoint import Checkpoint
from dist_calo.training.restore import TrainedGenerator
from dist_calo.training.validation import Validator

AT_A_TIME = 2**22
"""Most numbers generated at a time: 268 showers of 25 x 25 x 25 cells, 17 MB of float32, and up to 25 times as much
inside the networks. A larger batch is computed in parts of this size, and each part is one timing. Larger parts are no
faster on a processor: they leave its caches."""
MOST_TIMINGS, LEAST_TIMINGS = 50, 3


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Time of a shower, random numbers and units included, from incident energies to an array in memory."""

    batch: int
    at_a_time: int
    """Showers of one call; fewer than the batch where memory bounds it."""
    timings: int
    """Calls that were timed, after one that was not."""
    ms_per_shower: float
    """Median."""
    ms_low: float
    """First quartile."""
    ms_high: float
    """Third quartile."""
    cpu_ms_per_shower: float
    """Median of the processor's time, of all threads together."""
    cores: float
    """Processor seconds for each second: 1 where one core computes, less where other programs took it away."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def time_generation(
    generator: TrainedGenerator, incident: IncidentConditions, batch: int, seconds: float
) -> Timing:
    """Generate batches for some seconds, the first of them untimed, and at least three timed ones.

    Args:
        generator: what generates, with the threads that it is to use already set.
        incident: incident energies and other conditions.
        batch: showers asked for at a time.
        seconds: when to stop, after the least number of timings.
    """
    at_a_time = min(batch, max(AT_A_TIME // generator.geometry.cells, 1))
    walls: list[float] = []
    processors: list[float] = []
    begin = time.perf_counter()
    while len(walls) <= LEAST_TIMINGS or (
        len(walls) <= MOST_TIMINGS and time.perf_counter() - begin < seconds
    ):
        first = len(walls) * at_a_time
        draws = Draws(0, 0, range(first, first + at_a_time), "generate")
        conditions = torch.from_numpy(incident.draw(draws))
        wall, processor = time.perf_counter(), time.process_time()
        generator.generate(conditions, draws)
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    milliseconds = [1e3 * wall / at_a_time for wall in walls[1:]]
    low, median, high = statistics.quantiles(milliseconds, n=4)
    return Timing(
        batch=batch,
        at_a_time=at_a_time,
        timings=len(milliseconds),
        ms_per_shower=median,
        ms_low=low,
        ms_high=high,
        cpu_ms_per_shower=statistics.median(1e3 * used / at_a_time for used in processors[1:]),
        cores=sum(processors[1:]) / sum(walls[1:]),
    )


@dataclass(frozen=True, kw_only=True)
class Score:
    """The score of a generator's showers (least is best), for the same conditions as the real ones."""

    score: float
    error: float | None
    floor: float | None
    """That of one half of the real showers against the other. Of few showers neither is known."""

    def allows(self, other: "Score") -> bool:
        """Tell if another form of the same generator is as good: worse by no more than the larger of the errors."""
        return other.score - self.score <= max(self.error or 0.0, other.error or 0.0)


class Scorer:
    """Comparison of generators with the same real showers.

    Args:
        checkpoint: the one whose own test split, or where that is empty validation split, is taken by default.
        showers: most of them.
        real: a file or glob instead, all of whose showers are taken.

    Raises:
        DataError: if the files cannot be read, or are of another read-out.
    """

    def __init__(self, checkpoint: Checkpoint, showers: int, real: str | None = None) -> None:
        config = checkpoint.reading
        self._config = replace(config, train=replace(config.train, validation_showers=showers))
        self._split: Split = "all"
        if real is None:
            self._manifest = checkpoint.data
            self._split = "test" if config.data.test_fraction > 0 else "validation"
        else:
            self._manifest = manifest_of(matching_files(real))
            expected = checkpoint.readout
            if self._manifest.geometry.shape != expected.shape:
                raise DataError(
                    f"--real {real}: has {self._manifest.geometry.described}, the checkpoint {expected.described}; "
                    "name showers of its detector"
                )
        self.files = [entry.path for entry in self._manifest.files]
        for path in self.files:
            if not Path(path).is_file():
                raise DataError(f"{path}: the file does not exist")
        samples = split_blocks(self._manifest, self._split, self._config.data).samples
        self.described = (
            f"{min(showers, samples)} showers of {real or self._config.data.described} ({self._split})"
        )
        """What is compared with, in words."""

    def score(self, generator: TrainedGenerator) -> Score | None:
        """Generate for the real showers' conditions and compare; None where the score is not known."""
        validator = Validator(
            self._config, self._manifest, generator, SingleCommunicator(World()), split=self._split
        )
        score = validator.run().score
        if not math.isfinite(score.value):
            return None
        error, floor = (value if math.isfinite(value) else None for value in (score.error, score.floor))
        return Score(score=score.value, error=error, floor=floor)
