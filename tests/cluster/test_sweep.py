"""``sbatch --array`` of slurm/sweep.sh: tasks on several nodes share one study, and none of it is lost with a node."""

from collections import Counter
from pathlib import Path

from dist_calo.sweeping.study import Study
from tests.cluster.slurm import Cluster, Job
from tests.support.ranks import ROOT
from tests.support.small_runs import write_part
from tests.support.sweeps import recorded, write_tiny

TRIALS = 20
SIGNALS = ROOT / "data" / "signals" / "signals_electrons.h5"


def test_twenty_trials_by_two_tasks_one_of_which_loses_its_node(
    cluster: Cluster, checkout: Path, tmp_path: Path
) -> None:
    data = write_part(SIGNALS, tmp_path / "data", rows=(120,))
    # A trial lasts long enough that a node can be lost in its midst.
    halves = dict.fromkeys(("train.validate_every_steps", "checkpoint.every_steps"), 100)
    file = write_tiny(
        tmp_path / "tiny.yaml",
        data,
        trials=TRIALS,
        sampler="tpe",
        abandoned_after_s=40,
        steps=200,
        settings={"train.log_every_steps": 100, **halves},
    )
    study = tmp_path / "study"
    array = cluster.submit(
        checkout,
        "slurm/sweep.sh",
        str(file),
        "--study",
        str(study),
        options=("--array=1-2", "--exclusive"),
        log=str(tmp_path / "sweep-%A_%a.log"),
    )
    tasks = [
        Job(cluster, f"{array.number}_{task}", tmp_path / f"sweep-{array.number}_{task}.log")
        for task in (1, 2)
    ]
    # In the midst of its second trial, of which the first checkpoint is written.
    tasks[0].wait_for("step 100: validation", times=2, seconds=200)
    cluster.node("crash", int(tasks[0].facts()["NodeList"].removeprefix(cluster.prefix)))
    logs = [task.finish(seconds=300) for task in tasks]

    trials = Study.read(study).trials
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": TRIALS}
    assert all(sorted(trial.intermediate_values) == [100, 200] for trial in trials)
    assert sum(log.count(" goes on: ") for log in logs) == 1
    assert recorded(tmp_path) == (["FINISHED"], ["FINISHED"] * TRIALS)
    assert not list((study / "spool").iterdir())
