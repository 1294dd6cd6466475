"""A study that several workers share: every trial is made once, and a dead worker's is gone on with."""

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.storages.journal import JournalFileBackend

from dist_calo.errors import ConfigError
from dist_calo.leases.signs_of_life import Beat, Process
from dist_calo.sweeping.claims import ATTEMPTS
from dist_calo.sweeping.picture import draw
from dist_calo.sweeping.study import Study
from dist_calo.sweeping.study_journal import cut_to_whole_lines
from dist_calo.sweeping.table import summary, table, trial_line
from dist_calo.sweeping.trial_folder import BEATS, Claim, note_failure
from dist_calo.sweeping.trial_results import PRUNED, TAKEN
from dist_calo.tracking.spool import Spool
from tests.support.ranks import ROOT
from tests.support.sweeps import RANGE, RATE, WorkedStudy, join, train

GRID = {"parameters": {"objective.name": ["hinge", "vanilla"], "train.seed": [1, 2, 3]}, "sampler": "grid"}


def finish(study: WorkedStudy, **how) -> None:
    """Train every trial that is left."""
    while (task := study.claims.next()) is not None:
        train(study, task, **how)
        study.results.complete(task)


def states(study: Study) -> Counter:
    return Counter(trial.state.name for trial in study.trials)


def forget(folder: Path, **changes) -> None:
    """Let a trial belong to a process that is not this one."""
    owner = Claim.of(folder)
    assert owner is not None
    replace(owner, **changes).write(folder)


def elsewhere(study: Study, task) -> None:
    forget(task.folder, machine="another", host="another", pid=1)


def test_a_grid_is_made_once_and_in_full(tmp_path):
    study = join(tmp_path, **GRID, trials=None)
    finish(study)
    found = [json.dumps(trial.params, sort_keys=True) for trial in study.trials]
    assert len(found) == len(set(found)) == 6
    assert study.is_complete
    assert join(tmp_path, **GRID, trials=None).claims.next() is None


def test_a_grid_of_any_size_is_queued_in_two_writings_and_also_from_halfway(tmp_path, monkeypatch):
    append, sizes = JournalFileBackend.append_logs, []

    def counted(backend, logs):
        sizes.append(len(logs))
        append(backend, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", counted)
    queued = [trial.system_attrs for trial in join(tmp_path, **GRID, trials=None).optuna.get_trials()]
    assert sizes[-2:] == [1, 5]
    journal = tmp_path / "journal.log"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-4]))
    again = [trial.system_attrs for trial in join(tmp_path, **GRID, trials=None).optuna.get_trials()]
    assert sizes[-2:] == [1, 3]
    assert again == queued


