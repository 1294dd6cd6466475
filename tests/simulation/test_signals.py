"""The pulse simulator: known means, pure seeds, and the recorded waveforms of the same showers."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.errors import ConfigError, DataError
from dist_calo.pulses import amplitudes_and_times
from dist_calo.simulation.signals import (
    LIGHT_MM_PER_NS,
    LightCurve,
    PulseChain,
    digitise,
    signal_attributes,
    signals_from_deposits,
    waveform_geometry,
)

RECORDED = Path(__file__).parents[2] / "data/signals/signals_electrons.h5"
CHAIN = PulseChain()
QUIET = PulseChain(offset_ns=0.0, noise_counts=0.0, baseline_spread_counts=0.0)


def deposits_in(layer, energy, events=1, chain=CHAIN):
    """The same energy in one layer of every channel."""
    deposits = np.zeros((events, *chain.deposit_shape))
    deposits[:, layer] = energy
    return deposits


def measure(signals):
    amplitude, time = amplitudes_and_times(
        torch.from_numpy(signals.astype(np.float32) - 100.0), sample_ns=CHAIN.sample_ns, noise=1.0
    )
    return amplitude.numpy(), time.numpy()


def share_of_light_before(time, chain=CHAIN):
    """Two exponentials and a normal distribution, integrated in closed form."""

    def one(decay):
        spread = chain.transit_spread_ns
        late = 0.5 * math.erfc((spread / decay - time / spread) / math.sqrt(2))
        return 0.5 * math.erfc(-time / spread / math.sqrt(2)) - late * math.exp(
            0.5 * (spread / decay) ** 2 - time / decay
        )

    slow, fast = chain.fibre_ns, chain.scintillation_ns
    return (slow * one(slow) - fast * one(fast)) / (slow - fast)


@pytest.mark.parametrize(("layer", "offset"), [(0, 0.0), (40, 0.0), (40, 0.0837), (65, -0.31)])
def test_the_expected_light_is_the_closed_form_to_1e_8_at_any_fraction_of_a_bin(layer, offset):
    energies = np.zeros((1, CHAIN.layers))
    energies[0, layer] = 1.0
    light = LightCurve(CHAIN).expected(energies, offset)[0] / CHAIN.photoelectrons_per_gev
    front = layer * 6.0
    arrival = 60.0 + offset + (front + 1.6 * (66 * 6.0 - front)) / LIGHT_MM_PER_NS
    edges = (np.arange(CHAIN.samples + 1) - 0.5) * CHAIN.sample_ns - arrival
    exact = np.diff([share_of_light_before(edge) if edge > -5 else 0.0 for edge in edges])
    assert np.abs(light - exact).max() < 1e-8


def test_the_expected_light_adds_up_to_the_yield_and_is_linear_in_the_deposits():
    curve = LightCurve(CHAIN)
    energies = np.random.default_rng(1).exponential(0.01, (9, CHAIN.layers))
    light = curve.expected(energies, 0.05)
    np.testing.assert_allclose(light.sum(axis=1), 18_000 * energies.sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(curve.expected(3 * energies, 0.05), 3 * light, rtol=1e-6, atol=1e-6)
    halves = [energies * (np.arange(CHAIN.layers) % 2 == part) for part in (0, 1)]
    together = sum(curve.expected(half, 0.05) for half in halves)
    np.testing.assert_allclose(together, light, rtol=1e-6, atol=1e-6)


def test_light_that_falls_out_of_the_record_does_not_come_in_on_the_other_side():
    late = replace(CHAIN, delay_ns=200.0)
    light = LightCurve(late).expected(np.ones((1, 66)), 0.0)[0]
    assert light[:900].max() < 1e-3
    early = LightCurve(replace(CHAIN, delay_ns=0.0)).expected(np.ones((1, 66)), -30.0)[0]
    assert early[-100:].max() < 1e-3
    assert early[0] == early.max()


def test_one_photoelectron_makes_the_response_of_the_shaper():
    electrons = np.zeros((1, CHAIN.samples))
    electrons[0, 300] = 1
    pulse = LightCurve(CHAIN).pulses(electrons)[0]
    assert np.abs(pulse[:301]).max() < 1e-12
    assert int(pulse.argmax()) == 310  # 2 ns later
    assert float(pulse.max()) == pytest.approx(0.18)
    np.testing.assert_allclose(pulse[300:], CHAIN.response[: CHAIN.samples - 300], atol=1e-12)


def test_a_noiseless_waveform_adds_up_to_its_photoelectrons_times_the_area_of_the_response():
    chain = replace(QUIET, baseline_counts=0.0)
    made = digitise(deposits_in(20, 0.5, events=3), chain, seed=4)
    area = 0.18 * math.e * chain.response_ns / chain.sample_ns
    assert chain.response.sum() == pytest.approx(area, rel=1e-3)
    # Rounding costs at most half a count a sample, and on average nothing.
    np.testing.assert_allclose(
        made.signals.sum(axis=2), chain.response.sum() * made.photoelectrons, rtol=1e-3
    )


def test_photoelectrons_are_poisson():
    made = digitise(deposits_in(10, 0.01, events=200), CHAIN, seed=1)
    counts = made.photoelectrons.ravel()
    assert counts.mean() == pytest.approx(180, abs=5 * math.sqrt(180 / counts.size))
    assert counts.var() == pytest.approx(180, rel=5 * math.sqrt(2 / counts.size))


def test_amplitudes_grow_in_proportion_to_the_deposit():
    energies = np.array([0.25, 0.5, 1.0, 1.5])
    made = digitise(np.concatenate([deposits_in(20, energy) for energy in energies]), CHAIN, seed=2)
    per_gev = measure(made.signals)[0].mean(axis=1) / energies
    np.testing.assert_allclose(per_gev, per_gev[-1], rtol=0.02)


def test_a_deposit_one_layer_deeper_is_earlier_by_the_light_path_it_saves():
    """Its particle comes later by p / c, its light saves n p / c."""
    assert np.diff(CHAIN.arrival_ns) == pytest.approx(-0.6 * 6.0 / LIGHT_MM_PER_NS)
    front = measure(digitise(deposits_in(0, 1.0, events=60), QUIET, seed=3).signals)[1]
    back = measure(digitise(deposits_in(65, 1.0, events=60), QUIET, seed=3).signals)[1]
    difference = (front - back).astype(float)
    error = difference.std() / math.sqrt(difference.size)
    assert error < 0.01
    assert difference.mean() == pytest.approx(65 * 0.6 * 6.0 / LIGHT_MM_PER_NS, abs=5 * error)


def test_the_offset_of_the_trigger_is_common_to_the_channels_and_known():
    made = digitise(deposits_in(20, 1.5, events=150), replace(CHAIN, offset_ns=0.3), seed=5)
    time = measure(made.signals)[1].mean(axis=1)
    assert made.time_offset.std() == pytest.approx(0.3, rel=0.3)
    slope, _ = np.polyfit(made.time_offset, time, 1)
    assert slope == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(made.arrival - made.time_offset[:, None], CHAIN.arrival_ns[20])


def test_without_a_deposit_there_is_noise_of_the_stated_size_alone():
    made = digitise(np.zeros((40, *CHAIN.deposit_shape)), CHAIN, seed=6)
    assert not made.photoelectrons.any()
    assert np.isnan(made.arrival).all()
    noise = made.signals - made.baseline[:, :, None]
    expected = math.sqrt(1 + 1 / 12)  # of the electronics and of the rounding
    assert noise.std() == pytest.approx(expected, abs=5 * expected / math.sqrt(2 * noise.size))
    assert noise.mean() == pytest.approx(0, abs=5 * expected / math.sqrt(noise.size))
    assert made.baseline.std() == pytest.approx(0.5, rel=5 / math.sqrt(2 * made.baseline.size))
    assert np.abs(np.corrcoef(noise.reshape(-1, 1024)[:, :2].T)[0, 1]) < 5 / math.sqrt(360)


def test_the_adc_saturates_and_never_leaves_its_scale():
    full = digitise(deposits_in(20, 50.0), CHAIN, seed=7).signals
    assert full.max() == 4095
    assert (full == 4095).sum() > 9 * 50
    empty = digitise(deposits_in(20, 0.0), replace(CHAIN, baseline_counts=0.0), seed=7).signals
    assert empty.min() == 0


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4), first=st.integers(0, 2**40))
def test_an_event_is_the_same_in_blocks_of_any_size(sizes, first):
    deposits = np.random.default_rng(2).exponential(0.01, (sum(sizes), *CHAIN.deposit_shape))
    whole = digitise(deposits, CHAIN, 8, first)
    ends = np.cumsum([0, *sizes])
    parts = [digitise(deposits[a:b], CHAIN, 8, first + int(a)) for a, b in pairwise(ends)]
    for name in ("signals", "photoelectrons", "time_offset", "arrival", "baseline"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))


def test_seeds_and_events_differ_and_a_deposit_changes_no_other_draw():
    deposits = deposits_in(20, 0.02, events=2)
    one, other = digitise(deposits, CHAIN, 1), digitise(deposits, CHAIN, 2)
    assert not np.array_equal(one.signals, other.signals)
    assert not np.array_equal(one.signals[0], one.signals[1])
    dark = digitise(np.zeros_like(deposits), CHAIN, 1)
    assert np.array_equal(dark.baseline, one.baseline)
    assert np.array_equal(dark.time_offset, one.time_offset)
    assert np.array_equal(dark.signals[:, :, :290], one.signals[:, :, :290])


def test_a_file_of_signals_has_the_data_sets_and_attributes_of_a_recorded_one():
    made = signals_from_deposits(deposits_in(20, 0.02, events=2), seed=1)
    with h5py.File(RECORDED) as file:
        for name in ("signals", "t0", "edep"):
            assert made[name].dtype == file[name].dtype
            assert made[name].shape[1:] == file[name].shape[1:]
        recorded = file["signals"].attrs
        assert {name: recorded[name] for name in signal_attributes(CHAIN)} == signal_attributes(CHAIN)
    assert waveform_geometry(CHAIN).shape == made["signals"].shape[1:]


@cache
def recorded_and_simulated():
    """400 showers of Geant4: the waveforms on file, and their deposits digitised here with another seed."""
    with h5py.File(RECORDED) as file:
        recorded, offset, deposits = file["signals"][:400], file["t0"][:400, 0], file["edep"][:400]
    return recorded, offset, digitise(deposits, CHAIN, seed=11)


def test_mean_waveforms_are_those_recorded_within_the_statistical_error():
    recorded, _, made = recorded_and_simulated()
    difference = made.signals.astype(float) - recorded
    pulls = difference.mean(axis=0) / (difference.std(axis=0) / math.sqrt(len(difference)))
    assert pulls.std() == pytest.approx(1.0, abs=0.2)
    assert np.abs(pulls).max() < 5.5  # of 9,216, along a waveform correlated


def test_amplitudes_regress_on_those_recorded_with_slope_one():
    recorded, _, made = recorded_and_simulated()
    (ours, _), (theirs, _) = measure(made.signals), measure(recorded)
    assert (ours * theirs).sum() / (theirs**2).sum() == pytest.approx(1.0, abs=0.01)
    # Amplitudes scatter alike about the deposit: the noise and the photoelectrons are those of the sample.
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), rtol=0.03)
    np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), rtol=0.05)


def test_times_and_their_resolution_are_those_recorded():
    recorded, offset, made = recorded_and_simulated()
    ours = measure(made.signals)[1] - made.time_offset[:, None]
    theirs = measure(recorded)[1] - offset[:, None]
    both = np.isfinite(ours) & np.isfinite(theirs)
    ratios = []
    for channel in range(9):
        found = both[:, channel]
        pair = np.stack([ours[found, channel], theirs[found, channel]])
        difference = pair[0] - pair[1]
        assert abs(difference.mean()) < 5 * difference.std() / math.sqrt(difference.size)
        # Between the quartiles: a few pulses near 5 sigma have the time of a fluctuation.
        low, high = np.quantile(pair, [0.25, 0.75], axis=1)
        ratios.append((high - low)[0] / (high - low)[1])
    # One width of 400 times is known to 6 %: five errors of one ratio, and of the mean of nine.
    assert np.max(np.abs(np.log(ratios))) < 5 * 0.06 * math.sqrt(2)
    assert np.mean(ratios) == pytest.approx(1.0, abs=5 * 0.06 * math.sqrt(2) / 3)


def test_noise_baselines_and_offsets_scatter_as_recorded():
    recorded, offset, made = recorded_and_simulated()
    dark = [signals[:, :, :290].astype(float) for signals in (made.signals, recorded)]
    noise = [samples.std(axis=2).mean() for samples in dark]
    assert noise[0] == pytest.approx(noise[1], rel=5 / math.sqrt(dark[0].size))
    baselines = [samples.mean(axis=2).std() for samples in dark]
    assert baselines[0] == pytest.approx(baselines[1], rel=5 / math.sqrt(400 * 9))
    assert made.time_offset.std() == pytest.approx(offset.std(), rel=5 / math.sqrt(400))


def test_as_many_channels_have_no_time_as_recorded():
    recorded, _, made = recorded_and_simulated()
    ours, theirs = (np.isnan(measure(signals)[1]).mean() for signals in (made.signals, recorded))
    assert 0.01 < theirs < 0.1
    assert ours == pytest.approx(theirs, abs=5 * math.sqrt(2 * theirs / (400 * 9)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers=0"),
        ({"sample_ns": float("nan")}, "sample_ns=nan"),
        ({"noise_counts": -1.0}, "noise_counts=-1"),
        ({"transit_spread_ns": 0.1}, "at least sample_ns=0.2"),
        ({"fibre_ns": 30.0}, "take more samples"),
        ({"delay_ns": 300.0}, "before the pulse"),
        ({"adc_bits": 16}, "1 to 15"),
        ({"baseline_counts": 5000.0}, "0 to 4095"),
    ],
)
def test_a_constant_that_breaks_a_rule_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(CHAIN, **change)


def test_deposits_of_another_shape_or_below_zero_are_refused():
    with pytest.raises(DataError, match=r"\(n, 66, 3, 3\)"):
        digitise(np.zeros((2, 66, 9)), CHAIN, 1)
    for value in (-1.0, math.nan, math.inf):
        deposits = deposits_in(3, 0.1, events=3)
        deposits[1, 0, 0, 0] = value
        with pytest.raises(DataError, match="event 1"):
            digitise(deposits, CHAIN, 1)


def test_no_events_are_no_waveforms():
    made = digitise(np.zeros((0, *CHAIN.deposit_shape)), CHAIN, 1)
    assert made.signals.shape == (0, 9, 1024)
