"""Signals of a square of detectors, factorised: amplitudes and times, and pulses that have exactly these.

A pulse's amplitude and time, and its shape, are learned apart and then joined so that a measurement gives the former
back. With uniform ``u`` (the point of impact in the central cell), normal ``z`` and dense features
``h(u, z, e)`` at ``e = (ln E - <ln E>) / std(ln E)``, the **numbers generator** computes for every channel k::

    s_k = m_k(u, e) + exp(w_k(u, e) + W_k(h)) (L z)_k + S_k(h)      score of the amplitude
    A_k = exp Q_c(s_k | ln E), digitised                            amplitude, c the class of k: corner, side, centre
    r_k = rho(A_k) z_0 + sqrt(1 - rho(A_k)^2) z'_k + R_k(h)         score of the time, z_0 common to the event
    t_k = P(r_k | ln A_k) if A_k is significant                     time

``Q`` and ``P`` are quantiles that depend smoothly on the energy and on the amplitude, so scores are normal numbers;
``m``, ``w`` (polynomials in the impact point), the correlation ``L`` of what is left and ``rho``, the share of the
common trigger offset in the spread of a time, are fitted before the first step, to all 8 orientations of the training
showers (`SignalsFactorised.calibrate`): a square hit uniformly has its symmetry, and channels that it exchanges share
one distribution. ``S``, ``W`` and ``R`` are learned by adversarial training: its discriminator sees amplitudes and
times alone, 18 numbers and not 9,216, as scores given the energy and in a random orientation.

The **shapes generator** makes the pulse around a mean template that depends on the amplitude and reaches to the last
sample: the photo-electrons' fluctuations are white noise through a learned filter, noise and baseline of the
electronics are added, and convolutions, alike at all samples, correct both. Its discriminator sees windows of a corner,
a side and the centre, lined up at the time, in standard deviations from the template. Last,
`signals_factorised_pulses.joined` moves the samples that would make a measurement disagree.

Inside, the unit of the samples is the power of ten of theirs in which the noise is from 1 to 10: whether waveforms are
in counts or in volts makes no difference.
"""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from dist_calo.errors import ConfigError
from dist_calo.geometry import Geometry, Waveforms
from dist_calo.models.interfaces import Game, Model, Statistics, Verdict
from dist_calo.models.nn.blocks import fill
from dist_calo.models.nn.requirements import column, require_conditions, require_kind, require_sizes
from dist_calo.models.waveforms.factorised import calibration as fit
from dist_calo.models.waveforms.factorised.amplitudes_times import (
    ENERGY_KNOTS,
    NumbersDiscriminator,
    NumbersGenerator,
)
from dist_calo.models.waveforms.factorised.shape_calibration import shape_fit
from dist_calo.models.waveforms.factorised.shapes import SHAPE_KNOTS, ShapesDiscriminator, ShapesGenerator
from dist_calo.pulses import SIGNIFICANCE, amplitudes_and_times
from dist_calo.randomness import Draws

ROUNDING = 1e-5
"""Relative rounding error of an amplitude at the threshold."""
NUDGE = 1.0 + 3e-7
"""Keeps an amplitude at the threshold from falling below when network units are scaled back."""
NOISE_FLOOR = 3.0
"""The largest sample of a channel without light, in units of the noise: about."""
MEASURED_AT_ONCE = 256


