"""Amplitudes and times of pulses whose answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.pulses import amplitudes_and_times

SAMPLE_NS = 0.2


def measure(waveforms, **options):
    return amplitudes_and_times(waveforms, **{"sample_ns": SAMPLE_NS, "noise": 1.0, **options})


def triangle(amplitude=100.0, start=20, rise=10, samples=64):
    """Rises in a straight line from 0 at ``start`` to the amplitude ``rise`` samples later, and falls as fast."""
    distance = (torch.arange(samples, dtype=torch.float64) - start - rise).abs()
    return amplitude * (1 - distance / rise).clamp(min=0)


def shaped(delay_ns, amplitude=100.0, samples=512, peaking_ns=10.0):
    """(t / tau) exp(1 - t / tau) after a delay."""
    time = (torch.arange(samples, dtype=torch.float64) * SAMPLE_NS - delay_ns).clamp(min=0) / peaking_ns
    return amplitude * time * torch.exp(1 - time)


@given(fraction=st.floats(0.05, 0.95), amplitude=st.floats(10, 1e4))
def test_a_triangle_crosses_each_fraction_where_its_edge_does(fraction, amplitude):
    found, time = measure(triangle(amplitude), fraction=fraction)
    assert float(found) == pytest.approx(amplitude)
    assert float(time) == pytest.approx(SAMPLE_NS * (20 + 10 * fraction))


@given(delay=st.integers(0, 200), amplitude=st.floats(6, 4000))
def test_a_pulse_delayed_by_whole_samples_is_later_by_exactly_that_at_any_amplitude(delay, amplitude):
    _, first = measure(shaped(10.0))
    height, time = measure(shaped(10.0 + delay * SAMPLE_NS, amplitude))
    assert float(time - first) == pytest.approx(delay * SAMPLE_NS, abs=1e-9)
    assert float(height) == pytest.approx(amplitude, rel=1e-9)


@given(delay=st.floats(0, 40))
def test_a_pulse_delayed_by_a_fraction_of_a_sample_is_later_by_that(delay):
    """A straight line through a curved edge costs up to h^2 |f''| / 8 f' = 0.006 of a sample h here."""
    _, first = measure(shaped(10.0))
    _, time = measure(shaped(10.0 + delay))
    assert float(time - first) == pytest.approx(delay, abs=0.01 * SAMPLE_NS)


def test_the_time_of_a_shaped_pulse_is_that_of_the_formula():
    """x exp(1 - x) = 1/2 at x = 0.231961."""
    _, time = measure(shaped(10.0))
    assert float(time) == pytest.approx(10.0 + 0.231961 * 10.0, abs=0.01 * SAMPLE_NS)


def test_an_early_spike_is_not_mistaken_for_the_pulse():
    waveform = triangle()
    waveform[5] = 90.0
    amplitude, time = measure(waveform)
    assert float(amplitude) == 100.0
    assert float(time) == pytest.approx(SAMPLE_NS * 25)


def test_a_later_smaller_pulse_changes_nothing():
    amplitude, time = measure(triangle() + triangle(80.0, start=42))
    assert float(amplitude) == 100.0
    assert float(time) == pytest.approx(SAMPLE_NS * 25)


def test_of_two_equal_peaks_the_first_counts():
    _, time = measure(triangle() + triangle(start=42))
    assert float(time) == pytest.approx(SAMPLE_NS * 25)


@pytest.mark.parametrize(("amplitude", "has_time"), [(4.99, False), (5.0, True), (5.01, True)])
def test_a_pulse_below_five_sigma_has_an_amplitude_and_no_time(amplitude, has_time):
    found, time = measure(triangle(amplitude))
    assert float(found) == pytest.approx(amplitude)
    assert bool(torch.isfinite(time)) == has_time


@pytest.mark.parametrize(
    "waveform",
    [torch.full((32,), 50.0), torch.linspace(100, 60, 32), torch.linspace(100, 0, 32), torch.zeros(32)],
    ids=["constant", "always above the fraction", "falling from the first sample", "silent"],
)
def test_a_waveform_that_never_lies_below_before_its_peak_has_no_time(waveform):
    amplitude, time = measure(waveform, noise=0.0 if waveform.max() == 0 else 1.0)
    assert float(amplitude) == float(waveform.max())
    assert bool(torch.isnan(time))


def test_a_waveform_below_zero_has_a_negative_amplitude_and_no_time():
    amplitude, time = measure(-1.0 - triangle())
    assert float(amplitude) == -1.0
    assert bool(torch.isnan(time))


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 1, 3), (0,), (0, 9)])
def test_leading_dimensions_are_kept_and_rows_do_not_mix(shape):
    waveforms = torch.stack([triangle(10.0 * (1 + row), start=20 + row) for row in range(6)])
    waveforms = waveforms[: int(np.prod(shape))].reshape(*shape, 64)
    amplitude, time = measure(waveforms)
    assert amplitude.shape == time.shape == shape
    for row, (height, crossing) in enumerate(zip(amplitude.flatten(), time.flatten(), strict=True)):
        assert float(height) == pytest.approx(10.0 * (1 + row))
        assert float(crossing) == pytest.approx(SAMPLE_NS * (25 + row))


@pytest.mark.parametrize("of", ["amplitude", "time", "both"])
def test_channels_without_a_time_leave_no_nan_in_the_gradients(of):
    waveforms = torch.stack([triangle(), triangle(3.0), torch.zeros(64), torch.full((64,), 50.0)])
    waveforms = waveforms.double().requires_grad_()
    amplitude, time = measure(waveforms)
    total = {"amplitude": amplitude.sum(), "time": time.nansum(), "both": amplitude.sum() + time.nansum()}[of]
    total.backward()
    assert bool(torch.isfinite(waveforms.grad).all())


def test_the_gradient_of_the_amplitude_is_one_at_the_peak_and_that_of_the_time_keeps_scale_invariance():
    waveform = triangle().requires_grad_()
    amplitude, time = measure(waveform, fraction=0.47)
    (peak,) = torch.autograd.grad(amplitude, waveform, retain_graph=True)
    assert peak.nonzero().flatten().tolist() == [30]
    assert float(peak[30]) == 1.0
    (edge,) = torch.autograd.grad(time, waveform)
    # A scaled pulse has the same time: the gradient has no component along the pulse (Euler).
    assert float(edge @ waveform.detach()) == pytest.approx(0.0, abs=1e-12)
    assert set(edge.nonzero().flatten().tolist()) == {24, 25, 30}


def test_white_noise_moves_the_time_by_its_share_of_the_slope():
    """Standard deviation of the time = noise at the crossing and of the level / slope, for a slow edge."""
    generator = torch.Generator().manual_seed(3)
    clean = triangle(1000.0, start=20, rise=20, samples=80)
    _, time = measure(clean + torch.randn(4000, 80, generator=generator, dtype=torch.float64), fraction=0.525)
    slope = 1000 / (20 * SAMPLE_NS)
    # Halfway between two samples the interpolation averages their noise; the level adds its share of the peak's.
    expected = np.sqrt(0.5 + 0.525**2) / slope
    assert float(time.std()) == pytest.approx(expected, rel=0.06)
    assert float(time.mean()) == pytest.approx(SAMPLE_NS * 30.5, abs=5 * expected / np.sqrt(4000))
