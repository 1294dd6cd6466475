"""Generator and critic networks for signals: dense layers, long short-term memories, or convolutions.

What is generated or judged has the shape (B, detectors, numbers): either a few numbers of each detector (amplitude,
time), or the samples of its waveform.

==========  ======================================  =========================================================
network     a few numbers of each detector          waveforms
==========  ======================================  =========================================================
``linear``  dense layers                            dense layers
``lstm``    one step for each detector              one step for `CHUNK` samples of all detectors
``cnn``     3x3 convolutions over the detectors     strided (critic) or transposed (generator) ones over time
==========  ======================================  =========================================================

Nothing here depends on the other samples of a batch, and all is twice differentiable on every device, as a gradient
penalty needs. That is why the recurrence (Hochreiter and Schmidhuber, Neural Computation 9, 1997) is spelt out: torch's
own has no second derivative on CPUs nor with cuDNN.
"""

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_calo.errors import ConfigError
from dist_calo.models.nn.blocks import leaky

CHUNK = 32
"""Samples of each detector that a recurrent network reads or writes in one step."""
STRIDE, STAGES = 4, 3
"""Convolutions over time, and the factor by which each changes the number of samples."""
FIRST_OUTPUT = 0.1
"""Factor on the first weights of a generator's last layer, so that it starts close to the mean of the data."""


