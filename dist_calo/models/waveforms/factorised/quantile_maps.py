"""Monotone maps between standard normal scores and values whose distribution depends on a covariate."""

from math import erf, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]

LEVELS = 45
"""Quantiles of a distribution that are kept."""
LARGEST_SCORE = 3.3
"""Scores beyond are cut off: one value in a thousand."""


class QuantileMap(nn.Module):
    """``value = Q(score, covariate)``: quantiles at some knots of the covariate, linear between knots and levels.

    Args:
        classes: number of the distribution that each channel follows, shape (n,).
        knots: how many values of the covariate have quantiles of their own.
    """

    classes: Tensor
    knots: Tensor
    table: Tensor
    scores: Tensor

    def __init__(self, classes: list[int], knots: int) -> None:
        super().__init__()
        scores = torch.linspace(-LARGEST_SCORE, LARGEST_SCORE, LEVELS)
        self.register_buffer("classes", torch.tensor(classes))
        self.register_buffer("knots", torch.arange(float(knots)))
        self.register_buffer("scores", scores)
        self.register_buffer("table", scores.repeat(max(classes) + 1, knots, 1))

    def to_value(self, score: Tensor, covariate: Tensor) -> Tensor:
        """Return the values of scores, given the covariate; both of shape (B, n)."""
        rows = self._rows(covariate)
        place = (score.clamp(-LARGEST_SCORE, LARGEST_SCORE) - self.scores[0]) / (
            self.scores[1] - self.scores[0]
        )
        low = place.detach().long().clamp(0, LEVELS - 2)
        left, right = _at(rows, low), _at(rows, low + 1)
        return left + (place - low) * (right - left)

    def to_score(self, value: Tensor, covariate: Tensor) -> Tensor:
        """Return the scores of values, given the covariate; both (B, n). Values beyond the table get its end."""
        rows = self._rows(covariate)
        low = ((rows <= value.unsqueeze(-1)).sum(-1) - 1).clamp(0, LEVELS - 2)
        left, right = _at(rows, low), _at(rows, low + 1)
        share = ((value - left) / (right - left)).clamp(0.0, 1.0)
        return self.scores[low] + share * (self.scores[1] - self.scores[0])

    def _rows(self, covariate: Tensor) -> Tensor:
        """Return the quantiles at a covariate of shape (B, n), shape (B, n, LEVELS)."""
        low, share = between(self.knots, covariate)
        left, right = self.table[self.classes, low], self.table[self.classes, low + 1]
        return torch.lerp(left, right, share.unsqueeze(-1))


def between(knots: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each value the knot before it and the fraction to the next one, 0 to 1; any shape."""
    low = (torch.searchsorted(knots, values.detach().contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
    share = (values - knots[low]) / (knots[low + 1] - knots[low])
    return low, share.clamp(0.0, 1.0)


def _at(rows: Tensor, index: Tensor) -> Tensor:
    return rows.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def quantile_table(values: Array, covariate: Array, knots: Array, *, narrow: float, step: float) -> Array:
    """Return the quantiles of values (n,) at knots of their covariate (n,), smoothed over neighbouring knots.

    Args:
        values: of one class of channels.
        covariate: what the distribution depends on.
        knots: rising, at least two.
        narrow: width of the smoothing in units of the distance between knots.
        step: least rise from one quantile to the next, so that the map can be turned around.

    Returns:
        Shape (knots, LEVELS), rising along the second axis.
    """
    scores = np.linspace(-LARGEST_SCORE, LARGEST_SCORE, LEVELS)
    chances = np.array([0.5 * (1.0 + erf(score / sqrt(2.0))) for score in scores])
    widths = narrow * np.gradient(knots)
    table = np.empty((len(knots), LEVELS))
    order = np.argsort(values)
    for row, (knot, width) in enumerate(zip(knots, widths, strict=True)):
        weights = np.exp(-0.5 * ((covariate - knot) / width) ** 2) + 1e-12
        sums = np.cumsum(weights[order])
        table[row] = np.interp(chances, (sums - 0.5 * weights[order]) / sums[-1], values[order])
    return np.asarray(np.maximum.accumulate(table, axis=1) + step * np.arange(LEVELS))
