"""Wasserstein GANs: the critic's slope is bounded by clipped weights (Arjovsky et al., arXiv:1701.07875) or by a
penalty on its gradient (Gulrajani et al., arXiv:1704.00028).
"""

from dataclasses import replace

import torch
from torch import Tensor

from dist_calo.config import ObjectiveConfig
from dist_calo.models.interfaces import AdversarialModel, Game
from dist_calo.objectives.adversarial import Adversarial
from dist_calo.randomness import Draws
from dist_calo.transforms import Transform


class CriticScore:
    """The score is the critic's value: its mean on generated minus that on real showers estimates a distance."""

    def discriminator(self, score: Tensor, real: Tensor) -> Tensor:
        return torch.where(real, -score, score)

    def generator(self, score: Tensor) -> Tensor:
        return -score


class ClippedWeights(Adversarial):
    """Adversarial learning whose critics have weights within ``objective.weight_limit`` after every step of theirs."""

    def __init__(self, config: ObjectiveConfig, model: AdversarialModel, transform: Transform) -> None:
        super().__init__(config, model, transform, CriticScore())
        critics = {game.discriminator for game in model.games}
        self.updates = tuple(
            replace(update, weight_limit=config.weight_limit) if update.network in critics else update
            for update in self.updates
        )


class GradientPenalty(Adversarial):
    """Adversarial learning that draws the critic's gradient to a norm of 1 between real and generated showers."""

    def _judging(
        self, game: Game, seen: Tensor, fakes: Tensor, conditions: Tensor, draws: Draws
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        terms, weights = super()._judging(game, seen, fakes, conditions, draws)
        terms["gradient_penalty"] = self._penalty(game, seen, fakes, conditions, draws)
        weights["gradient_penalty"] = self._config.gradient_penalty
        return terms, weights

    def _penalty(self, game: Game, seen: Tensor, fakes: Tensor, conditions: Tensor, draws: Draws) -> Tensor:
        """Return (|gradient of the score| - 1)^2 at a point between each real and its generated view, shape (B,)."""
        share = draws.uniform("interpolation").to(seen).view(-1, *(1 for _ in seen.shape[1:]))
        between = (share * seen + (1.0 - share) * fakes).detach().requires_grad_()
        score = game.judge(between, conditions, draws.named("between")).score
        (gradient,) = torch.autograd.grad(score.float().sum(), between, create_graph=True)
        # The square root has no derivative at 0.
        norm = gradient.float().flatten(1).square().sum(1).clamp(min=1e-12).sqrt()
        return (norm - 1.0).square()


def wgan(config: ObjectiveConfig, model: AdversarialModel, transform: Transform) -> ClippedWeights:
    """Build the Wasserstein objective with clipped weights; ``label_flip`` is best left at 0."""
    return ClippedWeights(config, model, transform)


def wgan_gp(config: ObjectiveConfig, model: AdversarialModel, transform: Transform) -> GradientPenalty:
    """Build the Wasserstein objective with gradient penalty; ``label_flip`` is best left at 0."""
    return GradientPenalty(config, model, transform, CriticScore())
