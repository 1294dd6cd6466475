"""Digitised pulses of a sampling calorimeter's channels, from the deposited energy.

A channel is a stack of layers read out by fibres from its back. The light of a layer follows the shower through the
stack, the fibre back to the photodetector, and two decays: of the scintillator and of the wavelength-shifting fibre.
With the deposits :math:`E_k` the photoelectrons in a bin around the time t are Poisson with the mean

    N(t) = Y sum_k E_k (exp_scintillation * exp_fibre * normal_transit * bin)(t - t_0 - z_k / c - (L - z_k) n / c),

where * convolves, Y is the light yield, z_k = k p the front of layer k (pitch p, total length L) and t_0 a constant
delay plus an offset common to the event. Each photoelectron adds the shaper's response a (t / tau) exp(1 - t / tau);
baseline and noise follow, then the ADC rounds and clips.

The convolution is a product of known functions of the frequency, so a time of arrival is a phase and moves the light by
any fraction of a bin with no interpolation. What is lost is the spectrum above the Nyquist frequency: with the default
constants below 1e-8 of the light, as the transit spread is longer than a bin.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_calo.errors import ConfigError, DataError
from dist_calo.geometry import Waveforms
from dist_calo.randomness import derived_seed

LIGHT_MM_PER_NS = 299.792458
"""Speed of light in vacuum."""
DECAYS_PER_RECORD = 10
"""A waveform lasts at least this many of each decay, so that the spectrum's period (two records) cuts off no tail."""


@dataclass(frozen=True, kw_only=True)
class PulseChain:
    """Light and electronics of a lead-scintillator array with fibre read-out (shashlik), with its constants.

    Raises:
        ConfigError: if a constant breaks a rule.
    """

    layers: int = 66
    """Layers of a channel."""
    layer_pitch_mm: float = 6.0
    """Depth of a layer, absorber and scintillator together, in mm."""
    rows: int = 3
    """Channels in x."""
    columns: int = 3
    """Channels in y, the faster index."""
    photoelectrons_per_gev: float = 18_000.0
    """Light yield: photoelectrons for each GeV deposited in the scintillator."""
    refractive_index: float = 1.6
    """Of the fibre: light travels back at c / n."""
    delay_ns: float = 60.0
    """From the first sample of the record to the particle's entry."""
    offset_ns: float = 0.1
    """Standard deviation of the trigger's offset, common to all channels of an event, in ns."""
    scintillation_ns: float = 2.4
    """Decay time of the scintillator."""
    fibre_ns: float = 7.0
    """Decay time of the wavelength-shifting fibre."""
    transit_spread_ns: float = 0.3
    """Standard deviation of the photodetector's transit time, in ns; at least one sample."""
    response_ns: float = 2.0
    """Peaking time of the shaper's response to one photoelectron."""
    response_counts: float = 0.18
    """Height of that response, in ADC counts."""
    samples: int = 1024
    """Samples of a waveform."""
    sample_ns: float = 0.2
    """Time between two samples, in ns."""
    noise_counts: float = 1.0
    """Standard deviation of the white noise of a sample, in ADC counts, before rounding."""
    baseline_counts: float = 100.0
    """Mean of a channel without light, in ADC counts."""
    baseline_spread_counts: float = 0.5
    """Standard deviation of the baseline, one for each channel and event, in ADC counts."""
    adc_bits: int = 12
    """Resolution: counts from 0 to 2^bits - 1; at most 15."""

    def __post_init__(self) -> None:
        positive = ("layers", "rows", "columns", "samples", "layer_pitch_mm", "sample_ns", "refractive_index")
        for name in (*positive, "scintillation_ns", "fibre_ns", "response_ns"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"signals {name}={getattr(self, name)}: must be finite and above 0")
        not_negative = ("photoelectrons_per_gev", "delay_ns", "offset_ns", "response_counts", "noise_counts")
        for name in (*not_negative, "baseline_spread_counts"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"signals {name}={getattr(self, name)}: must be finite and not negative")
        if not self.sample_ns <= self.transit_spread_ns < math.inf:
            raise ConfigError(
                f"signals transit_spread_ns={self.transit_spread_ns}: must be at least sample_ns={self.sample_ns}, "
                "or the samples cannot carry the light's spectrum; take shorter samples"
            )
        for name in ("scintillation_ns", "fibre_ns", "response_ns"):
            if getattr(self, name) * DECAYS_PER_RECORD > self.record_ns:
                raise ConfigError(
                    f"signals {name}={getattr(self, name)}: a record of {self.record_ns:g} ns must last "
                    f"{DECAYS_PER_RECORD} times as long; take more samples"
                )
        if not self.delay_ns < self.record_ns:
            raise ConfigError(
                f"signals delay_ns={self.delay_ns}: the record ends at {self.record_ns:g} ns, before the pulse"
            )
        if not 1 <= self.adc_bits <= 15:
            raise ConfigError(f"signals adc_bits={self.adc_bits}: counts are stored in 16 bits; use 1 to 15")
        if not 0 <= self.baseline_counts <= self.full_scale:
            raise ConfigError(
                f"signals baseline_counts={self.baseline_counts}: must lie on the ADC's scale, 0 to {self.full_scale}"
            )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.rows * self.columns

    @property
    def record_ns(self) -> float:
        """Length of a waveform in ns."""
        return self.samples * self.sample_ns

    @property
    def full_scale(self) -> int:
        """The ADC's largest count."""
        return int(2**self.adc_bits - 1)

    @property
    def deposit_shape(self) -> tuple[int, int, int]:
        """Shape of the deposits of one event: layers, rows, columns."""
        return (self.layers, self.rows, self.columns)

    @property
    def arrival_ns(self) -> NDArray[np.float64]:
        """Return the time from the first sample to the prompt light of each layer, in ns, shape (layers,)."""
        front = self.layer_pitch_mm * np.arange(self.layers)
        back = self.layer_pitch_mm * self.layers - front
        return np.asarray(self.delay_ns + (front + self.refractive_index * back) / LIGHT_MM_PER_NS)

    @property
    def response(self) -> NDArray[np.float64]:
        """Return the pulse of a photoelectron in ADC counts, 0, 1, 2 ... samples after it, shape (samples,)."""
        time = np.arange(self.samples) * self.sample_ns / self.response_ns
        return np.asarray(self.response_counts * time * np.exp(1.0 - time))


