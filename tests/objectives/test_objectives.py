import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dist_calo.config import ModelConfig, ObjectiveConfig
from dist_calo.errors import ConfigError
from dist_calo.geometry import VoxelGrid
from dist_calo.models import build_model
from dist_calo.models.gan import GanModel
from dist_calo.models.interfaces import Game, Verdict
from dist_calo.models.nn.batch_norm import SyncBatchNorm, synchronise_batch_norm
from dist_calo.models.nn.blocks import Dropout
from dist_calo.objectives import OBJECTIVES, build_objective
from dist_calo.objectives.adversarial import BinaryCrossEntropy, Hinge
from dist_calo.objectives.wgan import CriticScore
from dist_calo.randomness import Draws
from tests.support.simulated_ranks import on_simulated_ranks

GRID = VoxelGrid(shape=(4, 4, 3), conditions=("energy", "theta"))
ADVERSARIAL = tuple(name for name in OBJECTIVES if name != "vae")
BATCH = 5
STATISTICS = {"energy": np.linspace(10.0, 100.0, 40), "energy_sum": 0.02 * np.linspace(10.0, 100.0, 40)}


class Scaled:
    """Network units are cells in GeV times 50."""

    def inverse(self, showers):
        return showers / 50.0


class TinyGenerator(nn.Module):
    latent = 4

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(6, 2 * 48)
        self.layers = nn.Sequential(
            SyncBatchNorm(2), nn.Softplus(), nn.Conv3d(2, 1, 3, padding=1), nn.Softplus()
        )

    def forward(self, conditions, noise):
        inputs = torch.cat([conditions / 100.0, noise], dim=1)
        return self.layers(self.dense(inputs).view(-1, 2, *GRID.shape)).squeeze(1)


class TinyDiscriminator(nn.Module):
    def __init__(self, reads_energy=True):
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 3)
        self.norm = SyncBatchNorm(3)
        self.dropout = Dropout(0.3, "first")
        self.score = nn.Linear(12, 1)
        self.energy = nn.Linear(12, 1) if reads_energy else None

    def forward(self, showers, conditions, draws):
        features = self.dropout(F.softplus(self.norm(self.conv(showers.unsqueeze(1)))), draws).flatten(1)
        energy = None if self.energy is None else 100.0 * self.energy(features).squeeze(1)
        return Verdict(score=self.score(features).squeeze(1), energy=energy)


def tiny_model(reads_energy=True):
    torch.manual_seed(0)
    return GanModel(GRID, TinyGenerator(), TinyDiscriminator(reads_energy)).double()


def tiny_objective(name, model=None, **options):
    weights = {
        "energy_weight": 0.1,
        "energy_sum_weight": 0.2,
        "angle_weight": 5.0,
        "label_flip": 0.2,
    } | options
    objective = build_objective(ObjectiveConfig(name=name, **weights), model or tiny_model(), Scaled())
    objective.calibrate(STATISTICS)
    return objective


def batch(size=BATCH):
    source = torch.Generator().manual_seed(3)
    showers = torch.rand(size, *GRID.shape, generator=source, dtype=torch.float64)
    conditions = torch.rand(size, 2, generator=source, dtype=torch.float64)
    return showers, conditions * torch.tensor([90.0, 0.5]) + torch.tensor([10.0, 1.0])


def freeze_all_but(model, network):
    for name, other in model.networks.items():
        other.requires_grad_(name == network)


def gradients(model):
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def updates(name, **options):
    return tiny_objective(name, **options).updates


def test_an_unknown_objective_lists_the_choices():
    with pytest.raises(
        ConfigError, match=r"objective\.name=hnge: .* choose from hinge, vae, vanilla, wgan, wgan_gp"
    ):
        build_objective(ObjectiveConfig(name="hnge"), tiny_model(), Scaled())


