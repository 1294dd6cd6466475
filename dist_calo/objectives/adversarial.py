"""Adversarial learning: the discriminator tells real showers from generated ones, the generator learns to pass.

A training step is ``discriminator_steps`` updates of the discriminator, each on real showers and on as many generated
for the same conditions, then ``generator_steps`` of the generator, with new noise each. A model whose networks play
several games, each about its own view of a shower, takes these updates for each. How a score becomes a loss is a
`ScoreLoss`; the auxiliary terms (Odena et al., arXiv:1610.09585; Carminati et al., J. Phys. Conf. Ser. 1085, 032016)
are common to all.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_calo.config import ObjectiveConfig
from dist_calo.errors import ConfigError
from dist_calo.geometry import VoxelGrid
from dist_calo.models.interfaces import AdversarialModel, Game, Statistics, Verdict
from dist_calo.objectives import KL_SETTINGS, Update, refuse_settings
from dist_calo.objectives.auxiliary import (
    energy_sum,
    fit_response,
    measured_angle,
    percentage_error,
    polynomial,
)
from dist_calo.randomness import Draws
from dist_calo.transforms import Transform


class ScoreLoss(Protocol):
    """Loss as a function of scores, one number a sample."""

    def discriminator(self, score: Tensor, real: Tensor) -> Tensor:
        """Return the loss of scores (B,) of showers that are to be called real (True) or generated (False)."""

    def generator(self, score: Tensor) -> Tensor:
        """Return the loss of the scores (B,) of generated showers for the generator."""


class BinaryCrossEntropy:
    """The score is a logit: cross entropy, non-saturating for the generator (Goodfellow et al., arXiv:1406.2661)."""

    def discriminator(self, score: Tensor, real: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(score, real.to(score), reduction="none")

    def generator(self, score: Tensor) -> Tensor:
        return F.softplus(-score)


class Hinge:
    """Scores beyond a margin of 1 count no more (Lim and Ye, arXiv:1705.02894; Miyato et al., arXiv:1802.05957)."""

    def discriminator(self, score: Tensor, real: Tensor) -> Tensor:
        return F.relu(1.0 - torch.where(real, score, -score))

    def generator(self, score: Tensor) -> Tensor:
        return -score


class Adversarial:
    """The losses of both networks.

    Args:
        config: weights of the terms, numbers of updates.
        model: the two networks.
        transform: the way back to GeV.
        score_loss: how scores become losses.

    Raises:
        ConfigError: if the model plays no game, or a term is asked for that its showers or the data do not have.
    """

    def __init__(
        self, config: ObjectiveConfig, model: AdversarialModel, transform: Transform, score_loss: ScoreLoss
    ) -> None:
        if not hasattr(model, "games"):
            raise ConfigError(
                f"objective.name={config.name}: the model has no discriminator; choose vae, or another model"
            )
        refuse_settings(config, KL_SETTINGS)
        geometry = model.geometry
        if config.energy_weight and not any(game.reads_energy for game in model.games):
            raise ConfigError(
                f"objective.energy_weight={config.energy_weight}: the discriminator of this model reads no energy; "
                "set it to 0 or choose another model"
            )
        if config.angle_weight and not (isinstance(geometry, VoxelGrid) and "theta" in geometry.conditions):
            raise ConfigError(
                f"objective.angle_weight={config.angle_weight}: the data have no theta; set it to 0 or use other data"
            )
        if config.energy_sum_weight and (geometry.signed or not any(game.whole for game in model.games)):
            raise ConfigError(
                f"objective.energy_sum_weight={config.energy_sum_weight}: the networks of this model see no showers "
                "whose energy can be summed; set it to 0 or choose another model"
            )
        self._config = config
        self._model = model
        self._transform = transform
        self._score_loss = score_loss
        self._response: Tensor | None = None
        self._games = {name: game for game in model.games for name in (game.discriminator, game.generator)}
        self.updates = tuple(
            Update(network=network, name=f"{network}/{number}")
            for game in model.games
            for network, steps in (
                (game.discriminator, config.discriminator_steps),
                (game.generator, config.generator_steps),
            )
            for number in range(steps)
        )

    def losses(
        self, update: Update, showers: Tensor, conditions: Tensor, draws: Draws, global_size: int
    ) -> dict[str, Tensor]:
        """See `dist_calo.objectives.Objective`. Percentages and rad; scores as the discriminator gives them.

        Raises:
            ConfigError: if the energy term is asked for and the discriminator reads no energy.
            RuntimeError: if the term of the energy sum is asked for before ``calibrate``.
        """
        game = self._games[update.network]
        if update.network == game.discriminator:
            with torch.no_grad():
                seen, fakes = game.view(showers), game.generate(conditions, draws)
            terms, weights = self._judging(game, seen, fakes, conditions, draws)
        else:
            terms, weights = self._generating(game, conditions, draws)
        sums = {name: term.float().sum() / global_size for name, term in terms.items()}
        total = torch.stack([weights[name] * sums[name] for name in weights]).sum()
        return {"total": total} | {name: value.detach() for name, value in sums.items()}

    def _judging(
        self, game: Game, seen: Tensor, fakes: Tensor, conditions: Tensor, draws: Draws
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return the terms of the discriminator's update, one number a sample, and the weights of those learnt from."""
        on_real = game.judge(seen, conditions, draws.named("real"))
        on_fake = game.judge(fakes, conditions, draws.named("fake"))
        called_real = ~self._flipped(draws, "flip_real", on_real.score)
        called_fake = self._flipped(draws, "flip_fake", on_fake.score)
        terms = {
            "score_loss": self._score_loss.discriminator(on_real.score.float(), called_real)
            + self._score_loss.discriminator(on_fake.score.float(), called_fake),
            "score_real": on_real.score,
            "score_fake": on_fake.score,
        }
        weights = {"score_loss": self._config.score_weight}
        if self._config.energy_weight:
            terms["energy_real"] = self._energy_error(on_real, conditions)
            terms["energy_fake"] = self._energy_error(on_fake, conditions)
            weights["energy_real"] = weights["energy_fake"] = self._config.energy_weight
        return terms, weights

    def _generating(
        self, game: Game, conditions: Tensor, draws: Draws
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return the terms of the generator's update; gradients flow through the frozen discriminator."""
        fakes = game.generate(conditions, draws)
        verdict = game.judge(fakes, conditions, draws.named("fake"))
        terms = {
            "score_loss": self._score_loss.generator(verdict.score.float()),
            "score_fake": verdict.score,
        }
        weights = {"score_loss": self._config.score_weight}
        if self._config.energy_weight:
            terms["energy"] = self._energy_error(verdict, conditions)
            weights["energy"] = self._config.energy_weight
        if not game.whole:
            return terms, weights
        if self._config.energy_sum_weight or self._config.angle_weight:
            cells = self._transform.inverse(fakes.float())
        if self._config.energy_sum_weight:
            terms["energy_sum"] = percentage_error(
                truth=self._expected_sum(conditions), predicted=energy_sum(cells)
            )
            weights["energy_sum"] = self._config.energy_sum_weight
        if self._config.angle_weight and isinstance(self._model.geometry, VoxelGrid):
            angle = measured_angle(cells, self._model.geometry.cell_size)
            terms["angle"] = (angle - self._column(conditions, "theta")).abs()
            weights["angle"] = self._config.angle_weight
        return terms, weights

    def _flipped(self, draws: Draws, name: str, like: Tensor) -> Tensor:
        """Draw whether each sample's label is flipped, shape (B,)."""
        return (draws.uniform(name).squeeze(1) < self._config.label_flip).to(like.device)

    def _column(self, conditions: Tensor, name: str) -> Tensor:
        return conditions[:, self._model.geometry.conditions.index(name)]

    def _energy_error(self, verdict: Verdict, conditions: Tensor) -> Tensor:
        if verdict.energy is None:
            raise ConfigError(
                f"objective.energy_weight={self._config.energy_weight}: the discriminator of this model reads no "
                "energy; set it to 0 or choose another model"
            )
        return percentage_error(truth=self._column(conditions, "energy"), predicted=verdict.energy)

    def _expected_sum(self, conditions: Tensor) -> Tensor:
        """Return the mean sum of cells of real showers of the same energies, in GeV, shape (B,)."""
        if self._response is None:
            raise RuntimeError(
                "the energy response has not been fitted: calibrate the objective before the first step"
            )
        return polynomial(self._response, self._column(conditions, "energy"))

    def calibrate(self, statistics: Statistics) -> None:
        """Fit the energy response, and let the model take its constants."""
        if self._config.energy_sum_weight:
            self._response = torch.from_numpy(fit_response(statistics["energy"], statistics["energy_sum"]))
        self._model.calibrate(statistics)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the coefficients of the energy response, if it was fitted."""
        return {} if self._response is None else {"response": self._response}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue with the energy response of ``state_dict``."""
        self._response = state.get("response")


def vanilla(config: ObjectiveConfig, model: AdversarialModel, transform: Transform) -> Adversarial:
    """Build the objective of cross entropy; with the auxiliary terms, that of the 3DGANs."""
    return Adversarial(config, model, transform, BinaryCrossEntropy())


def hinge(config: ObjectiveConfig, model: AdversarialModel, transform: Transform) -> Adversarial:
    """Build the objective of the hinge loss."""
    return Adversarial(config, model, transform, Hinge())
