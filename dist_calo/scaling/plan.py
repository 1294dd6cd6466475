"""Plan of a scaling experiment: the points to be measured, one readable file in the folder of the results.

plan.yaml                        the plan
points/0003/repeat-0.json        a measurement, whole once it has its name
spool/                           what MLflow has not taken yet
"""

import hashlib
import itertools
import json
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dist_calo.config import RunConfig
from dist_calo.documents import load_yaml
from dist_calo.errors import ConfigError
from dist_calo.files import write_text
from dist_calo.values import errors_of, section_of, value_of

PLAN_FILE = "plan.yaml"
FORMAT = 1
Study = Literal["weak", "strong"]
Backend = Literal["torch", "mpi", "horovod"]
Wire = Literal["fp32", "bf16", "fp16"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
WIRES: tuple[Wire, ...] = get_args(Wire)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One configuration to measure. In a weak study the batch of a rank is fixed, in a strong one the global batch."""

    study: Study
    nodes: int
    ranks_per_node: int
    threads: int
    """Compute threads of a rank."""
    backend: Backend
    wire: Wire
    overlap: bool
    batch: int
    """Showers of a step: of a rank (weak) or of all ranks (strong)."""

    @property
    def ranks(self) -> int:
        """Return the ranks on all nodes."""
        return self.nodes * self.ranks_per_node

    @property
    def global_batch(self) -> int:
        """Return the showers of a step over all ranks."""
        return self.batch * self.ranks if self.study == "weak" else self.batch

    def described(self) -> str:
        """Return the point in one line."""
        batch = "a rank" if self.study == "weak" else "in all"
        return (
            f"{self.study}, {self.nodes} x {self.ranks_per_node} ranks x {self.threads} threads, {self.backend}, "
            f"{self.wire}, overlap {'on' if self.overlap else 'off'}, {self.batch} showers {batch}"
        )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Steps and repeats of every point."""

    repeats: int = 3
    warmup_steps: int = 5
    """Steps before the clock starts."""
    steps: int = 32
    """Steps that are measured in each repeat."""
    end_to_end: bool = True
    """Also one validation and one checkpoint, as in a whole job."""

    def __post_init__(self) -> None:
        for name in ("repeats", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)}: must be at least 1")
        if self.warmup_steps < 0:
            raise ConfigError(f"--warmup {self.warmup_steps}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Values that are crossed to make the points."""

    nodes: Sequence[int] = (1,)
    ranks_per_node: Sequence[int] = (1, 2)
    threads: Sequence[int] = (1,)
    backends: Sequence[Backend] = ("torch",)
    wires: Sequence[Wire] = ("fp32",)
    overlap: Sequence[bool] = (True,)
    weak_batches: Sequence[int] = (16,)
    """Showers a rank; empty for no weak study."""
    strong_batches: Sequence[int] = ()
    """Showers over all ranks; empty for no strong study."""

    def points(self) -> Iterator[Point]:
        """Yield all combinations, those of one number of nodes one after the other, each point once."""
        studies: list[tuple[Study, int]] = [("weak", batch) for batch in self.weak_batches]
        studies += [("strong", batch) for batch in self.strong_batches]
        crossed = itertools.product(
            self.nodes, self.ranks_per_node, self.threads, self.backends, self.wires, self.overlap, studies
        )
        for nodes, ranks, threads, backend, wire, overlap, (study, batch) in crossed:
            yield Point(
                study=study,
                nodes=nodes,
                ranks_per_node=ranks,
                threads=threads,
                backend=backend,
                wire=wire,
                overlap=overlap,
                batch=batch,
            )


@dataclass(frozen=True, kw_only=True)
class ScalingPlan:
    """A scaling experiment."""

    points: tuple[Point, ...]
    config: RunConfig
    """Settings of every point but for what the point says."""
    measurement: Measurement = field(default_factory=Measurement)
    left_out: tuple[str, ...] = ()
    """Combinations that cannot be run, and why."""
    parent_run: str | None = None
    """MLflow run that holds those of the points."""

    def point(self, number: int) -> Point:
        """Return the point of a number.

        Raises:
            ConfigError: if the plan has none.
        """
        if not 0 <= number < len(self.points):
            raise ConfigError(f"--point {number}: the plan has points 0 to {len(self.points) - 1}")
        return self.points[number]

    def run_config(self, number: int, scratch: Path) -> RunConfig:
        """Return the settings with which a point is run.

        Args:
            number: of the point.
            scratch: folder for a checkpoint.
        """
        point, config = self.points[number], self.config
        return replace(
            config,
            # A smaller last batch of an epoch would be another measurement.
            data=replace(config.data, remainder="drop", ledger=None),
            train=replace(config.train, global_batch_size=point.global_batch, accumulation=1),
            comm=replace(
                config.comm,
                backend=point.backend,
                wire=point.wire,
                overlap=point.overlap,
                threads=point.threads,
            ),
            checkpoint=replace(config.checkpoint, dir=str(scratch), resume="no"),
        )

    def digest(self, number: int) -> str:
        """Return a digest that tells measurements of a point from those of another point, or of other networks."""
        measured = {**asdict(self.measurement), "repeats": None}
        of = (asdict(self.points[number]), measured, asdict(self.config.model), self.config.objective.name)
        return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]


