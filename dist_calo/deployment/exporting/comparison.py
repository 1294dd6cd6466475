"""Comparison of an exported program with PyTorch: their showers, and how fast each is.

Both compute in float32 but in another order, so they agree to rounding. A cell is compared relative to its energy, or,
where it has less, to the least energy that counts as a hit or to 1e-4 of the shower's, whichever is more: below, a
model's cell may be the small difference of two large numbers, of which rounding is all that is left. (1e-4 of such a
cell is 1e-8 of its shower, less than the rounding of float32.)
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dist_calo.deployment.exporting.physical import PhysicalGenerator
from dist_calo.errors import CheckpointError
from dist_calo.geometry import Geometry, LayeredReadout
from dist_calo.physics.observables.layered_cells import hit_threshold
from dist_calo.physics.observables.voxel_grid import THRESHOLD
from dist_calo.randomness import Draws

Program = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Output of an exported program for its inputs in order, all float32."""

BATCH = 100
"""Showers that are made at a time."""
LEAST_SHARE = 1e-4
"""Cells below this share of their shower are compared relative to it."""
ALLOWED = 0.01
"""Share of the showers, at least one, that may have cells which differ by more: where a random number lies on the edge
of a decision, rounding takes it to either side."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Comparison of an exported program with PyTorch."""

    showers: int
    cells: int
    """Cells, or samples, that were compared."""
    visible: float
    """Largest relative difference of a shower's visible energy, or of the sum of the sizes of its samples."""
    cell: float
    """Largest difference of a cell, relative as the module's docstring says, among the cells within tolerance."""
    beyond: int
    """Cells that differ by more than the tolerance."""
    otherwise: int
    """Showers with such cells."""
    worst: float
    """Largest difference of all cells, in the same terms."""
    decided: int
    """Cells with energy in one of the two alone."""
    torch_ms: float
    """PyTorch's time for a shower, on this machine with its present number of threads, in ms."""
    program_ms: float
    """The program's."""

    @property
    def described(self) -> str:
        """One line for the user."""
        text = (
            f"{self.showers} showers as PyTorch makes them: visible energy within {self.visible:.1e}, cells within "
            f"{self.cell:.1e}; {self.decided} of {self.cells} cells hit in one of the two alone"
        )
        more = (
            f", {self.beyond} in {self.otherwise} showers beyond the tolerance, by up to {self.worst:.1e}"
            if self.beyond
            else ""
        )
        return f"{text}{more}; {self.program_ms:.3g} ms a shower, PyTorch {self.torch_ms:.3g}"


def compare(
    physical: PhysicalGenerator,
    program: Program,
    *,
    ranges: Mapping[str, tuple[float, float]],
    showers: int = 1000,
    tolerance: float = 1e-4,
) -> Agreement:
    """Generate the same showers with both.

    Args:
        physical: what was exported.
        program: calls the exported program.
        ranges: of each condition, in which it is uniform.
        showers: how many.
        tolerance: largest relative difference of the visible energy of a shower, and of its cells.

    Raises:
        CheckpointError: if they differ by more than the tolerance.
    """
    least = _least(physical.geometry)
    visible = cell = worst = 0.0
    beyond = otherwise = decided = 0
    seconds = [0.0, 0.0]
    for first in range(0, showers, BATCH):
        draws = Draws(0, 0, range(first, min(first + BATCH, showers)), "export")
        inputs = physical.inputs_from_draws(_conditions(physical.geometry, ranges, draws), draws)
        arrays = [values.numpy() for values in inputs]
        start = time.perf_counter()
        with torch.no_grad():
            wanted = physical(*inputs).numpy().reshape(len(draws), -1)
        middle = time.perf_counter()
        made = program(arrays).reshape(len(draws), -1)
        seconds[0] += middle - start
        seconds[1] += time.perf_counter() - middle
        if not (np.isfinite(wanted).all() and np.isfinite(made).all()):
            raise CheckpointError(
                "the checkpoint generates cells that are not finite; training has diverged: take an earlier one"
            )
        sums, sums_made = (np.abs(values, dtype=np.float64).sum(1) for values in (wanted, made))
        visible = max(visible, float((np.abs(sums_made - sums) / np.maximum(sums, least)).max()))
        floor = np.maximum(least, LEAST_SHARE * sums)[:, None]
        difference = np.abs(made - wanted) / np.maximum(np.abs(wanted), floor)
        near = difference <= tolerance
        cell = max(cell, float(difference[near].max(initial=0.0)))
        worst = max(worst, float(difference.max()))
        beyond += int(np.count_nonzero(~near))
        otherwise += int(np.count_nonzero(~near.all(axis=1)))
        decided += int(np.count_nonzero((made != 0) != (wanted != 0)))
    cells = showers * physical.geometry.cells
    if visible > tolerance or otherwise > math.ceil(ALLOWED * showers):
        raise CheckpointError(
            f"the exported program does not make PyTorch's showers: of {showers}, the visible energy differs by up to "
            f"{visible:.1e}, and {beyond} cells in {otherwise} showers by more than {tolerance:g}; nothing was "
            "written: try another --opset, or a larger --tolerance if that is good enough"
        )
    times = [1000.0 * spent / max(showers, 1) for spent in seconds]
    return Agreement(
        showers=showers,
        cells=cells,
        visible=visible,
        cell=cell,
        beyond=beyond,
        otherwise=otherwise,
        worst=worst,
        decided=decided,
        torch_ms=times[0],
        program_ms=times[1],
    )


def _least(geometry: Geometry) -> float:
    """Return the least size that cells are compared relative to: a hit, or the noise of the samples."""
    if isinstance(geometry, LayeredReadout):
        return hit_threshold(geometry)
    return float(getattr(geometry, "noise", THRESHOLD))


def _conditions(geometry: Geometry, ranges: Mapping[str, tuple[float, float]], draws: Draws) -> torch.Tensor:
    """Return conditions uniform in their ranges, (B, C)."""
    columns = [
        ranges[name][0] + (ranges[name][1] - ranges[name][0]) * draws.uniform(f"condition/{name}")
        for name in geometry.conditions
    ]
    return torch.cat(columns, dim=1)
