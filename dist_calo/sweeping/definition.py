"""A sweep file: the settings that vary, the objective, and the number of trials."""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from dist_calo.config import RunConfig, kind_of
from dist_calo.documents import load_yaml
from dist_calo.errors import ConfigError
from dist_calo.masking import hidden
from dist_calo.sweeping.space import Parameter, Space, Value
from dist_calo.values import errors_of, section_of, unknown, value_of

Configure = Callable[[Sequence[str]], RunConfig]
"""From the trainer's command line to its checked settings."""

OWNED = ("checkpoint.dir", "checkpoint.resume", "tracking.run_name", "tracking.spool", "data.ledger")
"""Settings that a sweep decides itself, so that trials do not overwrite each other."""
LENGTHS = ("train.max_steps", "train.max_epochs", "train.max_time")
"""Settings that say how long a run is."""
FIXED = ("comm.backend", "comm.timeout_s", "train.device", "train.validate_every_steps", *LENGTHS)
"""Settings that all trials have in common: the ranks are started once, and trials are compared at equal steps."""
OF_TRIALS = ("checkpoint.", "tracking.log_")
"""Settings that keep less of many short runs than a long one needs."""
OF_SHORT_TRIALS = "train.validate_every_steps"
"""Setting that a sweep of short trials sets low, to compare and prune them."""
FIXED_SECTIONS = ("tracking.", "checkpoint.")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The entries of a sweep file.

    Raises:
        ConfigError: if an entry breaks a rule.
    """

    parameters: Space
    """Settings that vary."""
    config: str | None = None
    """Settings file that trials start from; a parameter of this name chooses among several."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of all trials, over those of the file."""
    overrides: tuple[str, ...] = ()
    """Settings of all trials from the command line."""
    steps: int | None = None
    """Steps of a trial; by default ``train.max_steps``."""
    objective: str = "validation/score"
    """Number by which trials are compared: its best value in the validations of a trial."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Direction in which the objective improves."""
    trials: int | None = None
    """Trials of the study, over all workers; by default the whole grid."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """Choice of settings: learning from earlier trials, at random, or every combination once."""
    pruner: Literal["median", "hyperband", "none"] = "none"
    """Trials that are stopped early: those worse than half of the others at the same step, by Hyperband, or none."""
    seed: int = 0
    """Seed of the sampler."""
    abandoned_after_s: float = 120.0
    """Silence after which a worker counts as dead and another one takes its trial over, in seconds."""

    def __post_init__(self) -> None:
        for name in ("steps", "trials", "abandoned_after_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name}={value}: must be above 0")
        if not self.parameters.parameters:
            raise ConfigError("parameters: a sweep needs at least one setting to vary")
        if self.trials is None and self.sampler != "grid":
            raise ConfigError(
                f"trials: say how many trials the sampler {self.sampler} makes, or use sampler: grid"
            )
        if not self.objective.startswith("validation/"):
            raise ConfigError(
                f"objective={self.objective}: must be a number of the validations, such as validation/score"
            )
        self._check_names()

    def _check_names(self) -> None:
        varied = {parameter.name for parameter in self.parameters.parameters}
        if self.config is not None and "config" in varied:
            raise ConfigError(f"config={self.config}: is also a parameter; give one of the two")
        for name in [*varied, *self.settings, *(_name(override) for override in self.overrides)]:
            if name in OWNED:
                raise ConfigError(f"{name}: a sweep gives each trial its own; leave it out")
        for name in varied:
            if name in FIXED or name.startswith(FIXED_SECTIONS):
                raise ConfigError(f"parameters.{name}: is the same for all trials; put it under settings")
        for name in [*self.settings, *(_name(override) for override in self.overrides)]:
            if name in varied:
                raise ConfigError(f"{name}: is a parameter of this sweep and cannot be fixed as well")
        for name in LENGTHS[:2]:
            if self.steps is not None and name in self.settings:
                raise ConfigError(f"{name}: the entry steps says how long a trial is")

    def arguments(self, chosen: Mapping[str, Value], *, full: bool = False) -> list[str]:
        """Return the trainer's command line of a trial, without the settings that a sweep decides itself.

        Args:
            chosen: the trial's parameters.
            full: whether it is to train as long as the settings say, not as long as a trial.
        """
        config = chosen.get("config", self.config)
        first = [f"--config={config}"] if config is not None else []
        left_out: tuple[str, ...] = OF_TRIALS if full else ()
        if full and self.steps is not None:
            left_out += (OF_SHORT_TRIALS,)
        kept = {name: value for name, value in self.settings.items() if not name.startswith(left_out)}
        settings = [f"--{name}={_text(value)}" for name, value in kept.items()]
        steps = [f"--train.max_steps={self.steps}"] if self.steps is not None else []
        overrides = list(self.overrides)
        if full:
            steps, overrides = [], [text for text in overrides if _name(text) not in LENGTHS]
        own = [f"--{name}={_text(value)}" for name, value in chosen.items() if name != "config"]
        return [*first, *settings, *steps, *overrides, *own]

    def command(self, chosen: Mapping[str, Value], folder: str) -> str:
        """Return the command line that trains with these parameters as long as the settings say."""
        words = [*self.arguments(chosen, full=True), f"--checkpoint.dir={folder}"]
        return shlex.join(["python", "-m", "dist_calo.train", *words])

    @property
    def total(self) -> int:
        """Return the number of trials of the study."""
        size = len(self.parameters.grid()) if self.sampler == "grid" else None
        if self.trials is None:
            assert size is not None
            return size
        return self.trials if size is None else min(size, self.trials)

    def check(self, configure: Configure) -> list[RunConfig]:
        """Build and return the settings of trials at both ends of every parameter.

        Raises:
            ConfigError: if a setting does not exist or a value breaks a rule, or no trial could be pruned.
        """
        found = [configure(self.arguments(chosen)) for chosen in self.parameters.probes()]
        if self.sampler == "grid":
            self.parameters.grid()
        train = found[0].train
        if self.pruner != "none" and train.max_epochs is not None:
            raise ConfigError(
                f"pruner={self.pruner}: compares trials at equal steps, and train.max_epochs={train.max_epochs:g} does "
                "not say how many; give the entry steps in its place"
            )
        if self.pruner != "none" and not 0 < train.validate_every_steps < train.max_steps:
            raise ConfigError(
                f"pruner={self.pruner}: trials of {train.max_steps} steps with train.validate_every_steps="
                f"{train.validate_every_steps} are never looked at before their end; validate more often, or prune none"
            )
        if any(config.data.validation_fraction == 0 for config in found):
            raise ConfigError(
                "data.validation_fraction=0: a sweep compares trials by showers that are held out"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as stored in the study's folder; `read_definition` reads them again."""
        values = {name.name: getattr(self, name.name) for name in fields(self) if name.name != "parameters"}
        parameters = {
            parameter.name: {
                key: value
                for key, value in asdict(parameter).items()
                if key != "name" and value not in (None, {})
            }
            for parameter in self.parameters.parameters
        }
        return json.loads(json.dumps({**values, "parameters": parameters}))

    @property
    def identity(self) -> str:
        """Return a digest of the entries that must stay the same for trials to be comparable."""
        values = self.to_dict()
        for name in ("trials", "abandoned_after_s"):
            values.pop(name)
        values["overrides"] = [
            text for text in self.overrides if not text.startswith(("--tracking.", "--comm."))
        ]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def read_sweep(path: str | Path, *, trials: int | None = None, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file.

    Args:
        path: the YAML file.
        trials: replaces its number of trials.
        overrides: ``--NAME=VALUE`` for the trainer, over the file's settings.

    Raises:
        ConfigError: if the file is missing, no YAML, or an entry is unknown or breaks a rule.
    """
    values = section_of(load_yaml(path), str(path))
    for override in overrides:
        if not override.startswith("--") or "=" not in override:
            raise ConfigError(f"{override}: settings of the trainer after -- read --NAME=VALUE")
    with errors_of(path):
        given = value_of(list[str], values.get("overrides", []), "overrides")
        sweep = read_definition({**values, "overrides": [*given, *map(hidden, overrides)]})
    return sweep if trials is None else replace(sweep, trials=trials)


def read_definition(values: Mapping[str, Any]) -> Sweep:
    """Return the sweep that a YAML file or a study's folder describes.

    Raises:
        ConfigError: if an entry is unknown or breaks a rule.
    """
    parameters = section_of(values.get("parameters"), "parameters")
    space = Space(tuple(Parameter.from_yaml(name, entry) for name, entry in parameters.items()))
    kinds = get_type_hints(Sweep) | {"settings": dict[str, Any]}
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in kinds:
            raise unknown("entry", name, kinds)
        if name == "settings":
            given[name] = _settings(section_of(value, name))
        elif name != "parameters" and (value is not None or name in ("trials", "steps")):
            given[str(name)] = value_of(kinds[name], value, name)
    return Sweep(parameters=space, **given)


def _settings(values: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Return dotted settings of the trainer, each of its declared type."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{section}{key}"
        kind = kind_of(name)
        if kind is dict:
            found |= _settings(section_of(value, name), f"{name}.")
        else:
            found[name] = value_of(Any if kind is None else kind, value, name)
    return found


def _name(override: str) -> str:
    return override.lstrip("-").partition("=")[0]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