def make_plan(axes: Axes, config: RunConfig, measurement: Measurement, rows: int) -> ScalingPlan:
    """Return the plan of all combinations that can be run.

    Args:
        axes: what is crossed.
        config: settings of every point.
        measurement: what is done at each.
        rows: showers of the training split.

    Raises:
        ConfigError: if no combination can be run.
    """
    points: list[Point] = []
    left_out: list[str] = []
    for point in dict.fromkeys(axes.points()):
        reason = _impossible(point, rows)
        if reason is None:
            points.append(point)
        else:
            left_out.append(f"{point.described()}: {reason}")
    if not points:
        raise ConfigError(f"no point can be run: {left_out[0] if left_out else 'no batch was given'}")
    return ScalingPlan(points=tuple(points), config=config, measurement=measurement, left_out=tuple(left_out))


def _impossible(point: Point, rows: int) -> str | None:
    if point.ranks > point.global_batch:
        return f"{point.ranks} ranks cannot share a global batch of {point.global_batch}"
    if point.global_batch > rows:
        return f"a global batch of {point.global_batch} is larger than the {rows} training showers"
    return None


def write_plan(folder: Path, plan: ScalingPlan) -> Path:
    """Write the plan of a folder, one point a line, and return the file.

    Raises:
        ConfigError: if the folder cannot be written or holds another plan with results.
    """
    import yaml

    file = folder / PLAN_FILE
    if any(folder.glob("points/*/*.json")):
        raise ConfigError(f"{folder}: holds results of a plan already; name another folder")
    head = {"format": FORMAT, "parent_run": plan.parent_run, "measurement": asdict(plan.measurement)}
    lines = [
        yaml.safe_dump(
            {"point": number, **asdict(point)}, default_flow_style=True, sort_keys=False, width=1000
        )
        for number, point in enumerate(plan.points)
    ]
    text = (
        yaml.safe_dump(head, sort_keys=False)
        + "points:\n"
        + "".join(f"- {line}" for line in lines)
        + yaml.safe_dump({"left_out": list(plan.left_out)}, width=1000)
        + "# Settings of every point that differ from the defaults.\n"
        + yaml.safe_dump({"settings": _changed(plan.config)}, sort_keys=False)
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    return file


def read_plan(folder: Path) -> ScalingPlan:
    """Read the plan of a folder.

    Raises:
        ConfigError: if there is none, or it is not one of this version.
    """
    file = folder / PLAN_FILE
    if not file.exists():
        raise ConfigError(
            f"{file}: there is no such file; make the plan first: dist-calo scale plan {shlex.quote(str(folder))}"
        )
    values = load_yaml(file)
    with errors_of(file):
        found = section_of(values, "plan")
        if value_of(int, found.get("format"), "format") != FORMAT:
            raise ConfigError(f"has format {found['format']}, this version reads {FORMAT}; plan again")
        try:
            points = [{k: v for k, v in point.items() if k != "point"} for point in found["points"]]
            return ScalingPlan(
                points=value_of(tuple[Point, ...], points, "points"),
                config=value_of(RunConfig, found["settings"], "settings"),
                measurement=value_of(Measurement, found["measurement"], "measurement"),
                left_out=value_of(tuple[str, ...], found["left_out"], "left_out"),
                parent_run=value_of(str | None, found["parent_run"], "parent_run"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"is not a plan of this version ({error}); plan again") from error


def _changed(config: RunConfig) -> dict[str, Any]:
    """Return the settings that are not the defaults."""
    now, default = config.to_dict(), RunConfig().to_dict()
    changed = {
        section: {name: value for name, value in values.items() if value != default[section][name]}
        for section, values in now.items()
    }
    return {section: values for section, values in changed.items() if values}


def described(plan: ScalingPlan, results: Path) -> str:
    """Return what is measured, what is left out and the command lines that measure the rest, for the user."""
    lines = [f"left out: {line}" for line in plan.left_out]
    lines.append(
        f"{len(plan.points)} points, {plan.measurement.repeats} repeats of each: {results / PLAN_FILE}"
    )
    if plan.parent_run:
        lines.append(f"MLflow run {plan.parent_run} in {plan.config.tracking.uri}")
    return "\n".join([*lines, commands(plan, results)])


def commands(plan: ScalingPlan, results: Path) -> str:
    """Return the command lines that measure the whole plan."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, point in enumerate(plan.points):
        groups[point.nodes].append(number)
    lines = []
    folder, report = shlex.quote(str(results)), shlex.quote(str(results / "report"))
    for nodes, numbers in groups.items():
        points = [plan.points[number] for number in numbers]
        ranks = max(point.ranks_per_node for point in points)
        threads = max(point.threads for point in points)
        lines.append(
            f"  sbatch -N {nodes} --ntasks-per-node={ranks} --cpus-per-task={threads} --array={_ranges(numbers)} "
            f"slurm/scaling.sh {folder}"
        )
    here = f"  dist-calo scale run {folder}"
    some = "" if set(groups) == {1} else "          # the points of one node"
    return (
        "on a cluster (add %1 to --array where jobs on other nodes disturb):\n"
        + "\n".join(lines)
        + f"\nor on this machine:\n{here}{some}\nthen:\n  dist-calo scale report {folder} --out {report}"
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Write increasing numbers in SLURM's notation, such as ``0-3,8``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
