"""Signals of a square of detectors in factors: amplitudes and times of pulses, and their waveforms.

With uniform ``u`` (the point of impact in the central cell), normal ``z`` and dense features ``h(u, z, e)`` at
``e = (ln E - <ln E>) / std(ln E)``, the **generator** computes for every channel k::

    s_k = m_k(u, e) + exp(w_k(u, e) + W_k(h)) (L z)_k + S_k(h)      score of the amplitude
    A_k = E exp Q_c(s_k | ln E)                                     amplitude, c the class of k: corner, side, centre
    r_k = rho(A_k) z_0 + sqrt(1 - rho(A_k)^2) z'_k + R_k(h)         score of the time, z_0 common to the event
    t_k = P(i(A_k) r_k | ln A_k)                                    time

``Q`` and ``P`` are quantiles that depend smoothly on the energy and on the amplitude, so scores are normal numbers;
``m``, ``w`` (polynomials in the impact point), the correlation ``L`` of what is left and ``rho``, the share of the
common trigger offset in the width of a time, are fitted before the first step, to all 8 orientations of the training
showers (`SignalsFactorised.calibrate`): a square hit uniformly has its symmetry, and channels that it exchanges share
one distribution. ``P`` is that of measured times; ``i`` is the part of their width that is not due to the white noise,
which waveforms add again. ``S``, ``W`` and ``R`` are learned by adversarial training: the discriminator sees amplitudes
and times alone, 18 numbers and not 9,216, as scores given the energy and in a random orientation; of real showers as an
optimal filter measures them, of generated ones with the error that the white noise makes in that filter.

The waveforms are made from amplitudes and times as `dist_calo.models.waveforms.factorised.pulses` says, by constants
that are fitted before the first step.

Inside, the unit of the samples is the power of ten of theirs in which the noise is from 1 to 10: whether waveforms are
in counts or in volts makes no difference.
"""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dist_calo.errors import ConfigError
from dist_calo.geometry import Geometry, Waveforms
from dist_calo.models.interfaces import Game, Model, Statistics, Verdict
from dist_calo.models.nn.blocks import fill
from dist_calo.models.nn.requirements import column, require_conditions, require_kind, require_sizes
from dist_calo.models.waveforms.factorised import calibration as fit
from dist_calo.models.waveforms.factorised.amplitudes_times import (
    ENERGY_KNOTS,
    LEAST_AMPLITUDE,
    LEAST_SIGNIFICANCE,
    AmplitudeTimeDiscriminator,
    AmplitudeTimeGenerator,
)
from dist_calo.models.waveforms.factorised.pulse_calibration import pulse_fit
from dist_calo.models.waveforms.factorised.pulses import MODES, PulseShape, event_times
from dist_calo.pulses import SIGNIFICANCE
from dist_calo.randomness import Draws

MEASURED_AT_ONCE = 256
TIME_KNOTS = (1.5, 2, 2.5, 3, 4, 5, 6.5, 9, 14, 25, 50, 120, 400, 2000)
"""Amplitudes in units of the noise at which the distribution of the times is tabulated."""


