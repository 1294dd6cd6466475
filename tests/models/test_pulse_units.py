"""Waveforms may be in counts or in volts: what is learnt and generated is the same but for the unit."""

import numpy as np
import pytest
import torch

from dist_calo.config import ModelConfig
from dist_calo.geometry import Waveforms
from dist_calo.models import build_model
from dist_calo.models.waveforms.factorised import calibration as fit
from dist_calo.models.waveforms.published.pulse_units import with_peak_one
from dist_calo.pulses import amplitudes_and_times
from dist_calo.randomness import Draws
from dist_calo.transforms import Transform

VOLT = 1e-3
"""Volts of one count."""
SIZES = {"latent": 4, "hidden": 8}
TRANSFORM = Transform(scale=0.01, power=1.0)
FAMILIES = ("signals_shapes_amplitudes", "signals_full", "signals_simplified", "signals_factorised")


def digitised(events=64):
    """Waveforms in whole counts with a noise of one, some of them empty, and energies in GeV."""
    random = np.random.default_rng(0)
    energy = random.uniform(2.0, 20.0, events)
    amplitude = energy[:, None] * random.uniform(5.0, 60.0, (events, 9))
    amplitude[:: events // 6, ::2] = 0.0
    u = np.maximum(0.2 * np.arange(150) - random.normal(8.0, 0.5, (events, 9, 1)), 0.0) / 3.0
    waveforms = np.round(
        amplitude[..., None] * (u * np.exp(1.0 - u)) ** 3 + random.normal(size=(events, 9, 150))
    )
    return waveforms.astype(np.float32), energy.astype(np.float32)


def calibrated(family, unit):
    """A model of waveforms whose count is so many of their unit, and those waveforms in network units."""
    waveforms, energy = digitised()
    waveforms = (waveforms * unit).astype(np.float32)
    torch.manual_seed(0)
    geometry = Waveforms(samples=150, noise=unit)
    model = build_model(ModelConfig(name=family, options=SIZES), geometry)
    seen = TRANSFORM.forward(waveforms)
    model.calibrate(
        {
            "energy": energy,
            "energy_sum": waveforms.sum(axis=(1, 2)),
            "showers": waveforms,
            "network_units": seen,
        }
    )
    return model, torch.from_numpy(seen), torch.from_numpy(energy)[:, None]


@pytest.mark.parametrize("unit", [VOLT, 7 * VOLT, 1e3])
@pytest.mark.parametrize("family", FAMILIES)
def test_signals_in_another_unit_are_generated_alike(family, unit):
    found = []
    for one in (1.0, unit):
        model, _, energies = calibrated(family, one)
        with torch.no_grad():
            waveforms = TRANSFORM.inverse(model.generate(energies, Draws(0, 1, range(64)))) / one
        found.append((waveforms, *amplitudes_and_times(waveforms, sample_ns=0.2, noise=1.0)))
    (counts, amplitudes, times), (others, other_amplitudes, other_times) = found
    assert torch.isfinite(times).float().mean() > 0.5
    assert (torch.isfinite(times) == torch.isfinite(other_times)).float().mean() > 0.99
    # Few samples are rounded to another count.
    alike = (others - counts).abs() < 1e-3 * amplitudes.unsqueeze(2) + 1e-2
    assert alike.float().mean() > 0.99
    torch.testing.assert_close(other_amplitudes.mean(), amplitudes.mean(), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_critics_see_the_same_in_volts(family):
    views = []
    for unit in (1.0, VOLT):
        model, seen, _ = calibrated(family, unit)
        views.append([game.view(seen) for game in model.games])
    for counts, volts in zip(*views, strict=True):
        torch.testing.assert_close(volts, counts, rtol=1e-3, atol=1e-3)


def test_the_step_of_a_digitiser_is_found_in_volts():
    waveforms, _ = digitised()
    volts = (waveforms.max(axis=2) * VOLT).astype(np.float32) / np.float32(VOLT)
    assert fit.quantum(volts.astype(np.float64)) == pytest.approx(1.0, rel=1e-5)


def test_a_peak_is_one_relative_to_the_noise():
    values = 1e-5 * torch.tensor([[0.5, 2.0, 1.0], [0.02, 0.05, 0.01]])
    found = with_peak_one(values, least=1e-6)
    torch.testing.assert_close(found, torch.tensor([[0.25, 1.0, 0.5], [1.0, 1.0, 1.0]]), rtol=0.0, atol=1e-5)
