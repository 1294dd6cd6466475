"""The virtual cluster of up.sh from Python: submit a job, follow its log, crash a node."""

import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "DEADLINE")
"""States that a job does not leave by itself."""


@dataclass(frozen=True)
class Job:
    """A submitted job.

    Attributes:
        cluster: where it runs.
        number: its job number, with the task of an array (``12`` or ``12_3``).
        log: what its script and ranks print.
    """

    cluster: "Cluster"
    number: str
    log: Path

    @property
    def text(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def facts(self) -> dict[str, str]:
        """What ``scontrol show job`` tells, by name: JobState, ExitCode, Restarts, NodeList, ..."""
        shown = self.cluster.run("scontrol", "show", "job", "--oneliner", self.number)
        return dict(re.findall(r"(\w+)=(\S*)", shown))

    @property
    def state(self) -> str:
        return self.facts()["JobState"]

    def wait_for(self, words: str, seconds: float = 90, times: int = 1) -> None:
        """Wait until the log holds some words (so many times), and fail with the log if it does not in time."""
        deadline = time.monotonic() + seconds
        while self.text.count(words) < times:
            assert time.monotonic() < deadline, (
                f"{words!r} is not in the log of job {self.number}:\n{self.text}"
            )
            assert self.state not in ENDED or self.text.count(words) >= times, (
                f"job {self.number} has ended:\n{self.text}"
            )
            time.sleep(0.1)

    def wait(self, seconds: float = 120) -> str:
        """Wait for the end of the job, over requeues, and return its state; cancel it and fail if that takes longer."""
        deadline = time.monotonic() + seconds
        while (state := self.state) not in ENDED:
            if time.monotonic() > deadline:
                self.cluster.run("scancel", self.number)
                raise AssertionError(f"job {self.number} is {state} after {seconds} s:\n{self.text}")
            time.sleep(0.2)
        return state

    def finish(self, seconds: float = 120) -> str:
        """Wait for the end of a job that has to succeed, and return its log."""
        state = self.wait(seconds)
        assert state == "COMPLETED", f"job {self.number} is {state}:\n{self.text}"
        return self.text

    def signal(self, name: str, *options: str) -> None:
        """Send a signal as ``scancel --signal`` does; ``--batch`` sends it to the batch script alone."""
        self.cluster.run("scancel", f"--signal={name}", *options, self.number)


@dataclass(frozen=True)
class Cluster:
    """The virtual cluster.

    Attributes:
        prefix: name of the nodes without their number.
        subnet: third number of their addresses, 10.77.SUBNET.10 and so on.
        nodes: how many.
        environ: variables for every job.
    """

    prefix: str = "vn"
    subnet: int = 77
    nodes: int = 4
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        """Folder of its configuration and logs."""
        return Path(f"/tmp/vcluster-{self.prefix}")

    @property
    def disk(self) -> Path:
        """The local disk of a node, as the node sees it."""
        return self.base / "local"

    def up(self) -> None:
        """Start it, or start it anew."""
        options = f"-p {self.prefix} -s {self.subnet} -n {self.nodes}".split()
        started = subprocess.run([HERE / "up.sh", *options], capture_output=True, text=True, timeout=120)
        assert started.returncode == 0, started.stdout + started.stderr

    def down(self) -> None:
        subprocess.run([HERE / "down.sh", "-p", self.prefix], timeout=60, check=True)

    def node(self, action: str, number: int, *command: str) -> subprocess.CompletedProcess[str]:
        """``crash`` a node, start it again (``up``), or ``exec`` a command on it."""
        program = [str(HERE / "node.sh"), "-p", self.prefix, action, str(number), *command]
        return subprocess.run(program, capture_output=True, text=True, timeout=60, env=self._environment())

    def run(self, *command: str, folder: Path | None = None) -> str:
        """Output of one of SLURM's programs."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=self._environment(), cwd=folder
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(
        self,
        folder: Path,
        script: str,
        *arguments: str,
        options: tuple[str, ...] = (),
        log: str | None = None,
    ) -> Job:
        """``sbatch OPTIONS SCRIPT ARGUMENTS`` in a folder; the log lies there unless `log` names it."""
        name = log or f"{Path(script).stem}-%A.log"
        shown = self.run(
            "sbatch", "--parsable", f"--output={name}", *options, script, *arguments, folder=folder
        )
        number = shown.strip().split(";")[0]
        return Job(self, number, folder / name.replace("%A", number).replace("%j", number))

    def idle(self, seconds: float = 60) -> None:
        """Wait until all nodes are free, and so the scripts of all jobs have ended."""
        deadline = time.monotonic() + seconds
        while self.run("sinfo", "-h", "-N", "-o", "%t").split() != ["idle"] * self.nodes:
            assert time.monotonic() < deadline, self.run("sinfo", "-N", "-l") + self.run("squeue")
            time.sleep(0.2)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environ, "SLURM_CONF": str(self.base / "slurm.conf")}
