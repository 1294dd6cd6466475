import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.geometry import Waveforms
from dist_calo.physics.observables.observer import observer_of
from dist_calo.physics.observables.waveforms import PER_CHANNEL, WaveformObserver
from tests.support.geometries import rough_showers
from tests.support.observed import check_described

GEOMETRY = Waveforms(rows=2, columns=3, samples=256, sample_ns=0.5, noise=1.0)
ROUGH = Waveforms(rows=1, columns=3, samples=300, sample_ns=0.4)
TIME = np.arange(GEOMETRY.samples) * GEOMETRY.sample_ns


def event(**channels) -> np.ndarray:
    """One event with these waveforms in these channels, given as c2=waveform."""
    showers = np.zeros((1, *GEOMETRY.shape), dtype=np.float32)
    for name, waveform in channels.items():
        showers[0, int(name[1:])] = waveform
    return showers


def seen(showers, energy=10.0) -> dict[str, float]:
    observer = observer_of(GEOMETRY)
    values = observer.observe(showers, np.full((len(showers), 1), energy)).columns[0]
    return dict(zip([feature.name for feature in observer.features], values.tolist(), strict=True))


def triangle(amplitude, peak, rise, fall) -> np.ndarray:
    """A pulse that rises and falls linearly in these times in ns."""
    return amplitude * np.interp(TIME, [peak - rise, peak, peak + fall], [0.0, 1.0, 0.0])


def gaussian(amplitude, peak, sigma) -> np.ndarray:
    return amplitude * np.exp(-0.5 * ((TIME - peak) / sigma) ** 2)


def test_triangles_have_their_times():
    values = seen(event(c1=triangle(200.0, 40.0, 10.0, 30.0), c4=triangle(50.0, 60.0, 20.0, 8.0)))
    expected = {1: (200.0, 35.0, 8.0, 20.0), 4: (50.0, 50.0, 16.0, 14.0)}
    for channel, numbers in expected.items():
        found = [values[f"{group}/{channel}"] for group in PER_CHANNEL]
        assert found == pytest.approx(numbers, rel=1e-4)
    assert values["response/0"] == pytest.approx(25.0)
    assert values["leading_channel/0"] == 1
    assert values["leading_fraction/0"] == pytest.approx(0.8)
    assert values["pulses/0"] == 2


def test_a_gaussian_pulse_has_its_width_and_rise_time():
    values = seen(event(c0=gaussian(1000.0, 64.0, 9.0)))
    assert values["pulse_width/0"] == pytest.approx(2 * math.sqrt(2 * math.log(2)) * 9.0, rel=1e-3)
    rise = math.sqrt(2 * math.log(10)) - math.sqrt(-2 * math.log(0.9))
    assert values["rise_time/0"] == pytest.approx(rise * 9.0, rel=1e-3)


def test_a_channel_without_a_pulse_has_only_an_amplitude():
    values = seen(event(c0=gaussian(4.9, 64.0, 9.0), c1=gaussian(5.1, 64.0, 9.0)))
    assert values["pulses/0"] == 1
    for channel, known in ((0, False), (1, True), (2, False)):
        assert np.isfinite(values[f"amplitude/{channel}"])
        assert [np.isfinite(values[f"{group}/{channel}"]) for group in PER_CHANNEL[1:]] == [known] * 3


def test_a_pulse_that_does_not_fall_within_the_samples_has_no_width():
    values = seen(event(c0=triangle(100.0, 120.0, 10.0, 40.0)))
    assert math.isnan(values["pulse_width/0"])
    assert values["rise_time/0"] == pytest.approx(8.0, rel=1e-4)


def test_an_event_without_signal():
    values = seen(event())
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    assert set(known.values()) == {0.0}
    assert {name.split("/")[0] for name in known} == {"response", "pulses", "amplitude"}


def test_profiles():
    showers = event(c0=gaussian(30.0, 50.0, 5.0), c1=gaussian(1000.0, 60.0, 5.0))
    observer = WaveformObserver(GEOMETRY)
    profiles = observer.observe(showers, np.ones((1, 1))).profiles
    np.testing.assert_allclose(profiles["waveform"][0], showers[0, 0] + showers[0, 1], rtol=1e-6)
    np.testing.assert_array_equal(
        profiles["central_waveform"][0], showers[0, 1]
    )  # middle of the first of two rows
    np.testing.assert_allclose(observer.profiles["waveform"].edges, TIME)
    edges, counts = observer.profiles["amplitude_spectrum"].edges, profiles["amplitude_spectrum"][0]
    assert edges[0] == 1.0
    assert edges[-1] == pytest.approx(1e5)
    np.testing.assert_array_equal(counts, np.histogram(showers.max(axis=2), edges)[0])
    assert counts.sum() == 2


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 9), max_size=3))
def test_any_batches_and_any_scale(seed, cuts):
    observer = WaveformObserver(ROUGH)
    showers, conditions = rough_showers(ROUGH, 9, seed)
    before = showers.copy()
    whole = observer.observe(showers, conditions)
    np.testing.assert_array_equal(showers, before)
    parts = [
        observer.observe(showers[low:high], conditions[low:high])
        for low, high in itertools.pairwise([0, *sorted(cuts), 9])
    ]
    np.testing.assert_array_equal(np.concatenate([part.columns for part in parts]), whole.columns)
    for name, values in whole.profiles.items():
        np.testing.assert_array_equal(np.concatenate([part.profiles[name] for part in parts]), values)
    np.testing.assert_allclose(whole.profiles["waveform"], showers.sum(axis=1), rtol=1e-5, atol=1e-3)
    # Against twice the noise, twice the signal is the same.
    louder = Waveforms(rows=1, columns=3, samples=300, sample_ns=0.4, noise=2.0)
    scaled = WaveformObserver(louder).observe(2 * showers, conditions).columns
    factors = [2.0 if feature.group in ("response", "amplitude") else 1.0 for feature in observer.features]
    np.testing.assert_allclose(scaled, whole.columns * factors, rtol=1e-6)


def test_diverged_events_give_no_warning():
    showers = event(c0=triangle(100.0, 50.0, 5.0, 5.0)).repeat(4, axis=0)
    showers[0, 0, 0], showers[1, 0, 0], showers[2], showers[3] = np.nan, np.inf, -1.0, 3e38
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WaveformObserver(GEOMETRY).observe(showers, np.ones((4, 1)))


@pytest.mark.parametrize("geometry", [GEOMETRY, ROUGH, Waveforms(rows=1, columns=1, samples=8)])
def test_what_is_observed_is_described(geometry):
    check_described(WaveformObserver(geometry), geometry)
