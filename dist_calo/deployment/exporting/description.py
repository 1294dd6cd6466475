"""Description of an exported program by itself: enough to use it without this package, its checkpoint or its data."""

import json
from collections.abc import Mapping
from typing import Any

from dist_calo import __version__
from dist_calo.deployment.exporting.physical import PhysicalGenerator
from dist_calo.geometry import CONDITION_UNITS, Geometry, LayeredGrid, VoxelGrid, Waveforms

_AXES = {
    "voxel_grid": "shower, x, y, layer (depth); the layer is the fastest index",
    "layers": "shower, cell: layer by layer, within a layer eta by eta, phi the fastest index",
    "cylinder": "shower, cell: layer by layer, within a layer sector by sector of alpha, r the fastest index",
    "waveforms": "shower, channel (row by row, column the fastest index), sample",
}


def describe(
    physical: PhysicalGenerator,
    *,
    step: int,
    run_id: str | None,
    ranges: Mapping[str, tuple[float, float]],
    more: Mapping[str, Any],
) -> dict[str, str]:
    """Return text by key, as in an ONNX file's ``metadata_props``; what is not one word or number is JSON.

    Args:
        physical: what is exported.
        step: training step of the weights.
        run_id: MLflow run that trained them.
        ranges: of each condition, as seen in training, where known.
        more: what else there is to say, such as the particle.
    """
    geometry = physical.geometry
    units = {name: CONDITION_UNITS[name] for name in geometry.conditions}
    inputs = [{"name": name, "unit": units[name], "columns": 1} for name in geometry.conditions]
    for kind, size in physical.sizes.items():
        parts = [part.to_dict() for part in physical.requests if part.kind == kind]
        meaning = "standard normal numbers" if kind == "normal" else "uniform numbers in [0, 1)"
        inputs.append({"name": kind, "columns": size, "distribution": meaning, "parts": parts})
    texts = {
        "dist_calo.version": __version__,
        "dist_calo.step": step,
        "dist_calo.mlflow_run_id": run_id or "none",
        "geometry": geometry.to_dict(),
        "geometry.kind": geometry.kind,
        "geometry.shape": list(geometry.shape),
        "geometry.layer_cells": _layer_cells(geometry),
        "conditions": list(geometry.conditions),
        "inputs": inputs,
        "output": {
            "name": physical.output_name,
            "unit": _unit(geometry),
            "axes": _AXES[geometry.kind],
            "shape": ["batch", *geometry.shape],
        },
        "output.unit": _unit(geometry),
        "threshold": physical.transform.threshold,
    }
    for name, columns in physical.sizes.items():
        texts[f"inputs.{name}"] = columns
    for name in geometry.conditions:
        if name not in ranges:
            continue
        low, high = ranges[name]
        texts[f"training.{name}.{units[name]}"] = f"{low:.9g} {high:.9g}"
    if isinstance(geometry, VoxelGrid):
        texts["geometry.cell_size.mm"] = list(geometry.cell_size)
    elif isinstance(geometry, LayeredGrid) and geometry.cell_sizes is not None:
        texts["geometry.cell_size.mm"] = [list(size) for size in geometry.cell_sizes]
    elif isinstance(geometry, Waveforms):
        texts["geometry.sample.ns"] = geometry.sample_ns
    texts.update(more)
    return {key: _text(value) for key, value in texts.items()}


def _layer_cells(geometry: Geometry) -> list[int]:
    """Return cells of each layer in depth; of waveforms, samples of each channel."""
    if isinstance(geometry, VoxelGrid):
        x, y, layers = geometry.shape
        return [x * y] * layers
    if isinstance(geometry, Waveforms):
        return [geometry.samples] * geometry.channels
    return list(geometry.layer_cells)


def _unit(geometry: Geometry) -> str:
    return geometry.unit if isinstance(geometry, Waveforms) else "GeV"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
