"""Common part of variational autoencoders: the evidence lower bound of a shower and its divergence."""

from torch import Tensor, nn

from dist_calo.models.nn.blocks import Dense


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(0, 1)), summed over dimensions, (B,), of numbers (B, latent).

    Kingma and Welling, arXiv:1312.6114, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)


def widths(hidden: int, latent: int) -> list[int]:
    """Return the widths of an encoder's dense layers; 1500, 1000, 500, 100 for the published 1500 and latent 50."""
    return [hidden, max(2 * hidden // 3, 1), max(hidden // 3, 1), 2 * latent]


class Encoder(nn.Module):
    """Mean and logarithm of the variance of the latent numbers of a shower.

    Args:
        inputs: numbers that are read of a shower.
        hidden: width of the first layer.
        latent: latent numbers.
    """

    def __init__(self, inputs: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.dense = Dense(inputs, widths(hidden, latent))
        self.mean, self.log_variance = (nn.Linear(2 * latent, latent) for _ in range(2))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance (B, latent) each for numbers (B, inputs)."""
        h = self.dense(values)
        return self.mean(h), self.log_variance(h).clamp(-12.0, 4.0)


def sampled(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Sample latent numbers (B, latent) from the encoder's distribution (the reparametrisation)."""
    return mean + (0.5 * log_variance).exp() * noise.to(mean)
