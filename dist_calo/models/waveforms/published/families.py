"""Adversarial models of signals: three families of Fakanov and Ratnikov, each with three kinds of networks.

A signal is the waveforms ``x_c(t)`` of all detectors c. With ``z ~ N(0, 1)`` and the standardised
``e = (ln E - <ln E>) / std(ln E)`` of the incident energy E, what is generated is

- ``signals_shapes_amplitudes``: ``x_c(t) = A_c s_c(t)``. One game about the amplitudes ``A = exp(a + b G_1(z_1, e))``,
  another about the shapes ``s_c = r_c / max_t r_c``, ``r_c(t) = m_c(t) + w_c(t) G_2c(t; z_2, e) + n_c(z_2, e) u_c(t)``.
  Both are played in one run; amplitudes and shapes meet at generation.
- ``signals_full``: all samples at once, ``x_c(t) = k sinh(m_c(t) + w_c(t) G_c(t; z, e)) + n_c(z, e) u_c(t)``; the
  critic sees ``asinh(x / k)`` in units of its spread, in which small and large pulses weigh alike.
- ``signals_simplified``: amplitudes as above and times ``T = c + d sinh G(z, e)``, in one game about both;
  ``x_c(t) = A_c p_c(t - T_c)`` with the mean pulse ``p_c`` of the training events. A detector with an amplitude under
  5 standard deviations of the noise has no time, and no critic sees one.

``u ~ N(0, 1)``, one number for each sample, is the noise of the electronics, of learned width n. The constants
``a, b, c, d, k, m, w, p`` and the starting value of n are taken from training events before the first step. Critics
read the view and e. The networks of G and the critics are in `dist_calo.models.waveforms.published.networks`.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from dist_calo.geometry import Geometry, Waveforms
from dist_calo.models.interfaces import Game, Model, Statistics
from dist_calo.models.nn.blocks import fill
from dist_calo.models.nn.requirements import require_conditions, require_kind, require_sizes
from dist_calo.models.waveforms.published import pulse_units as units
from dist_calo.models.waveforms.published.generators import (
    Critic,
    PulseGenerator,
    SampleGenerator,
    ShapeGenerator,
    TimedPulseGenerator,
    WaveformGenerator,
)
from dist_calo.models.waveforms.published.networks import ViewLayout, build_networks
from dist_calo.pulses import amplitudes_and_times
from dist_calo.randomness import Draws

KNEE = 5.0
"""Samples are compressed as asinh(x / k) with k of so many standard deviations of the noise."""


class SignalModel(Model):
    """Common part of the families: networks by name, and the constants of the incident energy."""

    generating: tuple[str, ...] = ("generator",)
    geometry: Waveforms

    def __init__(self, geometry: Waveforms, networks: Mapping[str, nn.Module]) -> None:
        super().__init__(geometry)
        for name, network in networks.items():
            self.add_module(name, network)

    def calibrate(self, statistics: Statistics) -> None:
        """Take constants from training events; deterministic.

        Args:
            statistics: ``energy`` (n,) in GeV, ``showers`` (n, detectors, samples) in the unit of the samples and
                ``network_units``, the same as the networks see them.

        Raises:
            ConfigError: if network units are not in proportion to the samples.
        """
        noise = units.units_per_count(statistics) * self.geometry.noise
        for network in self.networks.values():
            fill(network, log_energy=units.log_energy(statistics["energy"]))
        self.take_constants(statistics["network_units"], noise)

    def take_constants(self, waveforms: np.ndarray, noise: float) -> None:
        """Take constants from waveforms (n, detectors, samples), the noise of a sample given; in network units."""
        raise NotImplementedError


class ShapesAndAmplitudes(SignalModel):
    """Model with two games: one about the amplitudes, one about the shapes."""

    generating = ("amplitude_generator", "shape_generator")
    amplitude_generator: PulseGenerator
    shape_generator: ShapeGenerator

    @property
    def games(self) -> tuple[Game, ...]:
        """Two games: amplitudes, and shapes."""
        return tuple(
            Game(
                generator=f"{name}_generator",
                discriminator=f"{name}_discriminator",
                view=view,
                generate=generate,
                judge=self.get_submodule(f"{name}_discriminator"),
                whole=False,
            )
            for name, view, generate in (
                ("amplitude", self._seen_amplitudes, self._amplitudes),
                ("shape", self._seen_shapes, self._shapes),
            )
        )

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Return waveforms in network units, (B, detectors, samples), for conditions (B, C)."""
        standardised = self._amplitudes(conditions, draws).squeeze(2)
        amplitudes = self.amplitude_generator.amplitudes.restore(standardised)
        return amplitudes.unsqueeze(2) * self._shapes(conditions, draws)

    def _seen_amplitudes(self, showers: Tensor) -> Tensor:
        return self.amplitude_generator.amplitudes.standardise(showers.amax(dim=2)).unsqueeze(2)

    def _seen_shapes(self, showers: Tensor) -> Tensor:
        noise = self.amplitude_generator.amplitudes.least
        return units.with_peak_one(showers, least=units.LEAST_PEAK * noise)

    def _amplitudes(self, conditions: Tensor, draws: Draws) -> Tensor:
        noise = draws.normal("amplitudes", self.amplitude_generator.latent).to(conditions)
        values: Tensor = self.amplitude_generator(conditions, noise)
        return values

    def _shapes(self, conditions: Tensor, draws: Draws) -> Tensor:
        return _with_noise(self.shape_generator, conditions, draws, "shapes")

    def take_constants(self, waveforms: np.ndarray, noise: float) -> None:
        amplitudes = waveforms.max(axis=2)
        self.amplitude_generator.amplitudes.calibrate(amplitudes, noise)
        shapes = units.with_peak_one(torch.from_numpy(waveforms), least=units.LEAST_PEAK * noise)
        self.shape_generator.start_from(shapes)
        typical = np.maximum(np.median(amplitudes, axis=0), noise)
        fill(self.shape_generator, noise=noise / typical)


