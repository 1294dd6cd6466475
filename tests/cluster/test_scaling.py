"""A scaling experiment as a job array on real nodes, and its report."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, Job
from tests.support.small_runs import train_command, write_showers

POINTS = [
    "--nodes=1,2,4",
    "--ranks=1,2",
    "--batch=2",
    "--overlap=off",
    "--repeats=1",
    "--warmup=1",
    "--steps=4",
    "--no-end-to-end",
]


NO_PROBES = "--export=ALL,LAUNCHER=srun,MPI=none"
"""Which launcher works is what other tests ask."""


def scale(checkout: Path, *words: str | Path) -> str:
    command = [sys.executable, "-m", "dist_calo", "scale", *map(str, words)]
    environ = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(600)
def test_an_array_of_six_points_is_measured_and_reported(
    cluster: Cluster, checkout: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    settings = train_command(write_showers(tmp_path / "data"), tmp_path)[3:]
    told = scale(
        checkout, "plan", results, *POINTS, *(word for word in settings if "global_batch" not in word)
    )
    commands = re.findall(r"sbatch (.*) slurm/scaling.sh (\S+)", told)
    jobs: list[Job] = []
    for options, folder in commands:
        logs = f"{tmp_path}/scaling-%A_%a.log"
        jobs.append(
            cluster.submit(
                checkout, "slurm/scaling.sh", folder, options=(*shlex.split(options), NO_PROBES), log=logs
            )
        )
    assert [options.partition("--array=")[2] for options, _ in commands] == ["0-1", "2-3", "4-5"]
    for job, (options, _) in zip(jobs, commands, strict=True):
        for task in options.partition("--array=")[2].split("-"):
            array = Job(cluster, f"{job.number}_{task}", tmp_path / f"scaling-{job.number}_{task}.log")
            assert "repeat 0" in array.finish(seconds=300)
    measured = [json.loads(path.read_text()) for path in sorted(results.glob("points/*/repeat-0.json"))]
    assert [values["ranks"] for values in measured] == [1, 2, 2, 4, 4, 8]
    assert [values["nodes"] for values in measured] == [1, 1, 2, 2, 4, 4]
    told = scale(checkout, "report", results, "--out", tmp_path / "report")
    # Whether enough points count for a check of the model is up to what else the machine does.
    assert told.startswith("weak scaling, torch fp32, 2 a rank, no overlap: efficiency ")
    assert "cost model" in told
    assert (tmp_path / "report" / "report.html").stat().st_size > 50_000
    with (tmp_path / "report" / "points.csv").open() as table:
        assert len(list(csv.DictReader(table))) == 6
