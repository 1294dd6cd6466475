"""Observables of waveforms of detectors: the pulse of each channel, and the light of all of them.

``amplitude`` and ``time`` are those of `dist_calo.pulses`. ``rise_time`` is that from 10 % to 90 % of the amplitude
before the peak, ``pulse_width`` the full width at half maximum; both are found from the peak outwards, as the time is.
A channel has a pulse if its amplitude is five standard deviations of its noise or more; without one it has no time,
rise time or width. ``response`` is the sum of all amplitudes over the incident energy: a channel with noise only
contributes its largest sample.
"""

import numpy as np

from dist_calo.geometry import Waveforms
from dist_calo.physics.observables.features import Feature
from dist_calo.physics.observables.observer import Observed, Profile, check_shapes, ratio, scored
from dist_calo.pulses import SIGNIFICANCE

RISE = (0.1, 0.9)
"""Parts of the amplitude between which a pulse rises."""
DECADES = 5
"""The spectrum of amplitudes reaches from the noise up by so many."""
BINS_PER_DECADE = 8
BATCH = 256
"""Events that are measured at once, which bounds the memory of the measurement."""
MOST_CORRELATED_CHANNELS = 4
"""Channels, nearest to the centre, whose pulses are among the observables whose correlations are shown."""
PER_CHANNEL = ("amplitude", "time", "rise_time", "pulse_width")


class WaveformObserver:
    """Observer of waveforms; see `dist_calo.physics.observables.observer.Observer`.

    Args:
        geometry: the channels.
    """

    summary_groups = (
        "response",
        "amplitude",
        "time",
        "rise_time",
        "pulse_width",
        "leading_fraction",
        "pulses",
    )
    indexed_by = dict.fromkeys(PER_CHANNEL, "channel")

    def __init__(self, geometry: Waveforms) -> None:
        self.geometry = geometry
        unit = geometry.unit
        self.labels = {
            "response": f"sum of amplitudes / E_inc [{unit}/GeV]",
            "leading_channel": "channel of the largest amplitude",
            "leading_fraction": "largest amplitude / sum of amplitudes",
            "pulses": f"channels with a pulse above {SIGNIFICANCE:g} sigma of the noise",
            "amplitude": f"amplitude [{unit}]",
            "time": "time at half of the amplitude [ns]",
            "rise_time": f"rise time from {RISE[0]:.0%} to {RISE[1]:.0%} [ns]",
            "pulse_width": "full width at half maximum [ns]",
        }
        units = {
            "response": f"{unit}/GeV",
            "amplitude": unit,
            **dict.fromkeys(("time", "rise_time", "pulse_width"), "ns"),
        }
        self.features = tuple(
            Feature(
                group=group,
                index=index,
                unit=units.get(group, ""),
                # Their zero is a convention.
                relative=group not in ("time", "leading_channel"),
            )
            for group in self.labels
            for index in range(geometry.channels if group in PER_CHANNEL else 1)
        )
        self.scored = scored(self.features, (), ("amplitude", "time"))
        row, column = np.divmod(np.arange(geometry.channels), geometry.columns)
        distance = np.hypot(row - (geometry.rows - 1) / 2, column - (geometry.columns - 1) / 2)
        inner = np.argsort(distance, kind="stable")[:MOST_CORRELATED_CHANNELS]
        self._centre = int(inner[0])
        self.correlated = (
            *("response/0", "leading_fraction/0", f"rise_time/{self._centre}", f"pulse_width/{self._centre}"),
            *(f"{group}/{channel}" for group in ("amplitude", "time") for channel in inner),
        )
        time = np.arange(geometry.samples) * geometry.sample_ns
        self._amplitude_edges = geometry.noise * np.geomspace(
            1.0, 10.0**DECADES, DECADES * BINS_PER_DECADE + 1
        )
        self.profiles = {
            "waveform": Profile(
                edges=time, points=True, axis="time [ns]", title=f"sum of all channels [{unit}]"
            ),
            "central_waveform": Profile(
                edges=time, points=True, axis="time [ns]", title=f"signal of channel {self._centre} [{unit}]"
            ),
            "amplitude_spectrum": Profile(
                edges=self._amplitude_edges,
                axis=f"amplitude [{unit}]",
                title="channels per event",
                log_axis=True,
                log_values=True,
            ),
        }

    def observe(self, showers: np.ndarray, conditions: np.ndarray) -> Observed:
        """Measure events (n, channels, samples); see `dist_calo.physics.observables.observer.Observer.observe`."""
        check_shapes(self.geometry, showers, conditions)
        showers = np.ascontiguousarray(showers, dtype=np.float32)
        pulses = self._pulses(showers)
        amplitude = pulses["amplitude"]
        with np.errstate(invalid="ignore", over="ignore"):
            total = amplitude.sum(axis=1)
            found = (amplitude >= SIGNIFICANCE * self.geometry.noise).sum(axis=1)
            waveform = showers.sum(axis=1)
        values = {
            "response": total / conditions[:, 0].astype(np.float64),
            "leading_channel": np.where(total > 0, amplitude.argmax(axis=1), np.nan),
            "leading_fraction": ratio(amplitude.max(axis=1), total),
            "pulses": found,
            **pulses,
        }
        return Observed(
            columns=np.column_stack([values[group] for group in self.labels]).astype(np.float64),
            profiles={
                "waveform": waveform,
                "central_waveform": showers[:, self._centre],
                "amplitude_spectrum": self._spectrum(amplitude),
            },
        )

    def _pulses(self, showers: np.ndarray) -> dict[str, np.ndarray]:
        """Return the amplitude, time, rise time and width of each channel, each of shape (n, channels), float64."""
        import torch

        from dist_calo.pulses import FRACTION, amplitudes_and_times

        found = {name: np.empty((len(showers), self.geometry.channels)) for name in PER_CHANNEL}
        step, noise = self.geometry.sample_ns, self.geometry.noise
        for first in range(0, len(showers), BATCH):
            part = slice(first, first + BATCH)
            waveforms = torch.from_numpy(showers[part])
            amplitude, time = amplitudes_and_times(waveforms, sample_ns=step, noise=noise)
            begin, end = (
                amplitudes_and_times(waveforms, sample_ns=step, noise=noise, fraction=level)[1]
                for level in RISE
            )
            # Backwards in time, the falling edge is a rising one.
            backwards = amplitudes_and_times(
                waveforms.flip(-1), sample_ns=step, noise=noise, fraction=FRACTION
            )[1]
            fall = (self.geometry.samples - 1) * step - backwards
            for name, values in zip(PER_CHANNEL, (amplitude, time, end - begin, fall - time), strict=True):
                found[name][part] = values.numpy()
        return found

    def _spectrum(self, amplitude: np.ndarray) -> np.ndarray:
        """Count the channels of each event (n, channels) in bins of amplitude, shape (n, B)."""
        count, bins = len(amplitude), len(self._amplitude_edges) - 1
        place = np.searchsorted(self._amplitude_edges, amplitude, side="right") - 1
        inside = (place >= 0) & (place < bins)
        place = place + bins * np.arange(count)[:, None]
        return np.bincount(place[inside], minlength=bins * count).reshape(count, bins).astype(np.float64)