class FullSignals(SignalModel):
    """Model with one game about all samples of all detectors."""

    generator: SampleGenerator
    discriminator: Critic

    @property
    def games(self) -> tuple[Game, ...]:
        """One game, whose critic reads compressed samples."""
        compressed = self.generator.compressed
        return (
            Game(
                generator="generator",
                discriminator="discriminator",
                view=compressed,
                generate=lambda conditions, draws: compressed(self.generate(conditions, draws)),
                judge=self.discriminator,
                whole=False,
            ),
        )

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Return waveforms in network units, (B, detectors, samples), for conditions (B, C)."""
        return _with_noise(self.generator, conditions, draws, "signals")

    def take_constants(self, waveforms: np.ndarray, noise: float) -> None:
        levels = np.full(self.geometry.channels, noise)
        fill(self.generator, knee=KNEE * noise, noise=levels, spread=1.0)
        seen = torch.from_numpy(waveforms).to(self.generator.knee)
        self.generator.start_from(self.generator.compressed(seen))
        # A gradient penalty holds scores to the scale of what the critic is given; its layers like numbers about 1.
        fill(self.discriminator, gain=self.generator.spread.cpu().numpy())


class SimplifiedSignals(SignalModel):
    """Model with one game about nine amplitudes and nine times."""

    generator: TimedPulseGenerator
    discriminator: Critic

    @property
    def games(self) -> tuple[Game, ...]:
        """One game."""
        return (
            Game(
                generator="generator",
                discriminator="discriminator",
                view=self.generator.view,
                generate=self._pulses,
                judge=self.discriminator,
                whole=False,
            ),
        )

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Return waveforms in network units, (B, detectors, samples), for conditions (B, C)."""
        return self.generator.join(self._pulses(conditions, draws))

    def _pulses(self, conditions: Tensor, draws: Draws) -> Tensor:
        values: Tensor = self.generator(
            conditions, draws.normal("pulses", self.generator.latent).to(conditions)
        )
        return values

    def take_constants(self, waveforms: np.ndarray, noise: float) -> None:
        amplitudes, times = amplitudes_and_times(
            torch.from_numpy(waveforms), sample_ns=self.geometry.sample_ns, noise=noise
        )
        generator = self.generator
        fill(generator, noise=noise)
        generator.amplitudes.calibrate(amplitudes.numpy(), noise)
        generator.templates.calibrate(waveforms, noise)
        generator.times.calibrate(times.numpy(), generator.templates.rise())