def test_updates_are_those_of_the_configuration_in_order():
    names = [(u.network, u.name) for u in updates("vanilla", discriminator_steps=2, generator_steps=2)]
    assert names == [
        ("discriminator", "discriminator/0"),
        ("discriminator", "discriminator/1"),
        ("generator", "generator/0"),
        ("generator", "generator/1"),
    ]


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("network", ["discriminator", "generator"])
@pytest.mark.parametrize("frozen", [True, False])
def test_an_update_gives_gradients_to_its_own_network_alone(name, network, frozen):
    model = tiny_model()
    objective = tiny_objective(name, model)
    (update,) = (u for u in objective.updates if u.network == network)
    if frozen:
        freeze_all_but(model, network)
    objective.losses(update, *batch(), Draws(0, 1, range(BATCH)), BATCH)["total"].backward()
    (other,) = set(model.networks) - {network}
    # The discriminator's update detaches the generator by itself; the generator's relies on the trainer's freezing.
    if frozen or network == "discriminator":
        assert all(p.grad is None for p in model.networks[other].parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.networks[network].parameters())


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_only_the_total_is_differentiable(name):
    objective = tiny_objective(name)
    for update in objective.updates:
        losses = objective.losses(update, *batch(), Draws(0, 1, range(BATCH)), BATCH)
        assert losses.pop("total").requires_grad
        assert not any(value.requires_grad for value in losses.values())
        assert all(value.shape == () for value in losses.values())


@pytest.mark.parametrize("name", ADVERSARIAL)
@settings(max_examples=8, deadline=None)
@given(shares=st.lists(st.integers(0, BATCH), min_size=1, max_size=3).filter(lambda s: sum(s) == BATCH))
def test_losses_and_gradients_of_shares_add_up_to_those_of_the_batch(name, shares):
    """With dropout, flipped labels and batch statistics over all ranks, for uneven and empty shares."""
    template = tiny_model()
    slots = np.arange(BATCH)

    def step(model, rows):
        objective = tiny_objective(name, model)
        found = []
        for update in objective.updates:
            freeze_all_but(model, update.network)
            model.zero_grad()
            showers, conditions = (part[rows] for part in batch())
            losses = objective.losses(
                update, showers, conditions, Draws(0, 1, slots[rows], update.name), BATCH
            )
            losses["total"].backward()
            found.append(({key: value.detach() for key, value in losses.items()}, gradients(model)))
        return found

    def one_rank(rank, all_reduce):
        model = copy.deepcopy(template)
        synchronise_batch_norm(model, all_reduce)
        start = sum(shares[:rank])
        return step(model, slice(start, start + shares[rank]))

    ranks = on_simulated_ranks(len(shares), one_rank)
    for parts, whole in zip(
        zip(*ranks, strict=True), step(copy.deepcopy(template), slice(None)), strict=True
    ):
        for kind, expected in enumerate(whole):
            for key, value in expected.items():
                # Losses are summed in float32.
                together = sum(part[kind][key] for part in parts)
                torch.testing.assert_close(together, value, rtol=2e-5, atol=2e-6, msg=key)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_a_rank_without_samples_takes_part_in_every_sum_in_the_same_order(name):
    torch.manual_seed(0)
    grid = VoxelGrid(shape=(25, 25, 25))
    model = build_model(ModelConfig(name="lcd_3dgan"), grid)
    options = ObjectiveConfig(name=name, energy_weight=0.1, energy_sum_weight=0.1)
    objective = build_objective(options, model, Scaled())
    objective.calibrate(STATISTICS)
    happened = []
    for layer_name, layer in model.named_modules():
        if isinstance(layer, SyncBatchNorm):
            layer.reduce = lambda tensor, layer_name=layer_name: happened.append((layer_name, tensor.numel()))
    for parameter_name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p, n=parameter_name: happened.append((n, "gradient"))
        )
    for update in objective.updates:
        freeze_all_but(model, update.network)
        sequences = []
        for size in (1, 0):
            happened.clear()
            losses = objective.losses(
                update,
                torch.rand(size, *grid.shape),
                torch.full((size, 1), 50.0),
                Draws(0, 1, range(size)),
                1,
            )
            losses["total"].backward()
            sequences.append(list(happened))
        assert sequences[0] == sequences[1]
        assert ("discriminator.blocks.1.2", 17) in sequences[0]


