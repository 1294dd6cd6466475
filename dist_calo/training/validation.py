"""Generated showers against held-out ones, on all ranks, each validation sample once."""

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
from dist_calo.data.blocks import Split, split_blocks
from dist_calo.data.loader import evaluation_loader
from dist_calo.data.shards import Manifest
from dist_calo.errors import DataError
from dist_calo.physics.views import Examples, View, view_of
from dist_calo.randomness import Draws
from dist_calo.training.restore import TrainedGenerator

EXAMPLES = 4
BATCH_PER_RANK = 64


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a validation saw, the same on all ranks but for the examples, which rank 0 has."""

    view: View
    real: Any
    """Summary of the Geant4 showers."""
    fake: Any
    """Summary of the showers generated for the same conditions."""
    examples: Examples

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The comparison in numbers, by name; NaN where neither sample tells."""
        return self.view.numbers(self.fake, self.real)

    @property
    def metrics(self) -> dict[str, float]:
        """The comparison in numbers, as logged."""
        values = {f"validation/{name}": value for name, value in self.numbers.items()}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        return {"validation/score": self.score, **finite}

    @property
    def headlines(self) -> dict[str, float]:
        """The score and the few numbers that are shown at a glance."""
        return {"score": self.score} | {
            name: self.numbers[name] for name in self.view.headlines if name in self.numbers
        }

    @property
    def score(self) -> float:
        """What the best checkpoint has least of."""
        score = self.view.score(self.numbers)
        return score if math.isfinite(score) else math.inf

    def pictures(self) -> dict[str, Callable[[], Any]]:
        """Functions that draw each picture, by name."""
        drawn = self.view.pictures(self.real, self.fake, self.examples)
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
        view: how showers are looked at; by default that of the geometry.

    Raises:
        DataError: if the split is empty though its fraction is not 0.
    """

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        generator: TrainedGenerator,
        communicator: Communicator,
        split: Split = "validation",
        view: View | None = None,
    ) -> None:
        self._config = config
        self._manifest = manifest
        self._generator = generator
        self._communicator = communicator
        self._split = split
        self._view = view or view_of(manifest.geometry)
        self.samples = split_blocks(manifest, split, config.data).samples
        """Showers of the split."""
        self._real: Any = None
        self._conditions: list[tuple[np.ndarray, np.ndarray]] = []
        self._examples: np.ndarray = np.empty(0)

    def run(self, repeat: int = 0) -> Comparison:
        """Generate for every condition of the split and compare; collective.

        Args:
            repeat: another number draws other random numbers for the same conditions.
        """
        if self._real is None:
            self._real = self._read()
        fake = self._view.summary()
        examples: list[np.ndarray] = []
        for ids, conditions in self._conditions:
            draws = Draws(self._config.train.seed, repeat, ids, self._split)
            showers = self._generator.generate(torch.from_numpy(conditions), draws).numpy()
            fake.update(showers, conditions[:, 0])
            examples = examples or [showers[:EXAMPLES]]
        first = self._conditions[0][1][:EXAMPLES, 0] if self._conditions else np.empty(0)
        generated = np.concatenate(examples) if examples else np.empty(0)
        return Comparison(
            view=self._view,
            real=self._real,
            fake=self._summed(fake),
            examples=Examples(real=self._examples, fake=generated, energies=first),
        )

    def floor(self, repeats: int = 8) -> dict[str, float]:
        """The numbers of a comparison between two halves of the real showers, the mean of several halvings; collective.

        What a perfect generator of as many showers as half of the split would reach.
        """
        if not self._view.settled:
            self._settle()
        halves = [(self._view.summary(), self._view.summary()) for _ in range(repeats)]
        for batch in self._batches():
            for repeat, pair in enumerate(halves):
                draws = Draws(self._config.train.seed, repeat, batch.ids, "halves")
                first = draws.uniform("half").numpy()[:, 0] < 0.5
                for summary, mine in zip(pair, (first, ~first), strict=True):
                    summary.update(batch.showers[mine], batch.conditions[mine, 0])
        numbers = [self._view.numbers(*(self._summed(half) for half in pair)) for pair in halves]
        return {name: float(np.mean([values[name] for values in numbers])) for name in numbers[0]}

    def _read(self) -> Any:
        """Sums over the split's showers on all ranks; remembers this rank's conditions and examples."""
        if not self._view.settled:
            self._settle()
        summary = self._view.summary()
        for batch in self._batches():
            if len(batch.ids):
                self._conditions.append((batch.ids, batch.conditions))
                summary.update(batch.showers, batch.conditions[:, 0])
                self._examples = self._examples if self._examples.size else batch.showers[:EXAMPLES].copy()
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
        """Let the view decide its bins from all showers of the split, the same on all ranks."""
        found: torch.Tensor | None = None
        for batch in self._batches():
            seen = torch.from_numpy(self._view.extremes(batch.showers, batch.conditions[:, 0]))
            found = seen if found is None else torch.maximum(found, seen)
        if found is None:
            raise DataError(f"the {self._split} split has no showers: raise its fraction in data")
        self._communicator.all_reduce(found, "max")
        self._view.settle(found.numpy())

    def _summed(self, summary: Any) -> Any:
        vector = torch.from_numpy(summary.to_vector())
        self._communicator.all_reduce(vector)
        return summary.from_vector(vector.numpy())
