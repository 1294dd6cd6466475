"""The published families of models of signals: every combination learns, and what is generated is what was meant."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.comm.single import SingleCommunicator
from dist_calo.config import (
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TransformConfig,
)
from dist_calo.data.loader import Batch
from dist_calo.data.order import Position
from dist_calo.errors import ConfigError
from dist_calo.geometry import VoxelGrid, Waveforms
from dist_calo.launching.environment import World
from dist_calo.models import build_model
from dist_calo.models.waveforms.published import pulse_units
from dist_calo.models.waveforms.published.networks import NETWORKS
from dist_calo.objectives import build_objective
from dist_calo.pulses import amplitudes_and_times
from dist_calo.randomness import Draws
from dist_calo.training.learner import Learner
from dist_calo.transforms import Transform

FAMILIES = ("signals_shapes_amplitudes", "signals_full", "signals_simplified")
OBJECTIVES = ("vanilla", "wgan", "wgan_gp")
GEOMETRY = Waveforms(samples=150)
TRANSFORM = Transform(scale=0.01, power=1.0)
TINY = {"latent": 4, "hidden": 8, "width": 2}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_network = pytest.mark.parametrize("network", NETWORKS)


def signals(events=48, seed=0):
    """Waveforms in ADC counts and energies in GeV: pulses of (u e^(1-u))^3 with the peak 3 ns after the start."""
    random = np.random.default_rng(seed)
    energy = random.uniform(1.0, 20.0, events)
    amplitude = energy[:, None] * random.uniform(0.2, 60.0, (events, 9))
    start = random.normal(8.0, 0.5, (events, 9))
    u = np.maximum(GEOMETRY.sample_ns * np.arange(GEOMETRY.samples) - start[..., None], 0.0) / 3.0
    clean = amplitude[..., None] * (u * np.exp(1.0 - u)) ** 3
    waveforms = clean + random.normal(0.0, GEOMETRY.noise, clean.shape)
    return waveforms.astype(np.float32), energy.astype(np.float32)[:, None]


def statistics(transform=TRANSFORM):
    waveforms, energy = signals()
    return {
        "energy": energy[:, 0],
        "energy_sum": waveforms.sum(axis=(1, 2)),
        "showers": waveforms,
        "network_units": transform.forward(waveforms),
    }


def built(family, network="linear", *, calibrated=True, **options):
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=family, options={"network": network, **TINY, **options}), GEOMETRY)
    if calibrated:
        model.calibrate(statistics())
    return model


def draws(slots=range(5), *purpose):
    return Draws(0, 1, slots, *purpose)


def energies(rows=5):
    return torch.linspace(2.0, 18.0, rows)[:, None]


def batch(rows=6):
    waveforms, energy = signals(rows, seed=1)
    return Batch(
        showers=waveforms,
        conditions=energy,
        ids=np.arange(rows),
        slots=np.arange(rows),
        epoch=0,
        index=0,
        micro=(slice(0, rows),),
        global_size=rows,
        micro_global_sizes=(rows,),
        end=Position(epoch=0, samples_seen=rows),
    )


@every_family
@every_network
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_combination_learns(family, network, objective):
    config = RunConfig(
        model=ModelConfig(name=family, options={"network": network, **TINY}),
        transform=TransformConfig(scale=0.01, power=1.0),
        objective=ObjectiveConfig(name=objective, discriminator_steps=2, weight_limit=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        train=TrainConfig(global_batch_size=6),
    )
    model = built(family, network)
    before = copy.deepcopy(model.state_dict())
    learner = Learner(
        config,
        model,
        build_objective(config.objective, model, TRANSFORM),
        TRANSFORM,
        SingleCommunicator(World()),
    )
    for step in (1, 2):
        learner.learn(batch(), step)
        assert {name.rsplit("/", 1)[0] for name in learner.losses} == {
            f"{game.discriminator}/{number}" for game in model.games for number in (0, 1)
        } | {f"{game.generator}/0" for game in model.games}
        assert all(torch.isfinite(loss) for loss in learner.losses.values()), learner.losses
    assert learner.bad_steps == 0
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        # What a critic adds to real and generated signals alike cancels in Wasserstein losses.
        constant = "discriminator" in name and name.endswith("bias")
        assert constant or not torch.equal(parameter, before[name]), f"{name} was never updated"
    if objective == "wgan":
        for game in model.games:
            assert all(p.abs().max() <= 0.1 for p in model.networks[game.discriminator].parameters())
    with learner.average.applied(), torch.no_grad():
        generated = model.generate(energies(), draws())
    assert generated.shape == (5, 9, GEOMETRY.samples)
    assert torch.isfinite(generated).all()


@every_family
@every_network
def test_a_signal_does_not_depend_on_the_others_of_its_batch(family, network):
    model = built(family, network).double()
    conditions = energies().double()
    with torch.no_grad():
        whole = model.generate(conditions, draws())
        shares = [
            model.generate(conditions[rows], draws(range(5)[rows]))
            for rows in (slice(0, 3), slice(3, 3), slice(3, 5))
        ]
    torch.testing.assert_close(torch.cat(shares), whole)
    assert whole.std(dim=0).max() > 0


@every_family
@every_network
@pytest.mark.parametrize("objective", ["vanilla", "wgan_gp"])
def test_losses_and_gradients_of_shares_add_up_and_an_empty_share_adds_nothing(family, network, objective):
    model = built(family, network).double()
    waveforms, energy = (torch.from_numpy(part).double() for part in signals(5, seed=1))
    waveforms = TRANSFORM.forward(waveforms)
    learnt = build_objective(ObjectiveConfig(name=objective), model, TRANSFORM)

    def computed(update, rows):
        for name, network in model.networks.items():
            network.requires_grad_(name == update.network)
        model.zero_grad()
        slots = np.arange(5)[rows]
        losses = learnt.losses(update, waveforms[rows], energy[rows], draws(slots, update.name), 5)
        losses["total"].backward()
        gradients = [p.grad.clone() for p in model.networks[update.network].parameters()]
        return [losses["total"].detach(), *gradients]

    for update in learnt.updates:
        whole = computed(update, slice(0, 5))
        empty = computed(update, slice(3, 3))
        shares = [computed(update, rows) for rows in (slice(0, 3), slice(3, 5))]
        assert all(not part.any() for part in empty)
        for expected, *parts in zip(whole, *shares, strict=True):
            # Losses are summed in float32.
            torch.testing.assert_close(sum(parts), expected, rtol=1e-5, atol=1e-6)


@every_network
@every_family
def test_the_gradient_penalty_reaches_the_critic(family, network):
    model = built(family, network)
    waveforms, energy = (torch.from_numpy(part) for part in signals(4, seed=1))
    for game in model.games:
        seen = game.view(TRANSFORM.forward(waveforms)).detach().requires_grad_()
        score = game.judge(seen, energy, draws(range(4))).score
        assert score.shape == (4,)
        (slope,) = torch.autograd.grad(score.sum(), seen, create_graph=True)
        slope.square().sum().backward()
        found = [p.grad for p in model.networks[game.discriminator].parameters() if p.grad is not None]
        assert any(gradient.abs().max() > 0 for gradient in found)
        assert all(torch.isfinite(gradient).all() for gradient in found)


@every_family
def test_generated_views_are_like_the_real_ones(family):
    model = built(family)
    waveforms = TRANSFORM.forward(torch.from_numpy(signals()[0]))
    for game in model.games:
        real, fake = game.view(waveforms[:5]), game.generate(energies(), draws())
        assert real.shape == fake.shape
        assert torch.isfinite(real).all()
        if game.generator != "shape_generator" and family != "signals_full":
            every = game.view(waveforms)
            assert every[..., 0].mean(dim=0).abs().max() < 1e-4
            torch.testing.assert_close(every[..., 0].std(dim=0, correction=0), torch.ones(9))
    if family == "signals_shapes_amplitudes":
        assert (real.amax(dim=2) == 1).all()
        assert (fake.amax(dim=2) == 1).all()


def test_the_joined_waveforms_have_the_generated_amplitudes():
    model = built("signals_shapes_amplitudes")
    with torch.no_grad():
        waveforms = model.generate(energies(), draws())
        standardised = model.games[0].generate(energies(), draws())
    amplitudes = model.amplitude_generator.amplitudes.restore(standardised.squeeze(2))
    assert torch.equal(waveforms.amax(dim=2), amplitudes)


def test_the_full_family_sees_what_it_generates():
    """The critic judges the generated waveform itself, compressed as the real ones are."""
    model = built("signals_full")
    (game,) = model.games
    with torch.no_grad():
        torch.testing.assert_close(
            game.generate(energies(), draws()), game.view(model.generate(energies(), draws()))
        )


def test_the_full_family_sees_signals_a_few_units_from_their_mean():
    """And alike if it is calibrated twice."""
    model = built("signals_full")
    waveforms = TRANSFORM.forward(torch.from_numpy(signals()[0]))
    for _ in range(2):
        seen = model.games[0].view(waveforms)
        assert (seen - seen.mean(dim=0)).square().sum(dim=(1, 2)).mean().sqrt() == pytest.approx(
            3.0, rel=1e-4
        )
        model.calibrate(statistics())


def test_the_simplified_family_gives_back_the_generated_amplitudes_and_times():
    model = built("signals_simplified")
    generator = model.generator
    values = torch.randn(200, 9, 2, generator=torch.Generator().manual_seed(5))
    amplitudes = generator.amplitudes.restore(values[..., 0])
    times = generator.times.restore(values[..., 1])
    with torch.no_grad():
        found = amplitudes_and_times(generator.join(values), sample_ns=0.2, noise=float(generator.noise))
    seen = amplitudes >= 5 * generator.noise
    assert seen.float().mean() > 0.5
    assert torch.equal(found[1].isfinite(), seen)
    torch.testing.assert_close(found[0], amplitudes, rtol=1e-3, atol=0.0)
    assert (found[1] - times)[seen].abs().max() < 0.02


def test_real_times_survive_the_simplified_family():
    """View, then join: the amplitudes and times of real waveforms are those of the joined ones."""
    model = built("signals_simplified")
    waveforms = TRANSFORM.forward(torch.from_numpy(signals()[0]))
    noise = 0.01 * GEOMETRY.noise
    before = amplitudes_and_times(waveforms, sample_ns=0.2, noise=noise)
    with torch.no_grad():
        joined = model.generator.join(model.games[0].view(waveforms))
    after = amplitudes_and_times(joined, sample_ns=0.2, noise=noise)
    large = before[0] > 6 * noise
    torch.testing.assert_close(after[0][large], before[0][large], rtol=1e-3, atol=0.0)
    assert (after[1] - before[1])[large].abs().max() < 0.02


def test_a_detector_without_signal_has_no_time_that_a_critic_could_see():
    model = built("signals_simplified")
    (game,) = model.games
    waveforms = torch.zeros(3, 9, GEOMETRY.samples)
    assert (game.view(waveforms)[..., 1] == 0).all()
    amplitudes = model.generate(energies(200), draws(range(200))).detach().amax(dim=2)
    model.generator.noise.fill_(float(amplitudes.median()) / 5)
    fakes = game.generate(energies(200), draws(range(200))).detach()
    quiet = model.generator.amplitudes.restore(fakes[..., 0]) < 5 * model.generator.noise
    assert quiet.any()
    assert not quiet.all()
    assert (fakes[..., 1][quiet] == 0).all()
    assert (fakes[..., 1][~quiet] != 0).all()


def test_templates_are_the_mean_pulse_of_the_data():
    waveforms, _ = signals(events=200)
    templates = pulse_units.Templates(GEOMETRY)
    templates.calibrate(waveforms, GEOMETRY.noise)
    # (u e^(1-u))^3 rises to 1/2 at u = 0.4647.
    time = 10.0
    t = GEOMETRY.sample_ns * np.arange(GEOMETRY.samples)
    u = np.maximum(t - time + 3.0 * 0.4647, 0.0) / 3.0
    expected = np.tile((u * np.exp(1.0 - u)) ** 3, (9, 1))
    found = templates(torch.full((1, 9), time))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_templates_of_detectors_without_pulses_are_those_of_the_others():
    waveforms, _ = signals()
    waveforms[:, 0] = 0.0
    templates = pulse_units.Templates(GEOMETRY)
    default = templates.curves.clone()
    templates.calibrate(np.zeros_like(waveforms), GEOMETRY.noise)
    assert torch.equal(templates.curves, default)
    templates.calibrate(waveforms, GEOMETRY.noise)
    assert (templates.curves[0] - templates.curves[1:].mean(dim=0)).abs().max() < 0.05
    assert (templates.curves[0] - default[0]).abs().max() > 0.1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.02, 40.0), min_size=9, max_size=9))
def test_amplitudes_come_back_from_their_standardised_form(values):
    scale = pulse_units.AmplitudeScale(9)
    scale.calibrate(TRANSFORM.forward(signals()[0]).max(axis=2), 0.01)
    amplitudes = torch.tensor([values])
    torch.testing.assert_close(scale.restore(scale.standardise(amplitudes)), amplitudes, rtol=1e-4, atol=0.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(8.0, 12.0), min_size=9, max_size=9))
def test_times_come_back_from_their_standardised_form(values):
    scale = pulse_units.TimeScale(GEOMETRY)
    known = np.tile(np.linspace(8.0, 12.0, 50)[:, None], (1, 9))
    known[::7, 2] = np.nan
    known[:, 5] = np.nan
    scale.calibrate(known, rise=np.full(9, 3.0))
    times = torch.tensor([values])
    found = scale.restore(scale.standardise(times))
    torch.testing.assert_close(found, times.clamp(scale.earliest, scale.latest), rtol=0.0, atol=2e-3)


def test_a_waveform_is_divided_by_its_peak_and_lifted_where_it_has_none():
    values = torch.tensor([[0.5, 2.0, 1.0], [-3.0, -1.0, -2.0]])
    assert pulse_units.with_peak_one(values).tolist() == [[0.25, 1.0, 0.5], [-1.0, 1.0, 0.0]]


@every_family
def test_constants_are_stored_with_the_networks_and_are_found_anew_alike(family):
    model, copied = built(family), built(family, calibrated=False)
    copied.load_state_dict(model.state_dict())
    for other in (copied, built(family)):
        with torch.no_grad():
            assert torch.equal(other.generate(energies(), draws()), model.generate(energies(), draws()))


@every_family
def test_generated_pulses_grow_with_what_was_calibrated(family):
    """Networks that have learnt nothing yet start from pulses of about the mean size of the data."""
    model = built(family)
    with torch.no_grad():
        generated = TRANSFORM.inverse(model.generate(energies(100), draws(range(100)))).amax(dim=2)
    real = signals()[0].max(axis=2)
    assert 0.3 < generated.median() / np.median(real) < 3


@every_family
@pytest.mark.parametrize("changes", [{"power": 0.5}, {"log": True}, {"threshold": 20.0}])
def test_units_out_of_proportion_are_refused(family, changes):
    transform = Transform(**{"scale": 0.01, **changes})
    with (
        pytest.raises(ConfigError, match=r"set transform\.power=1, transform\.log=false"),
        np.errstate(invalid="ignore"),
    ):
        built(family, calibrated=False).calibrate(statistics(transform))


@every_family
def test_showers_in_voxels_are_refused(family):
    with pytest.raises(ConfigError, match=f"model.name={family}: the data are of kind voxel_grid"):
        build_model(ModelConfig(name=family), VoxelGrid(shape=(5, 5, 5)))


@every_family
def test_an_unknown_network_lists_the_choices(family):
    message = r"model\.options\.network=transformer: .*choose from linear, lstm, cnn"
    with pytest.raises(ConfigError, match=message):
        built(family, "transformer")


@every_family
@pytest.mark.parametrize("option", ["latent", "hidden", "width"])
def test_sizes_must_be_positive(family, option):
    with pytest.raises(ConfigError, match=rf"model\.options\.{option}=0: must be at least 1"):
        built(family, **{option: 0})


@every_network
def test_any_grid_of_detectors_and_any_number_of_samples_fits(network):
    geometry = Waveforms(rows=2, columns=4, samples=33)
    for family in FAMILIES:
        model = build_model(ModelConfig(name=family, options={"network": network, **TINY}), geometry)
        assert model.generate(energies(), draws()).shape == (5, 8, 33)
        for game in model.games:
            seen = game.view(torch.randn(5, 8, 33))
            assert game.judge(seen, energies(), draws()).score.shape == (5,)
