"""One point of a plan on the ranks that a launcher started."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.errors import EXIT_PREEMPTED, ConfigError
from dist_calo.scaling.plan import Plan, Point, read_plan
from dist_calo.scaling.results import forget, missing, point_folder, read_results, write_result

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator


def checked_point(plan: Plan, number: int) -> Point:
    """The point of a number.

    Raises:
        ConfigError: if the plan has none.
    """
    if not 0 <= number < len(plan.points):
        raise ConfigError(f"--point {number}: the plan has points 0 to {len(plan.points) - 1}")
    return plan.points[number]


def run_point(results: Path, number: int, again: bool, communicator: "Communicator") -> int:
    """Measure the missing repeats of a point on these ranks, as many as it asks for, and return the exit code."""
    from dist_calo.launching.node import process_age_s
    from dist_calo.scaling.measure import Stopped, measure
    from dist_calo.scaling.record import PointRecord

    startup_s = process_age_s()
    job = os.environ.get("SLURM_JOB_ID", "")
    world = communicator.world
    plan = read_plan(results)
    point = checked_point(plan, number)
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
    except Stopped as signal:
        _say(communicator, f"{signal}: point {number} stopped; the same command measures the rest")
        return EXIT_PREEMPTED
    finally:
        record.close(complete=complete)
    return 0


def _say(communicator: "Communicator", text: str) -> None:
    if communicator.world.rank == 0:
        print(text, flush=True)