def _with_noise(generator: WaveformGenerator, conditions: Tensor, draws: Draws, name: str) -> Tensor:
    """Return a generator's waveforms for the draws of these samples."""
    latent = draws.normal(name, generator.latent).to(conditions)
    uniform = draws.uniform(f"{name}/noise", generator.geometry.cells).to(conditions)
    # For so many numbers the inverse distribution function is several times faster than Box and Muller's method.
    noise = math.sqrt(2.0) * torch.erfinv((2.0 * uniform - 1.0).clamp(-1.0 + 1e-6, 1.0 - 1e-6))
    values: Tensor = generator(conditions, latent, noise.unflatten(1, generator.geometry.shape))
    return values


def shapes_and_amplitudes(
    geometry: Geometry, *, network: str = "linear", latent: int = 32, hidden: int = 128, width: int = 16
) -> ShapesAndAmplitudes:
    """Build the four networks of the family ``shapes_amplitudes``.

    Args:
        geometry: the read-out.
        network: ``linear``, ``lstm`` or ``cnn``, of both games.
        latent: normal numbers of a signal, of each game.
        hidden: width of dense layers, and twice the state of a recurrence.
        width: channels of the finest convolution; coarser ones have twice and four times as many.

    Raises:
        ConfigError: if the data are no waveforms or have other conditions than the energy, the network is not known or
            a size is too small.
    """
    name = "signals_shapes_amplitudes"
    waveforms = _checked(name, geometry, latent=latent, hidden=hidden, width=width)
    amplitudes = _networks(waveforms, 1, network, latent, hidden, width)
    shapes = _networks(waveforms, waveforms.samples, network, latent, hidden, width)
    return ShapesAndAmplitudes(
        waveforms,
        {
            "amplitude_generator": PulseGenerator(waveforms, amplitudes[0], latent),
            "amplitude_discriminator": Critic(waveforms, amplitudes[1]),
            "shape_generator": ShapeGenerator(waveforms, shapes[0], latent),
            "shape_discriminator": Critic(waveforms, shapes[1]),
        },
    )


def full(
    geometry: Geometry, *, network: str = "linear", latent: int = 64, hidden: int = 128, width: int = 16
) -> FullSignals:
    """Build the two networks of the family ``signals``; arguments and errors as in `shapes_and_amplitudes`."""
    waveforms = _checked("signals_full", geometry, latent=latent, hidden=hidden, width=width)
    generator, critic = _networks(waveforms, waveforms.samples, network, latent, hidden, width)
    return FullSignals(
        waveforms,
        {
            "generator": SampleGenerator(waveforms, generator, latent),
            "discriminator": Critic(waveforms, critic),
        },
    )


def simplified(
    geometry: Geometry, *, network: str = "linear", latent: int = 32, hidden: int = 128, width: int = 16
) -> SimplifiedSignals:
    """Build the two networks of the family ``simplified``; arguments and errors as in `shapes_and_amplitudes`."""
    waveforms = _checked("signals_simplified", geometry, latent=latent, hidden=hidden, width=width)
    generator, critic = _networks(waveforms, 2, network, latent, hidden, width)
    return SimplifiedSignals(
        waveforms,
        {
            "generator": TimedPulseGenerator(waveforms, generator, latent),
            "discriminator": Critic(waveforms, critic),
        },
    )


def _checked(name: str, geometry: Geometry, **sizes: int) -> Waveforms:
    """Check that the geometry is one of waveforms with the energy alone, and that all sizes are positive."""
    waveforms = require_kind(name, geometry, Waveforms)
    require_conditions(name, geometry, ("energy",))
    require_sizes(**sizes)
    return waveforms


def _networks(
    geometry: Waveforms, numbers: int, network: str, latent: int, hidden: int, width: int
) -> tuple[nn.Module, nn.Module]:
    """Build a generator and a critic of so many numbers of each detector."""
    layout = ViewLayout(
        rows=geometry.rows, columns=geometry.columns, numbers=numbers, waveform=numbers == geometry.samples
    )
    return build_networks(network, layout, inputs=latent + 1, conditions=1, hidden=hidden, width=width)
