"""Generated showers against held-out ones, on all ranks, each validation sample once."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from dist_calo.comm.protocol import Communicator
from dist_calo.config import RunConfig
from dist_calo.data.blocks import Split, split_blocks
from dist_calo.data.loader import evaluation_loader
from dist_calo.data.shards import Manifest
from dist_calo.physics.observables import Bins, ShowerSummary, compared
from dist_calo.randomness import Draws
from dist_calo.training.restore import TrainedGenerator

EXAMPLES = 4
BATCH_PER_RANK = 64
ENERGY_BINS = 9


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a validation saw, the same on all ranks but for the examples, which rank 0 has."""

    real: ShowerSummary
    fake: ShowerSummary
    real_examples: np.ndarray
    """Geant4 showers, shape (n, ...), in GeV."""
    fake_examples: np.ndarray
    """Generated showers for the same conditions, shape (n, ...), in GeV."""
    energies: np.ndarray
    """Incident energies of the examples in GeV, shape (n,)."""

    @cached_property
    def _numbers(self) -> dict[str, float]:
        return compared(self.fake, self.real)

    @property
    def metrics(self) -> dict[str, float]:
        """The comparison in numbers, as logged."""
        values = {f"validation/{name}": value for name, value in self._numbers.items()}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        return {"validation/score": self.score, **finite}

    @property
    def score(self) -> float:
        """What the best checkpoint has least of: mean relative error of the profiles, plus that of the response."""
        profiles = [value for name, value in self._numbers.items() if name.startswith("profile_error/")]
        score = sum(profiles) / len(profiles) + abs(self._numbers["response_ratio"] - 1.0)
        return score if math.isfinite(score) else math.inf

    def pictures(self) -> dict[str, Callable[[], Any]]:
        """Functions that draw each picture, by name."""
        from dist_calo.physics import plots

        return {
            "pictures/profiles": partial(plots.profiles_figure, self.real, self.fake),
            "pictures/response": partial(plots.response_figure, self.real, self.fake),
            "pictures/spectrum": partial(plots.spectrum_figure, self.real, self.fake),
            "pictures/showers": partial(
                plots.showers_figure, self.real_examples, self.energies, self.fake_examples, self.energies
            ),
        }


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
        bins: how observables are binned; by default over the incident energies of the split.

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
        bins: Bins | None = None,
    ) -> None:
        self._config = config
        self._manifest = manifest
        self._generator = generator
        self._communicator = communicator
        self._split = split
        self._bins = bins
        self.samples = split_blocks(manifest, split, config.data).samples
        """Showers of the split."""
        self._real: ShowerSummary | None = None
        self._conditions: list[tuple[np.ndarray, np.ndarray]] = []
        self._examples: np.ndarray = np.empty(0)

    def run(self) -> Comparison:
        """Generate for every condition of the split and compare; collective."""
        if self._real is None:
            self._real = self._read()
        fake = ShowerSummary(self._manifest.geometry.shape, self._real.bins)
        examples: list[np.ndarray] = []
        for ids, conditions in self._conditions:
            draws = Draws(self._config.train.seed, 0, ids, self._split)
            showers = self._generator.generate(torch.from_numpy(conditions), draws).numpy()
            fake.update(showers, conditions[:, 0])
            examples = examples or [showers[:EXAMPLES]]
        first = self._conditions[0][1][:EXAMPLES, 0] if self._conditions else np.empty(0)
        return Comparison(
            real=self._real,
            fake=self._summed(fake),
            real_examples=self._examples,
            fake_examples=np.concatenate(examples) if examples else np.empty(0),
            energies=first,
        )

    def _read(self) -> ShowerSummary:
        """Sums over the split's showers on all ranks; remembers this rank's conditions and examples."""
        summary = ShowerSummary(self._manifest.geometry.shape, self._bins or self._equal_bins())
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

    def _equal_bins(self) -> Bins:
        """Bins of equal width over the incident energies of the split."""
        bounds = torch.tensor([-math.inf, -math.inf], dtype=torch.float64)
        for batch in self._batches():
            if len(batch.ids):
                energies = batch.conditions[:, 0]
                seen = torch.tensor([-float(energies.min()), float(energies.max())], dtype=torch.float64)
                bounds = torch.maximum(bounds, seen)
        self._communicator.all_reduce(bounds, "max")
        low, high = math.floor(-float(bounds[0])), math.ceil(float(bounds[1]))
        return Bins(energy=tuple(np.linspace(low, max(high, low + 1), ENERGY_BINS + 1).tolist()))

    def _summed(self, summary: ShowerSummary) -> ShowerSummary:
        vector = torch.from_numpy(summary.to_vector())
        self._communicator.all_reduce(vector)
        return summary.from_vector(vector.numpy())
