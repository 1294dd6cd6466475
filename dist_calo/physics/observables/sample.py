"""Sums over each group of a sample, and whole rows of a random share of its showers.

The sums do not grow with the number of showers. For F observables, K bins of incident energy and V cells they take
about ``64 * (400 F + 80 K F + F^2 + 2 V) * 8`` bytes: 60 MB for 100 observables of 25x25x25 cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dist_calo.physics.observables.energy_bins import COARSE_BINS, FINE, MARGIN_BINS, Binning
from dist_calo.physics.observables.features import PAIR_SUMS, columns_by_group, correlations, pair_sums
from dist_calo.physics.observables.groups import GROUPS, groups_of, share_of
from dist_calo.physics.observables.observer import FAULTS, LEFT_OUT, SOUND, Observer, faults_of
from dist_calo.physics.observables.rows import Rows
from dist_calo.physics.observables.sums import SumState

BINS = COARSE_BINS + 2 * MARGIN_BINS
FARTHEST = 1e3
"""Standard deviations from the Geant4 showers' median at which an observable is clipped in moments, bins and rows."""


def correlation_sets(observer: Observer, brief: bool = False) -> dict[str, np.ndarray]:
    """Return sets of columns to correlate, by name: those of each group of several, and the chosen few.

    If brief, of the groups only those that the score sees.
    """
    names = [feature.name for feature in observer.features]
    chosen = np.array([names.index(name) for name in observer.correlated])
    sets = {**columns_by_group(observer.features), "observables": chosen}
    seen = {"correlation/observables", *observer.scored}
    return {
        name: columns
        for name, columns in sets.items()
        if len(columns) > 1 and (not brief or f"correlation/{name}" in seen)
    }


