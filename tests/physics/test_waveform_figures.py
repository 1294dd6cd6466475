from functools import cache

import numpy as np
import pytest

from dist_calo.geometry import Waveforms
from dist_calo.physics.figures import waveforms
from dist_calo.physics.observables.examples import Examples
from tests.support.pictures import contrast

GEOMETRY = Waveforms(rows=2, columns=3, samples=50, sample_ns=0.5, noise=1.0)
CHANNELS = GEOMETRY.channels
NAMES = ("Geant4", "generated")


@cache
def events(seed, count=300):
    """Triangular pulses of many sizes, some of them too small for a time."""
    numbers = np.random.default_rng(seed)
    size = numbers.uniform(0.3, 3.0, (count, CHANNELS, 1)) + numbers.uniform(0.0, 0.5, (count, 1, 1))
    start = numbers.uniform(15.0, 20.0, (count, CHANNELS, 1))
    shape = 1.0 - np.abs(np.arange(GEOMETRY.samples) - start) / 8.0
    return (10.0**size * np.clip(shape, 0.0, 1.0)).astype(np.float32), numbers.uniform(1.0, 20.0, count)


def drawn(examples=None):
    means = [events(seed)[0].mean(axis=0) for seed in (0, 1)]
    examples = examples or Examples(real=events(0)[0][:4], fake=events(1)[0][:4], energies=events(0)[1][:4])
    return means, examples, waveforms.means_figure(GEOMETRY, means, examples, "title", NAMES)


def test_silent_events_are_drawn(tmp_path):
    silent = Examples(real=events(0)[0][:1], fake=0 * events(1)[0][:1], energies=events(0)[1][:1])
    assert contrast(drawn(silent)[2], tmp_path) > 0.02


def test_panels_stand_as_the_detectors_do():
    _, _, figure = drawn()
    found = {
        panel.texts[0].get_text(): panel.get_position()
        for panel in figure.axes[: 2 * CHANNELS]
        if panel.texts
    }
    places = [found[f"detector {channel}"] for channel in range(CHANNELS)]
    # the second index runs upwards, the first to the right
    assert places[0].y0 < places[1].y0 < places[2].y0
    assert places[0].x0 == places[1].x0 == places[2].x0 < places[3].x0


def test_waveforms_are_means_their_differences_and_single_events():
    means, examples, figure = drawn()
    assert len(figure.axes) == 2 * CHANNELS + 2 * 4
    main, below = figure.axes[:2]
    means = [mean[0] for mean in means]
    for line, expected in zip(main.lines, means, strict=True):
        np.testing.assert_allclose(line.get_ydata(), expected)
    np.testing.assert_allclose(main.lines[0].get_xdata()[[0, -1]], [0.0, 24.5])
    np.testing.assert_allclose(below.lines[-1].get_ydata(), means[1] - means[0])
    singles = figure.axes[2 * CHANNELS :]
    lowest = int(np.argmin(examples.energies))
    assert singles[0].get_title() == f"E$_{{inc}}$ = {examples.energies[lowest]:.3g} GeV"
    for panel, sample in ((singles[0], examples.real), (singles[4], examples.fake)):
        brightest = sample[lowest][sample[lowest].max(axis=-1).argmax()]
        np.testing.assert_array_equal(panel.lines[-1].get_ydata(), brightest)
        assert len(panel.lines) == CHANNELS


def test_no_example_is_refused():
    nothing = Examples(real=np.empty((0, 6, 50)), fake=np.empty((0, 6, 50)), energies=np.empty(0))
    with pytest.raises(ValueError, match="at least one example"):
        drawn(nothing)
