from functools import cache

import numpy as np
import pytest

from dist_calo.geometry import Waveforms
from dist_calo.physics.figures import waveforms
from dist_calo.physics.monitors.waveforms import WaveformMonitor
from dist_calo.physics.observables.examples import Examples
from tests.support.pictures import contrast

GEOMETRY = Waveforms(rows=2, columns=3, samples=50, sample_ns=0.5, noise=1.0)
CHANNELS = GEOMETRY.channels
NAMES = ["amplitudes", "times", "correlations", "waveforms"]


@cache
def events(seed, count=300):
    """Triangular pulses of many sizes, some of them too small for a time."""
    numbers = np.random.default_rng(seed)
    size = numbers.uniform(0.3, 3.0, (count, CHANNELS, 1)) + numbers.uniform(0.0, 0.5, (count, 1, 1))
    start = numbers.uniform(15.0, 20.0, (count, CHANNELS, 1))
    shape = 1.0 - np.abs(np.arange(GEOMETRY.samples) - start) / 8.0
    return (10.0**size * np.clip(shape, 0.0, 1.0)).astype(np.float32), numbers.uniform(1.0, 20.0, count)


@cache
def compared(counts=(300, 300), silent=False):
    view = WaveformMonitor(GEOMETRY)
    view.settle(view.extremes(*events(0)))
    samples = [[part[:count].copy() for part in events(seed)] for seed, count in enumerate(counts)]
    if silent:
        samples[1][0][:] = 0.0
    real, fake = (view.summary().update(*sample) for sample in samples)
    examples = Examples(real=events(0)[0][:4], fake=events(1)[0][:4], energies=events(0)[1][:4])
    return view, real, fake, examples


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [{}, {"counts": (300, 1)}, {"counts": (0, 0)}, {"silent": True}],
    ids=["many", "one_generated", "none", "silent"],
)
def test_pictures_of_many_few_and_silent_events(name, options, tmp_path):
    view, real, fake, examples = compared(**options)
    assert contrast(view.pictures(real, fake, examples)[name](), tmp_path) > 0.02


def test_panels_stand_as_the_detectors_do():
    _, real, fake, _ = compared()
    figure = waveforms.amplitudes_figure(GEOMETRY, real, fake)
    found = {panel.get_xlabel(): panel.get_position() for panel in figure.axes if panel.get_xlabel()}
    assert set(found) == {f"amplitude of detector {channel} [ADC counts]" for channel in range(CHANNELS)}
    places = [found[f"amplitude of detector {channel} [ADC counts]"] for channel in range(CHANNELS)]
    # the second index runs upwards, the first to the right
    assert places[0].y0 < places[1].y0 < places[2].y0
    assert places[0].x0 == places[1].x0 == places[2].x0 < places[3].x0


def test_amplitudes_have_logarithmic_bins_with_all_events_and_the_separation_of_the_score():
    view, real, fake, _ = compared()
    figure = waveforms.amplitudes_figure(GEOMETRY, real, fake)
    numbers = view.numbers(fake, real)
    mains = [panel for panel in figure.axes if panel.texts]
    assert len(mains) == CHANNELS
    words = "".join(panel.texts[0].get_text() for panel in mains)
    for channel in range(CHANNELS):
        assert f"separation {numbers[f'separation/amplitude/{channel}']:.3f}" in words
    for panel in mains:
        seen = panel.patches[0].get_data()
        assert panel.get_xscale() == "log"
        assert seen.values.sum() == pytest.approx(1.0)
        assert (np.diff(seen.edges) > 1.9).all()


def test_times_say_how_many_events_have_one():
    _, real, fake, _ = compared(silent=True)
    figure = waveforms.times_figure(GEOMETRY, real, fake)
    words = [text.get_text() for panel in figure.axes for text in panel.texts]
    share = 100 * real.fraction()[CHANNELS:]
    assert sorted(words) == sorted(f"separation 1.000\nseen in {value:.1f} / 0.0 %" for value in share)


def test_times_differ_in_nanoseconds_and_amplitudes_in_per_cent():
    _, real, fake, _ = compared()
    shift = fake.mean() - real.mean()
    for draw, column, written in (
        (waveforms.times_figure, CHANNELS, f"mean {shift[CHANNELS]:+.2g} ns"),
        (waveforms.amplitudes_figure, 0, f"mean {100 * shift[0] / real.mean()[0]:+.1f} %"),
    ):
        words = [text.get_text() for panel in draw(GEOMETRY, real, fake).axes for text in panel.texts]
        assert any(written in text for text in words), (column, words)


def test_correlations_of_amplitudes_and_of_times():
    _, real, fake, _ = compared()
    figure = waveforms.correlations_figure(real, fake)
    images = [panel.images[0].get_array() for panel in figure.axes[:6]]
    for row, group in enumerate(("amplitude", "time")):
        np.testing.assert_allclose(images[3 * row], real.correlation(group))
        np.testing.assert_allclose(images[3 * row + 1], fake.correlation(group))
        np.testing.assert_allclose(images[3 * row + 2], fake.correlation(group) - real.correlation(group))


def test_waveforms_are_means_their_differences_and_single_events():
    _, real, fake, examples = compared()
    figure = waveforms.waveforms_figure(GEOMETRY, real, fake, examples)
    assert len(figure.axes) == 2 * CHANNELS + 2 * 4
    main, below = figure.axes[:2]
    means = [side.image("waveform")[0] for side in (real, fake)]
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
    _, real, fake, _ = compared()
    nothing = Examples(real=np.empty((0, 6, 50)), fake=np.empty((0, 6, 50)), energies=np.empty(0))
    with pytest.raises(ValueError, match="at least one example"):
        waveforms.waveforms_figure(GEOMETRY, real, fake, nothing)
