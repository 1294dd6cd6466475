"""Adam, RMSprop and SGD as torch computes them, without the start-up cost of its optimizer classes.

The first `torch.optim.Optimizer` of a process imports torch's compiler, which takes three seconds and 90 MB on every
rank. The functional forms behind these classes need none of it.
"""

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from dist_calo.config import OptimizerConfig
from dist_calo.training.checkpoint import State

BUFFERS = {"adam": ("exp_avg", "exp_avg_sq"), "rmsprop": ("square_avg",), "sgd": ("momentum_buffer",)}
"""Running sums that each optimizer keeps of a parameter, by the names of torch's classes."""


class Optimizer:
    """Optimizer of one network.

    Args:
        config: which optimizer, and its decay rates.
        network: the parameters are updated in place.
    """

    def __init__(self, config: OptimizerConfig, network: nn.Module) -> None:
        self._config = config
        self._parameters = list(network.parameters())
        self._learning_rate = 0.0
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        self._learning_rate = learning_rate
        config = self._config
        updated: list[Tensor] = [parameter for parameter in self._parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in updated if parameter.grad is not None]
        states = [self.state.get(parameter) or self._begun(parameter) for parameter in updated]
        steps = [state["step"] for state in states if "step" in state]
        sums = [[state[name] for state in states] for name in BUFFERS[config.name]]
        match config.name:
            case "adam":
                adam(
                    updated,
                    gradients,
                    sums[0],
                    sums[1],
                    [],
                    steps,
                    lr=learning_rate,
                    beta1=config.beta1,
                    beta2=config.beta2,
                    eps=config.epsilon,
                    weight_decay=0.0,
                    amsgrad=False,
                    maximize=False,
                )
            case "rmsprop":
                rmsprop(
                    updated,
                    gradients,
                    sums[0],
                    [],
                    [],
                    steps,
                    lr=learning_rate,
                    alpha=config.beta2,
                    eps=config.epsilon,
                    weight_decay=0.0,
                    momentum=0.0,
                    centered=False,
                )
            case "sgd":
                sgd(
                    updated,
                    gradients,
                    list[Tensor | None](sums[0]),
                    lr=learning_rate,
                    momentum=config.beta1,
                    weight_decay=0.0,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                )

    def _begun(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return the state of a parameter before its first update, which is kept from now on."""
        state = {name: torch.zeros_like(parameter) for name in BUFFERS[self._config.name]}
        if self._config.name != "sgd":
            state["step"] = torch.tensor(0.0)
        return self.state.setdefault(parameter, state)

    def state_dict(self) -> State:
        """Return the state in the layout of torch's classes, which can load it."""
        config = self._config
        settings: dict[str, State] = {
            "adam": {"betas": (config.beta1, config.beta2), "eps": config.epsilon},
            "rmsprop": {"alpha": config.beta2, "eps": config.epsilon},
            "sgd": {"momentum": config.beta1, "dampening": 0.0},
        }
        numbers = range(len(self._parameters))
        group = {
            "lr": self._learning_rate,
            "weight_decay": 0.0,
            **settings[config.name],
            "params": list(numbers),
        }
        state = {n: dict(self.state[p]) for n, p in enumerate(self._parameters) if p in self.state}
        return {"state": state, "param_groups": [group]}

    def load_state_dict(self, state: State) -> None:
        """Continue from what ``state_dict``, or that of torch's class, returned.

        Raises:
            ValueError: if it belongs to another network or another optimizer.
        """
        count = sum(len(group["params"]) for group in state["param_groups"])
        if count != len(self._parameters):
            raise ValueError(f"optimizer of {count} parameters, the network has {len(self._parameters)}")
        self._learning_rate = state["param_groups"][0]["lr"]
        self.state = {
            self._parameters[number]: self._loaded(self._parameters[number], saved)
            for number, saved in state["state"].items()
        }

    def _loaded(self, parameter: Tensor, saved: State) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for name in BUFFERS[self._config.name]:
            if name not in saved or saved[name].shape != parameter.shape:
                raise ValueError(f"{name} of the optimizer does not fit optimizer.name={self._config.name}")
            state[name] = saved[name].detach().to(parameter, copy=True)
        return state | ({"step": saved["step"].clone()} if "step" in saved else {})
