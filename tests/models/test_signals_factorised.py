"""Signals in factors: fits find known laws, the square keeps its symmetry, gradients arrive."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dist_calo.config import ModelConfig, ObjectiveConfig
from dist_calo.errors import ConfigError
from dist_calo.geometry import VoxelGrid, Waveforms
from dist_calo.models import build_model
from dist_calo.models.waveforms.factorised import calibration as fit
from dist_calo.models.waveforms.factorised.model import signals_factorised
from dist_calo.models.waveforms.factorised.quantile_maps import QuantileMap, quantile_table
from dist_calo.objectives import build_objective
from dist_calo.pulses import amplitudes_and_times
from dist_calo.randomness import Draws
from dist_calo.transforms import Transform
from tests.models.test_factorised_pulses import pulses

GEOMETRY = Waveforms(rows=3, columns=3, samples=256, sample_ns=0.2, noise=1.0)
TRANSFORM = Transform(scale=0.01, power=1.0)
SIZES = {"hidden": 16, "discriminator_hidden": 16}
SAMPLE = Path(__file__).parents[2] / "data" / "signals" / "signals_electrons.h5"
ARRIVAL = 20.0
"""Time at which the pulses of the law below cross half of their amplitude, in ns."""


def showers_of_a_known_law(events, generator):
    """A middle channel of 60 counts a GeV, neighbours that the impact point decides, corners mostly without signal."""
    energy = generator.uniform(1.0, 20.0, events)
    x, y = generator.uniform(-1.0, 1.0, (2, events))
    rows, columns = np.indices((3, 3)) - 1
    tilt = np.exp(2.0 * (rows * x[:, None, None] + columns * y[:, None, None]) - 2.0 * (rows**2 + columns**2))
    amplitudes = (60.0 * energy[:, None, None] * tilt).reshape(events, 9)
    amplitudes[:, 4] = 60.0 * energy * np.exp(0.1 * generator.normal(size=events))
    times = (
        ARRIVAL
        + 0.1 * generator.normal(size=(events, 1))
        + generator.normal(size=(events, 9)) / np.sqrt(amplitudes + 1.0)
    )
    return pulses(amplitudes, times, generator), energy


def statistics(showers, energy):
    return {
        "showers": showers,
        "energy": energy,
        "energy_sum": showers.sum(axis=(1, 2)),
        "network_units": TRANSFORM.forward(showers),
    }


@pytest.fixture(scope="module")
def sample():
    return statistics(*showers_of_a_known_law(600, np.random.default_rng(3)))


@pytest.fixture(scope="module")
def calibrated(sample):
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="signals_factorised", options=SIZES), GEOMETRY)
    model.calibrate(sample)
    return model


def generate(model, energies, step=0, first=0):
    conditions = torch.as_tensor(energies, dtype=torch.float32)[:, None]
    with torch.no_grad():
        showers = model.generate(conditions, Draws(5, step, np.arange(first, first + len(conditions))))
    return TRANSFORM.inverse(showers)


def measured(waves):
    return amplitudes_and_times(torch.as_tensor(waves), sample_ns=0.2, noise=1.0)


def test_quantiles_of_a_known_law_are_found_and_turned_around():
    generator = np.random.default_rng(0)
    covariate = generator.uniform(0.0, 1.0, 20_000)
    values = 2.0 * covariate + (1.0 + covariate) * generator.normal(size=20_000)
    knots = np.linspace(0.0, 1.0, 9)
    mapping = QuantileMap([0], 9)
    table = quantile_table(values, covariate, knots, narrow=0.5, step=1e-4)
    mapping.knots.copy_(torch.from_numpy(knots))
    mapping.table.copy_(torch.from_numpy(table)[None])
    score, given = torch.tensor([[-1.5], [0.0], [1.0]]), torch.tensor([[0.25], [0.5], [0.8]])
    expected = 2.0 * given + (1.0 + given) * score
    value = mapping.to_value(score, given)
    torch.testing.assert_close(value, expected, atol=0.12, rtol=0.0)
    torch.testing.assert_close(mapping.to_score(value, given), score, atol=1e-3, rtol=0.0)


def test_the_square_has_eight_orientations_and_three_kinds_of_channels():
    orders = fit.orientations(3)
    assert len({tuple(order) for order in orders}) == 8
    assert (np.sort(orders, axis=1) == np.arange(9)).all()
    assert fit.equivalent_channels(3) == [0, 1, 0, 1, 2, 1, 0, 1, 0]


@pytest.mark.parametrize(("step", "expected"), [(1.0, 1.0), (0.25, 0.25), (None, 0.0)])
def test_the_step_of_the_digitiser_is_found(step, expected):
    values = np.random.default_rng(1).exponential(50.0, (400, 9))
    digits = values if step is None else step * np.round(values / step)
    assert fit.quantum(digits) == pytest.approx(expected)


def test_the_common_offset_of_times_is_found():
    generator = np.random.default_rng(2)
    widths = generator.uniform(0.15, 0.6, (4000, 9))
    common, own = 0.1 * generator.normal(size=(4000, 1)), generator.normal(size=(4000, 9))
    scores = (common + np.sqrt(widths**2 - 0.01) * own) / widths
    scores[generator.random(scores.shape) < 0.2] = np.nan
    assert fit.common_offset(scores, widths) == pytest.approx(0.1, abs=0.01)


def test_the_impact_point_is_found_and_its_symmetry_kept(sample):
    amplitudes = sample["showers"].max(axis=2).astype(np.float64)
    knots = fit.energy_knots(np.log(sample["energy"]), 4)
    x, y = fit.impact_point(amplitudes, np.log(sample["energy"]), 3, knots)
    generator = np.random.default_rng(3)
    generator.uniform(1.0, 20.0, 600)
    truth = generator.uniform(-1.0, 1.0, (2, 600))
    assert np.corrcoef(x, truth[0])[0, 1] > 0.95
    assert np.corrcoef(y, truth[1])[0, 1] > 0.95
    found = fit.impact_fit(np.log(amplitudes), x, y, np.zeros(600), 3)
    center = fit.impact_basis(np.zeros(1), np.zeros(1), np.zeros(1)) @ found.mean
    right = fit.impact_basis(np.ones(1) * 0.8, np.zeros(1), np.zeros(1)) @ found.mean
    up = fit.impact_basis(np.zeros(1), np.ones(1) * 0.8, np.zeros(1)) @ found.mean
    np.testing.assert_allclose(center[0, [0, 2, 6]], center[0, 8], rtol=1e-6)
    np.testing.assert_allclose(right[0].reshape(3, 3), up[0].reshape(3, 3).T, rtol=1e-6)
    assert right[0, 7] > center[0, 7] + 1.0 > right[0, 1] + 2.0


def test_generated_signals_follow_the_law_before_the_first_step(calibrated, sample):
    real = measured(sample["showers"])
    made = measured(generate(calibrated, np.tile(sample["energy"], 3)))
    for kind in ([0, 2, 6, 8], [1, 3, 5, 7], [4]):
        for share in (0.25, 0.5, 0.75):
            ratio = made[0][:, kind].quantile(share) / real[0][:, kind].quantile(share)
            assert 0.8 < float(ratio) < 1.25
    assert torch.isnan(made[1]).float().mean() == pytest.approx(
        float(torch.isnan(real[1]).float().mean()), abs=0.03
    )
    late = made[1][:, 4] - real[1][:, 4].mean()
    assert float(late.nanmean().abs()) < 0.03
    opposite = [
        np.corrcoef(np.log(a[:, 1]), np.log(a[:, 7]))[0, 1] for a in (real[0].numpy(), made[0].numpy())
    ]
    assert opposite[0] < -0.3
    assert opposite[1] == pytest.approx(opposite[0], abs=0.15)


def test_times_are_as_wide_as_real_ones_however_they_are_measured(calibrated, sample):
    made = generate(calibrated, np.tile(sample["energy"], 3))
    for fraction in (0.2, 0.35, 0.5, 0.8):
        found, real = (
            amplitudes_and_times(torch.as_tensor(waves), sample_ns=0.2, noise=1.0, fraction=fraction)
            for waves in (made, sample["showers"])
        )
        for channels, clear in (([4], 100.0), ([1, 3, 5, 7], 20.0)):
            some = [times[:, channels][size[:, channels] > clear] for size, times in (found, real)]
            center = [float(times.nanmedian()) for times in some]
            width = [float(np.subtract(*np.nanquantile(times, (0.84, 0.16)))) for times in some]
            assert center[0] == pytest.approx(center[1], abs=0.06)
            assert width[0] == pytest.approx(width[1], rel=0.15)


def test_waveforms_have_the_amplitudes_and_times_they_were_made_of_within_the_noise(calibrated):
    conditions = torch.linspace(1.0, 20.0, 200)[:, None]
    draws = Draws(5, 0, np.arange(200))
    with torch.no_grad():
        logs, scores = calibrated._amplitudes_and_scores(conditions, draws)
        times = calibrated.generator.times(logs, scores)
        waves = generate(calibrated, conditions[:, 0])
        found = calibrated.pulses.measured(waves, 1.0)
    clear = logs > np.log(20.0)
    amplitude_error = calibrated.pulses.noise[0] * calibrated.pulses.filters[0].norm()
    amplitude_pulls = (found[0] - logs.exp())[clear] / amplitude_error
    time_pulls = ((found[1] - times) * logs.exp())[clear] / calibrated.pulses.time_error()
    for pulls in (amplitude_pulls, time_pulls):
        assert float(pulls.median().abs()) < 0.3
        assert float(pulls.quantile(0.84) - pulls.quantile(0.16)) / 2 == pytest.approx(1.0, abs=0.25)


def differences_of_means(model, showers, energy, places):
    """Generated - real means of the central pulse from these places on, and how these change to the next, over bounds.

    A mean is over 5 samples; the bound is 3 standard errors, or 10 % and 0.2 counts if that is more.
    """
    made = np.asarray(generate(model, np.tile(energy, 3)))[:, 4]
    index = np.add.outer(places, np.arange(5))
    levels = [waves[:, index].mean(axis=2) for waves in (made, showers[:, 4])]
    found = []
    for generated, real in (levels, [np.diff(level, axis=1) for level in levels]):
        error = np.hypot(*(part.std(axis=0) / len(part) ** 0.5 for part in (generated, real)))
        allowed = np.maximum(3.0 * error, 0.1 * np.abs(real.mean(axis=0)) + 0.2)
        found.append(np.abs(generated.mean(axis=0) - real.mean(axis=0)) / allowed)
    return found


def test_the_mean_pulse_goes_on_beyond_what_the_discriminator_sees(calibrated, sample):
    high = sample["energy"] > 10.0
    showers, energy = sample["showers"][high], sample["energy"][high]
    end = round(ARRIVAL / 0.2) + calibrated.pulses.tail
    levels, steps = differences_of_means(calibrated, showers, energy, np.arange(end - 30, end + 20, 5))
    assert showers[:, 4, end].mean() > 5.0
    assert levels.max() < 1.0
    assert steps.max() < 1.0


def test_the_tail_of_the_sample_signals_is_lost_in_noise_and_not_cut_off():
    with h5py.File(SAMPLE) as file:
        showers, energy = file["signals"][:400] - np.float32(100.0), file["energy"][:400, 0]
    geometry = Waveforms(rows=3, columns=3, samples=1024, sample_ns=0.2, noise=1.0)
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="signals_factorised", options=SIZES), geometry)
    model.calibrate(statistics(showers, energy))
    high = energy > 14.0
    tail = np.array([110, 116, 120, 125, 140]) * 5
    levels, _ = differences_of_means(model, showers[high], energy[high], tail)
    assert levels.max() < 1.0
    for edge in (229, 579):  # what the discriminator sees ends here, on average
        _, steps = differences_of_means(
            model, showers[high], energy[high], np.arange(edge - 15, edge + 15, 5)
        )
        assert steps.max() < 1.0


def test_every_sample_is_a_pure_function_of_its_draws(calibrated):
    energies = np.linspace(1.0, 20.0, 6)
    together = generate(calibrated, energies)
    apart = torch.cat([generate(calibrated, energies[:1]), generate(calibrated, energies[1:], first=1)])
    assert torch.equal(together, generate(calibrated, energies))
    assert (torch.isclose(together, apart, rtol=1e-3, atol=0.05)).float().mean() > 0.99
    assert not torch.allclose(together, generate(calibrated, energies, step=1))


def test_calibration_is_deterministic(calibrated, sample):
    torch.manual_seed(0)
    again = build_model(ModelConfig(name="signals_factorised", options=SIZES), GEOMETRY)
    again.calibrate(sample)
    for name, value in calibrated.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("objective", ["hinge", "vanilla", "wgan", "wgan_gp"])
def test_gradients_reach_every_weight_and_empty_shares_add_none(calibrated, sample, objective):
    learning = build_objective(ObjectiveConfig(name=objective), calibrated, TRANSFORM)
    for rows in (12, 0):
        showers = torch.from_numpy(sample["network_units"][:rows])
        conditions = torch.from_numpy(sample["energy"][:rows, None]).float()
        calibrated.zero_grad()
        for update in learning.updates:
            draws = Draws(1, 1, np.arange(rows), update.name)
            for name, network in calibrated.networks.items():
                network.requires_grad_(name == update.network)
            terms = learning.losses(update, showers, conditions, draws, 12)
            terms["total"].backward()
        for name, parameter in calibrated.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert bool((parameter.grad != 0).any()) == (rows > 0 and not _constant(name, objective)), name
    calibrated.requires_grad_(True).zero_grad()


def _constant(name, objective):
    """A critic's last bias cancels between real and generated, and may do so with the hinge."""
    return name.endswith("discriminator.score.bias") and objective != "vanilla"


