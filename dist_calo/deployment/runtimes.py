"""The same generator run by PyTorch, by ONNX Runtime, and by ONNX Runtime with weights of 8 bits."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_calo.deployment.exporting.comparison import Program
from dist_calo.deployment.exporting.physical import PhysicalGenerator, physical_module
from dist_calo.deployment.exporting.programs import onnx_session
from dist_calo.randomness import Draws
from dist_calo.training.restore import TrainedGenerator

QUANTISED = (("MatMul", "Gemm", "Conv"), ("MatMul", "Gemm"))
"""Operations whose weights get 8 bits: convolutions too where ONNX Runtime has them, which not every shape has."""


@dataclass(frozen=True, kw_only=True)
class OnnxGenerator(TrainedGenerator):
    """A generator that ONNX Runtime computes; made with `load_onnx`."""

    module: PhysicalGenerator
    program: Program

    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """See `TrainedGenerator.generate`; the same random numbers enter."""
        inputs = [tensor.numpy() for tensor in self.module.inputs_from_draws(conditions, draws)]
        return torch.from_numpy(self.program(inputs))


def write_int8(generator: TrainedGenerator, fp32: Path, path: Path) -> str:
    """Quantise the weights of an exported generator to 8 bits, dynamically: activations are scaled as they come.

    Args:
        generator: what was exported, to try the result.
        fp32: the exported file.
        path: of the quantised one.

    Returns:
        The operations that were quantised.

    Raises:
        RuntimeError: if ONNX Runtime cannot run any quantised form of it.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    inputs = [tensor.numpy() for tensor in physical_module(generator).example_inputs(2)]
    reason = ""
    root = logging.getLogger()
    root.addFilter(_without_advice)
    try:
        for operations in QUANTISED:
            try:
                quantize_dynamic(
                    fp32, path, op_types_to_quantize=list(operations), weight_type=QuantType.QUInt8
                )
                onnx_session(path, 1)(inputs)
            except Exception as error:  # those of the runtime have no common class
                reason = " ".join(str(error).split())[:160]
            else:
                return ", ".join(operations)
    finally:
        root.removeFilter(_without_advice)
    raise RuntimeError(f"ONNX Runtime does not run it in int8 ({reason})")


def load_onnx(generator: TrainedGenerator, path: Path, threads: int) -> OnnxGenerator:
    """Return a generator that ONNX Runtime computes on the CPU with so many threads, this one among them.

    Args:
        generator: what was exported.
        path: the exported file.
        threads: 1 computes in the calling thread alone.
    """
    return OnnxGenerator(
        model=generator.model,
        transform=generator.transform,
        geometry=generator.geometry,
        step=generator.step,
        run_id=generator.run_id,
        module=physical_module(generator),
        program=onnx_session(path, threads),
    )


def moved(generator: TrainedGenerator, device: str) -> TrainedGenerator:
    """Return a copy of a generator on a device."""
    return TrainedGenerator(
        model=copy.deepcopy(generator.model).to(device),
        transform=generator.transform,
        geometry=generator.geometry,
        step=generator.step,
        run_id=generator.run_id,
    )


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """Let torch, NumPy and the libraries below them compute with so many threads."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    try:
        with threadpool_limits(threads):
            torch.set_num_threads(threads)
            yield
    finally:
        torch.set_num_threads(before)


def _without_advice(record: Any) -> bool:
    """Drop the advice of ONNX Runtime's quantiser to run its preprocessing, which does not take these graphs."""
    return not str(record.getMessage()).startswith("Please consider to run pre-processing")
