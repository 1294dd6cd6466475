"""Each way of spoiling a sample moves the number that should see it by over five sigmas; equal halves move none."""

import math

import numpy as np
import pytest

from dist_calo.physics.binning import Binning
from dist_calo.physics.evaluation import away, measured_sums
from dist_calo.physics.kinds import kind_of
from dist_calo.physics.observers import observer_of
from dist_calo.physics.row_comparison import measured_classifier, measured_distances
from dist_calo.simulation.detectors import find_detector
from dist_calo.simulation.parametrised import simulate
from tests.evaluations import sample_of
from tests.spoiled import GRID, collapsed, scaled, shifted, with_a_dead_cell, with_shuffled_layers

COUNT = 6000
SEEN_BY = [
    pytest.param(scaled, ["response/mean", "separation/response", "wasserstein_scaled/response"], id="energy-2%"),
    pytest.param(shifted, ["shift/depth"], id="a-tenth-of-a-layer"),
    pytest.param(with_a_dead_cell, ["image/largest_pull"], id="a-dead-cell"),
    pytest.param(
        with_shuffled_layers,
        ["correlation/layer_fraction", "width/depth"],
        id="layers-shuffled",
    ),
    pytest.param(collapsed, ["coverage/observables", "recall/observables"], id="modes-collapsed"),
]  # fmt: skip


@pytest.fixture(scope="module")
def showers():
    """Two independent samples of simulated showers."""
    detector, numbers = find_detector("lcd25"), np.random.default_rng(0)
    energies = numbers.uniform(10, 100, 2 * COUNT).astype(np.float32)
    parts = [
        simulate(detector, detector.parametrisation, some, np.full(len(some), math.pi / 2), numbers)
        for some in np.array_split(energies, 2 * COUNT // 200)
    ]
    cells = np.concatenate(parts)
    return (cells[:COUNT], energies[:COUNT, None]), (cells[COUNT:], energies[COUNT:, None])


@pytest.fixture(scope="module")
def reference(showers):
    real, _ = showers
    observer = observer_of(GRID)
    binning = Binning.of(observer.observe(*real).columns, real[1][:, 0], (10.0, 100.0))
    return sample_of(observer, binning, GRID, *real, share=0.5)


def numbers_of(reference, showers, conditions):
    fake = sample_of(reference.observer, reference.binning, GRID, showers, conditions, share=0.5)
    slots, whole = measured_sums(reference, fake)
    return {**slots[-1], **whole, **measured_distances(reference, fake)}


@pytest.mark.parametrize(("spoil", "seen_by"), SEEN_BY)
def test_a_spoiled_sample_is_more_than_five_sigmas_away(reference, showers, spoil, seen_by):
    numbers = numbers_of(reference, *spoil(*showers[1]))
    found = {name: away(name, numbers[name]) for name in seen_by}
    assert min(found.values()) > 5, found


def test_equal_samples_are_at_their_floor(reference, showers):
    numbers = numbers_of(reference, *showers[1])
    farthest = sorted(((away(name, number), name) for name, number in numbers.items()), reverse=True)
    distances = [pair for pair in farthest if not kind_of(pair[1]).signed and pair[1].count("/") == 1]
    assert distances[0][0] <= 2, distances[:5]
    # Of signed numbers one in 22 is beyond two sigmas by chance.
    beyond = [pair for pair in farthest if not pair[0] <= 2]
    assert len(beyond) < 0.05 * len(numbers), beyond
    assert farthest[0][0] < 4, farthest[:5]


@pytest.mark.slow
def test_a_classifier_tells_spoiled_showers_and_not_equal_ones(reference, showers):
    equal = sample_of(reference.observer, reference.binning, GRID, *showers[1], share=0.5)
    spoiled = sample_of(
        reference.observer, reference.binning, GRID, *with_shuffled_layers(*showers[1]), share=0.5
    )
    found = [measured_classifier(reference, fake, "high") for fake in (equal, spoiled)]
    assert abs(found[0]["auc/high_level"].sigmas) < 3
    assert found[1]["auc/high_level"].sigmas > 5
    assert found[1]["jsd/high_level"].sigmas > 5
