"""Writing a generator as a program: an ONNX file, or TorchScript for LibTorch, compared with PyTorch before it is kept.

TorchScript and not ``torch.export``, although torch 2.13 warns that it is deprecated: it is what LibTorch's
``torch::jit::load`` reads with nothing compiled beforehand, and what Geant4's example Par04 loads.
"""

import importlib.util
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_calo.deployment.exporting.comparison import Agreement, Program, compare
from dist_calo.deployment.exporting.description import describe
from dist_calo.deployment.exporting.operators import replacements
from dist_calo.deployment.exporting.physical import PhysicalGenerator, physical_module
from dist_calo.errors import CheckpointError, ConfigError, MissingComponentError
from dist_calo.files import write_whole
from dist_calo.training.restore import TrainedGenerator

OPSET = 18
"""The oldest set of operators that torch writes: ONNX Runtime 1.14 and later read it."""
ENERGIES = {"energy": (10.0, 100.0), "theta": (1.5707963, 1.5707963)}
"""Ranges of conditions where a checkpoint does not tell what training saw."""
_TRACED = 3
"""Rows of the batch that a program is recorded with; it takes any number."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """Report on an exported program."""

    path: Path
    size: int
    """Bytes of the file."""
    description: Mapping[str, str]
    """What the file says about itself."""
    agreement: Agreement | None
    """How it compares with PyTorch; None if no shower was asked to be compared."""


def export_onnx(
    generator: TrainedGenerator,
    path: Path,
    *,
    opset: int = OPSET,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    description: Mapping[str, Any] | None = None,
    check: int = 1000,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write a generator as an ONNX file that is enough by itself: physical units inside, described in its metadata.

    Args:
        generator: what to write.
        path: of the file; it is there only once it was compared.
        opset: version of ONNX's operators, 18 or later.
        ranges: of each condition in training, where known; showers are compared there.
        description: more metadata.
        check: showers to compare with PyTorch.
        tolerance: see `compare`.

    Raises:
        MissingComponentError: if onnx, onnxscript or onnxruntime are not installed.
        ConfigError: if the opset is not known.
        CheckpointError: if the model cannot be written in ONNX, or makes other showers than PyTorch.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise ConfigError(
            f"--opset {opset}: torch writes {OPSET} and later, the installed onnx knows {newest}"
        )
    physical = physical_module(generator)
    seen = {**ENERGIES, **(ranges or {})}
    texts = _described(generator, physical, ranges, {"opset": opset, **(description or {})})
    content = onnx_bytes(physical, texts, opset)
    return _publish(
        Path(path), content, lambda: onnx_session(content), physical, seen, texts, check, tolerance
    )


def export_torch(
    generator: TrainedGenerator,
    path: Path,
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    description: Mapping[str, Any] | None = None,
    check: int = 1000,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write a generator as TorchScript, with its description in the extra file ``description.json``.

    Arguments and errors are those of `export_onnx`.
    """
    physical = physical_module(generator)
    seen = {**ENERGIES, **(ranges or {})}
    texts = _described(generator, physical, ranges, description or {})
    content = torchscript_bytes(physical, texts)
    return _publish(Path(path), content, lambda: _script(content), physical, seen, texts, check, tolerance)


