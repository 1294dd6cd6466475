"""A scaling experiment: make its plan, and measure its points on ranks of a launcher or of this machine."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.config import RunConfig
from dist_calo.errors import EXIT_PREEMPTED, ConfigError, LaunchError, MissingComponentError
from dist_calo.launching.environment import World
from dist_calo.launching.job import mpi_plugin
from dist_calo.launching.local import forwarding, run_local, start
from dist_calo.resources import shower_pattern
from dist_calo.scaling.plan import Axes, Measurement, Point, ScalingPlan, make_plan, read_plan, write_plan
from dist_calo.scaling.results import forget, missing, point_folder, read_results, write_result

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator


def plan_experiment(results: Path, axes: Axes, config: RunConfig, measurement: Measurement) -> ScalingPlan:
    """Write the plan of an experiment and make its parent run in MLflow.

    Raises:
        UserError: if no point can be run, the folder cannot be written, or the tracking store does not answer.
    """
    from dist_calo.data.manifest import build_manifest
    from dist_calo.data.row_blocks import split_blocks
    from dist_calo.scaling.mlflow_runs import start_parent

    if config.train.max_epochs is not None:
        raise ConfigError(
            f"train.max_epochs={config.train.max_epochs:g}: is another number of steps at each batch size; give "
            "--train.max_steps, the length of the job that the report puts together"
        )
    config = _found_from_anywhere(config)
    samples = split_blocks(build_manifest(config.data), "train", config.data).samples
    plan = make_plan(axes, config, measurement, samples)
    # The folder is tried before MLflow has a run without a plan.
    write_plan(results, plan)
    plan = replace(plan, parent_run=start_parent(plan, results))
    write_plan(results, plan)
    return plan


def _found_from_anywhere(config: RunConfig) -> RunConfig:
    """Return the settings with absolute paths: tasks may start in another folder."""
    from dist_calo.tracking.store_uri import checked_uri

    uri = config.tracking.uri
    return replace(
        config,
        data=replace(
            config.data, path=[str(Path(shower_pattern(path)).absolute()) for path in config.data.patterns]
        ),
        tracking=replace(config.tracking, uri=uri if uri == "none" else checked_uri(uri)),
    )


def run_here(results: Path, only: int | None, again: bool) -> int:
    """Measure points on this machine, one after the other, each on ranks of its own, and return the exit code.

    Args:
        results: folder of the plan.
        only: number of a point; None for all points of one node.
        again: measure also what is measured already.
    """
    plan = read_plan(results)
    for number in range(len(plan.points)) if only is None else [only]:
        point = plan.point(number)
        if not again and not missing(results, number, plan.measurement.repeats):
            print(f"point {number} is done already; --again measures it anew", flush=True)
            continue
        if point.nodes > 1:
            print(f"point {number} is for {point.nodes} nodes: sbatch it (dist-calo scale show)", flush=True)
            continue
        command = [sys.executable, "-m", "dist_calo.cli.scale", "run", str(results), "--point", str(number)]
        command += ["--again"] * again
        code = run_local(command, point.ranks) if point.backend == "torch" else _launched(command, point)
        if code:
            return code
    return 0


def _launched(command: Sequence[str], point: Point) -> int:
    """Start ranks by the launcher of their backend and return the exit code."""
    launcher = ["horovodrun", "--gloo", "-np", str(point.ranks)]
    if point.backend == "mpi":
        as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        launcher = ["mpirun", *as_root, "--oversubscribe", "--bind-to", "none", "-np", str(point.ranks)]
    beside = Path(sys.executable).with_name(launcher[0])
    found = str(beside) if beside.exists() else shutil.which(launcher[0])
    if found is None:
        raise MissingComponentError(f"{launcher[0]} is not on PATH, and point {point.described()} needs it")
    process = start([found, *launcher[1:], *command])
    with forwarding([process]):
        return process.wait()


def settings_of_point(results: Path, number: int, world: World) -> RunConfig:
    """Return the settings of a point that these ranks are to measure.

    Raises:
        ConfigError: if there is no such point, or it is one of another number of ranks.
    """
    plan = read_plan(results)
    point = plan.point(number)
    if world.size != point.ranks:
        raise ConfigError(
            f"--point {number}: is {point.nodes} x {point.ranks_per_node} ranks, but {world.launcher} started "
            f"{world.size}; start {point.ranks}, or none to have them started here"
        )
    return plan.run_config(number, results)


def prepare_job(results: Path, number: int) -> None:
    """Set the variables by which a batch job starts the ranks of a point.

    Raises:
        LaunchError: if the job has another number of nodes.
    """
    point = read_plan(results).point(number)
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    if nodes != str(point.nodes):
        raise LaunchError(
            f"point {number} is for {point.nodes} node(s), this job has {nodes}: sbatch -N {point.nodes}"
        )
    # A point may take less than the whole allocation.
    for name in ("SLURM_NTASKS_PER_NODE", "SLURM_TRES_PER_TASK"):
        os.environ.pop(name, None)
    os.environ["RANKS_PER_NODE"] = str(point.ranks_per_node)
    os.environ["SLURM_CPUS_PER_TASK"] = str(point.threads)
    if point.backend == "horovod":
        os.environ["LAUNCHER"] = "horovodrun"
    elif point.backend == "mpi":
        os.environ["MPI"] = mpi_plugin()
        os.environ["LAUNCHER"] = "mpirun" if os.environ["MPI"] == "none" else "srun"
    # A second start without a whole repeat (repeat-*.json) of this point is not followed by a third.
    os.environ["PROGRESS"] = str(point_folder(results, number))


def run_point(results: Path, number: int, again: bool, communicator: "Communicator") -> int:
    """Measure the missing repeats of a point on these ranks, as many as it asks for, and return the exit code."""
    from dist_calo.launching.node import process_age_s
    from dist_calo.scaling.measure import MeasurementStopped, measure
    from dist_calo.scaling.mlflow_runs import PointRecord

    startup_s = process_age_s()
    job = os.environ.get("SLURM_JOB_ID", "")
    world = communicator.world
    plan = read_plan(results)
    point = plan.point(number)
    if world.rank == 0 and again:
        # What this job has measured before it was put back into the queue is new.
        forget(results, number, spared_job=job if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else "")
    todo = communicator.broadcast_object(
        missing(results, number, plan.measurement.repeats) if world.rank == 0 else None
    )
    if not todo:
        _say(communicator, f"point {number} is done already; --again measures it anew")
        return 0
    earlier = read_results(results, number, plan.digest(number)) if world.rank == 0 else []
    run_id = earlier[-1].get("run_id") if earlier else None
    record = PointRecord(plan, number, results, run_id, rank=world.rank)
    config = plan.run_config(number, point_folder(results, number) / "scratch")
    _say(communicator, f"point {number}: {point.described()}")
    complete = False
    try:
        for repeat in todo:
            values = measure(config, plan.measurement, communicator, startup_s)
            record.repeat(repeat, values)
            if world.rank == 0:
                values |= {"point": number, "repeat": repeat, "run_id": record.run_id(), "job": job}
                values["plan"] = plan.digest(number)
                write_result(results, number, repeat, values)
            step, data, ranks = 1e3 * values["step_s"], 1e3 * values["wait_data_s"], values["wait_comm_s"]
            waiting = "" if ranks is None else f"for ranks {1e3 * ranks:.1f} ms, "
            _say(
                communicator,
                f"  repeat {repeat}: {values['showers_per_s']:.1f} showers/s, {step:.1f} ms a step, "
                f"waiting {waiting}for data {data:.1f} ms",
            )
        complete = True
    except MeasurementStopped as signal:
        _say(communicator, f"{signal}: point {number} stopped; the same command measures the rest")
        return EXIT_PREEMPTED
    finally:
        record.close(complete=complete)
    return 0


def _say(communicator: "Communicator", text: str) -> None:
    if communicator.world.rank == 0:
        print(text, flush=True)
