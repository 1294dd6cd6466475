"""Objectives on models that play several games, and the clipped critic."""

import pytest
import torch

from dist_calo.config import ObjectiveConfig
from dist_calo.errors import ConfigError
from dist_calo.models.interfaces import Game, Verdict
from dist_calo.objectives import build_objective
from dist_calo.objectives.vae import vae
from dist_calo.randomness import Draws
from dist_calo.training.learner import clip_weights
from tests.objectives.test_objectives import GRID, Puppet, Scaled, tiny_objective


def test_clipped_weights_are_asked_for_the_critic_alone():
    updates = tiny_objective("wgan", weight_limit=0.03).updates
    assert {u.network: u.weight_limit for u in updates} == {"discriminator": 0.03, "generator": None}


def test_weights_are_clipped_to_the_limit():
    network = torch.nn.Linear(2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.5, -0.01]]))
        network.bias.fill_(-0.5)
    clip_weights(network, 0.03)
    torch.testing.assert_close(network.weight.detach(), torch.tensor([[0.03, -0.01]]))
    assert float(network.bias.detach()) == pytest.approx(-0.03)


class TwoGames(Puppet):
    """Plays about the sum of a shower and, apart from that, about its first cell."""

    @property
    def games(self):
        return tuple(
            Game(
                generator=f"{name}_generator",
                discriminator=f"{name}_discriminator",
                view=view,
                generate=lambda conditions, draws, view=view: view(self.generate(conditions, draws)),
                judge=lambda seen, conditions, draws, sign=sign: Verdict(score=sign * seen.squeeze(1)),
                whole=False,
            )
            for name, view, sign in (
                ("sum", lambda showers: showers.flatten(1).sum(1, keepdim=True), 1.0),
                ("cell", lambda showers: showers.flatten(1)[:, :1], -1.0),
            )
        )


def test_games_are_played_side_by_side_each_about_its_own_view():
    objective = build_objective(
        ObjectiveConfig(name="wgan_gp", gradient_penalty=0.0, discriminator_steps=2), TwoGames(), Scaled()
    )
    assert [update.name for update in objective.updates] == [
        "sum_discriminator/0",
        "sum_discriminator/1",
        "sum_generator/0",
        "cell_discriminator/0",
        "cell_discriminator/1",
        "cell_generator/0",
    ]
    showers, conditions = torch.full((2, *GRID.shape), 3.0), torch.ones(2, 2)
    seen = {
        update.name: float(
            objective.losses(update, showers, conditions, Draws(0, 0, range(2)), 2).get("score_real", 0.0)
        )
        for update in objective.updates
    }
    assert seen["sum_discriminator/0"] == 3.0 * 48
    assert seen["cell_discriminator/0"] == -3.0


def test_the_sum_of_cells_needs_a_view_of_whole_showers():
    with pytest.raises(
        ConfigError, match=r"objective\.energy_sum_weight=1\.0: the networks of this model see no"
    ):
        build_objective(ObjectiveConfig(energy_sum_weight=1.0), TwoGames(), Scaled())


class Coder:
    """Its terms are given."""

    def elbo(self, showers, conditions, draws):
        self.reconstruction = {"cells": 2.0 * conditions[:, 0], "total_energy": conditions[:, 1]}
        self.kl = torch.full((len(conditions),), 10.0)
        return self


@pytest.mark.parametrize(("step", "weight"), [(1, 0.05), (5, 0.25), (10, 0.5), (200, 0.5)])
def test_the_divergence_warms_up(step, weight):
    objective = vae(ObjectiveConfig(name="vae", kl_weight=0.5, kl_warmup_steps=10), Coder(), None)
    conditions = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    losses = objective.losses(objective.updates[0], conditions, conditions, Draws(0, step, range(2)), 4)
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(
        {"total": 2.0 + 1.5 + weight * 5.0, "kl": 5.0, "cells": 2.0, "total_energy": 1.5}
    )


def test_terms_do_not_hide_the_loss():
    coder = Coder()
    coder.elbo = lambda *_: coder
    coder.reconstruction, coder.kl = {"kl": torch.ones(2)}, torch.ones(2)
    objective = vae(ObjectiveConfig(name="vae"), coder, None)
    with pytest.raises(ValueError, match="a term of the reconstruction is called kl"):
        objective.losses(objective.updates[0], torch.ones(2, 1), torch.ones(2, 1), Draws(0, 1, range(2)), 2)


@pytest.mark.parametrize(
    "setting", ["energy_weight", "label_flip", "gradient_penalty", "discriminator_steps"]
)
def test_an_autoencoder_has_no_adversarial_settings(setting):
    with pytest.raises(
        ConfigError, match=rf"objective\.{setting}=0\.5: objective\.name=vae has no use for it"
    ):
        vae(ObjectiveConfig(name="vae", **{setting: 0.5}), Coder(), None)


def test_adversarial_learning_has_no_divergence_to_weigh():
    with pytest.raises(
        ConfigError, match=r"objective\.kl_weight=2\.0: objective\.name=hinge has no use for it"
    ):
        build_objective(ObjectiveConfig(kl_weight=2.0), Puppet(), Scaled())


def test_the_energy_term_needs_a_game_about_it():
    with pytest.raises(
        ConfigError, match=r"objective\.energy_weight=0\.5: the discriminator of this model reads no"
    ):
        build_objective(ObjectiveConfig(energy_weight=0.5), TwoGames(), Scaled())


def test_models_and_objectives_must_fit():
    with pytest.raises(ConfigError, match=r"objective\.name=vae: the model is no autoencoder"):
        vae(ObjectiveConfig(name="vae"), Puppet(), None)
    with pytest.raises(ConfigError, match=r"objective\.name=hinge: the model has no discriminator"):
        build_objective(ObjectiveConfig(), Coder(), Scaled())