def test_signals_without_any_pulse_in_a_channel_leave_no_nan(sample):
    showers = sample["showers"].copy()
    showers[:, 0] = np.random.default_rng(5).normal(size=showers[:, 0].shape).round().clip(-3, 3)
    showers[:5] = showers[:5].clip(-3, 3)
    model = build_model(ModelConfig(name="signals_factorised", options=SIZES), GEOMETRY)
    model.calibrate(statistics(showers, sample["energy"]))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert torch.isfinite(generate(model, np.linspace(0.5, 40.0, 20))).all()
    for game in model.games:
        seen = game.view(torch.from_numpy(TRANSFORM.forward(showers[:8])))
        assert torch.isfinite(seen).all()
        assert torch.isfinite(
            game.judge(seen, torch.full((8, 1), 5.0), Draws(0, 1, np.arange(8))).score
        ).all()


def test_any_odd_square_of_detectors_can_be_fitted():
    geometry = Waveforms(rows=5, columns=5, samples=96, sample_ns=0.2, noise=1.0)
    generator = np.random.default_rng(6)
    energy = generator.uniform(1.0, 20.0, 150)
    rows, columns = np.indices((5, 5)) - 2
    x, y = generator.uniform(-0.5, 0.5, (2, 150, 1))
    distance = (rows.ravel() - x) ** 2 + (columns.ravel() - y) ** 2
    amplitudes = 60.0 * energy[:, None] * np.exp(-distance)
    showers = pulses(amplitudes, np.full((150, 25), 8.0), generator, samples=96)
    model = build_model(ModelConfig(name="signals_factorised", options=SIZES), geometry)
    model.calibrate(statistics(showers, energy))
    made = measured(generate(model, energy))[0]
    assert made.argmax(dim=1).eq(12).float().mean() > 0.8
    assert float(made[:, 12].median()) == pytest.approx(float(np.median(showers[:, 12].max(axis=1))), rel=0.2)