def test_workers_that_run_at_once_make_every_trial_once(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tests.sweeping.test_study import finish, GRID; "
        "from tests.support.sweeps import join; finish(join(Path(sys.argv[1]), **GRID, trials=None))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    workers = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    study = Study.read(tmp_path)
    assert states(study) == {"COMPLETE": 6}
    assert len({json.dumps(trial.params, sort_keys=True) for trial in study.trials}) == 6


def test_what_is_suggested_does_not_depend_on_the_worker(tmp_path):
    found = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        studies = [join(folder), join(folder)]
        tasks = [studies[number % 2 if folder.name == "two" else 0].claims.next() for number in range(4)]
        found.append([task.chosen[RATE] for task in tasks])
        assert [task.number for task in tasks] == [0, 1, 2, 3]
    assert found[0] == found[1]
    assert len(set(found[0])) == 4


@pytest.mark.parametrize("death", ["process", "requeue", "silence", "release"])
def test_a_dead_workers_trial_is_gone_on_with(tmp_path, death):
    study = join(tmp_path, trials=1, abandoned_after_s=0.3)
    task = study.claims.next()
    study.results.report(task, 10, 3.0, last=False)
    match death:
        case "process":
            forget(task.folder, created=0.0)
        case "requeue":
            forget(task.folder, machine="another", job="7", start=0)
            study.claims._here = replace(study.claims._here, job="7", start=1)
        case "silence":
            elsewhere(study, task)
        case "release":
            study.claims.release(task)
    again = study.claims.next()
    assert again.resumed
    assert (again.number, again.chosen, again.folder) == (task.number, task.chosen, task.folder)
    study.results.report(again, 20, 2.0, last=False)
    study.results.complete(again)
    (trial,) = study.trials
    assert (trial.state.name, trial.value, trial.intermediate_values) == ("COMPLETE", 2.0, {10: 3.0, 20: 2.0})


def test_a_living_workers_trial_is_left_to_it(tmp_path):
    study = join(tmp_path, trials=1, abandoned_after_s=BEATS * 0.1)
    task = study.claims.next()
    elsewhere(study, task)
    with Beat(task.folder / "beat", 0.1):
        assert study.claims.next() is None
    assert study.results.report(task, 10, 1.0, last=False) == TAKEN


@pytest.mark.parametrize("sign", ["beat", "run"])
def test_a_halted_worker_that_holds_a_lock_is_not_dead(tmp_path, monkeypatch, sign):
    monkeypatch.setattr("dist_calo.sweeping.claims.HELD_S", 0.0)
    study = join(tmp_path, trials=2, abandoned_after_s=0.3)
    task = study.claims.next()
    elsewhere(study, task)
    held = Beat(task.folder / "beat", 100.0)
    if sign == "run":
        held = ExitStack()
        identity = {"uri": "http://127.0.0.1:9", "experiment": "sweeps", "run_name": study.run_name(0)}
        held.callback(Spool.open_locked(tmp_path / "spool", None, identity).lock.release)
    with held:
        os.utime(task.folder / "beat", (0, 0))
        other = study.claims.next()
        assert other.number == 1
        study.results.fail(other, "any")
        assert study.claims.next() is None
        assert not Claim.of(task.folder).is_same(Process.here())
    assert study.claims.next().number == 0


def test_a_trial_that_was_taken_over_is_told_of_by_its_new_owner_alone(tmp_path):
    study = join(tmp_path, trials=1)
    task = study.claims.next()
    study.results.report(task, 10, 3.0, last=False)
    with task.owner.beat(task.folder, BEATS * 0.01) as beat:
        assert not beat.is_lost()
        elsewhere(study, task)
        beat._thread.join(60)
        assert beat.is_lost()
        assert not beat._thread.is_alive()
    assert study.results.report(task, 20, 2.0, last=False) == TAKEN
    told = (
        study.results.complete(task),
        study.results.prune(task),
        study.results.fail(task, "why"),
        study.claims.release(task),
    )
    assert told == (False, False, False, False)
    assert states(study) == {"RUNNING": 1}
    assert "reason" not in study.trial(0).user_attrs
    assert not Claim.of(task.folder).released


def test_a_trial_that_kills_its_workers_fails_in_the_end(tmp_path):
    study = join(tmp_path, trials=1)
    for _ in range(ATTEMPTS):
        task = study.claims.next()
        assert task is not None
        forget(task.folder, created=0.0)
    assert study.claims.next() is None
    assert states(study) == {"FAIL": 1}
    assert f"its worker died {ATTEMPTS} times at step 0" in trial_line(study, 0)


def test_progress_gives_a_trial_new_attempts(tmp_path):
    study = join(tmp_path, trials=1)
    for step in range(ATTEMPTS + 2):
        task = study.claims.next()
        assert task is not None
        (task.folder / "checkpoints").mkdir(exist_ok=True)
        (task.folder / "checkpoints" / f"step-{step + 1:08d}.pt").touch()
        forget(task.folder, created=0.0)


def test_the_word_of_a_dead_rank_is_the_reason(tmp_path):
    study = join(tmp_path, trials=1)
    task = study.claims.next()
    note_failure(task.folder, "rank 3: out of memory")
    note_failure(task.folder, "rank 1: the others are gone")
    forget(task.folder, created=0.0)
    assert study.claims.next() is None
    assert trial_line(study, 0) == "trial 0 fail: rank 3: out of memory  (1 of 1 finished)"


def test_trials_behind_the_others_are_pruned_but_not_at_their_end(tmp_path):
    study = join(tmp_path, trials=8, pruner="median")
    for _ in range(6):
        task = study.claims.next()
        assert train(study, task, 1.0) is None
        study.results.complete(task)
    task = study.claims.next()
    assert train(study, task, 2.0) == PRUNED
    study.results.prune(task)
    assert train(study, study.claims.next(), 2.0, steps=(30,)) is None
    assert states(study) == {"COMPLETE": 6, "PRUNED": 1, "RUNNING": 1}
    assert study.trials[6].intermediate_values == {10: 2.0}


@pytest.mark.parametrize(("direction", "best"), [("minimize", 0.5), ("maximize", 1.5)])
def test_the_value_is_the_best_of_the_validations(tmp_path, direction, best):
    study = join(tmp_path, trials=2, direction=direction)
    task = study.claims.next()
    for step, value in ((10, 1.0), (20, 0.5), (25, float("inf")), (30, 1.5)):
        study.results.report(task, step, value, last=step == 30)
    study.results.complete(task)
    assert study.best.value == best
    task = study.claims.next()
    study.results.report(task, 30, float("nan"), last=True)
    study.results.complete(task)
    assert "no validation gave a finite validation/score" in trial_line(study, 1)


def test_a_study_is_of_one_sweep_but_may_grow(tmp_path):
    finish(join(tmp_path, trials=1))
    with pytest.raises(ConfigError, match="holds a study with other steps, seed: name another folder"):
        join(tmp_path, steps=3, seed=4)
    study = join(tmp_path, trials=3)
    finish(study)
    assert len(study.finished) == 3
    with pytest.raises(ConfigError, match="holds no study"):
        Study.read(tmp_path / "none")


def test_a_command_of_old_makes_a_study_no_shorter_nor_less_patient(tmp_path):
    first = join(tmp_path, trials=1)
    finish(first)
    assert first.is_complete
    join(tmp_path, trials=3, abandoned_after_s=500)
    assert not first.is_complete
    assert "1 complete, of 3 trials" in summary(Study.read(tmp_path))
    old = join(tmp_path, trials=1)
    finish(old)
    assert (states(old), old.sweep.abandoned_after_s) == ({"COMPLETE": 3}, 500)


def test_a_worker_that_lost_the_lock_while_it_was_halted_takes_another_number(tmp_path, monkeypatch):
    halted, other = join(tmp_path), join(tmp_path)
    ask, others = halted.optuna.ask, []

    def late():
        (tmp_path / "study.lock").unlink()
        others.append(other.claims.next())
        elsewhere(other, others[0])
        return ask()

    monkeypatch.setattr(halted.optuna, "ask", late)
    task = halted.claims.next()
    assert (others[0].number, task.number) == (0, 1)
    assert task.folder == halted.trial_folder(1)
    assert task.owner.holds(task.folder)
    assert not task.owner.holds(others[0].folder)
    alone = join(tmp_path / "alone")
    assert [others[0].chosen, task.chosen] == [alone.claims.next().chosen, alone.claims.next().chosen]


def test_half_a_line_of_a_killed_writer_is_cut_off(tmp_path):
    study = join(tmp_path, trials=2)
    study.results.complete(study.claims.next())
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "wor')
    again = join(tmp_path, trials=2)
    assert again.claims.next().number == 1
    assert journal.read_bytes().startswith(whole + b'{"op_code"')
    for content in (b"", b"half", b"one\n", b"one\n" + b"x" * 10_000):
        journal.write_bytes(content)
        cut_to_whole_lines(journal)
        assert journal.read_bytes() == content[: content.rfind(b"\n") + 1]


def test_a_study_is_told_and_drawn(tmp_path):
    study = join(tmp_path / "study", trials=7, parameters={RATE: RANGE, "objective.name": ["hinge", "wgan"]})
    assert not draw(study, tmp_path / "none.png")
    for value in (3.0, 1.0, 2.0, 5.0, 4.0, 6.0):
        task = study.claims.next()
        train(study, task, value)
        study.results.complete(task)
    study.results.fail(study.claims.next(), "step 3: non-finite")
    lines = table(study).splitlines()
    assert [line.split()[0] for line in lines[1:8]] == ["1*", "2", "0", "4", "3", "5", "6"]
    assert lines[0].split()[-2:] == ["learning_rate", "objective.name"]
    assert lines[-1] == "trial 6 failed: step 3: non-finite"
    told = summary(study)
    assert "6 complete, 1 fail, of 7 trials" in told
    assert f"--optimizer.learning_rate={study.best.params[RATE]}" in told.splitlines()[-1]
    assert draw(study, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
