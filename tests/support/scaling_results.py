"""Results of scaling experiments made by formula, to test what is computed from them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dist_calo.config import RunConfig, TrackingConfig, TrainConfig
from dist_calo.scaling.cost import all_reduce_seconds
from dist_calo.scaling.plan import Measurement, Point, ScalingPlan, write_plan
from dist_calo.scaling.results import write_result

BYTES, COLLECTIVES = 4e6, 10.0
BASE_S, SAMPLE_S, LATENCY_S, BANDWIDTH = 0.010, 0.002, 50e-6, 1e9
WITHIN = 0.1
"""Latency, and time of a byte, within a node, as a share of those between nodes."""


def point(nodes: int = 1, ranks: int = 1, **changes: Any) -> Point:
    values: dict[str, Any] = {
        "study": "weak",
        "threads": 1,
        "backend": "torch",
        "wire": "fp32",
        "overlap": True,
        "batch": 16,
    }
    return Point(nodes=nodes, ranks_per_node=ranks, **{**values, **changes})


def seconds(point: Point, algorithm: str = "ring", turns: float = 1.0) -> float:
    """Time of a step by the model's own formula."""
    between = 1.0 if point.nodes > 1 else WITHIN
    payload = BYTES / (1 if point.wire == "fp32" else 2)
    wire = all_reduce_seconds(algorithm, point.ranks, payload, 0.0, BANDWIDTH / between)
    latencies = COLLECTIVES * all_reduce_seconds(algorithm, point.ranks, 0.0, LATENCY_S * between, 1.0)
    return turns * (BASE_S + SAMPLE_S * point.global_batch / point.ranks) + wire + latencies


def result(point: Point, step_s: float, turns: float = 1.0) -> dict[str, Any]:
    """A measurement such as `dist_calo.scaling.measure` makes."""
    compute = turns * (BASE_S + SAMPLE_S * point.global_batch / point.ranks)
    return {
        "step_s": step_s,
        "showers_per_s": point.global_batch / step_s,
        "compute_s": compute,
        "compute_slowest_node": "n1",
        "wait_comm_s": max(step_s - compute, 0.0),
        "wait_data_s": 0.0,
        "cpu_s": compute / turns,
        "bytes_per_step": BYTES / (1 if point.wire == "fp32" else 2),
        "collectives_per_step": COLLECTIVES,
        "peak_memory_bytes": 5e8,
        "energy_j": None,
        "energy_j_per_shower": None,
        "startup_s": 5.0,
        "build_s": 1.0,
        "validation_s": 2.0,
        "checkpoint_s": 1.0,
        "end_to_end_s": 20.0,
        "threads": 1,
        "threads_per_core": turns,
        "thread_quota": 1.0,
        "run_id": None,
    }


def write_experiment(
    folder: Path,
    points: Sequence[Point],
    noise: float = 0.0,
    algorithm: str = "ring",
    cores: int = 10**6,
    changes: Callable[[Point], dict[str, Any]] = lambda point: {},
) -> ScalingPlan:
    """A plan and three repeats of each point, without MLflow; ranks beyond the cores take turns.

    The changes replace values of a point's results, before noise falls on the time of a step.
    """
    config = RunConfig(tracking=TrackingConfig(uri="none"), train=TrainConfig(max_steps=100))
    plan = ScalingPlan(points=tuple(points), config=config, measurement=Measurement(repeats=3))
    write_plan(folder, plan)
    generator = np.random.default_rng(1)
    for number, each in enumerate(points):
        turns = max(1.0, each.ranks / cores)
        for repeat in range(3):
            values = result(each, seconds(each, algorithm, turns), turns) | changes(each)
            values["step_s"] *= float(np.exp(noise * generator.standard_normal()))
            write_result(folder, number, repeat, values)
    return plan