def test_verdicts_do_not_depend_on_the_orientation_of_the_detector_on_average(calibrated, sample):
    game = calibrated.games[0]
    showers = torch.from_numpy(sample["network_units"][:1]).expand(512, -1, -1)
    turned = showers[:, torch.from_numpy(fit.orientations(3)[5])]
    conditions = torch.full((512, 1), 5.0)
    scores = [
        game.judge(game.view(some), conditions, Draws(0, step, np.arange(512))).score.detach()
        for step, some in enumerate((showers, turned))
    ]
    assert float((scores[0].mean() - scores[1].mean()).abs()) < 4.0 * float(scores[0].std()) / 256**0.5


def test_data_without_signals_are_refused(sample):
    model = build_model(ModelConfig(name="signals_factorised", options=SIZES), GEOMETRY)
    quiet = sample["showers"].clip(-3, 3)
    with pytest.raises(ConfigError, match="none of 600 training showers has a pulse above 5 times the noise"):
        model.calibrate(statistics(quiet, sample["energy"]))


def test_network_units_that_are_not_the_samples_times_a_scale_are_refused(calibrated, sample):
    with pytest.raises(ConfigError, match=re.escape("set transform.power=1")):
        calibrated.calibrate({**sample, "network_units": np.sqrt(np.abs(sample["showers"]))})


@pytest.mark.parametrize(
    ("geometry", "options", "message"),
    [
        (VoxelGrid(shape=(5, 5, 5)), {}, "the data are of kind voxel_grid, this model is for waveforms"),
        (Waveforms(rows=2, columns=3, samples=64), {}, "the data have 2x3 detectors"),
        (Waveforms(rows=4, columns=4, samples=64), {}, "the data have 4x4 detectors"),
        (Waveforms(rows=3, columns=3, samples=8), {}, "the data have 8 samples a pulse"),
        (GEOMETRY, {"hidden": 0}, "model.options.hidden=0: must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(geometry, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        signals_factorised(geometry, **options)
