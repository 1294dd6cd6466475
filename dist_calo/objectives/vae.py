"""The variational autoencoder (Kingma and Welling, arXiv:1312.6114).

The loss of a shower is ``reconstruction + beta KL(q(z | shower) || N(0, 1))``, where the reconstruction is minus the
logarithm of the decoder's likelihood, up to a constant, and ``beta`` rises over the warm-up from 0 to ``kl_weight``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from torch import Tensor

from dist_calo.config import ObjectiveConfig
from dist_calo.errors import ConfigError
from dist_calo.models.interfaces import AutoencoderModel, Statistics
from dist_calo.objectives import KL_SETTINGS, Update, refuse_settings
from dist_calo.randomness import Draws
from dist_calo.transforms import Transform


@dataclass(frozen=True)
class Variational:
    """The evidence lower bound with a weight on its divergence."""

    config: ObjectiveConfig
    model: AutoencoderModel
    updates: tuple[Update, ...] = (Update(network="autoencoder", name="autoencoder/0"),)

    def losses(
        self, update: Update, showers: Tensor, conditions: Tensor, draws: Draws, global_size: int
    ) -> dict[str, Tensor]:
        """See `dist_calo.objectives.Objective`."""
        elbo = self.model.elbo(showers, conditions, draws)
        if reserved := {"total", "kl"} & elbo.reconstruction.keys():
            raise ValueError(
                f"a term of the reconstruction is called {min(reserved)}, as one of the loss: rename it"
            )
        terms = {name: term.float().sum() / global_size for name, term in elbo.reconstruction.items()}
        kl = elbo.kl.float().sum() / global_size
        total = sum(terms.values(), start=self.kl_weight(draws.step) * kl)
        return {"total": total, "kl": kl.detach()} | {name: term.detach() for name, term in terms.items()}

    def kl_weight(self, step: int) -> float:
        """Return the weight of the divergence in a step, counted from 1."""
        return self.config.kl_weight * min(1.0, step / max(self.config.kl_warmup_steps, 1))

    def calibrate(self, statistics: Statistics) -> None:
        """Let the model take its constants."""
        self.model.calibrate(statistics)

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing: all is in the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Ignore the state: all is in the model."""


def vae(config: ObjectiveConfig, model: AutoencoderModel, transform: Transform) -> Variational:
    """Build the objective of autoencoders.

    Raises:
        ConfigError: if the model is none, or a term of adversarial learning is asked for.
    """
    if not hasattr(model, "elbo"):
        raise ConfigError(
            "objective.name=vae: the model is no autoencoder; choose another objective or model"
        )
    refuse_settings(config, tuple(f.name for f in fields(config) if f.name not in ("name", *KL_SETTINGS)))
    return Variational(config, model)
