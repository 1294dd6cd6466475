"""Trained generators, put back together from nothing but a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dist_calo.comm import local_device
from dist_calo.config import ModelConfig, RunConfig
from dist_calo.errors import CheckpointError, ConfigError, LaunchError
from dist_calo.geometry import Geometry
from dist_calo.launching.environment import World
from dist_calo.models import build_model
from dist_calo.models.interfaces import Model
from dist_calo.randomness import Draws
from dist_calo.training.checkpoint import Checkpoint, State
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
"""Parts that every checkpoint of a run holds, whichever version wrote it."""
SECTIONS = ("data", "model", "train", "tracking")
"""Of the configuration in it."""


def require_parts(state: State, name: str) -> None:
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

    model: Model
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
        """Generate showers for a file or a comparison, all of whose cells are numbers.

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
    """Return the device that a command computes on, made that of this process; only results are communicated.

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


def restore_generator(checkpoint: Checkpoint, device: str = "cpu") -> TrainedGenerator:
    """Build the generator of a checkpoint, with the moving average of its weights, on a device.

    Raises:
        CheckpointError: if the checkpoint's networks do not fit the model of this version.
    """
    try:
        geometry = checkpoint.readout
        config = ModelConfig(**{f.name: checkpoint.config["model"][f.name] for f in fields(ModelConfig)})
        transform = Transform.from_dict(checkpoint.transform)
    except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(
            f"checkpoint of step {checkpoint.step}: it says otherwise than this version what it was trained on "
            f"({type(error).__name__}: {error}); use the version of dist_calo that wrote it"
        ) from error
    model = build_model(config, geometry)
    try:
        model.load_state_dict(checkpoint.model)
        for name, weights in checkpoint.average.items():
            model.networks[name].load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"checkpoint of step {checkpoint.step}: its weights do not fit model.name={config.name} "
            f"({str(error).splitlines()[0]}); use the version of dist_calo that wrote it"
        ) from error
    model.eval().to(device)
    return TrainedGenerator(
        model=model,
        transform=transform,
        geometry=geometry,
        step=checkpoint.step,
        run_id=checkpoint.run_id,
    )


def require_same_run(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Check that a run may continue from a checkpoint.

    Raises:
        CheckpointError: if a setting differs that decides the energies or the order of the data, the networks or the
            noise.
    """
    saved, now = checkpoint.config, config.to_dict()
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
