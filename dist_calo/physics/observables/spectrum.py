"""Cells of showers: the spectrum of their energies, counted by the first 16 bits of a float32, and the middle ones."""

import math
from collections.abc import Sequence

import numpy as np

CELLS_ABOVE = "cells above 10^n keV"
"""Label of the counts of `CellSpectrum.above_decades`."""
_INFINITY = 0x7F80  # the first 16 bits; above are those of NaN and of negative numbers


class CellSpectrum:
    """Histogram of cells in logarithmic bins of their energy, eight a decade.

    Args:
        low: lowest energy that is counted, in GeV.
        high: highest energy of a bin, in GeV; cells above are counted together.
    """

    def __init__(self, low: float, high: float) -> None:
        self.edges = spectrum_edges(low, high)
        """Edges of the S bins in GeV, shape (S + 1,)."""
        self._bin_of_cell = _bin_table(self.edges)

    def counts(self, showers: np.ndarray) -> np.ndarray:
        """Return the number of cells of each shower in each bin and, last, above all bins, (B, S + 1), float64.

        NaN cells are not counted.

        Args:
            showers: cell energies in GeV, shape (B, ...).
        """
        bins = len(self.edges)
        cells = math.prod(showers.shape[1:])
        bits = np.ascontiguousarray(showers, dtype=np.float32).reshape(len(showers), cells).view(np.uint32)
        spectra = np.empty((len(showers), bins))
        lowest = np.float32(self.edges[0]).view(np.uint32)
        # One shower at a time stays in the processor's cache. Where few cells are hit it pays to drop the others.
        for spectrum, shower in zip(spectra, bits, strict=True):
            seen = shower >= lowest
            sparse = 2 * np.count_nonzero(seen) < shower.size
            # A boolean index would need a branch for each cell.
            kept = shower.take(np.flatnonzero(seen)) if sparse else shower
            bin_of_cell = self._bin_of_cell.take((kept >> 16).astype(np.intp))
            spectrum[:] = np.bincount(bin_of_cell, minlength=bins + 1)[:-1]
        return spectra

    def above_decades(self, counts: np.ndarray, decades: Sequence[int]) -> np.ndarray:
        """Return the cells above 10^n keV, shape (B, len(decades)).

        Args:
            counts: what `counts` returned.
            decades: n, each with an energy among the bins.
        """
        # Edges are rounded to 0.4 %.
        places = [int(np.abs(np.log(self.edges / (1e-6 * 10.0**n))).argmin()) for n in decades]
        return cells_above(counts)[:, places]


def core_slice(cells: int) -> slice:
    """Return the middle three of an odd number of cells, or the middle two of an even one.

    Example:
        >>> core_slice(25), core_slice(12), core_slice(3)
        (slice(11, 14, None), slice(5, 7, None), slice(0, 3, None))
    """
    width = min(cells, 2 + cells % 2)
    return slice((cells - width) // 2, (cells + width) // 2)


def cells_above(counts: np.ndarray) -> np.ndarray:
    """Return the cells at or above the lower edge of each bin (B, S), from counts (B, S + 1) of a `CellSpectrum`."""
    return np.asarray(np.cumsum(counts[:, ::-1], axis=1)[:, :0:-1])


def spectrum_edges(low: float, high: float) -> np.ndarray:
    """Return the edges of the spectrum of cell energies, eight a decade, shape (S + 1,), in GeV.

    Each is rounded to a number whose float32 form ends in 16 zero bits, which is within 0.4 %: the first 16 bits of
    a cell's energy then tell its bin.
    """
    bins = max(1, round(8 * math.log10(high / low)))
    edges = np.geomspace(low, high, bins + 1).astype(np.float32)
    return (((edges.view(np.uint32) + 0x8000) >> 16) << 16).view(np.float32).astype(np.float64)


def _bin_table(edges: np.ndarray) -> np.ndarray:
    """Return the bin for each value of the first 16 bits of a float32; S is above the edges, S + 1 not counted."""
    values = (np.arange(_INFINITY, dtype=np.uint32) << 16).view(np.float32)
    bins = np.searchsorted(edges, values, side="right") - 1
    table = np.full(0x10000, len(edges), dtype=np.intp)
    table[:_INFINITY] = np.where(bins < 0, len(edges), bins)
    return table