@dataclass(frozen=True, kw_only=True)
class ViewLayout:
    """Shape of the input or output of one network.

    Attributes:
        rows: detectors in x.
        columns: detectors in y.
        numbers: numbers of each detector.
        waveform: whether these are the samples of a waveform.
    """

    rows: int
    columns: int
    numbers: int
    waveform: bool

    @property
    def detectors(self) -> int:
        """Number of detectors."""
        return self.rows * self.columns

    @property
    def steps(self) -> int:
        """Steps of a recurrent network."""
        return -(-self.numbers // CHUNK) if self.waveform else self.detectors

    @property
    def step_numbers(self) -> int:
        """Numbers that a recurrent network reads or writes in one step."""
        return self.detectors * CHUNK if self.waveform else self.numbers


class TwoHiddenLayers(nn.Module):
    """Dense layers, two of them hidden.

    Args:
        inputs: numbers that go in.
        hidden: width of both layers.
        outputs: numbers that come out.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, values: Tensor) -> Tensor:
        """Return the outputs (B, outputs) of inputs (B, inputs)."""
        result: Tensor = self.last(leaky(self.second(leaky(self.first(values)))))
        return result


class Recurrence(nn.Module):
    """A long short-term memory, given what its inputs add to the gates.

    Args:
        state: size of the state.
    """

    def __init__(self, state: int) -> None:
        super().__init__()
        self.recurrent = nn.Linear(state, 4 * state, bias=False)

    def forward(self, gates: Tensor) -> Tensor:
        """Return the states (B, steps, state) for gates (B, steps, 4 state): input, forget, cell, output."""
        seen = memory = gates.new_zeros(gates.shape[0], gates.shape[2] // 4)
        states = []
        for step in gates.unbind(1):
            enter, keep, cell, leave = (step + self.recurrent(seen)).chunk(4, dim=1)
            # A gate that keeps at first lets gradients through all steps, whatever bounds the weights.
            memory = torch.sigmoid(keep + 1.0) * memory + torch.sigmoid(enter) * torch.tanh(cell)
            seen = torch.sigmoid(leave) * torch.tanh(memory)
            states.append(seen)
        return torch.stack(states, dim=1)


class LinearGenerator(nn.Module):
    """Dense layers from the inputs (B, inputs) to (B, detectors, numbers)."""

    def __init__(self, layout: ViewLayout, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.shape = (layout.detectors, layout.numbers)
        self.layers = TwoHiddenLayers(inputs, hidden, math.prod(self.shape))
        _start_small(self.layers.last)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.layers(inputs).unflatten(1, self.shape)
        return result


class LinearCritic(nn.Module):
    """Dense layers from (B, detectors, numbers) and conditions (B, C) to a score (B,)."""

    def __init__(self, layout: ViewLayout, conditions: int, hidden: int, width: int) -> None:
        super().__init__()
        self.layers = TwoHiddenLayers(layout.detectors * layout.numbers + conditions, hidden, 1)

    def forward(self, values: Tensor, conditions: Tensor) -> Tensor:
        result: Tensor = self.layers(torch.cat([values.flatten(1), conditions], dim=1)).squeeze(1)
        return result


class LstmGenerator(nn.Module):
    """Recurrence with the inputs and the number of the step as input of every step."""

    def __init__(self, layout: ViewLayout, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.layout, state = layout, -(-hidden // 2)
        self.enter = nn.Linear(inputs, 4 * state)
        self.place = nn.Parameter(0.1 * torch.randn(layout.steps, 4 * state))
        self.recurrence = Recurrence(state)
        self.leave = nn.Linear(state, layout.step_numbers)
        _start_small(self.leave)

    def forward(self, inputs: Tensor) -> Tensor:
        states = self.recurrence(self.enter(inputs).unsqueeze(1) + self.place)
        return _joined(self.leave(states), self.layout)


class LstmCritic(nn.Module):
    """A recurrence over the steps; the score is read off its last state and the mean of all."""

    def __init__(self, layout: ViewLayout, conditions: int, hidden: int, width: int) -> None:
        super().__init__()
        self.layout, state = layout, -(-hidden // 2)
        self.enter = nn.Linear(layout.step_numbers, 4 * state)
        self.condition = nn.Linear(conditions, 4 * state)
        self.recurrence = Recurrence(state)
        self.score = TwoHiddenLayers(2 * state + conditions, hidden, 1)

    def forward(self, values: Tensor, conditions: Tensor) -> Tensor:
        gates = self.enter(_steps(values, self.layout)) + self.condition(conditions).unsqueeze(1)
        states = self.recurrence(gates)
        read = torch.cat([states[:, -1], states.mean(dim=1), conditions], dim=1)
        result: Tensor = self.score(read).squeeze(1)
        return result


class TimeConvolutionGenerator(nn.Module):
    """Transposed convolutions over time, from coarse to fine."""

    def __init__(self, layout: ViewLayout, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.samples = layout.numbers
        channels = (*(width * 2**stage for stage in reversed(range(STAGES))), layout.detectors)
        self.coarse = (channels[0], -(-layout.numbers // STRIDE**STAGES))
        self.dense, self.start = nn.Linear(inputs, hidden), nn.Linear(hidden, math.prod(self.coarse))
        self.finer = nn.ModuleList(
            nn.ConvTranspose1d(before, after, 2 * STRIDE, STRIDE, STRIDE // 2)
            for before, after in itertools.pairwise(channels)
        )
        # Convolutions do not depend on the position in the waveform; this term does.
        self.place = nn.Parameter(torch.zeros(layout.detectors, layout.numbers))
        _start_small(self.finer[-1])

    def forward(self, inputs: Tensor) -> Tensor:
        values = self.start(leaky(self.dense(inputs))).unflatten(1, self.coarse)
        for convolution in self.finer:
            values = convolution(leaky(values))
        result: Tensor = values[..., : self.samples] + self.place
        return result


class TimeConvolutionCritic(nn.Module):
    """Strided convolutions over time, then dense layers."""

    def __init__(self, layout: ViewLayout, conditions: int, hidden: int, width: int) -> None:
        super().__init__()
        coarse = -(-layout.numbers // STRIDE**STAGES)
        self.missing = coarse * STRIDE**STAGES - layout.numbers
        channels = (layout.detectors, *(width * 2**stage for stage in range(STAGES)))
        self.coarser = nn.ModuleList(
            nn.Conv1d(before, after, 2 * STRIDE, STRIDE, STRIDE // 2)
            for before, after in itertools.pairwise(channels)
        )
        self.score = TwoHiddenLayers(channels[-1] * coarse + conditions, hidden, 1)

    def forward(self, values: Tensor, conditions: Tensor) -> Tensor:
        values = F.pad(values, (0, self.missing))
        for convolution in self.coarser:
            values = leaky(convolution(values))
        result: Tensor = self.score(torch.cat([values.flatten(1), conditions], dim=1)).squeeze(1)
        return result


class GridConvolutionGenerator(nn.Module):
    """Two 3x3 convolutions over the detectors, each of which starts from numbers of its own."""

    def __init__(self, layout: ViewLayout, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.grid = (2 * width, layout.rows, layout.columns)
        self.dense, self.start = nn.Linear(inputs, hidden), nn.Linear(hidden, math.prod(self.grid))
        self.first = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.last = nn.Conv2d(2 * width, layout.numbers, 3, padding=1)
        _start_small(self.last)

    def forward(self, inputs: Tensor) -> Tensor:
        values = self.start(leaky(self.dense(inputs))).unflatten(1, self.grid)
        result: Tensor = self.last(leaky(self.first(leaky(values)))).flatten(2).transpose(1, 2)
        return result


class GridConvolutionCritic(nn.Module):
    """Two 3x3 convolutions over the detectors, then dense layers."""

    def __init__(self, layout: ViewLayout, conditions: int, hidden: int, width: int) -> None:
        super().__init__()
        self.grid = (layout.rows, layout.columns)
        self.first = nn.Conv2d(layout.numbers, 2 * width, 3, padding=1)
        self.second = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.score = TwoHiddenLayers(2 * width * layout.detectors + conditions, hidden, 1)

    def forward(self, values: Tensor, conditions: Tensor) -> Tensor:
        values = values.transpose(1, 2).unflatten(2, self.grid)
        values = leaky(self.second(leaky(self.first(values))))
        result: Tensor = self.score(torch.cat([values.flatten(1), conditions], dim=1)).squeeze(1)
        return result


NETWORKS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "linear": (LinearGenerator, LinearCritic),
    "lstm": (LstmGenerator, LstmCritic),
    "cnn": (TimeConvolutionGenerator, TimeConvolutionCritic),
}
"""Generator and critic by name; those of ``cnn`` are the ones for waveforms."""


def build_networks(
    network: str, layout: ViewLayout, *, inputs: int, conditions: int, hidden: int, width: int
) -> tuple[nn.Module, nn.Module]:
    """Build a generator, called with (B, inputs), and a critic, called with what it reads and (B, conditions).

    Args:
        network: one of `NETWORKS`.
        layout: what is generated and judged.
        inputs: numbers that the generator starts from.
        conditions: numbers of the conditions, further inputs of the critic.
        hidden: width of dense layers, and twice the state of a recurrence.
        width: channels of the finest convolution; coarser ones have twice and four times as many.

    Raises:
        ConfigError: if the name is not known.
    """
    if network not in NETWORKS:
        raise ConfigError(
            f"model.options.network={network}: there is no such network; choose from {', '.join(NETWORKS)}"
        )
    generator, critic = NETWORKS[network]
    if network == "cnn" and not layout.waveform:
        generator, critic = GridConvolutionGenerator, GridConvolutionCritic
    return generator(layout, inputs, hidden, width), critic(layout, conditions, hidden, width)


def _start_small(layer: nn.Module) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(FIRST_OUTPUT)


def _steps(values: Tensor, layout: ViewLayout) -> Tensor:
    """Rearrange (B, detectors, numbers) to the input of a recurrence (B, steps, numbers of a step)."""
    if not layout.waveform:
        return values
    padded = F.pad(values, (0, layout.steps * CHUNK - layout.numbers))
    return padded.unflatten(2, (layout.steps, CHUNK)).transpose(1, 2).flatten(2)


def _joined(steps: Tensor, layout: ViewLayout) -> Tensor:
    """Rearrange the output of a recurrence (B, steps, numbers of a step) to (B, detectors, numbers)."""
    if not layout.waveform:
        return steps
    chunks = steps.unflatten(2, (layout.detectors, CHUNK)).transpose(1, 2)
    return chunks.flatten(2)[..., : layout.numbers]
