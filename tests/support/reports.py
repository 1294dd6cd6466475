"""Small evaluations to write reports of."""

from dataclasses import replace
from functools import cache

import numpy as np

from dist_calo.geometry import VoxelGrid
from dist_calo.physics.report import report_html
from tests.support.evaluations import evaluated

GRID = VoxelGrid(shape=(5, 4, 3))
EDGES = (10.0, 30.0, 80.0, 160.0)
"""No shower has an energy in the last bin."""
HOSTILE = '<script>alert("1 & 2")</script>'


def showers(count, seed, factor=1.0):
    """Random showers and their incident energies."""
    numbers = np.random.default_rng(seed)
    energies = numbers.uniform(10.0, 80.0, (count, 1))
    cells = numbers.exponential(1e-3, (count, *GRID.shape)) * (numbers.random((count, *GRID.shape)) < 0.5)
    return (factor * energies[:, :, None, None] * cells).astype(np.float32), energies


@cache
def small_evaluation():
    """Showers compared with others whose energies are too high."""
    evaluation = evaluated(GRID, showers(600, 1), showers(500, 2, 1.1), EDGES)
    steps = np.arange(1, 400)
    history = {
        "generator/total": [(float(step), float(100.0 / step)) for step in steps],
        "validation/score": [(100.0, 0.3), (200.0, float("nan")), (300.0, 0.1)],
    }
    facts = {
        "model": {"checkpoint": HOSTILE, "training step": "20000", "git commit": "0123abc"},
        "cost": {"generation": "512 showers/s", "training": "12.3 core hours"},
        "config": {f"train.option_{number}": str(number) for number in range(30)},
    }
    notes = (f"The energies are too high: {HOSTILE}",)
    return replace(evaluation, names=("Geant4 11.4", "GAN <b>"), facts=facts, history=history, notes=notes)


@cache
def small_page():
    """The report of it: drawing it is what takes time."""
    return report_html(small_evaluation())