def test_the_sigmoid_is_applied_once():
    score = torch.tensor([-2.0, 0.0, 3.0])
    loss = BinaryCrossEntropy()
    probability = torch.sigmoid(score)
    torch.testing.assert_close(loss.discriminator(score, torch.tensor([True] * 3)), -probability.log())
    torch.testing.assert_close(loss.discriminator(score, torch.tensor([False] * 3)), -(1 - probability).log())
    torch.testing.assert_close(loss.generator(score), -probability.log())
    # Applied twice, a confident mistake would cost at most softplus(1) = 1.31.
    assert float(loss.discriminator(torch.tensor([50.0]), torch.tensor([False]))) == pytest.approx(50.0)


def test_hinge_has_a_margin_and_wasserstein_none():
    score, real = torch.tensor([2.0, 0.5, -2.0, 0.5]), torch.tensor([True, True, False, False])
    assert Hinge().discriminator(score, real).tolist() == [0.0, 0.5, 0.0, 1.5]
    assert CriticScore().discriminator(score, real).tolist() == [-2.0, -0.5, -2.0, 0.5]
    for loss in (Hinge(), CriticScore()):
        assert loss.generator(score).tolist() == (-score).tolist()


class Puppet(nn.Module):
    """A model whose verdicts and showers are given."""

    def __init__(self, shower=1.0, score=(0.0, 0.0), energy=(50.0, 50.0)):
        super().__init__()
        self.geometry = GRID
        self.generator, self.real, self.fake = nn.Parameter(torch.tensor(shower)), None, None
        self.scores, self.energies = score, energy

    def generate(self, conditions, draws):
        return self.generator * torch.ones(len(conditions), *GRID.shape)

    def discriminator(self, showers, conditions, draws):
        real = int(bool((showers != self.generator).any()))
        return Verdict(
            score=showers.flatten(1).sum(1) * 0 + self.scores[real],
            energy=showers.flatten(1).sum(1) * 0 + self.energies[real],
        )

    @property
    def games(self):
        return (
            Game(
                generator="generator",
                discriminator="discriminator",
                view=lambda showers: showers,
                generate=self.generate,
                judge=self.discriminator,
                reads_energy=True,
            ),
        )

    def calibrate(self, statistics):
        self.calibrated = statistics


def puppet_losses(model, network, conditions, **options):
    objective = build_objective(ObjectiveConfig(**options), model, Scaled())
    objective.calibrate(STATISTICS)
    (update,) = (u for u in objective.updates if u.network == network)
    showers = torch.zeros(len(conditions), *GRID.shape)
    losses = objective.losses(
        update, showers, conditions, Draws(0, 0, range(len(conditions))), len(conditions)
    )
    return {key: float(value.detach()) for key, value in losses.items()}


def test_percentages_are_of_the_truth():
    """A prediction of twice the truth is wrong by 100 %; with swapped arguments it would be 50 %."""
    conditions = torch.tensor([[25.0, 1.5], [25.0, 1.5]])
    options = {"name": "vanilla", "score_weight": 2.0, "energy_weight": 0.1}
    losses = puppet_losses(Puppet(energy=(50.0, 20.0)), "discriminator", conditions, **options)
    assert losses["energy_fake"] == pytest.approx(100.0)
    assert losses["energy_real"] == pytest.approx(20.0)
    assert losses["score_loss"] == pytest.approx(2 * math.log(2))
    assert losses["total"] == pytest.approx(2.0 * 2 * math.log(2) + 0.1 * 120.0)


def test_the_energy_sum_is_compared_with_the_response_in_gev():
    # 48 cells of 1 / 50 GeV each make 0.96 GeV; the response to 24 GeV is 0.48 GeV: 100 % too much.
    conditions = torch.tensor([[24.0, math.pi / 2]])
    options = {"name": "vanilla", "energy_sum_weight": 0.5, "angle_weight": 2.0}
    losses = puppet_losses(Puppet(shower=1.0), "generator", conditions, **options)
    assert losses["energy_sum"] == pytest.approx(100.0, abs=1e-3)
    assert losses["angle"] == pytest.approx(0.0, abs=1e-5)
    assert losses["total"] == pytest.approx(math.log(2) + 0.5 * losses["energy_sum"] + 2.0 * losses["angle"])
    assert "energy" not in losses


