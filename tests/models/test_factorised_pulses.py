"""Pulses of any time, and the fit of their mean, noise, fluctuations and filter to known ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.models.waveforms.factorised.pulse_calibration import pulse_fit
from dist_calo.models.waveforms.factorised.pulses import MODES, PulseShape, fit_pulses, interpolated


def pulses(amplitudes, times, generator, samples=256):
    """Digitised pulses (n, channels, samples) that rise in about 2 ns and decay in 6 ns."""
    time = 0.2 * np.arange(samples) - times[..., None]
    shape = 1.0 / (1.0 + np.exp(-time / 0.5)) * np.exp(-np.maximum(time, 0.0) / 6.0)
    noise = generator.normal(size=shape.shape)
    return np.round(amplitudes[..., None] * shape / shape.max() + noise).astype(np.float32)


def test_values_between_samples_follow_a_cubic_and_those_beyond_the_ends_repeat_them():
    place = torch.arange(40.0)
    cubic = 0.01 * (place - 15.0) ** 2 + 0.1 * place
    between = 3.0 + 0.7 + torch.arange(30.0)
    found = interpolated(cubic.expand(2, -1), torch.tensor([3.7, 3.0]), 30)
    torch.testing.assert_close(found[0], 0.01 * (between - 15.0) ** 2 + 0.1 * between)
    assert torch.equal(found[1], cubic[3:33])
    ends = interpolated(cubic, torch.tensor(-4.5), 50)
    assert (ends[:3] == cubic[0]).all()
    assert (ends[-3:] == cubic[-1]).all()


@settings(max_examples=20, deadline=None)
@given(time=st.floats(19.0, 21.0), delay=st.floats(-3.0, 3.0))
def test_a_pulse_keeps_its_shape_wherever_it_lies_between_two_samples(time, delay):
    shape = PulseShape(256, 0.2)
    grid = 0.2 * (torch.arange(shape.lead + 256) - shape.lead)
    shape.basis[0] = torch.exp(-0.5 * ((grid - 2.0) / 1.5) ** 2)
    shape.noise.zero_()
    quiet = torch.zeros(1, 2, MODES), torch.zeros(1, 2, 256), torch.zeros(1, 2)
    waves = shape(torch.full((1, 2), 100.0), torch.tensor([[time, time + delay]]), *quiet)
    place = 0.2 * torch.arange(256)
    for wave, at in zip(waves[0], (time, time + delay), strict=True):
        torch.testing.assert_close(
            wave, 100.0 * torch.exp(-0.5 * ((place - at - 2.0) / 1.5) ** 2), atol=0.02, rtol=0.0
        )


def fitted(waves):
    return pulse_fit(torch.from_numpy(waves), sample_ns=0.2, noise=1.0, lead=60, tail=120)


def test_noise_and_mean_of_known_pulses_are_found():
    generator = np.random.default_rng(4)
    times = generator.uniform(15.0, 25.0, (500, 1))
    base = 0.5 * generator.normal(size=(500, 1, 1)).astype(np.float32)
    found = fitted(pulses(np.full((500, 1), 200.0), times, generator) + base)
    assert found.white == pytest.approx(np.hypot(1.0, 12**-0.5), rel=0.05)
    assert found.baseline == pytest.approx(0.5, rel=0.15)
    assert found.arrival == pytest.approx(float(np.median(times)), abs=0.3)
    peak = 0.5 * np.log(11.0)  # where the rise of the logistic function makes up for the decay
    height = np.exp(-peak / 6.0) / (1.0 + 1.0 / 11.0)
    half = -0.5 * np.log(
        1.0 / (0.5 * height) - 1.0
    )  # where the rise crosses half of that, the decay set aside
    assert float(found.basis[0, 60 + 50]) == pytest.approx(np.exp(-(10.0 + half) / 6.0) / height, rel=0.03)
    assert float(found.basis[0, :30].abs().max()) < 0.01
    assert float(found.filters[0] @ found.basis[0, :180]) == pytest.approx(1.0, abs=1e-4)


def photoelectron_pulses(amplitudes, times, generator, samples=256):
    """Pulses of photoelectrons that arrive exponentially within 6 ns, each a response of 1.5 ns, with their noise."""
    time = 0.2 * np.arange(samples)
    response = time / 1.5 * np.exp(1.0 - time / 1.5)
    light = np.exp(-np.maximum(time - times[..., None], 0.0) / 6.0) * (time >= times[..., None])
    height = np.convolve(np.exp(-time / 6.0), response)[:samples].max()
    each = 0.1  # amplitude of a photoelectron's response
    electrons = generator.poisson(amplitudes[..., None] * light / height / each)
    spectrum = np.fft.rfft(electrons, 2 * samples) * np.fft.rfft(each * response, 2 * samples)
    waves = np.fft.irfft(spectrum, 2 * samples)[..., :samples] + generator.normal(size=electrons.shape)
    return np.round(waves).astype(np.float32)


def test_the_time_of_the_filter_is_better_than_least_squares_and_free_of_the_fluctuations():
    generator = np.random.default_rng(5)
    amplitudes = generator.uniform(30.0, 300.0, (400, 4))
    times = np.full((400, 4), 20.0)
    waves = photoelectron_pulses(amplitudes, times, generator)
    found = fitted(waves)
    pulses_, size = torch.from_numpy(waves).double().flatten(0, 1), torch.from_numpy(amplitudes).flatten()
    start = torch.full_like(size, found.arrival / 0.2)
    slope = torch.gradient(found.basis[0])[0]
    derivatives = torch.stack([found.basis[0], -slope, torch.ones_like(slope)], dim=1)[:180]
    errors = []
    for filters in (found.filters, torch.linalg.pinv(derivatives)):
        places = fit_pulses(pulses_, start, filters, 60, 1.0)[1]
        errors.append(float(((places - places.mean()) * size.sqrt()).std()))
    assert errors[0] < 0.8 * errors[1]
    variance = found.basis[1:].square().sum(0)
    assert float(variance[:40].max()) < 0.05 * float(variance.max())
