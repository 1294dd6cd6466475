"""Each way of spoiling a sample moves the numbers that should see it by over five sigmas; equal halves move none."""

import pytest

from benchmarks.spoiled import (
    GRID,
    SHARE,
    collapsed,
    filled,
    numbers_of,
    reference_of,
    scaled,
    shifted,
    simulated,
    with_a_dead_cell,
    with_shuffled_layers,
    with_wide_cores,
)
from dist_calo.physics.metrics.evaluation import sigmas_above_floor
from dist_calo.physics.metrics.metric_definitions import definition_of
from dist_calo.physics.metrics.multivariate_metrics import measured_classifier
from dist_calo.physics.observables.sample import Sample

COUNT = 6000
SEEN_BY = [
    pytest.param(
        scaled, ["response/mean", "separation/response", "wasserstein_scaled/response", "score"], id="energy-2%"
    ),
    pytest.param(shifted, ["shift/depth", "score"], id="a-tenth-of-a-layer"),
    pytest.param(with_wide_cores, ["wasserstein_scaled/core_fraction", "score"], id="core-1%-too-wide"),
    pytest.param(with_a_dead_cell, ["image/largest_pull"], id="a-dead-cell"),
    pytest.param(
        with_shuffled_layers,
        ["correlation/layer_fraction", "width/depth", "score"],
        id="layers-shuffled",
    ),
    pytest.param(collapsed, ["coverage/observables", "recall/observables"], id="modes-collapsed"),
]  # fmt: skip


@pytest.fixture(scope="module")
def good():
    return simulated(COUNT, seed=1)


@pytest.fixture(scope="module")
def reference():
    return reference_of(*simulated(COUNT, seed=0))


@pytest.mark.parametrize(("spoil", "seen_by"), SEEN_BY)
def test_a_spoiled_sample_is_more_than_five_sigmas_away(reference, good, spoil, seen_by):
    numbers = numbers_of(reference, *spoil(*good))
    found = {name: sigmas_above_floor(name, numbers[name]) for name in seen_by}
    assert min(found.values()) > 5, found


def test_equal_samples_are_at_their_floor(reference, good):
    numbers = numbers_of(reference, *good)
    beyond = {
        name: sigmas_above_floor(name, number)
        for name, number in numbers.items()
        if not sigmas_above_floor(name, number) <= 2
    }
    # By chance one signed number in 22 is beyond two sigmas; many of the 350 go together.
    assert len(beyond) < 0.1 * len(numbers), beyond
    assert max(beyond.values()) < 4.5, beyond
    distances = [name for name in numbers if not definition_of(name).signed]
    assert len(distances) > 100
    assert sum(name in beyond for name in distances) < 0.05 * len(distances), beyond


@pytest.mark.slow
def test_a_classifier_tells_spoiled_showers_and_not_equal_ones(reference, good):
    samples = [good, with_shuffled_layers(*good)]
    fakes = [
        filled(Sample(reference.observer, reference.binning, GRID.shape, SHARE), *part) for part in samples
    ]
    found = [measured_classifier(reference, fake, "high", hidden=128, epochs=8) for fake in fakes]
    assert abs(found[0]["auc/high_level"].sigmas) < 3
    assert found[1]["auc/high_level"].sigmas > 5
    assert found[1]["jsd/high_level"].value > 0
