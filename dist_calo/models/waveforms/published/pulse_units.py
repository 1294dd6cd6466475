"""Network units of pulses: standardised amplitudes, times and shapes, and the way back to waveforms.

The constants are taken from training events, kept in buffers, and stored with the networks.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from dist_calo.errors import ConfigError
from dist_calo.geometry import Waveforms
from dist_calo.models.nn.blocks import fill
from dist_calo.pulses import amplitudes_and_times

FINER = 4
"""Points of a pulse's template for each sample."""
WIDEST = 8.0
"""Standardised amplitudes are generated within so many widths."""
STRONG = 20.0
"""Pulses of so many standard deviations of the noise make the template, where a detector has enough of them."""
ENOUGH = 20
"""Pulses that make a template."""
LEAST_PEAK = 0.1
"""A waveform has no peak to be divided by under so many standard deviations of the noise."""


def units_per_count(statistics: Mapping[str, np.ndarray]) -> float:
    """Return the network units of one unit of the samples.

    Raises:
        ConfigError: if network units are not in proportion to the samples.
    """
    showers = statistics["showers"].astype(np.float64)
    seen = statistics["network_units"].astype(np.float64)
    factor = float((showers * seen).sum() / max((showers**2).sum(), 1e-30))
    if not factor > 0 or np.abs(seen - factor * showers).max(initial=0.0) > 1e-3 * np.abs(seen).max(
        initial=0.0
    ):
        raise ConfigError(
            "the samples that networks see are not in proportion to those of the waveforms, as models of signals need: "
            "set transform.power=1, transform.log=false and transform.threshold=0"
        )
    return factor


def log_energy(energy: np.ndarray) -> tuple[float, float]:
    """Return the mean and standard deviation of the logarithm of the incident energy in GeV."""
    logarithm = np.log(energy.astype(np.float64))
    return float(logarithm.mean()), max(float(logarithm.std()), 1e-3)


class AmplitudeScale(nn.Module):
    """Logarithms of amplitudes, with mean 0 and width 1 in each detector.

    Args:
        detectors: number of detectors.
    """

    center: Tensor
    width: Tensor
    least: Tensor

    def __init__(self, detectors: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(detectors))
        self.register_buffer("width", torch.ones(detectors))
        self.register_buffer("least", torch.tensor(1e-3))

    def standardise(self, amplitudes: Tensor) -> Tensor:
        """Standardise amplitudes in network units, both (B, detectors); the noise is the lower bound."""
        return (amplitudes.clamp(min=self.least).log() - self.center) / self.width

    def restore(self, values: Tensor) -> Tensor:
        """Return amplitudes in network units, above 0, of standardised ones, both (B, detectors)."""
        return (self.center + self.width * values.clamp(-WIDEST, WIDEST)).exp()

    def calibrate(self, amplitudes: np.ndarray, noise: float) -> None:
        """Take the constants from amplitudes (n, detectors) and the noise, in network units."""
        logarithms = np.log(np.maximum(amplitudes.astype(np.float64), noise))
        width = np.maximum(logarithms.std(axis=0), 1e-2)
        fill(self, center=logarithms.mean(axis=0), width=width, least=noise)


class TimeScale(nn.Module):
    """Times about their median: asinh(difference / width), as a few lie far from the others.

    Args:
        geometry: the read-out.
    """

    center: Tensor
    width: Tensor
    earliest: Tensor
    latest: Tensor

    def __init__(self, geometry: Waveforms) -> None:
        super().__init__()
        self.end = (geometry.samples - 1) * geometry.sample_ns
        self.register_buffer("center", torch.full((geometry.channels,), 0.3 * self.end))
        self.register_buffer("width", torch.ones(geometry.channels))
        self.register_buffer("earliest", torch.zeros(geometry.channels))
        self.register_buffer("latest", torch.full((geometry.channels,), self.end))

    def standardise(self, times: Tensor) -> Tensor:
        """Standardise times in ns, both (B, detectors); 0 where there is none."""
        values = torch.asinh((times - self.center) / self.width)
        return values.nan_to_num(nan=0.0)

    def restore(self, values: Tensor) -> Tensor:
        """Return times in ns, within those of the training events, of standardised ones, both (B, detectors)."""
        times = self.center + self.width * values.clamp(-20.0, 20.0).sinh()
        return times.clamp(min=self.earliest, max=self.latest)

    def calibrate(self, times: np.ndarray, rise: np.ndarray) -> None:
        """Take the constants from times (n, detectors) in ns, NaN where there is none.

        Args:
            times: of training events.
            rise: from a pulse's time to its peak in ns, (detectors,): no pulse is generated whose peak is cut off.
        """
        for detector in range(times.shape[1]):
            known = times[np.isfinite(times[:, detector]), detector].astype(np.float64)
            if len(known) == 0:
                continue
            low, middle, high = np.quantile(known, [0.16, 0.5, 0.84])
            latest = min(float(known.max()), self.end - float(rise[detector]))
            self.center[detector] = min(middle, latest)
            self.width[detector] = max(0.5 * (high - low), 1e-3)
            self.earliest[detector] = min(float(known.min()), latest)
            self.latest[detector] = latest


