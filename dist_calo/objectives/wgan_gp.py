"""The Wasserstein GAN with gradient penalty (Gulrajani et al., arXiv:1704.00028)."""

import torch
from torch import Tensor

from dist_calo.config import ObjectiveConfig
from dist_calo.objectives.adversarial import Adversarial, AdversarialModel, Transform
from dist_calo.randomness import Draws


class CriticScore:
    """The score is the critic's value: its mean on generated minus that on real showers estimates a distance."""

    def discriminator(self, score: Tensor, real: Tensor) -> Tensor:
        return torch.where(real, -score, score)

    def generator(self, score: Tensor) -> Tensor:
        return -score


class GradientPenalty(Adversarial):
    """Adversarial learning that draws the critic's gradient to a norm of 1 between real and generated showers."""

    def _judging(
        self, showers: Tensor, fakes: Tensor, conditions: Tensor, draws: Draws
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        terms, weights = super()._judging(showers, fakes, conditions, draws)
        terms["gradient_penalty"] = self._penalty(showers, fakes, conditions, draws)
        weights["gradient_penalty"] = self._config.gradient_penalty
        return terms, weights

    def _penalty(self, showers: Tensor, fakes: Tensor, conditions: Tensor, draws: Draws) -> Tensor:
        """(|gradient of the score| - 1)^2 at a point between each real and its generated shower, shape (B,)."""
        share = draws.uniform("interpolation").to(showers).view(-1, 1, 1, 1)
        between = (share * showers + (1.0 - share) * fakes).detach().requires_grad_()
        score = self._model.discriminator(between, conditions, draws.named("between")).score
        (gradient,) = torch.autograd.grad(score.float().sum(), between, create_graph=True)
        # The square root has no derivative at 0.
        norm = gradient.float().flatten(1).square().sum(1).clamp(min=1e-12).sqrt()
        return (norm - 1.0).square()


def wgan_gp(config: ObjectiveConfig, model: AdversarialModel, transform: Transform) -> GradientPenalty:
    """The Wasserstein objective with gradient penalty; ``label_flip`` is best left at 0."""
    return GradientPenalty(config, model, transform, CriticScore())
