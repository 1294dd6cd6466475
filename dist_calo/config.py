"""Every setting of a run, checked where it is defined.

It is read by `dist_calo.cli.command_line` from YAML and dotted overrides, and stored in MLflow and every checkpoint.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dist_calo.errors import ConfigError
from dist_calo.masking import hidden
from dist_calo.values import seconds_of


def _positive(section: str, values: dict[str, float | None], most: float = math.inf) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value <= most:
            limit = "" if most == math.inf else f" and at most {most:,.0f}"
            raise ConfigError(f"{section}.{name}={value}: must be above 0{limit}")


def _not_negative(section: str, values: dict[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None and not value >= 0:
            raise ConfigError(f"{section}.{name}={value}: must not be negative")


def _fraction(section: str, values: dict[str, float], below: float = 1.0) -> None:
    for name, value in values.items():
        if not 0 <= value < below:
            raise ConfigError(f"{section}.{name}={value}: must be at least 0 and below {below:g}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Showers to read and their order."""

    path: str | list[str] = "data/sample/*.h5"
    """Shower file or glob, or a list of them; the files are taken in sorted order."""
    format: str = "auto"
    """Schema of the files; ``auto`` recognises it from the data sets."""
    cell_unit: Literal["auto", "GeV", "MeV", "keV"] = "auto"
    """Unit of the cells in the files; ``auto`` goes by their attributes, else by their schema: MeV in CaloGAN's and the
    CaloChallenge's files, GeV in LCD files. A few showers are checked at the start, whatever is said."""
    energy_unit: Literal["auto", "GeV", "MeV", "keV"] = "auto"
    """Unit of the incident energy; ``auto`` goes by the attribute ``energy_units``, else MeV in the CaloChallenge's
    files and GeV in others."""
    binning: str | None = None
    """The CaloChallenge's XML file that tells the cells of its showers; by default the data's own, one beside the data,
    or that of the data set whose number of voxels it is."""
    manifest: str | None = None
    """Manifest made by ``dist-calo data validate``; the files must not have changed since. Skips the start-up scan."""
    validate: Literal["full", "quick"] = "full"
    """Check at start: every row of every file, shared among the ranks (full), or sizes and data sets only (quick).
    Rows are checked again whenever they are read."""
    validation_fraction: float = 0.1
    """Share of the showers kept for validation."""
    test_fraction: float = 0.1
    """Share of the showers that training never reads."""
    remainder: Literal["keep", "drop"] = "keep"
    """Samples after the last whole global batch of an epoch: a smaller last batch (keep) or left out (drop)."""
    shuffle_window: int = 16
    """Global batches that are shuffled together; bounds the memory of a rank."""
    prefetch_batches: int = 4
    """Batches prepared ahead by the loader's thread."""
    ledger: str | None = None
    """Folder in which each rank records the sample ids of each step."""

    def __post_init__(self) -> None:
        _fraction(
            "data", {"validation_fraction": self.validation_fraction, "test_fraction": self.test_fraction}
        )
        if self.validation_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"data.validation_fraction={self.validation_fraction} and data.test_fraction={self.test_fraction}: "
                "their sum must be below 1, so that something is left to train on"
            )
        _positive("data", {"shuffle_window": self.shuffle_window, "prefetch_batches": self.prefetch_batches})
        if not self.patterns:
            raise ConfigError("data.path=[]: must name at least one file or glob")

    @property
    def patterns(self) -> list[str]:
        """Return all files and globs that ``path`` names."""
        return [self.path] if isinstance(self.path, str) else list(self.path)

    @property
    def described(self) -> str:
        """Return ``path`` in words."""
        return ", ".join(self.patterns)


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """Transform of cell energies for the networks: below the threshold 0, then scale, power and log apply."""

    threshold: float = 0.0
    """Cells below this energy are set to 0, in GeV."""
    scale: float = 1000.0
    """Factor on the energy of a cell, in 1/GeV."""
    power: float = 0.5
    """Exponent applied after the scale; by default networks see the square root of the energy in MeV."""
    log: bool = False
    """Apply log(1 + x) last."""

    def __post_init__(self) -> None:
        _positive("transform", {"scale": self.scale, "power": self.power})
        _not_negative("transform", {"threshold": self.threshold})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Networks to train."""

    name: str = "lcd_fast"
    """Name of the model; an unknown name lists the choices."""
    batch_norm: Literal["sync", "local"] = "sync"
    """Batch-norm statistics over the global batch (sync) or over each rank's share (local)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Sizes particular to the model, such as ``latent``; an unknown one lists the choices."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Losses from which the networks learn."""

    name: str = "hinge"
    """Name of the objective; an unknown name lists the choices."""
    discriminator_steps: int = 1
    """Updates of the discriminator in a training step."""
    generator_steps: int = 1
    """Updates of the generator in a training step."""
    score_weight: float = 1.0
    """Weight of the real-or-fake term."""
    energy_weight: float = 0.0
    """Weight of the mean absolute percentage error of the energy that the discriminator reads off a shower."""
    angle_weight: float = 0.0
    """Weight of the mean absolute error of the shower's angle."""
    energy_sum_weight: float = 0.0
    """Weight of the mean absolute percentage error of the sum of cells, against the response fitted to the data."""
    label_flip: float = 0.0
    """Chance that a sample's real-or-fake label is flipped in the discriminator's update."""
    gradient_penalty: float = 10.0
    """Weight of the gradient penalty of wgan_gp."""
    weight_limit: float = 0.01
    """Bound of the critic's weights of wgan, clipped after each of its steps."""
    kl_weight: float = 1.0
    """Weight of the Kullback-Leibler term of vae."""
    kl_warmup_steps: int = 0
    """Steps over which that weight rises linearly from 0."""

    def __post_init__(self) -> None:
        _positive(
            "objective",
            {
                "discriminator_steps": self.discriminator_steps,
                "generator_steps": self.generator_steps,
                "weight_limit": self.weight_limit,
            },
        )
        _fraction("objective", {"label_flip": self.label_flip})
        _not_negative(
            "objective",
            {
                "score_weight": self.score_weight,
                "energy_weight": self.energy_weight,
                "angle_weight": self.angle_weight,
                "energy_sum_weight": self.energy_sum_weight,
                "gradient_penalty": self.gradient_penalty,
                "kl_weight": self.kl_weight,
                "kl_warmup_steps": self.kl_warmup_steps,
            },
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Steps from gradients; the same for every backend."""

    name: Literal["adam", "rmsprop", "sgd"] = "adam"
    """Optimizer of every network."""
    learning_rate: float = 1e-3
    """Learning rate at the reference batch size."""
    network_factors: dict[str, float] = field(default_factory=dict)
    """Factor on the learning rate of single networks, such as ``{discriminator: 0.5}``."""
    beta1: float = 0.5
    """First decay rate of adam; momentum of sgd."""
    beta2: float = 0.99
    """Second decay rate of adam; decay rate of rmsprop."""
    epsilon: float = 1e-8
    """Added to the denominator of adam and rmsprop."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Decay of the learning rate from the end of warm-up to the last step."""
    final_fraction: float = 0.0
    """End of the decay, as a fraction of the learning rate."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    scaling: Literal["none", "sqrt", "linear"] = "none"
    """Growth of the learning rate with global batch size / reference batch size."""
    reference_batch_size: int = 64
    """Global batch size at which the learning rate is used as given."""
    clip_norm: float | None = None
    """Largest norm of a network's averaged gradient; larger ones are scaled down."""

    def __post_init__(self) -> None:
        _positive(
            "optimizer",
            {
                "learning_rate": self.learning_rate,
                "reference_batch_size": self.reference_batch_size,
                "clip_norm": self.clip_norm,
                "epsilon": self.epsilon,
                **{f"network_factors.{name}": value for name, value in self.network_factors.items()},
            },
        )
        _not_negative("optimizer", {"warmup_steps": self.warmup_steps, "final_fraction": self.final_fraction})
        _fraction("optimizer", {"beta1": self.beta1, "beta2": self.beta2})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    max_steps: int = 1000
    """Training steps of the whole run, over all resumes; where the schedule ends, whatever ends the run before."""
    max_epochs: float | None = None
    """Epochs of the whole run, which then decide ``max_steps``; ``max_steps`` on the command line undo a file's."""
    max_time: str | None = None
    """Time of the whole run, over all resumes, such as ``50m`` or ``2h``, if ``max_steps`` do not end it before."""
    patience: int = 0
    """Validations whose known score is not better by more than its error, after which the run ends; 0 is off."""
    global_batch_size: int = 64
    """Samples of a step, over all ranks and micro-batches."""
    accumulation: int = 1
    """Micro-batches that a global batch is split into; gradients travel once a step."""
    seed: int = 0
    """Seed of the weights, the order of the data and all noise."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the networks; ``auto`` takes the GPU of this local rank if there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward pass: fp32, or bf16 by autocast."""
    channels_last: bool = True
    """Keep activations of 3-d convolutions channels-last, which is faster on CPUs."""
    ema_decay: float = 0.999
    """Decay a step of the exponential moving average of the generating weights; 0 switches it off."""
    log_every_steps: int = 10
    """Steps between two log lines and metric points."""
    validate_every_steps: int = 200
    """Steps between two validations; 0 validates at the end only."""
    validation_showers: int = 10_000
    """Most showers of a validation: the first ones of the split."""
    max_bad_steps: int = 10
    """Consecutive steps with non-finite gradients after which the run stops with an error."""

    def __post_init__(self) -> None:
        _positive(
            "train",
            {
                "max_steps": self.max_steps,
                "max_epochs": self.max_epochs,
                "max_time": self.max_seconds,
                "accumulation": self.accumulation,
                "log_every_steps": self.log_every_steps,
                "validation_showers": self.validation_showers,
                "max_bad_steps": self.max_bad_steps,
            },
        )
        _positive("train", {"global_batch_size": self.global_batch_size}, 2**24)
        intervals = {"validate_every_steps": self.validate_every_steps, "patience": self.patience}
        _not_negative("train", {**intervals, "seed": self.seed})
        _fraction("train", {"ema_decay": self.ema_decay})
        if self.accumulation > self.global_batch_size:
            raise ConfigError(
                f"train.accumulation={self.accumulation}: must not exceed "
                f"train.global_batch_size={self.global_batch_size}"
            )

    @property
    def max_seconds(self) -> float | None:
        """``max_time`` in seconds; None without a limit."""
        return None if self.max_time is None else seconds_of(self.max_time, "train.max_time")


@dataclass(frozen=True, kw_only=True)
class CommConfig:
    """Communication between ranks."""

    backend: Literal["auto", "single", "torch", "horovod", "mpi"] = "auto"
    """Library of the collectives; ``auto`` picks by launcher."""
    wire: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of gradients on the network."""
    bucket_mb: float = 4.0
    """Size of a gradient bucket that is all-reduced while the backward pass goes on, in MiB."""
    overlap: bool = True
    """Send buckets while the backward pass goes on; false sends all of them after it, to measure what that costs."""
    timeout_s: float = 600.0
    """Time after which a rank that does not answer is an error, in seconds."""
    silence_s: float = 30.0
    """Time for which nothing is heard from a node before it is lost, in seconds, counted in steps of six. A rank for
    which the others wait is named if it has made no progress for so long, or for 20 times its usual time if longer."""
    threads: int | None = None
    """Compute threads of a rank; by default the cores it may use, divided among the ranks that share them. All other
    settings must be the same on all ranks."""

    def __post_init__(self) -> None:
        _positive("comm", {"bucket_mb": self.bucket_mb, "threads": self.threads})
        _positive("comm", {"timeout_s": self.timeout_s, "silence_s": self.silence_s}, 10**8)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints, which survive the end of a job."""

    dir: str = "checkpoints"
    """Folder of this run's checkpoints."""
    every_steps: int = 500
    """Steps between two checkpoints; one is always written at the end and on preemption."""
    keep: int = 3
    """Newest checkpoints kept; the best one is kept besides."""
    resume: Literal["no", "auto"] | str = "no"
    """``no`` starts anew and refuses a folder that holds checkpoints; ``auto`` continues from the newest complete
    checkpoint of the folder, or starts anew if there is none; anything else is the checkpoint file to continue from."""

    def __post_init__(self) -> None:
        _positive("checkpoint", {"every_steps": self.every_steps, "keep": self.keep})


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Record of the run. Rank 0 alone talks to MLflow."""

    uri: str = "sqlite:///mlflow.db"
    """MLflow tracking store or server, or the server.env of slurm/mlflow_server.sh; ``none`` switches tracking off."""
    experiment: str = "dist_calo"
    """MLflow experiment of the run."""
    run_name: str | None = None
    """Name of the run in MLflow; chosen by MLflow if not given."""
    spool: str = "spool"
    """Folder that keeps what could not be sent, for ``dist-calo runs sync``."""
    system_metrics: bool = True
    """Log the load of processor, memory, disk and GPU."""
    log_checkpoints: bool = True
    """Upload checkpoints as artifacts."""
    log_pictures: bool = True
    """Draw and upload generated beside held-out showers at each validation."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", hidden(self.uri))


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a training run."""

    data: DataConfig = field(default_factory=DataConfig)
    transform: TransformConfig = field(default_factory=TransformConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    comm: CommConfig = field(default_factory=CommConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> "RunConfig":
        """Return the checked configuration of nested plain values; what is left out has its default.

        Raises:
            ConfigError: if a value breaks a rule.
            TypeError: if there is no such setting.
        """
        return cls(**{name: build(**values.get(name, {})) for name, build in SECTIONS.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, as printed, logged and stored in checkpoints."""
        return asdict(self)


SECTIONS: dict[str, Any] = {section.name: section.default_factory for section in fields(RunConfig)}
"""The class of each section."""


def kind_of(name: str) -> Any:
    """Return the declared type of a dotted setting; None where there is none of this name, dict for a whole section."""
    section, _, rest = name.partition(".")
    if section not in SECTIONS:
        return None
    if not rest:
        return dict
    setting, _, entry = rest.partition(".")
    kind = get_type_hints(SECTIONS[section]).get(setting)
    # The entry of a table, such as optimizer.network_factors.generator.
    return kind if not entry else get_args(kind)[1] if get_origin(kind) is dict else None


def setting_names() -> list[str]:
    """Return the names of all settings, dotted."""
    return [f"{name}.{setting.name}" for name, section in SECTIONS.items() for setting in fields(section)]