class SignalsFactorised(Model):
    """One game about amplitudes and times, and waveforms made from these; `calibrate` fits their starting point."""

    generating = ("generator",)
    geometry: Waveforms

    def __init__(
        self,
        geometry: Waveforms,
        generator: AmplitudeTimeGenerator,
        discriminator: AmplitudeTimeDiscriminator,
    ) -> None:
        super().__init__(geometry)
        self.unit = 10.0 ** math.floor(math.log10(geometry.noise))
        self.noise = geometry.noise / self.unit
        self.generator, self.discriminator = generator, discriminator
        self.pulses = PulseShape(geometry.samples, geometry.sample_ns)

    @property
    def games(self) -> tuple[Game, ...]:
        """One game about amplitudes and times."""
        game = Game(
            generator="generator",
            discriminator="discriminator",
            view=self._view,
            generate=self._generated_view,
            judge=self._judge,
            whole=False,
        )
        return (game,)

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Return waveforms in network units (B, channels, samples) for conditions (B, C) with energies in GeV."""
        logs, scores = self._amplitudes_and_scores(conditions, draws)
        channels, samples = self.geometry.channels, self.geometry.samples
        waves: Tensor = self.pulses(
            logs.exp(),
            self.generator.times(logs, scores),
            draws.normal("fluctuations", channels * MODES).to(logs).view(-1, channels, MODES),
            draws.normal("noise", channels * samples).to(logs).view(-1, channels, samples),
            draws.normal("baseline", channels).to(logs),
        )
        return waves * self.pulses.scale

    def _amplitudes_and_scores(self, conditions: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return logarithms of amplitudes in the unit of the samples, and scores of times, randomly oriented."""
        network = self.generator
        energy = column(conditions, self.geometry, "energy")
        impact = 2.0 * draws.uniform("impact", 2).to(conditions) - 1.0
        both = network(energy, impact, draws.normal("amplitudes_times", network.latent).to(conditions))
        logs, scores = network.oriented(torch.stack(both, dim=2), draws).unbind(2)
        return logs, scores

    def _generated_view(self, conditions: Tensor, draws: Draws) -> Tensor:
        return self.generator.measured(*self._amplitudes_and_scores(conditions, draws), draws)

    def _view(self, showers: Tensor) -> Tensor:
        logs, times = self._measured(showers / self.pulses.scale)
        return self.generator.view(logs, self.generator.time_map.to_score(times, logs))

    def _judge(self, view: Tensor, conditions: Tensor, draws: Draws) -> Verdict:
        energy = column(conditions, self.geometry, "energy")
        return Verdict(score=self.discriminator(view, energy, draws))

    def _measured(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """Return logarithms of the amplitudes, and times in ns, of waveforms in the unit of the samples."""
        amplitudes, times = self.pulses.measured(waves, self.noise)
        return amplitudes.clamp(min=LEAST_AMPLITUDE * self.noise).log(), times

    def calibrate(self, statistics: Statistics) -> None:
        """Fit the starting point of the training; deterministic.

        Args:
            statistics: of a sample of n training showers: ``energy`` (n,) in GeV, ``showers`` (n, channels, samples)
                above the baseline and ``network_units``, the same as the networks see them.

        Raises:
            ConfigError: if the network units are not the samples times a scale, or no channel has a signal.
        """
        showers = statistics["showers"] / np.float32(self.unit)
        scale = _scale_of(showers, statistics["network_units"])
        waves, none = torch.from_numpy(showers), torch.tensor(torch.nan)
        if event_times(waves, self.geometry.sample_ns, self.noise, none).isnan().all():
            raise ConfigError(
                f"model.name=signals_factorised: none of {len(showers)} training showers has a pulse above "
                f"{SIGNIFICANCE:g} times the noise of {self.geometry.noise:g} {self.geometry.unit}; check the data"
            )
        self._fit_pulses(waves, fit.quantum(showers.max(axis=2)), scale)
        device = self.pulses.scale.device
        measured = [self._measured(part.to(device)) for part in waves.split(MEASURED_AT_ONCE)]
        logs, times = (torch.cat(part).cpu().double().numpy() for part in zip(*measured, strict=True))
        self._fit_amplitudes(logs, np.log(statistics["energy"].astype(np.float64)))
        self._fit_times(logs, times)

    def _fit_pulses(self, waves: Tensor, step: float, scale: float) -> None:
        shape, pulses = self.pulses, self.geometry
        found = pulse_fit(
            waves, sample_ns=pulses.sample_ns, noise=self.noise, lead=shape.lead, tail=shape.tail
        )
        # The rounding to steps, which is part of what was measured, comes on top again.
        white = math.sqrt(max(found.white**2 - step**2 / 12.0, 0.01 * found.white**2))
        fill(
            shape,
            basis=found.basis,
            filters=found.filters,
            noise=[white, found.baseline],
            step=step,
            arrival=found.arrival,
            scale=scale,
        )

    def _fit_amplitudes(self, logs: np.ndarray, log_energy: np.ndarray) -> None:
        generator, judge, side = self.generator, self.discriminator, self.geometry.rows
        standard = [log_energy.mean(), max(log_energy.std(), 1e-3)]
        e = (log_energy - standard[0]) / standard[1]
        knots = fit.energy_knots(log_energy, ENERGY_KNOTS)
        given = np.repeat(log_energy[:, None], logs.shape[1], axis=1)
        classes = fit.equivalent_channels(side)
        table = fit.quantile_tables(logs - given, given, classes, knots, narrow=0.7)
        for network in (generator, judge):
            fill(network.amplitude_map, knots=knots, table=table)
            fill(network, log_energy=standard)
        scores = generator.amplitude_map.to_score(*self._tensors(logs - given, given)).cpu().double().numpy()
        x, y = fit.impact_point(np.exp(logs), log_energy, side, knots)
        found = fit.impact_fit(scores, x, y, e, side)
        fill(generator, impact_mean=found.mean, impact_log_width=found.log_width, mixing=found.mixing)
        roots = np.exp(0.5 * (logs - given))
        alike = np.concatenate([roots[:, order] for order in fit.orientations(side)])
        fill(judge, roots=np.stack([alike.mean(0), alike.std(0) + 1e-6]))

    def _fit_times(self, logs: np.ndarray, times: np.ndarray) -> None:
        generator = self.generator
        knots = np.log(self.noise * np.array(TIME_KNOTS))
        measurable = np.where(logs > knots[0], times, np.nan)
        classes = generator.time_map.classes.tolist()
        fill(
            generator.time_map,
            knots=knots,
            table=fit.quantile_tables(measurable, logs, classes, knots, narrow=0.5),
        )
        fill(generator, noise=self.noise, time_error=float(self.pulses.time_error()))
        given, found = self._tensors(logs, times)
        scores = generator.time_map.to_score(found, given).cpu().double().numpy()
        widths = generator.time_width(given)[0].cpu().double().numpy()
        significant = logs >= np.log(LEAST_SIGNIFICANCE * self.noise)
        fill(generator, common_offset=fit.common_offset(np.where(significant, scores, np.nan), widths))

    def _tensors(self, *values: ArrayLike) -> list[Tensor]:
        device = self.pulses.scale.device
        return [torch.from_numpy(np.asarray(value, dtype=np.float32)).to(device) for value in values]


def _scale_of(showers: np.ndarray, network_units: np.ndarray) -> float:
    """Return the scale of network units ``scale x samples``."""
    largest = np.abs(showers).max()
    scale = float(np.abs(network_units).max() / largest) if largest > 0 else 0.0
    if scale == 0 or not np.allclose(network_units, scale * showers, rtol=1e-3, atol=1e-6 * scale * largest):
        raise ConfigError(
            "model.name=signals_factorised: its network units are the samples times a scale; set transform.power=1, "
            "transform.log=false and transform.threshold=0"
        )
    return scale


def signals_factorised(
    geometry: Geometry,
    *,
    latent: int = 8,
    hidden: int = 96,
    discriminator_hidden: int = 128,
) -> SignalsFactorised:
    """Build the networks for waveforms of a square of detectors around the one that is hit.

    Args:
        geometry: the read-out.
        latent: normal numbers of an event for the dense layers alone.
        hidden: width of the dense layers that generate amplitudes and times.
        discriminator_hidden: width of those that judge them.

    Raises:
        ConfigError: if the data are no waveforms of a square with a middle and neighbours, or have other conditions
            than the energy, or a size is too small.
    """
    waveforms = require_kind("signals_factorised", geometry, Waveforms)
    require_conditions("signals_factorised", geometry, ("energy",))
    side = waveforms.rows
    if side != waveforms.columns or side < 3 or side % 2 == 0:
        raise ConfigError(
            f"model.name=signals_factorised: the data have {side}x{waveforms.columns} detectors, this model is for a "
            "square around the one that is hit, 3x3 or 5x5; choose another model or other data"
        )
    if waveforms.samples < 16:
        raise ConfigError(
            f"model.name=signals_factorised: the data have {waveforms.samples} samples a pulse, this model needs at "
            "least 16; choose another model or other data"
        )
    require_sizes(latent=latent, hidden=hidden, discriminator_hidden=discriminator_hidden)
    return SignalsFactorised(
        waveforms,
        AmplitudeTimeGenerator(side, latent, hidden),
        AmplitudeTimeDiscriminator(side, discriminator_hidden),
    )