class SignalsFactorised(Model):
    """Four networks of two games; `calibrate` fits their starting point."""

    generating = ("numbers_generator", "shapes_generator")
    geometry: Waveforms

    def __init__(
        self,
        geometry: Waveforms,
        numbers: tuple[NumbersGenerator, NumbersDiscriminator],
        shapes: tuple[ShapesGenerator, ShapesDiscriminator],
    ) -> None:
        super().__init__(geometry)
        self.unit = 10.0 ** math.floor(math.log10(geometry.noise))
        self.noise = geometry.noise / self.unit
        self.numbers_generator, self.numbers_discriminator = numbers
        self.shapes_generator, self.shapes_discriminator = shapes
        classes = fit.equivalent_channels(geometry.rows)
        self.shown = [classes.index(kind) for kind in range(max(classes) + 1)]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks, each with its own optimizer."""
        return {
            "numbers_generator": self.numbers_generator,
            "numbers_discriminator": self.numbers_discriminator,
            "shapes_generator": self.shapes_generator,
            "shapes_discriminator": self.shapes_discriminator,
        }

    @property
    def games(self) -> tuple[Game, ...]:
        """Two games: amplitudes and times, and shapes."""
        return (
            Game(
                generator="numbers_generator",
                discriminator="numbers_discriminator",
                view=self._numbers_seen,
                generate=lambda conditions, draws: self.numbers_generator.seen(
                    *self._numbers(conditions, draws)
                ),
                judge=self._judge_numbers,
                whole=False,
            ),
            Game(
                generator="shapes_generator",
                discriminator="shapes_discriminator",
                view=self._shapes_seen,
                generate=self._generated_shapes,
                judge=lambda seen, conditions, draws: Verdict(score=self.shapes_discriminator(seen)),
                whole=False,
            ),
        )

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Return waveforms in network units (B, channels, samples) for conditions (B, C) with energies in GeV."""
        amplitudes, scores = self._numbers(conditions, draws)
        times = self.numbers_generator.times(amplitudes, scores)
        return self._pulses(amplitudes, times, self.geometry.samples, draws) * (self._scale * NUDGE)

    def _numbers(self, conditions: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the amplitudes in the unit of the samples and scores of times, in a random orientation."""
        network = self.numbers_generator
        energy = column(conditions, self.geometry, "energy")
        impact = 2.0 * draws.uniform("impact", 2).to(conditions) - 1.0
        both = network(energy, impact, draws.normal("numbers", network.latent).to(conditions))
        amplitudes, scores = network.oriented(torch.stack(both, dim=2), draws).unbind(2)
        return amplitudes, scores

    def _pulses(self, amplitudes: Tensor, times: Tensor, samples: int, draws: Draws) -> Tensor:
        channels = amplitudes.shape[1]
        noise = draws.normal("noise", channels * 2 * samples).to(amplitudes)
        baseline = draws.normal("baseline", channels).to(amplitudes)
        waves: Tensor = self.shapes_generator(
            amplitudes, times, noise.view(-1, channels, 2, samples), baseline
        )
        return waves

    def _generated_shapes(self, conditions: Tensor, draws: Draws) -> Tensor:
        network = self.shapes_generator
        with torch.no_grad():
            amplitudes, scores = self._numbers(conditions, draws)
            times = self.numbers_generator.times(amplitudes, scores)[:, self.shown]
            amplitudes, times = amplitudes[:, self.shown], network.in_window(times)
        waves = self._pulses(amplitudes, times, network.lead + network.tail, draws)
        return self._shown_windows(waves, amplitudes, times)

    def _numbers_seen(self, showers: Tensor) -> Tensor:
        amplitudes, times = self._measured(showers / self._scale)
        scores = self.numbers_generator.time_map.to_score(
            torch.nan_to_num(times), amplitudes.clamp(min=1e-3).log()
        )
        return self.numbers_generator.seen(amplitudes, torch.where(torch.isnan(times), 0.0, scores))

    def _shapes_seen(self, showers: Tensor) -> Tensor:
        waves = showers[:, self.shown] / self._scale
        return self._shown_windows(waves, *self._measured(waves))

    def _shown_windows(self, waves: Tensor, amplitudes: Tensor, times: Tensor) -> Tensor:
        windows = self.shapes_generator.windows(waves, amplitudes, times)
        return torch.cat([windows, amplitudes.clamp(min=1e-3).log().unsqueeze(-1)], dim=-1)

    def _judge_numbers(self, seen: Tensor, conditions: Tensor, draws: Draws) -> Verdict:
        energy = column(conditions, self.geometry, "energy")
        return Verdict(score=self.numbers_discriminator(seen, energy, draws))

    def _measured(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """Return the amplitudes and times of waveforms in the unit of the samples."""
        noise = self.noise * (1.0 - ROUNDING)
        return amplitudes_and_times(waves, sample_ns=self.geometry.sample_ns, noise=noise)

    @property
    def _scale(self) -> Tensor:
        """Network units of one unit of the samples."""
        return self.shapes_generator.get_buffer("scale")

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
        device = self._scale.device
        measured = [
            self._measured(torch.from_numpy(showers[first : first + MEASURED_AT_ONCE]).to(device))
            for first in range(0, len(showers), MEASURED_AT_ONCE)
        ]
        amplitudes, times = (torch.cat(part).cpu().double().numpy() for part in zip(*measured, strict=True))
        if not np.isfinite(times).any():
            raise ConfigError(
                f"model.name=signals_factorised: none of {len(showers)} training showers has a pulse above "
                f"{SIGNIFICANCE:g} times the noise of {self.geometry.noise:g} {self.geometry.unit}; check the data"
            )
        energy = statistics["energy"].astype(np.float64)
        step = fit.quantum(amplitudes)
        least = max(step, 1e-3)
        amplitudes = np.maximum(amplitudes, least)
        self._fit_amplitudes(amplitudes, energy, step)
        self._fit_times(amplitudes, times)
        self._fit_shapes(showers, amplitudes, times, scale, step)

    def _fit_amplitudes(self, amplitudes: np.ndarray, energy: np.ndarray, step: float) -> None:
        generator, judge, side = self.numbers_generator, self.numbers_discriminator, self.geometry.rows
        log_energy = np.log(energy)
        standard = [log_energy.mean(), max(log_energy.std(), 1e-3)]
        e = (log_energy - standard[0]) / standard[1]
        knots = fit.energy_knots(log_energy, ENERGY_KNOTS)
        smeared = fit.smeared(amplitudes, step)
        classes = fit.equivalent_channels(side)
        floor = NOISE_FLOOR * self.noise
        table = fit.amplitude_tables(np.log(smeared), log_energy, classes, knots, floor)
        for network in (generator, judge):
            fill(network.amplitude_map, knots=knots, table=table)
            fill(network, log_energy=standard, step=step)
        with torch.no_grad():
            logs = _tensor(np.log(smeared)).to(generator.log_energy.device)
            given = _tensor(log_energy).to(logs)[:, None].expand_as(logs)
            scores = generator.amplitude_map.to_score(logs, given).cpu().double().numpy()
        x, y = fit.impact_point(smeared, log_energy, side, knots)
        found = fit.impact_fit(scores, x, y, e, side)
        fill(generator, impact_mean=found.mean, impact_width=found.log_width, mixing=found.mixing)
        roots = np.sqrt(smeared / energy[:, None])
        alike = np.concatenate([roots[:, order] for order in fit.orientations(side)])
        fill(judge, roots=np.stack([alike.mean(0), alike.std(0) + 1e-6]))

    def _fit_times(self, amplitudes: np.ndarray, times: np.ndarray) -> None:
        generator = self.numbers_generator
        threshold = SIGNIFICANCE * self.noise
        knots = np.log(threshold * np.array([1, 1.2, 1.4, 1.7, 2.1, 2.6, 3.4, 5, 8, 16, 40, 120, 500]))
        logs = np.log(amplitudes)
        classes = generator.time_map.classes.tolist()
        fill(generator.time_map, knots=knots, table=fit.time_tables(times, logs, classes, knots))
        fill(generator, threshold=threshold * (1.0 - ROUNDING))
        with torch.no_grad():
            given = _tensor(logs).to(generator.offset.device)
            found = _tensor(np.nan_to_num(times)).to(given)
            scores = generator.time_map.to_score(found, given).cpu().double().numpy()
            widths = generator.time_width(given).cpu().double().numpy()
        fill(generator, offset=fit.common_offset(np.where(np.isfinite(times), scores, np.nan), widths))

    def _fit_shapes(
        self, showers: np.ndarray, amplitudes: np.ndarray, times: np.ndarray, scale: float, step: float
    ) -> None:
        network = self.shapes_generator
        found = np.isfinite(times)
        logs = np.log(amplitudes[found])
        knots = np.quantile(logs, np.linspace(0.03, 0.97, SHAPE_KNOTS)) + 1e-3 * np.arange(SHAPE_KNOTS)
        shape = shape_fit(
            showers[found],
            amplitudes[found],
            times[found] / self.geometry.sample_ns,
            knots,
            lead=network.lead,
            tail=network.samples,
        )
        # Rounding to steps, which is part of what was measured, comes on top again.
        deviation, white = (_without(width, step) for width in (shape.deviation, np.array(shape.white)))
        fill(
            network,
            knots=knots,
            template=shape.template,
            deviation=deviation,
            noise=np.array([white, shape.baseline]),
            step=step,
            scale=scale,
        )
        with torch.no_grad():
            network.kernel.copy_(_tensor(shape.kernel))


def _without(deviation: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Return the standard deviation before digitising to steps."""
    square = np.square(deviation)
    return np.sqrt(np.maximum(square - step**2 / 12.0, 0.01 * square))


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


def _tensor(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def signals_factorised(
    geometry: Geometry,
    *,
    latent: int = 8,
    hidden: int = 96,
    discriminator_hidden: int = 128,
    width: int = 8,
    discriminator_width: int = 16,
) -> SignalsFactorised:
    """Build the four networks for waveforms of a square of detectors around the one that is hit.

    Args:
        geometry: the read-out.
        latent: normal numbers of an event for the dense layers alone.
        hidden: width of the dense layers that generate amplitudes and times.
        discriminator_hidden: width of those that judge them.
        width: channels of the convolutions that generate shapes.
        discriminator_width: channels of the first convolution that judges shapes; the others have twice as many.

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
    require_sizes(
        latent=latent,
        hidden=hidden,
        discriminator_hidden=discriminator_hidden,
        width=width,
        discriminator_width=discriminator_width,
    )
    shapes = ShapesGenerator(waveforms.samples, waveforms.sample_ns, width)
    return SignalsFactorised(
        waveforms,
        (NumbersGenerator(side, latent, hidden), NumbersDiscriminator(side, discriminator_hidden)),
        (shapes, ShapesDiscriminator(discriminator_width)),
    )
