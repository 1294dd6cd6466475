import math
from functools import cache

import numpy as np
import pytest

from dist_calo.geometry import Waveforms
from dist_calo.physics.monitors.monitor import monitor_of
from dist_calo.physics.monitors.waveforms import BATCH, SCORES, WaveformMonitor

GEOMETRY = Waveforms(rows=2, columns=2, samples=64, sample_ns=0.5, noise=1.0)
CHANNELS = GEOMETRY.channels


def ramps(amplitudes, times) -> np.ndarray:
    """Pulses that rise by a tenth of their amplitude a sample and cross one half at these times in ns."""
    place = np.arange(GEOMETRY.samples) * GEOMETRY.sample_ns
    rise = 0.5 + (place - np.asarray(times, dtype=np.float64)[..., None]) / (10 * GEOMETRY.sample_ns)
    return (np.asarray(amplitudes)[..., None] * np.clip(rise, 0.0, 1.0)).astype(np.float32)


@cache
def events(count=300, seed=0):
    """Pulses of two numbers that all channels share, channel by channel weaker and later."""
    numbers = np.random.default_rng(seed)
    size, start = numbers.uniform(50.0, 500.0, (count, 1)), numbers.uniform(10.0, 15.0, (count, 1))
    channel = np.arange(CHANNELS)
    amplitudes = size / (1 + channel) * numbers.uniform(0.8, 1.2, (count, CHANNELS))
    waveforms = ramps(amplitudes, start + channel + numbers.uniform(-0.5, 0.5, (count, CHANNELS)))
    return waveforms, numbers.uniform(1.0, 20.0, count)


def summaries(fake):
    view = WaveformMonitor(GEOMETRY)
    view.settle(view.extremes(*events()))
    return view, view.summary().update(*events()), view.summary().update(fake, events()[1])


def test_amplitudes_and_times_of_known_pulses():
    amplitudes, times = [[10.0, 200.0, 30.0, 100.0]], [[10.0, 12.25, 15.125, 20.0]]
    view = monitor_of(GEOMETRY)
    assert isinstance(view, WaveformMonitor)
    values = view.observe(ramps(amplitudes, times), np.array([5.0]))
    np.testing.assert_allclose(values, np.concatenate([amplitudes, times], axis=1), rtol=1e-5)
    assert [feature.name for feature in view.features][3:5] == ["amplitude/3", "time/0"]
    assert [feature.unit for feature in view.features][3:5] == ["ADC counts", "ns"]


def test_a_channel_without_signal_has_an_amplitude_and_no_time():
    values = WaveformMonitor(GEOMETRY).observe(ramps([[4.9, 5.1, 0.0, 100.0]], [[10.0] * 4]), np.array([5.0]))
    np.testing.assert_allclose(values[0, :4], [4.9, 5.1, 0.0, 100.0], rtol=1e-6)
    assert np.isfinite(values[0, 4:]).tolist() == [False, True, False, True]


def test_events_measured_in_batches_are_those_measured_at_once():
    waveforms, energies = events(2 * BATCH + 7)
    view = WaveformMonitor(GEOMETRY)
    apart = [view.observe(waveforms[[i]], energies[[i]]) for i in (0, BATCH - 1, BATCH, 2 * BATCH + 6)]
    whole = view.observe(waveforms, energies)
    np.testing.assert_array_equal(whole[[0, BATCH - 1, BATCH, 2 * BATCH + 6]], np.concatenate(apart))


def test_no_events_have_no_features():
    assert WaveformMonitor(GEOMETRY).observe(events()[0][:0], events()[1][:0]).shape == (0, 2 * CHANNELS)


def test_a_sample_differs_from_itself_in_nothing():
    view, real, same = summaries(events()[0])
    numbers = view.numbers(same, real)
    assert set(numbers.values()) == {0.0}
    assert set(SCORES) <= set(numbers)
    assert view.score(numbers) == 0.0
    np.testing.assert_allclose(real.image("waveform"), events()[0].mean(axis=0), rtol=1e-4)


def test_scaled_late_missing_and_shuffled_pulses_are_noticed():
    waveforms, _ = events()
    mean = waveforms.max(axis=-1).mean()
    view, real, larger = summaries(waveforms * np.float32(1.1))
    numbers = view.numbers(larger, real)
    assert numbers["wasserstein/amplitude"] == pytest.approx(0.1 * mean, rel=0.02)
    assert numbers["wasserstein/time"] < 0.01
    assert numbers["mean_error/amplitude/2"] == pytest.approx(0.1, rel=0.01)

    late = np.concatenate([np.zeros_like(waveforms[..., :4]), waveforms[..., :-4]], axis=-1)
    view, real, later = summaries(late)
    numbers = view.numbers(later, real)
    assert numbers["wasserstein/time"] == pytest.approx(2.0, rel=0.02)
    assert numbers["wasserstein/amplitude"] < 0.01
    assert numbers["separation/time"] > 0.2
    assert numbers["mean_difference/time/1"] == pytest.approx(2.0, rel=0.02)
    assert not any(name.startswith("mean_error/time") for name in numbers)

    missing = waveforms.copy()
    missing[:150, 3] = 0.0
    view, real, without = summaries(missing)
    assert view.numbers(without, real)["fraction/time"] == pytest.approx(0.5 / CHANNELS)

    shuffled = waveforms.copy()
    shuffled[:, 1] = shuffled[::-1, 1]
    view, real, mixed = summaries(shuffled)
    numbers = view.numbers(mixed, real)
    assert numbers["wasserstein/amplitude"] == numbers["wasserstein/time"] == 0.0
    assert numbers["correlation/amplitude"] > 0.2
    assert numbers["correlation/time"] > 0.2
    assert view.score(numbers) > 0.4


def test_a_score_of_nothing_known_is_infinite():
    view, real, _ = summaries(events()[0])
    assert view.score(view.numbers(view.summary(), real)) == math.inf
    assert view.score(view.numbers(real, view.summary())) == math.inf


def test_channels_of_mere_noise_make_no_score_better():
    """What such a channel lacks, its time and its correlations, is not left out but fully wrong."""
    waveforms, _ = events()
    noise = np.random.default_rng(1).normal(0.0, 0.2, waveforms[:, 1:].shape).astype(np.float32)
    quiet = np.concatenate([waveforms[:, :1], noise], axis=1)
    other = events(seed=1)[0]
    view, real, good = summaries(other)
    bad = view.summary().update(quiet, events()[1])
    good_numbers, bad_numbers = view.numbers(good, real), view.numbers(bad, real)
    for name in SCORES:
        assert bad_numbers[name] > 2 * good_numbers[name], name
    assert bad_numbers["separation/time"] > 0.7
    assert 2.0 < view.score(bad_numbers) < math.inf


def test_bins_are_settled_before_a_summary():
    view = WaveformMonitor(GEOMETRY)
    assert not view.settled
    with pytest.raises(ValueError, match="bins are not settled"):
        view.summary()
