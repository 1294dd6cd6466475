"""A batch job outside of SLURM, with programs that stand in for SLURM's: when a job goes back into the queue."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.ranks import ROOT, wait_until

PROGRAMS = {
    # A trainer that saves what it is told to, leaves word, and ends with a code.
    "python": f"""
if [ "$3" = job ]; then exec {sys.executable} "$@"; fi"""
    """
if [ "$3" = launch ]; then
    mkdir -p runs/7
    if [ -n "$WAITS" ]; then trap 'echo told; kill $!; exit 75' USR1; echo waits; sleep 60 & wait; fi
    [ -z "$SAVES" ] || touch "runs/7/step-$SAVES.pt"
    [ -z "$LOSES" ] || printf '%s\\n' "$LOSES" >"$DIST_CALO_LOST"
    [ -z "$TELLS" ] || printf '1\\n%s\\n' "$TELLS" >"$DIST_CALO_FAILURE"
    exit "$CODE"
fi""",
    "scontrol": """
case "$*" in
    *requeue*) echo requeued; kill -KILL $PPID ;; # as SLURM does
    *"show job"*) echo "JobId=7 JobState=RUNNING Reason=None Requeue=1 Restarts=0" ;;
    *) printf 'n1\\nn2\\n' ;;
esac""",
    "srun": """
[ -z "$NO_SRUN" ] || exit 1
case "$*" in *--nodes=2*) [ -z "$NODE_IS_DEAD" ] ;; esac""",
    "sinfo": "exit 0",
}


@dataclass
class Site:
    """A folder to submit from."""

    folder: Path
    restarts: int = 0

    def start(self, signal_name: str = "", **environ: str) -> tuple[int, str]:
        """Return exit code and log of one start of job 7, which gets a signal once it waits; the next is a restart."""
        environ |= {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NAME": "dist_calo",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_RESTART_COUNT": str(self.restarts),
            "LAUNCHER": "local",
        }
        command = ["bash", "-c", "source launch/job.sh; run_training"]
        log = self.folder / f"log-{self.restarts}"
        with log.open("w") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environ, stdout=out, stderr=subprocess.STDOUT
            )
        if signal_name:
            wait_until(lambda: "waits" in log.read_text(), 60, f"a rank that waits, in {log}")
            process.send_signal(signal.Signals[signal_name])
        code = process.wait(60)
        self.restarts += 1
        return code, log.read_text()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    return Site(tmp_path)


def goes_on(result: tuple[int, str]) -> bool:
    return "goes back into the queue" in result[1] and "requeued" in result[1]


def test_a_job_ends_after_two_starts_that_saved_nothing(site: Site) -> None:
    assert goes_on(site.start(CODE="75", SAVES="1"))
    assert goes_on(site.start(CODE="75"))
    code, log = site.start(CODE="75")
    assert code == 75
    assert "not requeued: two starts of the job saved nothing new in runs/7" in log


def test_a_start_that_saves_is_followed_by_two_more(site: Site) -> None:
    for saves in ("1", "", "2", "", "3"):
        assert goes_on(site.start(CODE="75", SAVES=saves))


def test_a_job_that_is_done_leaves_nothing_behind(site: Site) -> None:
    assert site.start(CODE="0", SAVES="1")[0] == 0
    assert not list(site.folder.glob(".job-*"))


def test_a_lost_node_puts_the_job_back_whoever_noticed(site: Site) -> None:
    log = site.start(CODE="1", LOSES="node n3 (ranks 4-5) no longer answers")
    assert goes_on(log)
    assert "error: node n3 (ranks 4-5) no longer answers" in log[1]
    # The launcher ended the ranks before they could tell.
    log = site.start(CODE="137", NODE_IS_DEAD="yes", SAVES="2")
    assert goes_on(log)
    assert "error: a node of this job no longer answers" in log[1]


def test_a_killed_rank_is_no_lost_node(site: Site) -> None:
    assert not goes_on(site.start(CODE="137", SAVES="1"))
    # Where srun starts nothing at all it says nothing about nodes.
    assert not goes_on(site.start(CODE="137", SAVES="2", NO_SRUN="yes"))


def test_a_rank_that_fails_ends_the_job_with_its_line(site: Site) -> None:
    code, log = site.start(CODE="137", TELLS="[rank 3 of 4] no space left", NODE_IS_DEAD="yes")
    assert code == 1
    assert "queue" not in log
    assert log.rstrip().endswith("[rank 3 of 4] no space left")


def test_staging_needs_to_know_the_files(site: Site) -> None:
    assert "data: STAGE copies what --data.path or DATA names" in site.start(CODE="0", STAGE="/local")[1]


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_a_signal_reaches_the_ranks_and_the_job_goes_back(site: Site, name: str) -> None:
    log = site.start(signal_name=name, WAITS="yes", SAVES="1")
    assert f"{name} for job 7 at " in log[1]
    assert "told" in log[1]
    assert goes_on(log)
    assert "queue" not in site.start(signal_name=name, WAITS="yes", SAVES="2", REQUEUE="no")[1]
