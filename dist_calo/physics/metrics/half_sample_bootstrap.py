"""Errors and floors of metrics from random halves of the samples.

Every shower belongs to one of 64 groups (`dist_calo.physics.observables.groups`). Sums are kept for each group; a half
of a sample is the sum of 32 groups. A number that compares two samples is then taken many times between half of the
generated and half of the Geant4 showers, and between that half of the Geant4 showers and the other one:

- its **floor** is the mean of the latter: the value for a generator as good as Geant4 itself;
- its **error** is the standard deviation of the former, the half-sample bootstrap: a half drawn without replacement
  varies about the whole as the whole does about the truth (Efron, The Jackknife, the Bootstrap, 1982, ch. 8). Where
  the halves do not vary at all, because the generated sample lacks rare showers, the floor's spread is used instead;
- its distance from the floor in **sigmas** is (mean of the former - floor) / error. Both means compare samples of the
  same sizes, so that the bias of a non-negative distance cancels: where the samples differ in size, fewer than half
  of the groups of the larger one are used, except for the error.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from dist_calo.physics.observables.groups import GROUPS

HALVINGS = 50
"""Halvings from which errors and floors are taken; the error is known to a tenth."""
LEAST_SHOWERS = 20
"""Least number of showers of a sample for errors and floors."""

MOST_SIGMAS = 1000.0
"""Largest distance in sigmas; also that of a number without an error."""

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number that compares generated with Geant4 showers.

    Attributes:
        value: of all showers of both samples.
        error: its standard deviation.
        floor: the same number between two halves of the Geant4 showers. The floor of a distance between whole
            samples is lower, as they have twice as many showers.
        spread: standard deviation of one such number.
        sigmas: distance of the number from its floor, at equal statistics, in units of its error. Above 0 is worse;
            for a number that may have either sign, above 0 is more than Geant4's. NaN where it is not defined.
    """

    value: float
    error: float
    floor: float
    spread: float
    sigmas: float


@dataclass(frozen=True, kw_only=True)
class HalfSamples:
    """Groups of three parts of the samples."""

    real: np.ndarray
    """Half of the groups of the Geant4 showers."""
    rest: np.ndarray
    """Groups of the other half, as many as hold half as many showers as the generated sample, or all of them."""
    half: np.ndarray
    """Half of the groups of the generated showers."""
    fake: np.ndarray
    """All of them, or as many as hold half as many showers as the Geant4 sample."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """Sizes and pairing of the halves of two samples.

    Attributes:
        ratio: generated showers for each Geant4 shower.
        paired: whether a generated shower has the conditions of the Geant4 shower of the same number. Halves of both
            then hold the same groups: common fluctuations then cancel.
        count: number of random halves.
    """

    ratio: float = 1.0
    paired: bool = False
    count: int = HALVINGS


def half_samples(design: Design = Design(), seed: int = 0) -> Iterator[HalfSamples]:
    """Draw random halves, the same for the same seed."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    half = GROUPS // 2
    fewer_fake = max(1, min(half, round(half / design.ratio)))
    fewer_rest = max(1, min(half, round(half * design.ratio)))
    for _ in range(design.count):
        first, second = generator.permutation(GROUPS), generator.permutation(GROUPS)
        chosen = (first if design.paired else second)[:half]
        rest = first[half : half + fewer_rest]
        yield HalfSamples(real=first[:half], rest=rest, half=chosen, fake=chosen[:fewer_fake])


def measured(
    compare: Callable[[Part, Part], Mapping[str, float]],
    fake: Callable[[np.ndarray], Part],
    real: Callable[[np.ndarray], Part],
    design: Design = Design(),
) -> dict[str, Measured]:
    """Return `measured_arrays` of a comparison whose results are single numbers.

    Example:
        >>> def shift(fake, real):
        ...     return {"shift": fake.mean() - real.mean()}
        >>> real = np.linspace(0.0, 1.0, 64)
        >>> number = measured(shift, (real + 2.0).__getitem__, real.__getitem__)["shift"]
        >>> round(number.value, 6), bool(abs(number.floor) < number.error), bool(number.sigmas > 10)
        (2.0, True, True)
    """
    return {name: numbers[()] for name, numbers in measured_arrays(compare, fake, real, design).items()}


class MeasuredArray:
    """Arrays of the fields of `Measured`, all of one shape; an element is a `Measured`."""

    def __init__(self, value: ArrayLike, halves: np.ndarray, fewer: np.ndarray, floors: np.ndarray) -> None:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # A number that no pair of halves has stays NaN.
            warnings.simplefilter("ignore", RuntimeWarning)
            mean, floor = np.nanmean(fewer, axis=0), np.nanmean(floors, axis=0)
            error, spread = np.nanstd(halves, axis=0), np.nanstd(floors, axis=0)
            difference = mean - floor
            # Equal constants differ by rounding, which is neither a distance nor an error.
            rounding = 1e-12 * np.maximum(1.0, np.abs(floor))
            same = np.abs(difference) <= rounding
            error = np.where(error <= rounding, np.fmax(error, spread), error)
            sigmas = np.where(same, 0.0, np.clip(difference / error, -MOST_SIGMAS, MOST_SIGMAS))
        self._fields = (np.asarray(value), error, floor, spread, sigmas)

    def __getitem__(self, place: int | tuple[()]) -> Measured:
        value, error, floor, spread, sigmas = (float(field[place]) for field in self._fields)
        return Measured(value=value, error=error, floor=floor, spread=spread, sigmas=sigmas)


def measured_arrays(
    compare: Callable[[Part, Part], Mapping[str, ArrayLike]],
    fake: Callable[[np.ndarray], Part],
    real: Callable[[np.ndarray], Part],
    design: Design = Design(),
) -> dict[str, MeasuredArray]:
    """Return arrays of metrics with errors and floors; NaN where a metric cannot be computed.

    Args:
        compare: from a part of the generated and a part of the Geant4 showers to arrays, by name.
        fake: the part of the generated showers that lies in some groups.
        real: the same of the Geant4 showers.
        design: how the samples are halved.
    """
    everything = np.arange(GROUPS)
    values = compare(fake(everything), real(everything))
    halves, fewer, floors = [], [], []
    for samples in half_samples(design):
        part = real(samples.real)
        halves.append(compare(fake(samples.half), part))
        fewer.append(
            halves[-1] if len(samples.fake) == len(samples.half) else compare(fake(samples.fake), part)
        )
        floors.append(compare(real(samples.rest), part))
    return {
        name: MeasuredArray(value, *(_stacked(rows, name, value) for rows in (halves, fewer, floors)))
        for name, value in values.items()
    }


def _stacked(rows: Collection[Mapping[str, ArrayLike]], name: str, like: ArrayLike) -> np.ndarray:
    """Stack the arrays of all rows, NaN where a row has none or it is not finite."""
    unknown = np.full(np.shape(like), np.nan)
    stacked = np.stack([np.asarray(row.get(name, unknown), np.float64) for row in rows])
    return np.where(np.isfinite(stacked), stacked, np.nan)