def waveform_geometry(chain: PulseChain) -> Waveforms:
    """Return the read-out of the waveforms above the baseline that a chain makes."""
    return Waveforms(
        rows=chain.rows,
        columns=chain.columns,
        samples=chain.samples,
        sample_ns=chain.sample_ns,
        noise=chain.noise_counts,
    )


@dataclass(frozen=True, kw_only=True)
class Digitised:
    """Waveforms of n events, with the truth."""

    signals: NDArray[np.int16]
    """ADC counts, baseline included, shape (n, channels, samples)."""
    photoelectrons: NDArray[np.int64]
    """Photoelectrons within the record, shape (n, channels)."""
    time_offset: NDArray[np.float64]
    """The trigger's offset in ns, common to the channels, shape (n,)."""
    arrival: NDArray[np.float64]
    """Mean time of the prompt light since the first sample in ns, offset included, shape (n, channels); NaN without a
    deposit."""
    baseline: NDArray[np.float64]
    """ADC counts without light and noise, shape (n, channels)."""


def digitise(deposits: NDArray[np.floating], chain: PulseChain, seed: int, first_event: int = 0) -> Digitised:
    """Digitise events: each is a function of its deposits, the chain, the seed and its number alone.

    Args:
        deposits: energy deposited in the scintillators in GeV, shape (n, layers, rows, columns).
        chain: constants of the read-out.
        seed: seed of all random numbers.
        first_event: number of the first event, so that blocks and processes share one sequence.

    Raises:
        DataError: if the deposits have another shape, or one is negative or not finite.
    """
    _check_deposits(deposits, chain)
    number, channels = len(deposits), chain.channels
    made = Digitised(
        signals=np.empty((number, channels, chain.samples), dtype=np.int16),
        photoelectrons=np.empty((number, channels), dtype=np.int64),
        time_offset=np.empty(number),
        arrival=np.empty((number, channels)),
        baseline=np.empty((number, channels)),
    )
    light = LightCurve(chain)
    # One event at a time: memory stays small, and sums never depend on what else is in the batch.
    for row, deposit in enumerate(deposits):
        generator = np.random.Generator(
            np.random.Philox(key=derived_seed(seed, "signals", first_event + row))
        )
        energies = deposit.reshape(chain.layers, channels).T.astype(np.float64)
        offset = chain.offset_ns * generator.standard_normal()
        baseline = chain.baseline_counts + chain.baseline_spread_counts * generator.standard_normal(channels)
        noise = chain.noise_counts * generator.standard_normal((channels, chain.samples))
        # Light comes last: it takes as many numbers as it needs, so a deposit changes no other draw.
        electrons = generator.poisson(light.expected(energies, offset))
        counts = light.pulses(electrons) + baseline[:, None] + noise
        made.signals[row] = np.clip(np.rint(counts), 0, chain.full_scale)
        made.photoelectrons[row] = electrons.sum(axis=1)
        made.time_offset[row] = offset
        made.arrival[row] = _mean_arrival(energies, chain) + offset
        made.baseline[row] = baseline
    return made


