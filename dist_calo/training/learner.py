"""One training step: the gradients of each network, agreed over all ranks, and the optimizer's step."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dist_calo.comm.gradients import GradientAverager
from dist_calo.comm.protocol import Communicator
from dist_calo.config import RunConfig
from dist_calo.data.loader import Batch
from dist_calo.errors import CheckpointError, ConfigError, TrainingError
from dist_calo.models.interfaces import Model
from dist_calo.models.nn.batch_norm import SyncBatchNorm
from dist_calo.objectives import Objective, Update
from dist_calo.randomness import Draws
from dist_calo.training.checkpoint import State
from dist_calo.training.optimizers import Optimizer
from dist_calo.training.schedule import learning_rate
from dist_calo.transforms import Transform


@contextmanager
def trained_alone(networks: Mapping[str, nn.Module], name: str) -> Iterator[None]:
    """Freeze all networks but one: gradients flow through the others, none are computed for them."""
    for other, network in networks.items():
        network.requires_grad_(other == name)
    try:
        yield
    finally:
        for network in networks.values():
            network.requires_grad_(True)


@torch.no_grad()
def clip_weights(network: nn.Module, limit: float) -> None:
    """Bring every weight into [-limit, limit]."""
    torch._foreach_clamp_min_(list(network.parameters()), -limit)
    torch._foreach_clamp_max_(list(network.parameters()), limit)


class MovingAverage:
    """Exponential moving average of the weights that generate, with the usual short memory at the start."""

    def __init__(self, networks: Mapping[str, nn.Module], decay: float) -> None:
        self._decay = decay
        self._networks = networks
        self.weights = {
            name: {k: v.detach().clone() for k, v in net.state_dict().items()}
            for name, net in networks.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights after a step, counted from 1."""
        weight = 1.0 - min(self._decay, step / (10.0 + step))
        for name, network in self._networks.items():
            average, current = self.weights[name], network.state_dict()
            moving = [key for key in average if average[key].is_floating_point()]
            torch._foreach_lerp_([average[key] for key in moving], [current[key] for key in moving], weight)
            for key in average.keys() - set(moving):
                average[key].copy_(current[key])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Generate with the averages in the networks; the trained weights are back afterwards."""
        trained = {
            name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in self._networks.items()
        }
        try:
            for name, network in self._networks.items():
                network.load_state_dict(self.weights[name])
                network.eval()
            yield
        finally:
            for name, network in self._networks.items():
                network.load_state_dict(trained[name])
                network.train()


class Learner:
    """Networks, their optimizers and the averaging of their gradients.

    Args:
        config: the run's settings.
        model: what is trained, on its device.
        objective: what it learns from.
        transform: from GeV to network units.
        communicator: how the ranks talk.
        condition_ranges: smallest and largest value of each condition that the model was calibrated with, which tell
            what may be asked of it later.

    Raises:
        ConfigError: if a factor is given for a network that the model does not have.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Model,
        objective: Objective,
        transform: Transform,
        communicator: Communicator,
        condition_ranges: Mapping[str, list[float]] | None = None,
    ) -> None:
        unknown = sorted(set(config.optimizer.network_factors) - set(model.networks))
        if unknown:
            raise ConfigError(
                f"optimizer.network_factors.{unknown[0]}: the model {config.model.name} has no such network; "
                f"it has {', '.join(model.networks)}"
            )
        self._config = config
        self.model = model
        self._objective = objective
        self._condition_ranges = dict(condition_ranges or {})
        self._transform = transform
        self._device = next(model.parameters()).device
        self._communicator = communicator
        self.optimizers = {name: Optimizer(config.optimizer, net) for name, net in model.networks.items()}
        self.averagers = {
            name: GradientAverager(
                net,
                communicator,
                wire=config.comm.wire,
                bucket_mb=config.comm.bucket_mb,
                overlap=config.comm.overlap,
            )
            for name, net in model.networks.items()
        }
        self.average = MovingAverage(
            {name: model.networks[name] for name in model.generating}, config.train.ema_decay
        )
        self.bad_in_a_row = 0
        self.bad_steps = 0
        self.losses: dict[str, Tensor] = {}

    def learn(self, batch: Batch, step: int) -> None:
        """Update every network on one global batch; ``losses`` then holds this rank's sums over the batch.

        Args:
            batch: this rank's share of the global batch.
            step: number of the step, counted from 1.

        Raises:
            TrainingError: after ``train.max_bad_steps`` steps in a row with non-finite gradients.
        """
        self.losses = {}
        finite = [self._update(update, batch, step) for update in self._objective.updates]
        self._count_bad(all(finite), step)
        if all(finite):
            self.average.update(step)

    def _update(self, update: Update, batch: Batch, step: int) -> bool:
        averager = self.averagers[update.network]
        with trained_alone(self.model.networks, update.network):
            micros = list(self._micro_batches(batch))
            for number, micro in enumerate(micros, start=1):
                with averager.reducing() if number == len(micros) else averager.accumulating():
                    self._backward(update, batch, micro, step)
            averager.finish()
        finite = self._step(update.network, step)
        if finite and update.weight_limit is not None:
            clip_weights(self.model.networks[update.network], update.weight_limit)
        averager.zero()
        return finite

    def _micro_batches(self, batch: Batch) -> Iterator[slice]:
        """Yield this rank's shares of the micro-batches, perhaps empty, that some rank has samples of."""
        for share, overall in zip(batch.micro, batch.micro_global_sizes, strict=True):
            if overall:
                yield share

    def _backward(self, update: Update, batch: Batch, micro: slice, step: int) -> None:
        showers, conditions = (
            torch.from_numpy(values[micro]).to(self._device, non_blocking=True)
            for values in (batch.showers, batch.conditions)
        )
        draws = Draws(self._config.train.seed, step, batch.slots[micro], update.name)
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._config.train.precision == "bf16"
        ):
            losses = self._objective.losses(
                update, self._transform.forward(showers), conditions, draws, batch.global_size
            )
        losses["total"].backward()
        for key, value in losses.items():
            name = f"{update.name}/{key}"
            self.losses[name] = self.losses.get(name, 0.0) + value.detach()

    def _step(self, network: str, step: int) -> bool:
        """Take the optimizer's step unless the averaged gradient, the same on all ranks, is not finite."""
        averager, optimizer = self.averagers[network], self.optimizers[network]
        norm = math.sqrt(float(averager.squared_norm()))
        if not math.isfinite(norm):
            return False
        limit = self._config.optimizer.clip_norm
        if limit and norm > limit:
            averager.scale(limit / norm)
        optimizer.step(self.learning_rate(network, step))
        return True

    def learning_rate(self, network: str, step: int) -> float:
        """Return the learning rate of a network in a step."""
        train = self._config.train
        return learning_rate(
            self._config.optimizer,
            network,
            step,
            max_steps=train.max_steps,
            global_batch_size=train.global_batch_size,
        )

    def _count_bad(self, finite: bool, step: int) -> None:
        self.bad_in_a_row = 0 if finite else self.bad_in_a_row + 1
        self.bad_steps += not finite
        if self.bad_in_a_row >= self._config.train.max_bad_steps:
            raise TrainingError(
                f"step {step}: the gradients were not finite in {self.bad_in_a_row} steps in a row "
                f"(train.max_bad_steps={self._config.train.max_bad_steps}); lower optimizer.learning_rate, set "
                "optimizer.clip_norm, or use train.precision=fp32"
            )

    def state_dict(self) -> State:
        """Return everything that the next step depends on, as a nested dict of tensors and numbers."""
        return {
            "model": self.model.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "average": self.average.weights,
            "objective": self._objective.state_dict(),
            "condition_ranges": self._condition_ranges,
            "bad_in_a_row": self.bad_in_a_row,
            "bad_steps": self.bad_steps,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from what ``state_dict`` returned.

        Raises:
            CheckpointError: if it belongs to other networks.
        """
        try:
            self._load(state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint does not fit model.name={self._config.model.name} ({str(error).splitlines()[0]}); "
                "continue with the version of dist_calo that wrote it"
            ) from error

    def _load(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, weights in self.average.weights.items():
            for key, value in state["average"][name].items():
                weights[key].copy_(value)
        self._objective.load_state_dict(state["objective"])
        self._condition_ranges = dict(state.get("condition_ranges", {}))
        self.bad_in_a_row = state["bad_in_a_row"]
        self.bad_steps = state["bad_steps"]

    def share_statistics(self) -> None:
        """Average the running statistics of local batch norms, so that all ranks generate alike."""
        if self._config.model.batch_norm == "local":
            for buffer in self._running_statistics():
                self._communicator.all_reduce(buffer)
                buffer.div_(self._communicator.world.size)

    def _running_statistics(self) -> list[Tensor]:
        """Return running means and variances of all batch norms, and their moving averages."""
        layers = [layer for layer in self.model.modules() if isinstance(layer, SyncBatchNorm)]
        current = [values for layer in layers for values in (layer.running_mean, layer.running_var)]
        averages = [
            values
            for weights in self.average.weights.values()
            for name, values in weights.items()
            if name.endswith(("running_mean", "running_var"))
        ]
        return [*current, *averages]

    def digest(self) -> int:
        """Return a 63-bit number that is equal on two ranks only if all their weights are."""
        digest = hashlib.blake2b(digest_size=8)
        for parameter in self.model.parameters():
            digest.update(parameter.detach().cpu().numpy().tobytes())
        return int.from_bytes(digest.digest(), "little") >> 1
