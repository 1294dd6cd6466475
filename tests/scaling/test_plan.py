"""Plans of scaling experiments: what is crossed, what is left out, what is written and how it is started."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from dist_calo.__main__ import main
from dist_calo.config import CommConfig, RunConfig, TrainConfig
from dist_calo.errors import ConfigError, DataError
from dist_calo.scaling.plan import Axes, Measurement, _ranges, commands, make_plan, read_plan, write_plan
from dist_calo.scaling.results import forget, missing, read_results, write_result
from tests.support.scaling_results import point, result, write_experiment

CROSSED = Axes(
    nodes=[1, 2],
    ranks_per_node=[1, 2],
    backends=["torch", "mpi"],
    wires=["fp32", "bf16"],
    overlap=[True, False],
    weak_batches=[8],
    strong_batches=[3],
)


def plan_of(axes=CROSSED, rows=1000, **settings):
    return make_plan(axes, RunConfig(**settings), Measurement(repeats=2), rows)


def test_all_combinations_but_the_impossible_are_planned():
    plan = plan_of()
    # The strong study of 3 showers has nothing to do for 4 ranks.
    assert len(plan.points) == 2 * 2 * 8 * 2 - 8
    assert len(plan.left_out) == 8
    assert "4 ranks cannot share a global batch of 3" in plan.left_out[0]
    assert len(set(plan.points)) == len(plan.points)


def test_a_global_batch_larger_than_the_data_is_left_out():
    plan = plan_of(rows=20)
    assert any(
        "a global batch of 32 is larger than the 20 training showers" in line for line in plan.left_out
    )


def test_a_weak_study_fixes_the_batch_of_a_rank_and_a_strong_one_that_of_all():
    assert point(2, 4, batch=8).global_batch == 64
    assert point(2, 4, batch=8, study="strong").global_batch == 8


def test_points_of_a_number_of_nodes_stand_together():
    nodes = [each.nodes for each in plan_of().points]
    assert len(list(itertools.groupby(nodes))) == 2


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = plan_of(train=TrainConfig(seed=4), comm=CommConfig(bucket_mb=2.0))
    text = write_plan(tmp_path, replace(plan, parent_run="abc")).read_text()
    assert read_plan(tmp_path) == replace(plan, parent_run="abc")
    assert text.count("\n- {point: ") == len(plan.points)


def test_a_point_decides_its_own_settings(tmp_path):
    plan = plan_of(comm=CommConfig(bucket_mb=2.0), train=TrainConfig(seed=4, accumulation=2))
    config = plan.run_config(len(plan.points) - 1, tmp_path)
    assert (config.comm.backend, config.comm.wire, config.comm.overlap) == ("mpi", "bf16", False)
    assert (config.train.global_batch_size, config.train.seed, config.train.accumulation) == (32, 4, 1)
    assert config.comm.bucket_mb == 2.0
    assert config.data.remainder == "drop"


def test_results_are_never_planned_over(tmp_path):
    write_plan(tmp_path, plan_of())
    write_result(tmp_path, 0, 0, {})
    with pytest.raises(ConfigError, match="holds results of a plan already"):
        write_plan(tmp_path, plan_of())


def test_a_killed_task_has_only_its_missing_repeats_left(tmp_path):
    for repeat in (0, 2):
        write_result(tmp_path, 7, repeat, result(point(), 0.1) | {"repeat": repeat})
    (tmp_path / "points" / "0007" / ".repeat-1.json.123.tmp").write_text("{")
    assert missing(tmp_path, 7, 4) == [1, 3]
    assert [result["repeat"] for result in read_results(tmp_path, 7)] == [0, 2]
    forget(tmp_path, 7)
    assert missing(tmp_path, 7, 2) == [0, 1]


def test_a_restarted_job_forgets_only_what_others_measured(tmp_path):
    for repeat, job in enumerate(("12", "11", "")):
        write_result(tmp_path, 7, repeat, {"job": job})
    (tmp_path / "points" / "0007" / "repeat-3.json").write_text("{")
    forget(tmp_path, 7, spared_job="12")
    assert missing(tmp_path, 7, 4) == [1, 2, 3]


def test_every_number_of_nodes_has_its_array(tmp_path):
    axes = Axes(nodes=[1, 4], ranks_per_node=[1, 2], threads=[2], weak_batches=[8])
    told = commands(plan_of(axes), tmp_path)
    assert "sbatch -N 1 --ntasks-per-node=2 --cpus-per-task=2 --array=0-1 slurm/scaling.sh" in told
    assert "sbatch -N 4 --ntasks-per-node=2 --cpus-per-task=2 --array=2-3 slurm/scaling.sh" in told
    assert _ranges([0, 2, 3, 5]) == "0,2-3,5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "r", "--nodes=0,2"], "--nodes 0,2: give numbers of at least 1"),
        (["plan", "r", "--wires=int8"], "--wires int8: int8 is none of fp32, bf16, fp16"),
        (["plan", "r", "--repeats=0"], "--repeats 0: must be at least 1"),
        (["plan", "r", "--mode=strong", "--global-batch=1", "--ranks=2"], "no point can be run"),
        (["plan", "r", "--train.max_stepz=3"], "the nearest is train.max_steps"),
        (["plan", "r", "--train.max_epochs=2"], "train.max_epochs=2: is another number of steps"),
        (["run", "r"], "make the plan first: dist-calo scale plan r"),
        (["report", "r"], "make the plan first"),
        (["paint"], "scale paint: there is no such verb; the verbs are plan, run, show, report"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    sample = f"--data.path={Path.cwd()}/data/sample/*.h5"
    monkeypatch.chdir(tmp_path)
    code = main(["scale", *arguments, *([sample] if arguments[0] == "plan" else [])])
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert message in said


def test_help_says_each_default_once(capsys):
    with pytest.raises(SystemExit):
        main(["scale", "plan", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "ranks on each node (default: 1,2)" in said
    assert "(default 1" not in said


def test_a_point_that_does_not_exist_is_refused(tmp_path, capsys):
    write_plan(tmp_path, plan_of(Axes(ranks_per_node=[1, 2], threads=[3])))
    assert main(["scale", "show", str(tmp_path), "--point=1"]) == 0
    assert capsys.readouterr().out == "1 2 3 torch\n"
    assert main(["scale", "show", str(tmp_path), "--point=2"]) == 2
    assert "the plan has points 0 to 1" in capsys.readouterr().err


def test_a_result_of_another_plan_is_not_mixed_in(tmp_path):
    plan = write_experiment(tmp_path, [point(), point(ranks=2)])
    found = result(point(), 0.1)
    write_result(tmp_path, 0, 0, found | {"plan": plan.digest(0)})
    assert read_plan(tmp_path).digest(0) == plan.digest(0)
    assert len(read_results(tmp_path, 0, plan.digest(0))) == 3, "results of earlier versions name no plan"
    others = [
        replace(plan, points=plan.points[::-1]),
        replace(plan, measurement=replace(plan.measurement, steps=7)),
        replace(plan, config=replace(plan.config, model=replace(plan.config.model, name="lcd_3dgan"))),
    ]
    for other in others:
        with pytest.raises(
            DataError, match=r"repeat-0.json: was measured for another plan .*; remove it and run"
        ):
            read_results(tmp_path, 0, other.digest(0))
    more = replace(plan, measurement=replace(plan.measurement, repeats=9))
    assert read_results(tmp_path, 0, more.digest(0))
