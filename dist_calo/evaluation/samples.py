"""Generated showers against Geant4 ones on all ranks: each shower read once by one rank, sums merged at the end.

Every rank holds the sums of both samples (see `dist_calo.physics.observables.sample`), a few batches and its part of
the rows that are kept; nothing grows with the number of showers. At the end two all-reduces of these sums, some 60 MB
each, and one gathering of the rows, 4 MB for 5,000 showers of 100 observables, give every rank the same samples: those
that one rank would have, to rounding of sums.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from dist_calo.comm.protocol import Communicator
from dist_calo.errors import DataError
from dist_calo.geometry import Geometry
from dist_calo.physics.observables.energy_bins import BINNING_SHOWERS
from dist_calo.physics.observables.examples import Examples
from dist_calo.physics.observables.observer import observer_of
from dist_calo.physics.observables.sample import Sample
from dist_calo.randomness import Draws
from dist_calo.training.restore import TrainedGenerator
from dist_calo.training.showers import EXAMPLES, GENERATED_AT_ONCE, Files, binning_of, first_of, merge


class FakeShowers(Protocol):
    """Source of generated showers."""

    @property
    def paired(self) -> bool:
        """True if there is one for each shower of the reference, of the same number and conditions."""

    @property
    def described(self) -> str:
        """Origin of the showers, in words that follow their number."""

    def count(self, reference: Files) -> int:
        """Return how many there are."""

    def fill(self, real: Sample, fake: Sample, reference: Files, communicator: Communicator) -> "Speed":
        """Add the showers of both samples, and tell what generating took on this rank."""

    def beside(self, ids: np.ndarray, conditions: np.ndarray, communicator: Communicator) -> np.ndarray:
        """Return a shower for each of some of the reference, of its energy or one near; collective."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Time that generating took."""

    showers: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FilesOf:
    """Generated showers that lie in files; they may tell more conditions than the reference does."""

    files: Files

    @property
    def paired(self) -> bool:
        """True if there is one for each shower of the reference, of the same number and conditions."""
        return False

    @property
    def described(self) -> str:
        """Origin of the showers, in words that follow their number."""
        return f"of {self.files.config.described}"

    def count(self, reference: Files) -> int:
        """Return how many there are."""
        return self.files.showers

    def fill(self, real: Sample, fake: Sample, reference: Files, communicator: Communicator) -> Speed:
        """See `FakeShowers`."""
        for batch in reference.batches(communicator):
            real.add(*batch)
        wanted = _columns(reference.manifest.geometry, self.files.manifest.geometry)
        for ids, showers, conditions in self.files.batches(communicator):
            fake.add(ids, showers, conditions[:, wanted])
        return Speed()

    def beside(self, ids: np.ndarray, conditions: np.ndarray, communicator: Communicator) -> np.ndarray:
        """See `FakeShowers`."""
        _, candidates, theirs = first_of(self.files, communicator, 32 * EXAMPLES)
        distance = np.abs(theirs[:, 0] - conditions[:, :1])
        nearest = np.where(np.isfinite(distance), distance, np.inf).argmin(axis=1)
        return np.asarray(candidates[nearest])