def signals_from_deposits(
    deposits: NDArray[np.floating], seed: int, first_event: int = 0, chain: PulseChain | None = None
) -> dict[str, NDArray[Any]]:
    """Digitise events as the data sets of a signal file: ``signals``, ``t0``, ``edep`` and ``photoelectrons``.

    Args:
        deposits: energy deposited in GeV, shape (n, layers, rows, columns).
        seed: seed of all random numbers.
        first_event: number of the first event.
        chain: constants of the read-out; the default ones without it.

    Raises:
        DataError: as :func:`digitise`.
    """
    made = digitise(deposits, chain or PulseChain(), seed, first_event)
    return {
        "signals": made.signals,
        "t0": made.time_offset[:, None].astype(np.float32),
        "edep": np.asarray(deposits, dtype=np.float32),
        "photoelectrons": made.photoelectrons,
    }


def signal_attributes(chain: PulseChain) -> dict[str, float | str]:
    """Return the attributes of ``signals`` that a reader needs: baseline, noise and time of a sample."""
    return {
        "baseline": chain.baseline_counts,
        "noise_counts": chain.noise_counts,
        "sample_ns": chain.sample_ns,
        "units": "ADC counts",
        "channels": f"{chain.rows}x{chain.columns} row-major [x, y]",
    }


class LightCurve:
    """Expected light and pulses of a chain; what all events share is computed once."""

    def __init__(self, chain: PulseChain) -> None:
        self.chain = chain
        # Twice the record: light after its end, or before its start, does not come in again on the other side.
        self._period = 2 * chain.samples
        frequency = 2.0 * np.pi * np.fft.rfftfreq(self._period, chain.sample_ns)
        self._frequency = frequency
        spectrum = (
            chain.photoelectrons_per_gev
            * np.exp(-0.5 * (chain.transit_spread_ns * frequency) ** 2)
            * np.sinc(0.5 * chain.sample_ns * frequency / np.pi)
            / (1.0 + 1j * frequency * chain.scintillation_ns)
            / (1.0 + 1j * frequency * chain.fibre_ns)
        )
        layers = np.exp(-1j * np.outer(chain.arrival_ns, frequency)) * spectrum
        # Real and imaginary parts side by side: one real matrix product with the real energies.
        self._layers = np.ascontiguousarray(layers).view(np.float64)
        self._response = np.fft.rfft(chain.response, self._period)

    def expected(self, energies: NDArray[np.float64], offset: float) -> NDArray[np.float64]:
        """Return the mean photoelectrons in bins of one sample's width around each sample.

        Args:
            energies: deposits in GeV, shape (channels, layers).
            offset: of the trigger, in ns.

        Returns:
            Means, shape (channels, samples), not negative.
        """
        spectrum = (energies @ self._layers).view(np.complex128) * np.exp(-1j * self._frequency * offset)
        means = np.fft.irfft(spectrum, self._period)[:, : self.chain.samples]
        return np.maximum(means, 0.0)

    def pulses(self, electrons: NDArray[np.integer | np.floating]) -> NDArray[np.float64]:
        """Return waveforms in ADC counts above the baseline, without noise, of photoelectrons (channels, samples)."""
        spectrum = np.fft.rfft(electrons, self._period) * self._response
        return np.fft.irfft(spectrum, self._period)[:, : self.chain.samples]


def _mean_arrival(energies: NDArray[np.float64], chain: PulseChain) -> NDArray[np.float64]:
    """Return the mean arrival of each channel's prompt light in ns (channels,); NaN without a deposit."""
    total = energies.sum(axis=1)
    weighted = energies @ chain.arrival_ns
    return np.divide(weighted, total, out=np.full(len(total), np.nan), where=total > 0)


def _check_deposits(deposits: NDArray[np.floating], chain: PulseChain) -> None:
    if deposits.ndim != 4 or deposits.shape[1:] != chain.deposit_shape:
        raise DataError(
            f"deposits of shape {deposits.shape}: the signal chain needs (events, layers, rows, columns) = "
            f"(n, {', '.join(map(str, chain.deposit_shape))})"
        )
    bad = ~(np.isfinite(deposits) & (deposits >= 0)).all(axis=(1, 2, 3))
    if bad.any():
        raise DataError(
            f"deposits of event {int(np.flatnonzero(bad)[0])}: energies must be finite and not negative, in GeV"
        )