def test_labels_are_flipped_at_the_configured_rate():
    size = 2000
    conditions = torch.full((size, 2), 1.0)
    model = Puppet(score=(-100.0, 100.0))

    def loss(flip):
        return puppet_losses(model, "discriminator", conditions, name="vanilla", label_flip=flip)[
            "score_loss"
        ]

    assert loss(0.0) == pytest.approx(0.0, abs=1e-6)
    # Each flipped label costs 100, among the real and among the generated showers.
    assert loss(0.05) == pytest.approx(200 * 0.05, abs=200 * 5 * math.sqrt(0.05 * 0.95 / (2 * size)))


def test_diagnostics_are_the_mean_scores():
    losses = puppet_losses(Puppet(score=(-3.0, 7.0)), "discriminator", torch.full((4, 2), 1.0), name="hinge")
    assert (losses["score_real"], losses["score_fake"]) == (7.0, -3.0)
    assert losses["total"] == 0.0


class LinearCritic(nn.Module):
    """A critic whose gradient is the same everywhere."""

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(torch.full(GRID.shape, slope))

    def forward(self, showers, conditions, draws):
        return Verdict(score=(showers * self.slope).flatten(1).sum(1))


def test_the_gradient_penalty_of_a_linear_critic_is_known():
    slope = 0.5
    critic = LinearCritic(slope)
    model = GanModel(GRID, TinyGenerator(), critic)
    objective = build_objective(ObjectiveConfig(name="wgan_gp", gradient_penalty=10.0), model, Scaled())
    showers, conditions = (part.float() for part in batch())
    losses = objective.losses(objective.updates[0], showers, conditions, Draws(0, 0, range(BATCH)), BATCH)
    norm = slope * math.sqrt(48)
    assert float(losses["gradient_penalty"]) == pytest.approx((norm - 1) ** 2, rel=1e-5)
    losses["total"].backward()
    difference = (model.generate(conditions, Draws(0, 0, range(BATCH))) - showers).mean(0)
    expected = difference + 10.0 * 2 * (norm - 1) * slope / norm
    torch.testing.assert_close(critic.slope.grad, expected.detach(), rtol=1e-4, atol=1e-5)


def test_an_angle_term_needs_an_angle():
    model = GanModel(VoxelGrid(shape=GRID.shape), TinyGenerator(), TinyDiscriminator())
    with pytest.raises(ConfigError, match=r"objective\.angle_weight=1\.0: the data have no theta"):
        build_objective(ObjectiveConfig(angle_weight=1.0), model, Scaled())


def test_an_energy_term_needs_a_discriminator_that_reads_it():
    objective = tiny_objective("hinge", tiny_model(reads_energy=False))
    with pytest.raises(ConfigError, match=r"objective\.energy_weight=0\.1: the discriminator of this model"):
        objective.losses(objective.updates[0], *batch(), Draws(0, 0, range(BATCH)), BATCH)


def test_the_energy_sum_needs_calibration_which_survives_a_checkpoint():
    config = ObjectiveConfig(name="hinge", energy_sum_weight=1.0)
    fresh = build_objective(config, tiny_model(), Scaled())
    arguments = (fresh.updates[1], *batch(), Draws(0, 0, range(BATCH)), BATCH)
    with pytest.raises(RuntimeError, match="calibrate the objective"):
        fresh.losses(*arguments)
    assert fresh.state_dict() == {}
    calibrated = tiny_objective("hinge", energy_sum_weight=1.0, energy_weight=0.0, angle_weight=0.0)
    fresh.load_state_dict(calibrated.state_dict())
    assert torch.equal(fresh.losses(*arguments)["energy_sum"], calibrated.losses(*arguments)["energy_sum"])


def test_calibration_reaches_the_model():
    model = Puppet()
    build_objective(ObjectiveConfig(), model, Scaled()).calibrate(STATISTICS)
    assert model.calibrated is STATISTICS


def test_fakes_differ_between_updates_and_draws_decide_them():
    objective = tiny_objective("hinge", generator_steps=2)

    def score(update, step):
        draws = Draws(0, step, range(BATCH), update.name)
        return float(objective.losses(update, *batch(), draws, BATCH)["score_fake"])

    first, second = objective.updates[1:]
    assert score(first, 1) == score(first, 1)
    assert len({score(first, 1), score(second, 1), score(first, 2)}) == 3