@dataclass(frozen=True, kw_only=True)
class GeneratedFor:
    """Showers generated for the conditions of the reference, one for each of its showers.

    The reference may have more conditions than the generator knows.
    """

    generator: TrainedGenerator
    known: Geometry
    """Read-out of the reference."""
    seed: int = 0

    @property
    def paired(self) -> bool:
        """True if there is one for each shower of the reference, of the same number and conditions."""
        return True

    @property
    def described(self) -> str:
        """Origin of the showers, in words that follow their number."""
        return "generated for the same conditions"

    def count(self, reference: Files) -> int:
        """Return how many there are."""
        return reference.showers

    def fill(self, real: Sample, fake: Sample, reference: Files, communicator: Communicator) -> Speed:
        """See `FakeShowers`."""
        made, seconds = 0, 0.0
        for ids, showers, conditions in reference.batches(communicator):
            real.add(ids, showers, conditions)
            for first in range(0, len(ids), GENERATED_AT_ONCE):
                part = slice(first, first + GENERATED_AT_ONCE)
                began = time.perf_counter()
                generated = self._showers_for(ids[part], conditions[part])
                seconds += time.perf_counter() - began
                fake.add(ids[part], generated, conditions[part])
            made += len(ids)
        return Speed(showers=made, seconds=seconds)

    def beside(self, ids: np.ndarray, conditions: np.ndarray, communicator: Communicator) -> np.ndarray:
        """See `FakeShowers`."""
        return self._showers_for(ids, conditions)

    def _showers_for(self, ids: np.ndarray, conditions: np.ndarray) -> np.ndarray:
        draws = Draws(self.seed, 0, ids, "evaluate")
        wanted = torch.from_numpy(conditions[:, _columns(self.generator.geometry, self.known)])
        return np.asarray(self.generator.generate(wanted, draws).numpy())


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Both samples and examples, merged, the same on all ranks."""

    real: Sample
    fake: Sample
    examples: Examples
    speed: Speed


def _columns(wanted: Geometry, there: Geometry) -> list[int]:
    """Return places of the conditions of one read-out among those of another one, which has them all."""
    return [there.conditions.index(name) for name in wanted.conditions]


def require_same_readout(real: Geometry, fake: Geometry, *, generates: bool = False) -> None:
    """Check that showers of two read-outs may be compared, and that each condition that is needed is known.

    Args:
        real: of the reference.
        fake: of the generated showers.
        generates: whether these are made for the conditions of the reference, which must have those of the generator;
            else theirs must have those of the reference.

    Raises:
        DataError: if they differ in kind or shape, or a condition is not known.
    """
    needs, has = (fake, real) if generates else (real, fake)
    lacking = [name for name in needs.conditions if name not in has.conditions]
    if lacking:
        asks, tells = "the generator", "the reference"
        if not generates:
            asks, tells = tells, "the sample of --fake"
        raise DataError(
            f"{asks} has {' and '.join(lacking)}, {tells} tells {' and '.join(has.conditions)} only: add the data set "
            f"{lacking[0]} to its files"
        )
    for what in ("kind", "shape"):
        mine, other = getattr(real, what), getattr(fake, what)
        if mine != other:
            raise DataError(
                f"the generated showers have {what} {other}, the reference has {mine}: compare showers of one detector"
            )


def collect(
    reference: Files,
    fake: FakeShowers,
    communicator: Communicator,
    *,
    edges: tuple[float, ...] | None = None,
    rows: int = 5000,
    with_showers: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Samples:
    """Read, generate and observe both samples; collective.

    Args:
        reference: the Geant4 showers.
        fake: the generated ones.
        communicator: the ranks.
        edges: of the bins of incident energy in GeV; by default what the reference suggests.
        rows: showers of each sample whose observables are kept, about.
        with_showers: keep the cells of these showers too.
        say: told what is being done.

    Raises:
        DataError: if a file is damaged, or no shower lies in the bins.
    """
    geometry = reference.manifest.geometry
    observer = observer_of(geometry)
    say(f"deciding the bins from {min(reference.showers, BINNING_SHOWERS):,} showers")
    binning = binning_of(reference, observer, communicator, edges)
    counts = reference.showers, fake.count(reference)
    real_sample, fake_sample = (
        Sample(observer, binning, geometry.shape, share=min(1.0, rows / count), with_showers=with_showers)
        for count in counts
    )
    say(f"observing {counts[0]:,} and {counts[1]:,} showers")
    speed = fake.fill(real_sample, fake_sample, reference, communicator)
    say("merging the ranks' sums")
    for sample in (real_sample, fake_sample):
        merge(sample, communicator)
    speeds = communicator.all_gather_object((speed.showers, speed.seconds))
    total = Speed(showers=sum(s for s, _ in speeds), seconds=sum(t for _, t in speeds))
    ids, showers, conditions = first_of(reference, communicator)
    # Pictures show what is no number as nothing.
    beside = np.nan_to_num(fake.beside(ids, conditions, communicator), posinf=0.0, neginf=0.0)
    examples = Examples(real=showers, fake=beside, energies=conditions[:, 0])
    return Samples(real=real_sample, fake=fake_sample, examples=examples, speed=total)