def onnx_bytes(physical: PhysicalGenerator, description: Mapping[str, str], opset: int = OPSET) -> bytes:
    """Return the content of an ONNX file.

    Raises:
        CheckpointError: if an operation of the model cannot be written.
    """
    import onnx

    inputs = physical.example_inputs(_TRACED)
    rows = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    with _quiet():
        try:
            recorded = torch.export.export(physical, inputs, dynamic_shapes={"inputs": rows})
            program = torch.onnx.export(
                recorded.run_decompositions(replacements()),
                input_names=list(physical.input_names),
                output_names=[physical.output_name],
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:
            raise CheckpointError(f"{_name(physical)} cannot be written in ONNX: {_reason(error)}") from error
    assert program is not None
    model = program.model_proto
    _forget_where_it_was_made(model)
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    model.producer_name, model.producer_version = "dist_calo", description["dist_calo.version"]
    onnx.helper.set_model_props(model, dict(description))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _forget_where_it_was_made(model: Any) -> None:
    """Take out the notes on where in the sources each operation comes from, which are long and hold local paths."""
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
        # The number of rows, the only size that is not fixed, has a name of the recorder's.
        for size in part.type.tensor_type.shape.dim if not hasattr(part, "op_type") else ():
            if size.dim_param:
                size.dim_param = "batch"
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("doc_string")
    for function in model.functions:
        function.ClearField("metadata_props")
        for node in function.node:
            node.ClearField("metadata_props")


def onnx_session(content: bytes | Path, threads: int | None = None) -> Program:
    """Return a program that runs an ONNX file on this machine's processor.

    Args:
        content: of the file, or its path.
        threads: that it computes with; by default as many as torch.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    source = str(content) if isinstance(content, Path) else content
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [part.name for part in session.get_inputs()]

    def run(arrays: Sequence[np.ndarray]) -> np.ndarray:
        (output,) = session.run(None, dict(zip(names, arrays, strict=True)))
        return np.asarray(output)

    return run


def torchscript_bytes(physical: PhysicalGenerator, description: Mapping[str, str]) -> bytes:
    """Return the content of a TorchScript file.

    Raises:
        CheckpointError: if the model cannot be recorded.
    """
    file = io.BytesIO()
    with _quiet():
        try:
            script = torch.jit.trace(physical, physical.example_inputs(_TRACED), check_trace=False)
            torch.jit.save(script, file, _extra_files={"description.json": json.dumps(dict(description))})
        except RuntimeError as error:
            raise CheckpointError(f"{_name(physical)} cannot be recorded: {_reason(error)}") from error
    return file.getvalue()


def _script(content: bytes) -> Program:
    """Return a program that runs TorchScript."""
    with _quiet():
        script = torch.jit.load(io.BytesIO(content))

    def run(arrays: Sequence[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(script(*(torch.from_numpy(values) for values in arrays)).numpy())

    return run


def _publish(
    path: Path,
    content: bytes,
    start: Callable[[], Program],
    physical: PhysicalGenerator,
    ranges: Mapping[str, tuple[float, float]],
    description: Mapping[str, str],
    check: int,
    tolerance: float,
) -> ExportReport:
    """Compare a program with PyTorch, then give it its name."""
    agreement = None
    if check:
        agreement = compare(physical, start(), ranges=ranges, showers=check, tolerance=tolerance)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as temporary:
        temporary.write_bytes(content)
    return ExportReport(path=path, size=len(content), description=description, agreement=agreement)


def _described(
    generator: TrainedGenerator,
    physical: PhysicalGenerator,
    ranges: Mapping[str, tuple[float, float]] | None,
    more: Mapping[str, Any],
) -> dict[str, str]:
    return describe(physical, step=generator.step, run_id=generator.run_id, ranges=ranges or {}, more=more)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exporters say about themselves.

    That is: TorchScript is deprecated, torchvision is missing, and branches on the shape of a batch are recorded,
    which the comparison of other batches checks.
    """
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
            yield
    finally:
        log.setLevel(level)


def _require(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingComponentError(
            f"{', '.join(missing)} not installed, which ONNX files need: pip install 'dist_calo[export]'"
        )


def _name(physical: PhysicalGenerator) -> str:
    return f"the model {type(physical.model).__name__}"


def _reason(error: BaseException) -> str:
    """Say in one line what is missing: the operator if the exporter names one."""
    seen: BaseException | None = error
    while seen is not None:
        found = re.search(r"No ONNX function found for (\S.*?)\. ", str(seen))
        if found:
            return f"it has no operator {found.group(1)}"
        seen = seen.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
