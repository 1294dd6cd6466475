"""Single showers of a sample: their observables and perhaps their cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Rows:
    """Observables, conditions and perhaps cells of single showers of a sample.

    Attributes:
        columns: observables, NaN where a shower has none, shape (n, F).
        conditions: shape (n, C).
        groups: shape (n,).
        ids: their numbers in the sample, shape (n,).
        showers: their cells, shape (n, *geometry.shape), float32; None if they are not kept.
    """

    columns: np.ndarray
    conditions: np.ndarray
    groups: np.ndarray
    ids: np.ndarray
    showers: np.ndarray | None = None

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """Concatenate the rows of all parts, at least one."""
        showers = [part.showers for part in parts if part.showers is not None]
        return cls(
            columns=np.concatenate([part.columns for part in parts]),
            conditions=np.concatenate([part.conditions for part in parts]),
            groups=np.concatenate([part.groups for part in parts]),
            ids=np.concatenate([part.ids for part in parts]),
            showers=np.concatenate(showers) if showers else None,
        )

    def of(self, groups: np.ndarray) -> "Rows":
        """Return the rows of these groups."""
        return self._chosen(np.isin(self.groups, groups))

    def sorted(self) -> "Rows":
        """Return the rows in the order of the sample, independent of ranks and batches."""
        return self._chosen(np.argsort(self.ids))

    def _chosen(self, places: np.ndarray) -> "Rows":
        showers = None if self.showers is None else self.showers[places]
        return Rows(
            self.columns[places], self.conditions[places], self.groups[places], self.ids[places], showers
        )
