"""Generated showers against held-out ones, on all ranks, each validation sample once."""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dist_calo.comm.protocol import Communicator
from dist_calo.config import RunConfig
from dist_calo.data.loader import evaluation_loader
from dist_calo.data.row_blocks import Split, split_blocks
from dist_calo.data.shards import Manifest
from dist_calo.errors import DataError
from dist_calo.physics.monitors.monitor import Monitor, monitor_of
from dist_calo.physics.observables.examples import Examples
from dist_calo.randomness import Draws
from dist_calo.training.restore import TrainedGenerator

EXAMPLES = 4
BATCH_PER_RANK = 64


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a validation saw, the same on all ranks."""

    monitor: Monitor
    real: Any
    """Summary of the Geant4 showers."""
    fake: Any
    """Summary of the showers generated for the same conditions."""
    examples: Examples

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The comparison in numbers, by name; NaN where the real showers tell nothing."""
        return self.monitor.numbers(self.fake, self.real)

    @property
    def metrics(self) -> dict[str, float]:
        """The finite numbers of the comparison, as logged, and as ``validation/undefined`` how many are not finite."""
        values = {f"validation/{name}": value for name, value in self.numbers.items()}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        undefined = float(len(values) - len(finite))
        return {"validation/score": self.score, "validation/undefined": undefined, **finite}

    @property
    def headlines(self) -> dict[str, float]:
        """The score and the few numbers that are shown at a glance."""
        return {"score": self.score} | {
            name: self.numbers[name] for name in self.monitor.headlines if name in self.numbers
        }

    @property
    def score(self) -> float:
        """What the best checkpoint has least of."""
        score = self.monitor.score(self.numbers)
        return score if math.isfinite(score) else math.inf

    def pictures(self) -> dict[str, Callable[[], Any]]:
        """Functions that draw each picture, by name."""
        drawn = self.monitor.pictures(self.real, self.fake, self.examples)
        return {f"pictures/{name}": draw for name, draw in drawn.items()}


class Validator:
    """Compares showers generated for the conditions of a split with the showers of that split.

    The real showers are read once, at the first comparison; only their sums, their conditions and a few examples stay
    in memory.

    Args:
        config: the run's settings.
        manifest: the data set.
        generator: what generates, with the weights that it has at the time of the call.
        communicator: how the ranks talk.
        split: which showers.
        monitor: observables and comparison; by default those of the geometry.

    Raises:
        DataError: if the split is empty.
    """

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        generator: TrainedGenerator,
        communicator: Communicator,
        split: Split = "validation",
        monitor: Monitor | None = None,
    ) -> None:
        self._config = config
        self._manifest = manifest
        self._generator = generator
        self._communicator = communicator
        self._split = split
        self._monitor = monitor or monitor_of(manifest.geometry)
        self.samples = split_blocks(manifest, split, config.data).samples
        """Showers of the split."""
        if not self.samples:
            fraction = getattr(config.data, f"{split}_fraction")
            raise DataError(
                f"data.{split}_fraction={fraction:g} keeps no showers for the {split} split, and a comparison needs at "
                f"least one: train with a higher data.{split}_fraction"
            )
        self._real: Any = None
        self._conditions: list[tuple[np.ndarray, np.ndarray]] = []
        self._examples: tuple[np.ndarray, np.ndarray] = np.empty(0), np.empty(0)
        """A few showers and their incident energies, the same on all ranks once they were read."""
        self._source = 0
        """The rank whose examples they are."""

    def run(self, repeat: int = 0, generations: int = 1) -> Comparison:
        """Generate for every condition of the split and compare; collective.

        Args:
            repeat: another number draws other random numbers for the same conditions.
            generations: showers generated for each condition; more of them lessen the generated sample's own noise.
        """
        if self._real is None:
            self._real = self._read()
        fake = self._monitor.summary()
        drawn = np.empty(0)
        for (ids, conditions), drawing in itertools.product(
            self._conditions, range(repeat, repeat + generations)
        ):
            draws = Draws(self._config.train.seed, drawing, ids, self._split)
            showers = self._generator.generate(torch.from_numpy(conditions), draws).numpy()
            fake.update(showers, conditions[:, 0])
            drawn = drawn if drawn.size else showers[:EXAMPLES].copy()
        drawn = self._communicator.broadcast_object(drawn, self._source)
        return Comparison(
            monitor=self._monitor,
            real=self._real,
            fake=self._summed(fake),
            examples=Examples(real=self._examples[0], fake=drawn, energies=self._examples[1]),
        )

    def floor(self, repeats: int = 8) -> dict[str, float]:
        """The numbers of a comparison between two halves of the real showers, the mean of several halvings; collective.

        What a perfect generator of as many showers as half of the split would reach.
        """
        if not self._monitor.settled:
            self._settle()
        halves = [(self._monitor.summary(), self._monitor.summary()) for _ in range(repeats)]
        for batch in self._batches():
            for repeat, pair in enumerate(halves):
                draws = Draws(self._config.train.seed, repeat, batch.ids, "halves")
                first = draws.uniform("half").numpy()[:, 0] < 0.5
                for summary, mine in zip(pair, (first, ~first), strict=True):
                    summary.update(batch.showers[mine], batch.conditions[mine, 0])
        numbers = [self._monitor.numbers(*(self._summed(half) for half in pair)) for pair in halves]
        # Of few showers a half may leave a bin of energy empty, which then has no numbers.
        names = [name for name in numbers[0] if all(name in values for values in numbers)]
        return {name: float(np.mean([values[name] for values in numbers])) for name in names}

    def _read(self) -> Any:
        """Sums over the split's showers on all ranks; remembers this rank's conditions and the examples."""
        if not self._monitor.settled:
            self._settle()
        summary = self._monitor.summary()
        examples: np.ndarray | None = None
        for batch in self._batches():
            if len(batch.ids):
                self._conditions.append((batch.ids, batch.conditions))
                summary.update(batch.showers, batch.conditions[:, 0])
                examples = batch.showers[:EXAMPLES].copy() if examples is None else examples
        # Of few showers some ranks have none, rank 0 too: the first rank that has some shares its examples.
        world = self._communicator.world
        source = torch.tensor([world.size if examples is None else world.rank])
        self._communicator.all_reduce(source, "min")
        self._source = int(source)
        energies = self._conditions[0][1][:EXAMPLES, 0] if self._conditions else np.empty(0)
        mine = None if examples is None else (examples, energies)
        self._examples = self._communicator.broadcast_object(mine, self._source)
        return self._summed(summary)

    def _batches(self) -> Any:
        world = self._communicator.world
        size = min(BATCH_PER_RANK * world.size, self.samples)
        loader = evaluation_loader(
            self._manifest,
            self._config.data,
            self._split,
            global_batch_size=size,
            rank=world.rank,
            size=world.size,
        )
        with loader:
            yield from itertools.islice(loader, -(-self._config.train.validation_showers // size))

    def _settle(self) -> None:
        """Let the monitor decide its bins from all showers of the split, the same on all ranks."""
        each = (self._monitor.extremes(batch.showers, batch.conditions[:, 0]) for batch in self._batches())
        found = torch.from_numpy(functools.reduce(np.maximum, each))
        self._communicator.all_reduce(found, "max")
        self._monitor.settle(found.numpy())

    def _summed(self, summary: Any) -> Any:
        vector = torch.from_numpy(summary.to_vector())
        self._communicator.all_reduce(vector)
        return summary.from_vector(vector.numpy())