class Templates(nn.Module):
    """One pulse for each detector, with its peak at 1, which crosses the fraction of a pulse's time at 0 ns.

    Args:
        geometry: the read-out.
    """

    curves: Tensor
    start: Tensor

    def __init__(self, geometry: Waveforms) -> None:
        super().__init__()
        self.geometry = geometry
        self.step = geometry.sample_ns / FINER
        points = 2 * FINER * geometry.samples
        self.register_buffer("curves", torch.zeros(geometry.channels, points))
        self.register_buffer("start", torch.zeros(geometry.channels))
        offsets = self.step * (np.arange(points) - points // 2)
        self._take(np.repeat(_default_pulse(offsets)[None], geometry.channels, axis=0), offsets)

    def forward(self, times: Tensor) -> Tensor:
        """Return waveforms (B, detectors, samples) with peak 1 of pulses at times (B, detectors) in ns."""
        geometry = self.geometry
        samples = geometry.sample_ns * torch.arange(geometry.samples, device=times.device, dtype=times.dtype)
        place = (samples - times.unsqueeze(-1) - self.start.unsqueeze(-1)) / self.step
        place = place.clamp(0.0, self.curves.shape[1] - 1.001)
        before = place.floor().long()
        curves = self.curves.expand(times.shape[0], -1, -1)
        low, high = curves.gather(2, before), curves.gather(2, before + 1)
        values = low + (place - before) * (high - low)
        return with_peak_one(values)

    def rise(self) -> np.ndarray:
        """Time from the crossing to the peak of each pulse in ns, (detectors,)."""
        peak = self.curves.argmax(dim=1) * self.step + self.start
        found: np.ndarray = peak.cpu().numpy()
        return found + self.geometry.sample_ns

    def calibrate(self, waveforms: np.ndarray, noise: float) -> None:
        """Average the pulses of training events, put at the same time; strong ones count most.

        A detector with too few pulses gets the average of all detectors, or keeps its curve where there is none.

        Args:
            waveforms: above the baseline, (n, detectors, samples), in any unit.
            noise: standard deviation of a sample's noise, in this unit.
        """
        points = self.curves.shape[1]
        offsets = self.step * (np.arange(points) - points // 2)
        found = [
            _sum_of_pulses(waveforms[:, detector], noise, self.geometry.sample_ns, offsets)
            for detector in range(self.geometry.channels)
        ]
        together = sum(total for total, _ in found)
        if sum(number for _, number in found) >= ENOUGH:
            self._take(
                np.stack([total if number >= ENOUGH else together for total, number in found]), offsets
            )

    def _take(self, curves: np.ndarray, offsets: np.ndarray) -> None:
        """Keep curves (detectors, points), given at offsets in ns, normalised in peak and time."""
        curves = curves / curves.max(axis=1, keepdims=True)
        _, times = amplitudes_and_times(torch.from_numpy(curves), sample_ns=self.step, noise=0.0)
        fill(self, curves=curves, start=-times.numpy())


def with_peak_one(values: Tensor, *, least: Tensor | float = 1e-3) -> Tensor:
    """Divide waveforms (..., samples) by their largest sample; lift it to 1 where it is below the least peak.

    Args:
        values: above the baseline, in any unit.
        least: in this unit; the default is for pulses that are about 1 high.
    """
    peak = values.amax(dim=-1, keepdim=True)
    return torch.where(peak > least, values / peak.clamp(min=least), values - peak + 1.0)


def _sum_of_pulses(
    waveforms: np.ndarray, noise: float, sample_ns: float, offsets: np.ndarray
) -> tuple[np.ndarray, int]:
    """Sum over the pulses of one detector's waveforms (n, samples) at offsets in ns from their times; their number."""
    amplitude, times = (
        measured.numpy().astype(np.float64)
        for measured in amplitudes_and_times(torch.from_numpy(waveforms), sample_ns=sample_ns, noise=noise)
    )
    good = np.isfinite(times)
    strong = good & (amplitude >= STRONG * noise)
    chosen = strong if strong.sum() >= ENOUGH else good
    total = np.zeros(len(offsets))
    grid = sample_ns * np.arange(waveforms.shape[1])
    for waveform, time in zip(waveforms[chosen], times[chosen], strict=True):
        total += np.interp(time + offsets, grid, waveform, left=0.0, right=0.0)
    return total, int(chosen.sum())


def _default_pulse(offsets: np.ndarray) -> np.ndarray:
    """Return a pulse at offsets in ns, (u e^(1-u))^2 with u = t / 5 ns, for detectors never seen to have one."""
    u = np.maximum(offsets, 0.0) / 5.0
    pulse: np.ndarray = (u * np.exp(1.0 - u)) ** 2
    return pulse