class Sample(SumState):
    """Mergeable sums over the showers of a sample, and the rows of a random share of them.

    Args:
        observer: measures the observables.
        binning: bins of both samples of a comparison.
        shape: of a shower.
        share: of the showers whose rows are kept.
        with_showers: whether their cells are kept as well.
        brief: without what costs most: histograms in bins of incident energy, products of all observables (for the
            FPD), and correlations that the score does not see.
    """

    def __init__(
        self,
        observer: Observer,
        binning: Binning,
        shape: tuple[int, ...],
        share: float = 0.0,
        with_showers: bool = False,
        brief: bool = False,
    ) -> None:
        self.observer, self.binning, self.shape = observer, binning, shape
        self.sets = correlation_sets(observer, brief)
        self.response_column = [feature.group for feature in observer.features].index("response")
        self._share, self._with_showers, self._brief = share, with_showers, brief
        self._rows: list[Rows] = []
        width, bins = len(observer.features), binning.slots - 1
        slots = (GROUPS, bins + 1)  # each bin of incident energy, the last for showers outside of all bins
        profiles = {name: profile.width for name, profile in observer.profiles.items()}
        super().__init__(
            {
                "count": slots,
                "wild": (GROUPS,),
                "faults": (GROUPS, len(FAULTS)),
                "energy": slots,
                **dict.fromkeys(("seen", "sum", "square"), (*slots, width)),
                "fine": (GROUPS, width, BINS * FINE),
                **dict.fromkeys(("below", "above"), (GROUPS, width)),
                **({} if brief else self._long_sums(width, bins)),
                **{
                    f"{part} {name}": (GROUPS, len(columns), len(columns))
                    for name, columns in self.sets.items()
                    for part in PAIR_SUMS
                },
                **{f"profile {name}": (*slots, size) for name, size in profiles.items()},
                **{f"profile squared {name}": (*slots, size) for name, size in profiles.items()},
                "image": (GROUPS, int(np.prod(shape))),
                "image squared": (int(np.prod(shape)),),
            }
        )

    @staticmethod
    def _long_sums(width: int, bins: int) -> dict[str, tuple[int, ...]]:
        return {
            "coarse": (GROUPS, bins, width, BINS),
            **dict.fromkeys(("below in bin", "above in bin"), (GROUPS, bins, width)),
            "products": (GROUPS, width, width),
        }

    def add(self, ids: np.ndarray, showers: np.ndarray, conditions: np.ndarray) -> None:
        """Add showers; those whose faults would make every sum NaN are only counted.

        Args:
            ids: their numbers in the sample, each once over all ranks, shape (n,).
            showers: shape (n, *shape).
            conditions: incident energy in GeV and the geometry's other conditions, shape (n, C).
        """
        if not len(ids):
            return
        faults = faults_of(self.observer.geometry, showers, conditions)
        kept = faults >= LEFT_OUT
        self._count_faults(ids[~kept], faults[~kept])
        if not kept.all():
            ids, showers, conditions, faults = ids[kept], showers[kept], conditions[kept], faults[kept]
        if not len(ids):
            return
        observed = self.observer.observe(showers, conditions)
        far = self._far_off(observed.columns[:, self.response_column])
        self._count_faults(ids, np.where((faults == SOUND) & far, list(FAULTS).index("response"), faults))
        groups, slots = groups_of(ids), self.binning.slot_of(conditions[:, 0])
        scaled, seen = self._scaled(observed.columns)
        self._add_moments(groups, slots, scaled, seen, conditions, observed.profiles)
        self._add_histograms(groups, slots, observed.columns, seen)
        self._add_pairs(groups, scaled, seen)
        self._add_image(groups, showers.reshape(len(showers), -1))
        kept = share_of(ids, self._share)
        if kept.any():
            cells = showers[kept].astype(np.float32) if self._with_showers else None
            self._rows.append(Rows(observed.columns[kept], conditions[kept], groups[kept], ids[kept], cells))

    def _far_off(self, response: np.ndarray) -> np.ndarray:
        """Return whether responses (n,) are under half or over twice those of the reference."""
        low, high = (float(ends[-1, self.response_column]) for ends in (self.binning.low, self.binning.high))
        return (
            (response < low / 2) | (response > 2 * high) if low > 0 else np.zeros(len(response), dtype=bool)
        )

    def _count_faults(self, ids: np.ndarray, faults: np.ndarray) -> None:
        bad = faults < SOUND
        np.add.at(self.sums["faults"], (groups_of(ids[bad]), faults[bad]), 1.0)

    def _scaled(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return observables in Geant4 standard deviations from the median, 0 where missing, and where they exist.

        Clipped at `FARTHEST`, or one shower of a diverged generator would dominate all sums.
        """
        seen = np.isfinite(columns)
        scaled = np.clip((columns - self.binning.centre) / self.binning.scale, -FARTHEST, FARTHEST)
        return np.where(seen, scaled, 0.0), seen

    def _add_moments(
        self,
        groups: np.ndarray,
        slots: np.ndarray,
        scaled: np.ndarray,
        seen: np.ndarray,
        conditions: np.ndarray,
        profiles: Mapping[str, np.ndarray],
    ) -> None:
        np.add.at(self.sums["wild"], groups, (np.abs(scaled) >= FARTHEST).any(axis=1).astype(np.float64))
        rows = {
            "count": np.ones((len(groups), 1)),
            "energy": conditions[:, :1].astype(np.float64),
            "seen": seen.astype(np.float64),
            "sum": scaled,
            "square": scaled**2,
            **{f"profile {name}": values.astype(np.float64) for name, values in profiles.items()},
            **{
                f"profile squared {name}": values.astype(np.float64) ** 2 for name, values in profiles.items()
            },
        }
        places = groups * self.binning.slots + slots
        for name, values in rows.items():
            totals, cells = _summed_by(places, values)
            self.sums[name].reshape(GROUPS * self.binning.slots, -1)[cells] += totals

    def _add_histograms(
        self, groups: np.ndarray, slots: np.ndarray, columns: np.ndarray, seen: np.ndarray
    ) -> None:
        sums, bins = self.sums, self.binning.slots - 1
        centre, far = self.binning.centre, FARTHEST * self.binning.scale
        columns = np.clip(columns, centre - far, centre + far)
        self._add_binned((sums["fine"], sums["below"], sums["above"]), groups, -1, columns, seen)
        inside = slots < bins
        if inside.any() and not self._brief:
            slot, totals = slots[inside], (sums["coarse"], sums["below in bin"], sums["above in bin"])
            self._add_binned(totals, groups[inside] * bins + slot, slot, columns[inside], seen[inside])

    def _add_binned(
        self,
        sums: tuple[np.ndarray, np.ndarray, np.ndarray],
        places: np.ndarray,
        slot: int | np.ndarray,
        columns: np.ndarray,
        seen: np.ndarray,
    ) -> None:
        """Add values (n, F) to a histogram and to the sums of what lies below and above all of its bins."""
        histogram, *beyond = sums
        low, high = self.binning.low[slot], self.binning.high[slot]
        with np.errstate(invalid="ignore"):
            place = np.where(seen, (columns - low) / (high - low), 0.0)
        margin, width = MARGIN_BINS / COARSE_BINS, columns.shape[1]
        for total, excess in zip(beyond, (-margin - place, place - 1.0 - margin), strict=True):
            added, cells = _summed_by(places, np.maximum(excess, 0.0) * (high - low))
            total.reshape(-1, width)[cells] += added
        number = places[:, None] * width + np.arange(width)
        _count(histogram, number, place, seen, histogram.shape[-1] // BINS)

    def _add_pairs(self, groups: np.ndarray, scaled: np.ndarray, seen: np.ndarray) -> None:
        order, starts, ends, cells = _runs(groups)
        for start, end, group in zip(starts, ends, cells, strict=True):
            x, m = scaled[order[start:end]], seen[order[start:end]].astype(np.float64)
            if not self._brief:
                self.sums["products"][group] += x.T @ x
            for name, chosen in self.sets.items():
                for part, total in pair_sums(x[:, chosen], m[:, chosen]).items():
                    self.sums[f"{part} {name}"][group] += total

    def _add_image(self, groups: np.ndarray, cells: np.ndarray) -> None:
        order, starts, ends, seen = _runs(groups)
        for start, end, group in zip(starts, ends, seen, strict=True):
            self.sums["image"][group] += cells[order[start:end]].sum(axis=0, dtype=np.float64)
        self.sums["image squared"] += np.einsum("bv,bv->v", cells, cells)

    @property
    def count(self) -> int:
        """Showers that were measured."""
        return int(self.sums["count"].sum())

    @property
    def faults(self) -> dict[str, int]:
        """Showers with each of `FAULTS`, by name; faults that do not occur are absent."""
        counts = self.sums["faults"].sum(axis=0).astype(int).tolist()
        return {name: count for name, count in zip(FAULTS, counts, strict=True) if count}

    @property
    def left_out(self) -> int:
        """Showers counted as faulty and excluded from all sums; `count` is without them."""
        return int(self.sums["faults"][:, :LEFT_OUT].sum())

    @property
    def wild(self) -> int:
        """Showers with an observable `FARTHEST` standard deviations from the Geant4 showers' median, or farther."""
        return int(self.sums["wild"].sum())

    @property
    def outside(self) -> int:
        """Showers outside of all bins of incident energy."""
        return int(self.sums["count"][:, -1].sum())

    @property
    def rows(self) -> Rows:
        """The rows kept by this process, in no particular order."""
        if not self._rows:
            cells = np.empty((0, *self.shape), dtype=np.float32) if self._with_showers else None
            width = len(self.observer.features)
            none = np.empty(0, dtype=np.int64)
            return Rows(np.empty((0, width)), np.empty((0, 1)), none, none, cells)
        if len(self._rows) > 1:
            self._rows = [Rows.joined(self._rows)]
        return self._rows[0]

    @rows.setter
    def rows(self, rows: Rows) -> None:
        self._rows = [rows]

    def of(self, groups: np.ndarray) -> "GroupSums":
        """Return the sums over these groups."""
        return GroupSums(self, groups)


@dataclass
class GroupSums:
    """Sums over some groups of a sample; a slot is a bin of incident energy, the last one is all showers."""

    sample: Sample
    groups: np.ndarray
    _known: dict[str, np.ndarray] = field(default_factory=dict)

    def total(self, name: str) -> np.ndarray:
        """Return a sum of the sample over these groups."""
        if name not in self._known:
            # Added in place: a copy of all of these groups costs seven times as much.
            first, *others = self.groups
            total = self.sample.sums[name][first].copy()
            for group in others:
                total += self.sample.sums[name][group]
            self._known[name] = total
        return self._known[name]

    def in_slot(self, name: str, slot: int) -> np.ndarray:
        """Return a sum over the showers of a slot."""
        total = self.total(name)
        return np.asarray(total.sum(axis=0) if self.is_whole(slot) else total[slot])

    def is_whole(self, slot: int) -> bool:
        """Return whether a slot is that of all showers."""
        return slot in (-1, self.sample.binning.slots - 1)

    def count(self, slot: int) -> float:
        """Return the number of showers in a slot."""
        return float(self.in_slot("count", slot))

    def mean(self, slot: int) -> np.ndarray:
        """Return the mean of each observable in its unit, shape (F,); NaN where no shower has one."""
        binning = self.sample.binning
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.in_slot("sum", slot) / self.in_slot("seen", slot)
        return np.asarray(binning.centre + binning.scale * mean)

    def deviation(self, slot: int) -> np.ndarray:
        """Return the standard deviation of each observable in its unit, shape (F,)."""
        seen = self.in_slot("seen", slot)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.in_slot("sum", slot) / seen
            variance = (self.in_slot("square", slot) / seen - mean**2) * seen / (seen - 1)
        return np.asarray(self.sample.binning.scale * np.sqrt(np.maximum(variance, 0.0)))

    def fraction(self, slot: int) -> np.ndarray:
        """Return the share of the showers that have each observable, shape (F,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.in_slot("seen", slot) / self.count(slot))

    def histograms(self, slot: int, fine: bool = False) -> np.ndarray:
        """Return the histogram of each observable, margins included, shape (F, BINS) or, fine, (F, BINS * FINE)."""
        if not self.is_whole(slot):
            return np.asarray(self.total("coarse")[slot])
        counts = self.total("fine")
        return counts if fine else np.asarray(counts.reshape(len(counts), BINS, FINE).sum(axis=2))

    def excess(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum of the distances of values below all bins, and above, from them, in their unit, each (F,)."""
        ends = ("below", "above")
        if self.is_whole(slot):
            return self.total(ends[0]), self.total(ends[1])
        return self.total(f"{ends[0]} in bin")[slot], self.total(f"{ends[1]} in bin")[slot]

    def edges(self, slot: int, column: int, fine: bool = False) -> np.ndarray:
        """Return the edges of these bins of an observable in its unit."""
        binning, parts = self.sample.binning, FINE if fine else 1
        low, high = float(binning.low[slot, column]), float(binning.high[slot, column])
        margin = (high - low) * MARGIN_BINS / COARSE_BINS
        return np.linspace(low - margin, high + margin, BINS * parts + 1)

    def correlation(self, name: str) -> np.ndarray:
        """Return Pearson's correlations of a set of observables over the showers that have both, shape (k, k)."""
        return correlations(*(self.total(f"{part} {name}") for part in PAIR_SUMS))

    def profile(self, name: str, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean of a profile and its statistical error, each of shape (W,)."""
        count = self.count(slot)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.in_slot(f"profile {name}", slot) / count
            square = self.in_slot(f"profile squared {name}", slot) / count
            variance = (square - mean**2) * count / (count - 1)
            return mean, np.sqrt(np.maximum(variance, 0.0) / count)

    def image(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean shower and the variance of each cell over showers, each of the shape of a shower."""
        count, everything = self.count(-1), self.sample.count
        shape = self.sample.shape
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.total("image") / count
            whole = self.sample.sums["image"].sum(axis=0) / everything
            variance = np.maximum(self.sample.sums["image squared"] / everything - whole**2, 0.0)
        return mean.reshape(shape), variance.reshape(shape)


def _runs(places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows sorted by place, the start and end of the run of each place, and the places."""
    order = np.argsort(places, kind="stable")
    sorted_places = places[order]
    starts = np.flatnonzero(np.diff(sorted_places, prepend=-1))
    return order, starts, np.append(starts[1:], len(places)), sorted_places[starts]


def _summed_by(places: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum the rows (n, ...) of each place, shape (p, ...), and return the places too."""
    order, starts, _, cells = _runs(places)
    return np.add.reduceat(rows[order], starts, axis=0), cells


def _count(
    histogram: np.ndarray, number: np.ndarray, place: np.ndarray, seen: np.ndarray, parts: int
) -> None:
    """Count values in the histogram with this number; ``place`` is 0 at the low and 1 at the high end."""
    size = histogram.shape[-1]
    # Clip before the conversion: values of a diverged generator overflow integers.
    bins = np.clip(np.floor(place * (COARSE_BINS * parts)) + MARGIN_BINS * parts, 0, size - 1)
    flat = histogram.reshape(-1)
    np.add.at(flat, (number * size + bins.astype(np.int64))[seen], 1.0)
