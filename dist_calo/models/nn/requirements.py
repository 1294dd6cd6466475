"""Requirements of a model on the data: a kind of read-out, a grid, conditions."""

from typing import TypeVar

from torch import Tensor

from dist_calo.errors import ConfigError
from dist_calo.geometry import GEOMETRIES, Geometry, LayeredReadout, Readout, VoxelGrid, Waveforms

Kind = TypeVar("Kind", bound=Readout)

_SIMULATED = {(25, 25, 25): "lcd25", (51, 51, 25): "lcd51", LayeredReadout: "layers", Waveforms: "signals"}
"""Detectors of ``dist-calo simulate`` by what models ask for."""


def require_kind(model: str, geometry: Geometry, kind: type[Kind]) -> Kind:
    """Check that a model made for one kind of read-out gets showers of this kind, and return the geometry.

    Raises:
        ConfigError: if the data have another read-out.
    """
    if not isinstance(geometry, kind):
        wanted = " or ".join(name for name, known in GEOMETRIES.items() if issubclass(known, kind))
        raise ConfigError(
            f"model.name={model}: the data are of kind {geometry.kind}, this model is for {wanted}; choose another "
            f"model or other data{_how_to_make(kind)}"
        )
    return geometry


def require_grid(
    model: str, geometry: Geometry, shape: tuple[int, int, int], conditions: tuple[str, ...]
) -> None:
    """Check that a model made for one grid gets showers of this grid.

    Raises:
        ConfigError: if the shape differs, or the conditions are not those that the model uses.
    """
    grid = require_kind(model, geometry, VoxelGrid)
    if grid.shape != shape:
        raise ConfigError(
            f"model.name={model}: the data have {_cells(grid.shape)} cells, this model is for {_cells(shape)}; "
            f"choose another model or other data{_how_to_make(shape, conditions)}"
        )
    require_conditions(model, geometry, conditions)


def require_conditions(model: str, geometry: Geometry, conditions: tuple[str, ...]) -> None:
    """Check that showers have all conditions of a model, and none that it would ignore.

    Raises:
        ConfigError: if a condition is missing, or the data have one that the model does not use.
    """
    made_for = geometry.shape if isinstance(geometry, VoxelGrid) else type(geometry)
    missing = [name for name in conditions if name not in geometry.conditions]
    if missing:
        raise ConfigError(
            f"model.name={model}: the data have no {', '.join(missing)} (only {', '.join(geometry.conditions)}), which "
            f"this model is conditioned on; choose another model or other data{_how_to_make(made_for, conditions)}"
        )
    unused = [name for name in geometry.conditions if name not in conditions]
    if unused:
        raise ConfigError(
            f"model.name={model}: the data have {', '.join(unused)}, which this model ignores (it is conditioned on "
            f"{', '.join(conditions)} alone); choose data without, or a model that is conditioned on it"
        )


def require_sizes(*, least: int = 1, **sizes: int) -> None:
    """Check options that are sizes.

    Raises:
        ConfigError: if one is too small.
    """
    for name, size in sizes.items():
        if size < least:
            raise ConfigError(f"model.options.{name}={size}: must be at least {least}")


def column(conditions: Tensor, geometry: Readout, name: str) -> Tensor:
    """Return one quantity of the conditions (B, C), shape (B,).

    Raises:
        ConfigError: if the geometry has no such condition.
    """
    if name not in geometry.conditions:
        raise ConfigError(
            f"condition {name!r} is needed, but the data have only {', '.join(geometry.conditions)}"
        )
    return conditions[:, geometry.conditions.index(name)]


def _cells(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)


def _how_to_make(made_for: object, conditions: tuple[str, ...] = ("energy",)) -> str:
    """Return the command that makes such data, where there is one."""
    detector = _SIMULATED.get(made_for)
    if detector is None:
        return ""
    out = f"{detector}{'_angles' if 'theta' in conditions else ''}.h5"
    angles = " --theta 1.05:2.09" if "theta" in conditions else ""
    return (
        f", such as those that dist-calo simulate --detector {detector}{angles} --n 5000 --out {out} makes for "
        f"--data.path={out}"
    )
