"""The space of a sweep: the range or the choices of each setting, and the conditions under which it counts."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from dist_calo.config import kind_of
from dist_calo.errors import ConfigError
from dist_calo.values import section_of, value_of

if TYPE_CHECKING:
    from optuna.trial import Trial

Value: TypeAlias = "str | int | float | bool | None"
KINDS = (str, int, float, bool, type(None))


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One setting that a sweep varies: either ``choices``, or ``low`` and ``high``.

    Raises:
        ConfigError: if it is neither or both, or the bounds are no range.
    """

    name: str
    """Dotted setting of the trainer, or ``config`` for the file that a trial starts from."""
    choices: tuple[Value, ...] | None = None
    """Values to choose from, in no order."""
    low: float | None = None
    """Least value; with a whole ``low`` and ``high`` all values are whole."""
    high: float | None = None
    """Greatest value."""
    log: bool = False
    """True for values that are uniform in their logarithm."""
    step: float | None = None
    """Distance of neighbouring values."""
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    """Values of earlier parameters for which this one counts; in other trials it is left alone."""

    def __post_init__(self) -> None:
        where = f"parameters.{self.name}"
        ranged = (self.low, self.high, self.step) != (None, None, None) or self.log
        if (self.choices is None) != ranged:
            raise ConfigError(f"{where}: give either choices, or low and high (with log: true or a step)")
        if self.choices is not None:
            if not self.choices or len(set(map(repr, self.choices))) < len(self.choices):
                raise ConfigError(f"{where}.choices={list(self.choices)}: needs at least one, and none twice")
            return
        if self.low is None or self.high is None:
            raise ConfigError(f"{where}: low={self.low} and high={self.high}: a range has both")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"{where}: low={self.low} must be below high={self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ConfigError(f"{where}: log: true wants low={self.low} above 0 and no step")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ConfigError(f"{where}.step={self.step}: must be above 0 and no more than high - low")

    @classmethod
    def from_yaml(cls, name: str, values: Any) -> "Parameter":
        """Return the parameter that an entry of a sweep file describes; a list is short for its choices.

        Raises:
            ConfigError: if the entry is not understood.
        """
        kind = str if name == "config" else kind_of(name)
        entry = {"choices": values} if isinstance(values, list) else values
        known = [each.name for each in fields(cls) if each.name != "name"]
        if not isinstance(entry, dict):
            raise ConfigError(f"parameters.{name}={values!r}: give choices, or low and high")
        for key in entry:
            if key not in known:
                raise ConfigError(
                    f"parameters.{name}.{key}: there is no such entry; there are {', '.join(known)}"
                )
        given = dict(entry)
        if "choices" in given:
            given["choices"] = _plain(f"parameters.{name}.choices", given["choices"], kind)
        given["when"] = {
            str(key): _plain(
                f"parameters.{name}.when.{key}", value if isinstance(value, list) else [value], kind_of(key)
            )
            for key, value in section_of(given.get("when"), f"parameters.{name}.when").items()
        }
        for key in ("low", "high", "step"):
            given[key] = _number(f"parameters.{name}.{key}", given.get(key), kind)
        given["log"] = value_of(bool, given.get("log", False), f"parameters.{name}.log")
        return cls(name=name, **given)

    @property
    def whole(self) -> bool:
        """Return whether values are whole numbers."""
        bounds = (self.low, self.high, self.low if self.step is None else self.step)
        return self.choices is None and all(isinstance(bound, int) for bound in bounds)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Return the values to check before anything is trained: all choices, or both ends of the range."""
        return (self.low, self.high) if self.choices is None else self.choices

    @property
    def values(self) -> tuple[Value, ...]:
        """Return all values, for a grid.

        Raises:
            ConfigError: if the range is not countable.
        """
        if self.choices is not None:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        step = 1 if self.whole and self.step is None and not self.log else self.step
        if step is None:
            raise ConfigError(f"parameters.{self.name}: a grid needs choices, or a step besides low and high")
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return tuple(self.low + number * step for number in range(count))

    def counts(self, chosen: Mapping[str, Value]) -> bool:
        """Return whether the parameter counts, given the values of earlier ones."""
        return all(name in chosen and chosen[name] in values for name, values in self.when.items())

    def suggested(self, trial: "Trial") -> Value:
        """Return the value that the study's sampler suggests."""
        if self.choices is not None:
            return trial.suggest_categorical(self.name, self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(self.name, low, high, step=step, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)


@dataclass(frozen=True)
class Space:
    """The parameters of a sweep.

    Raises:
        ConfigError: if a condition names no earlier parameter, or a value that this one never has.
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        earlier: dict[str, Parameter] = {}
        for parameter in self.parameters:
            for name, values in parameter.when.items():
                where = f"parameters.{parameter.name}.when.{name}"
                if name not in earlier:
                    known = ", ".join(earlier) or "none"
                    raise ConfigError(f"{where}: must be a parameter above this one ({known})")
                for value in values:
                    choices = earlier[name].choices
                    if choices is not None and value not in choices:
                        raise ConfigError(f"{where}={value!r}: is none of its choices {list(choices)}")
            earlier[parameter.name] = parameter

    def suggested(self, trial: "Trial") -> dict[str, Value]:
        """Return the settings that the study's sampler suggests for a trial."""
        chosen: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.counts(chosen):
                chosen[parameter.name] = parameter.suggested(trial)
        return chosen

    def grid(self) -> list[dict[str, Value]]:
        """Return every combination of values once; a setting that does not count adds none.

        Raises:
            ConfigError: if a range is not countable.
        """
        combinations: list[dict[str, Value]] = [{}]
        for parameter in self.parameters:
            values = parameter.values
            combinations = [
                {**chosen, parameter.name: value} if parameter.counts(chosen) else chosen
                for chosen in combinations
                for value in (values if parameter.counts(chosen) else values[:1])
            ]
        return combinations

    def probes(self) -> Iterator[dict[str, Value]]:
        """Yield few combinations in which each end of each parameter occurs, with the values that it needs to count."""
        for parameter in self.parameters:
            for needed in itertools.product(*parameter.when.values()):
                for end in parameter.ends:
                    fixed = {**dict(zip(parameter.when, needed, strict=True)), parameter.name: end}
                    yield self._completed(fixed)

    def _completed(self, fixed: Mapping[str, Value]) -> dict[str, Value]:
        chosen: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.name in fixed or parameter.counts(chosen):
                chosen[parameter.name] = fixed.get(parameter.name, parameter.ends[0])
        return chosen


def _plain(where: str, values: Any, kind: Any) -> tuple[Value, ...]:
    each: Any = Any if kind is None else kind
    found = value_of(list[each], values, where)
    for value in found:
        if not isinstance(value, KINDS):
            raise ConfigError(f"{where}: {value!r} must be a number, a text, true, false or null")
    return tuple(found)


def _number(where: str, value: Any, kind: Any) -> float | None:
    whole = int in (kind, *get_args(kind)) or isinstance(value_of(Any, value, where), int)
    return value_of((int if whole else float) | None, value, where)
