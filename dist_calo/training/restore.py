"""Putting a trained generator back together from nothing but a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from dist_calo.comm import local_device
from dist_calo.config import ModelConfig, RunConfig
from dist_calo.errors import CheckpointError, ConfigError, LaunchError
from dist_calo.geometry import Geometry, geometry_from_dict
from dist_calo.launching.environment import World
from dist_calo.models import build_model
from dist_calo.randomness import Draws
from dist_calo.transforms import Transform

PARTS = {
    "step": int,
    "model": Mapping,
    "average": Mapping,
    "geometry": Mapping,
    "transform": Mapping,
    "manifest": Mapping,
    "config": Mapping,
}
"""What every checkpoint of a run holds, whichever version wrote it."""
SECTIONS = ("data", "model", "train", "tracking")
"""Of the configuration in it."""


def require_parts(state: Mapping[str, Any], name: str) -> None:
    """Check that a checkpoint that has been read holds what a run or a generator is made of.

    Raises:
        CheckpointError: naming the part that is missing or no such thing.
    """
    wrong = [part for part, kind in PARTS.items() if not isinstance(state.get(part), kind)]
    if not wrong:
        config = state["config"]
        wrong = [f"config.{part}" for part in SECTIONS if not isinstance(config.get(part), Mapping)]
    if wrong:
        raise CheckpointError(
            f"checkpoint {name}: {wrong[0]} is missing or damaged: it was not written by dist_calo, or was changed "
            "since; take another one"
        )


@dataclass(frozen=True, kw_only=True)
class TrainedGenerator:
    """A model that generates showers in physical units."""

    model: Any
    transform: Transform
    geometry: Geometry
    step: int = 0
    """Training step of the weights."""
    run_id: str | None = None
    """MLflow run that trained it."""

    @torch.no_grad()
    def generate(self, conditions: Tensor, draws: Draws) -> Tensor:
        """Generate showers.

        Args:
            conditions: incident energy in GeV and the geometry's other conditions, shape (B, C).
            draws: random numbers of these B samples.

        Returns:
            Cell energies in GeV, or samples in the geometry's unit, shape (B, *geometry.shape), on the CPU.
        """
        weight = next(self.model.parameters())
        cells = self.transform.inverse(self.model.generate(conditions.to(weight), draws)).float()
        if not self.geometry.signed:
            cells = torch.where(cells < self.transform.threshold, 0.0, cells)
        return cells.cpu()

    def generate_finite(self, conditions: Tensor, draws: Draws) -> Tensor:
        """What `generate` returns, which goes into a file or a comparison: every cell is a number.

        Raises:
            CheckpointError: if one is not.
        """
        showers = self.generate(conditions, draws)
        if not bool(torch.isfinite(showers).all()):
            raise CheckpointError(
                f"the checkpoint of step {self.step} generates cells that are not finite; training has diverged: take "
                "an earlier one"
            )
        return showers


def generating_device(name: str, world: World) -> str:
    """The device that a command computes on, made that of this process; only its results go through a communicator.

    Args:
        name: ``cpu`` or ``cuda``, as ``--device`` says.
        world: this process among the ranks.

    Raises:
        LaunchError: if a GPU is asked for and this rank has none of its own.
    """
    try:
        device = local_device(name, world)
    except LaunchError as error:
        raise LaunchError(str(error).replace("train.device=", "--device ")) from None
    if device != "cpu":
        torch.cuda.set_device(torch.device(device))
    return device


def restore_generator(state: Mapping[str, Any], device: str = "cpu") -> TrainedGenerator:
    """Build the generator of a checkpoint, with the moving average of its weights.

    Args:
        state: what `dist_calo.training.checkpoint.load_checkpoint` returned.
        device: where the networks live.

    Raises:
        CheckpointError: if the checkpoint's networks do not fit the model of this version.
    """
    try:
        geometry = geometry_from_dict(state["geometry"])
        config = ModelConfig(**{f.name: state["config"]["model"][f.name] for f in fields(ModelConfig)})
        transform = Transform.from_dict(state["transform"])
    except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(
            f"checkpoint of step {state['step']}: it says otherwise than this version what it was trained on "
            f"({type(error).__name__}: {error}); use the version of dist_calo that wrote it"
        ) from error
    model = build_model(config, geometry)
    try:
        model.load_state_dict(state["model"])
        for name, weights in state["average"].items():
            model.networks[name].load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"checkpoint of step {state['step']}: its weights do not fit model.name={config.name} "
            f"({str(error).splitlines()[0]}); use the version of dist_calo that wrote it"
        ) from error
    model.eval().to(device)
    return TrainedGenerator(
        model=model,
        transform=transform,
        geometry=geometry,
        step=state["step"],
        run_id=state["run_id"],
    )


def require_same_run(config: RunConfig, state: Mapping[str, Any]) -> None:
    """Check that a run may continue from a checkpoint.

    Raises:
        CheckpointError: if a setting differs that decides the energies or the order of the data, the networks or the
            noise.
    """
    saved, now = state["config"], config.to_dict()
    fixed = (
        ("data", ("cell_unit", "energy_unit", "validation_fraction", "test_fraction")),
        ("data", ("remainder", "shuffle_window")),
        ("train", ("global_batch_size", "accumulation", "seed")),
        ("model", tuple(now["model"])),
        ("transform", tuple(now["transform"])),
        ("objective", ("name",)),
        ("optimizer", ("name",)),
    )
    for section, names in fixed:
        for name in names:
            # A setting that the checkpoint's version did not have was what its default says.
            before = saved[section].get(name, getattr(getattr(RunConfig(), section), name))
            if before != now[section][name]:
                raise CheckpointError(
                    f"{section}.{name}={now[section][name]}: the run to continue was started with {before}; "
                    "give the same value, or start anew in another checkpoint.dir"
                )
