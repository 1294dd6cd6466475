"""Validation during training: an evaluation of the generator with fewer parts, on all ranks.

It compares one generated shower with each held-out one, over the same groups and by the same observables as
`dist_calo.evaluation`, and has the numbers that cost sums alone: no bins of incident energy, FPD, neighbours or
classifier.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from dist_calo.comm.protocol import Communicator
from dist_calo.config import RunConfig
from dist_calo.data.manifest import Manifest
from dist_calo.data.row_blocks import Split
from dist_calo.errors import DataError
from dist_calo.physics.metrics.evaluation import Evaluation, measured_sums
from dist_calo.physics.observables.examples import Examples
from dist_calo.physics.observables.observer import observer_of
from dist_calo.physics.observables.sample import Sample
from dist_calo.randomness import Draws
from dist_calo.training.restore import TrainedGenerator
from dist_calo.training.showers import GENERATED_AT_ONCE, Files, binning_of, first_of, merge

LOGGED = (
    "wasserstein_scaled",
    "shift",
    "shifts",
    "width",
    "widths",
    "missing",
    "response",
    "correlation",
    "profile_error",
)
"""Kinds of numbers that a validation logs."""
SHOWN = 3
"""Largest parts of the score that are shown beside it."""


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
    ) -> None:
        self._files = Files(
            manifest=manifest,
            config=config.data,
            split=split,
            most=config.train.validation_showers,
            threshold=0.0 if manifest.geometry.signed else generator.transform.threshold,
        )
        self._seed, self._split = config.train.seed, split
        self._generator = generator
        self._communicator = communicator
        self.samples = self._files.showers
        """Showers of the split that are compared."""
        if not self.samples:
            fraction = getattr(config.data, f"{split}_fraction")
            raise DataError(
                f"data.{split}_fraction={fraction:g} keeps no showers for the {split} split, and a comparison needs at "
                f"least one: train with a higher data.{split}_fraction"
            )
        self._real: Sample | None = None
        self._conditions: list[tuple[np.ndarray, np.ndarray]] = []
        """Numbers and conditions of this rank's showers."""
        self._examples: tuple[np.ndarray, ...] = ()

    def run(self, repeat: int = 0) -> Evaluation:
        """Generate for every condition of the split and compare; collective.

        Args:
            repeat: another number draws other random numbers for the same conditions.
        """
        real = self._real = self._real or self._read()
        fake = self._like(real)
        for ids, conditions in self._conditions:
            fake.add(ids, self._generated(ids, conditions, repeat), conditions)
        merge(fake, self._communicator)
        # One rank computes for all: what is decided by these numbers must be the same on machines that round otherwise.
        first = self._communicator.world.rank == 0
        slots, whole = self._communicator.broadcast_object(
            measured_sums(real, fake, paired=True, brief=True) if first else None
        )
        ids, showers, conditions = self._examples
        beside = np.nan_to_num(self._generated(ids, conditions, repeat), posinf=0.0, neginf=0.0)
        return Evaluation(
            geometry=self._files.manifest.geometry,
            real=real,
            fake=fake,
            slots=slots,
            whole=whole,
            examples=Examples(real=showers, fake=beside, energies=conditions[:, 0]),
        )

    def _generated(self, ids: np.ndarray, conditions: np.ndarray, repeat: int) -> np.ndarray:
        draws = Draws(self._seed, repeat, ids, self._split)
        return np.asarray(self._generator.generate(torch.from_numpy(conditions), draws).numpy())

    def _read(self) -> Sample:
        """Sum the split's showers over all ranks; keep this rank's conditions, and the examples."""
        geometry = self._files.manifest.geometry
        observer = observer_of(geometry)
        binning = binning_of(self._files, observer, self._communicator)
        sample = Sample(observer, binning, geometry.shape, brief=True)
        for ids, showers, conditions in self._files.batches(self._communicator):
            sample.add(ids, showers, conditions)
            for first in range(0, len(ids), GENERATED_AT_ONCE):
                part = slice(first, first + GENERATED_AT_ONCE)
                self._conditions.append((ids[part], conditions[part]))
        merge(sample, self._communicator)
        self._examples = first_of(self._files, self._communicator)
        return sample

    @staticmethod
    def _like(real: Sample) -> Sample:
        return Sample(real.observer, real.binning, real.shape, brief=True)


def logged_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return the numbers of a validation that are logged, by the names of metrics."""
    return {f"validation/{name}": value for name, value in evaluation.values(LOGGED).items()}


def in_words(evaluation: Evaluation) -> str:
    """Return the score with its error and floor, and its largest parts."""
    score, terms = evaluation.score, evaluation.score_terms
    largest = ", ".join(
        f"{name.removeprefix('wasserstein_scaled/')} {value:.3g}"
        for name, value in list(terms.items())[:SHOWN]
    )
    return f"score {score.value:.4g} +- {score.error:.2g}  floor {score.floor:.3g}  largest: {largest}"


def pictures(evaluation: Evaluation) -> dict[str, Callable[[], Any]]:
    """Return functions that draw each picture of a validation, by name."""
    from dist_calo.physics.report import figures_matrices, figures_observables, figures_profiles
    from dist_calo.physics.report.figures_showers import examples_drawing

    observer = evaluation.observer
    singles = [
        figures_observables.columns_of(evaluation, group)[0]
        for group in figures_observables.single_groups(evaluation)
        if group in observer.summary_groups
    ]
    drawn: dict[str, Callable[[], Any]] = {
        "response": partial(figures_profiles.response_figure, evaluation),
        "profiles": partial(figures_profiles.profiles_figure, evaluation, -1),
        "observables": partial(figures_observables.histograms_figure, evaluation, -1, singles),
        "correlations": partial(figures_matrices.correlations_figure, evaluation, "observables"),
        "showers": lambda: examples_drawing(evaluation).figure,
    }
    return {f"pictures/{name}": draw for name, draw in drawn.items()}
