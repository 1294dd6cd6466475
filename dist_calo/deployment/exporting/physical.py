"""A trained generator as one function of tensors: physical units inside, and its random numbers as inputs.

What a model draws while it generates is found out once, with a generator that writes down what it is asked for. From
then on the same requests are answered with columns of two tensors that the user fills: ``normal`` with standard normal
numbers, ``uniform`` with uniform ones in [0, 1). So the function is pure, and can be exported.
"""

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dist_calo.geometry import CONDITION_UNITS
from dist_calo.randomness import Draws
from dist_calo.training.restore import TrainedGenerator

KINDS = ("normal", "uniform")
"""Distributions that a model draws from, which are the names of the inputs that stand for them."""
_TYPICAL = {"GeV": 50.0, "rad": 1.5}


@dataclass(frozen=True, kw_only=True)
class Request:
    """Random numbers that a model asks for: columns ``first`` to ``first + size`` of the input of this kind."""

    kind: str
    """One of `KINDS`."""
    name: str
    """What they are for, parts separated by slashes."""
    first: int
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as written beside an exported program."""
        return asdict(self)


class _Recorder(Draws):
    """Draws that remember what was asked for."""

    def __init__(self, samples: int, found: dict[tuple[str, str, int], None], *purpose: str | int) -> None:
        super().__init__(0, 0, range(samples), *purpose)
        self.found, self.purpose = found, purpose

    def named(self, *purpose: str | int) -> "_Recorder":
        return _Recorder(len(self), self.found, *self.purpose, *purpose)

    def _note(self, kind: str, name: str, size: int) -> None:
        self.found[kind, "/".join(map(str, (*self.purpose, name))), size] = None

    def uniform(self, name: str, size: int = 1) -> Tensor:
        self._note("uniform", name, size)
        return super().uniform(name, size)

    def normal(self, name: str, size: int) -> Tensor:
        self._note("normal", name, size)
        return super().normal(name, size)


class _GivenDraws(Draws):
    """Draws that hand out columns of tensors."""

    def __init__(self, columns: dict[tuple[str, str, int], Tensor], *purpose: str | int) -> None:
        super().__init__(0, 0, (), *purpose)
        self.columns, self.purpose = columns, purpose

    def named(self, *purpose: str | int) -> "_GivenDraws":
        return _GivenDraws(self.columns, *self.purpose, *purpose)

    def uniform(self, name: str, size: int = 1) -> Tensor:
        return self._column("uniform", name, size)

    def normal(self, name: str, size: int) -> Tensor:
        return self._column("normal", name, size)

    def _column(self, kind: str, name: str, size: int) -> Tensor:
        # While TorchScript is recorded, a size that was read off a tensor is a tensor itself.
        return self.columns[kind, "/".join(map(str, (*self.purpose, name))), int(size)]


class PhysicalGenerator(nn.Module):
    """Cells in GeV of conditions and random numbers: what `TrainedGenerator.generate` computes, on the CPU.

    Called with one tensor for each of ``input_names``, all float32 with B rows: each condition (B, 1) in GeV or rad,
    then the random numbers of each kind that is drawn, (B, ``sizes[kind]``). Returns (B, *geometry.shape), in GeV or
    the unit of the samples.

    Args:
        generator: its weights are copied; networks that do not generate are left out.
    """

    def __init__(self, generator: TrainedGenerator) -> None:
        super().__init__()
        self.geometry, self.transform = generator.geometry, generator.transform
        self.model = _generating_part(generator.model)
        found: dict[tuple[str, str, int], None] = {}
        typical = [[_TYPICAL[CONDITION_UNITS[name]] for name in self.geometry.conditions]] * 2
        with torch.no_grad():
            self.model.generate(torch.tensor(typical), _Recorder(2, found))
        sizes = dict.fromkeys(KINDS, 0)
        requests = []
        for kind, name, size in found:
            requests.append(Request(kind=kind, name=name, first=sizes[kind], size=size))
            sizes[kind] += size
        self.requests = tuple(requests)
        """What the columns of the random inputs are, in the order in which the model asks for them."""
        self.sizes = {kind: size for kind, size in sizes.items() if size}
        """Columns of each random input."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in order: conditions, then kinds of random numbers."""
        return (*self.geometry.conditions, *self.sizes)

    @property
    def output_name(self) -> str:
        """``cells``, or ``samples`` of waveforms."""
        return "samples" if self.geometry.signed else "cells"

    def forward(self, *inputs: Tensor) -> Tensor:
        """Generate B showers; see the class."""
        split = len(self.geometry.conditions)
        conditions = torch.cat(inputs[:split], dim=1)
        given = dict(zip(self.sizes, inputs[split:], strict=True))
        columns = {
            (part.kind, part.name, part.size): given[part.kind][:, part.first : part.first + part.size]
            for part in self.requests
        }
        # The same three steps as `TrainedGenerator.generate`; a test says so.
        cells: Tensor = self.transform.inverse(self.model.generate(conditions, _GivenDraws(columns))).float()
        if not self.geometry.signed:
            cells = torch.where(cells < self.transform.threshold, 0.0, cells)
        return cells

    def inputs_from_draws(self, conditions: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Return the inputs with which this function makes the same as ``generator.generate(conditions, draws)``.

        Args:
            conditions: incident energy in GeV and the geometry's other conditions, shape (B, C).
            draws: random numbers of these B samples.
        """
        numbers: dict[str, list[Tensor]] = {kind: [] for kind in self.sizes}
        for part in self.requests:
            # Purposes and names enter the seed joined with slashes, so a path is as good as `Draws.named`.
            numbers[part.kind].append(getattr(draws, part.kind)(part.name, part.size))
        columns = [conditions[:, [k]].float() for k in range(conditions.shape[1])]
        return (*columns, *(torch.cat(parts, dim=1) for parts in numbers.values()))

    def example_inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Return inputs of a batch at a typical energy and angle, with random numbers of their own."""
        typical = [_TYPICAL[CONDITION_UNITS[name]] for name in self.geometry.conditions]
        return self.inputs_from_draws(
            torch.tensor([typical]).repeat(batch, 1), Draws(0, 0, range(batch), "generate")
        )


def physical_module(generator: TrainedGenerator) -> PhysicalGenerator:
    """Return the generator as a function of tensors in physical units, in evaluation mode, without gradients."""
    return PhysicalGenerator(generator).eval().requires_grad_(False)


def _generating_part(model: Any) -> Any:
    """Return a copy of a model on the CPU, without the networks that only judge or encode for training."""
    part = copy.deepcopy(model).cpu().float().eval()
    for name in set(part.networks) - set(part.generating):
        delattr(part, name)
    return part
