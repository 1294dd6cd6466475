"""A batch job around its ranks: choose the launcher, stage data, pass signals on, requeue, and say how it has ended.

The job scripts in ``slurm/`` end in this (``dist-calo job``), which runs on the first node. Ranks on any node leave
word for it, and one start of the job for the next, in the folder ``.job-NUMBER``.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from dist_calo.errors import EXIT_PREEMPTED, EXIT_USER, LaunchError
from dist_calo.launching import job_end, slurm

LAUNCHERS = ("srun", "mpirun", "torchrun", "horovodrun", "horovodrun_mpi", "elastic", "local")
LOOK_S = 2.0
"""Time between two looks for word of a lost node, in seconds."""
FAREWELL_S = 10.0
"""Time that a launcher has to leave by itself once a node is lost, in seconds."""
_REACT_S = 0.2
_SLURM_ENDS_US_S = 60
_PASS_SIGNALS_ON = ("srun", "mpirun", "local", "elastic")


class Job:
    """One start of a batch job.

    Args:
        allocation: its nodes and ranks.
    """

    def __init__(self, allocation: slurm.Allocation) -> None:
        self.allocation = allocation
        self.launcher = ""
        self.word = Path.cwd() / f".job-{allocation.job}"
        """Folder in which ranks leave word."""
        self.staged = ""
        """Folder of copied data on the local disk of each node."""
        self.lost = False
        """A node of the job no longer answers."""
        self._signals: list[int] = []
        self._passed_on = 0

    @property
    def was_stopped(self) -> bool:
        """True once SLURM has told the job to end."""
        return bool(self._signals)

    def heed_signals(self) -> None:
        """Remember from now on the signals by which SLURM tells that the time is nearly up."""
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, lambda number, _frame: self._signals.append(number))

    def choose_launcher(self) -> None:
        """Choose what starts the ranks, and set the variables that they need to find each other."""
        self.launcher = os.environ["LAUNCHER"] = choose_launcher(os.environ.get("LAUNCHER") or "auto")
        if self.launcher == "srun":
            os.environ["MPI"] = mpi_plugin()
        elif self.launcher in ("mpirun", "horovodrun", "horovodrun_mpi"):
            # Where ranks of the torch backend meet, which these launchers do not tell.
            os.environ["MASTER_ADDR"] = self.allocation.hosts[0]
            os.environ["MASTER_PORT"] = str(self.allocation.port)

    def each_node(self, *command: str, limit_s: int = 0, quiet: bool = False) -> bool:
        """Run a command on every node and return whether it succeeded; for `limit_s` seconds at most, if given."""
        return _succeeds(*_timeout(limit_s), *self._on_each_node(*command), quiet=quiet)

    def _on_each_node(self, *command: str) -> list[str]:
        n = self.allocation.nodes
        step = ["srun", "--mpi=none", "--overlap", f"--nodes={n}", f"--ntasks={n}", "--ntasks-per-node=1"]
        return [*step, *command]

    def run_ranks(self, arguments: Sequence[str]) -> int:
        """Start the ranks and return the launcher's exit code, as a shell gives it."""
        process = subprocess.Popen([starter(self.launcher), *arguments], stdin=subprocess.DEVNULL)
        loss_known_s: float | None = None
        look_s = 0.0
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(timeout=_REACT_S)
                break
            now_s = time.monotonic()
            while self._passed_on < len(self._signals):
                self._pass_on(self._signals[self._passed_on], process)
                self._passed_on += 1
            if loss_known_s is None and now_s >= look_s:
                look_s = now_s + LOOK_S
                loss_known_s = now_s if job_end.read_loss(self.word / "lost-node") else None
            # Ranks know of a lost node long before SLURM does, for which srun and others wait, often for minutes.
            if loss_known_s is not None and now_s > loss_known_s + FAREWELL_S:
                process.kill()
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, process: "subprocess.Popen[bytes]") -> None:
        """Tell the ranks, in the way that reaches them, that the time is nearly up."""
        when = time.strftime("%T")
        _say(
            f"{signal.Signals(number).name} for job {self.allocation.job} at {when}: the ranks save their work"
        )
        # Always as USR1: srun and mpirun kill the ranks when they get a TERM themselves.
        if self.launcher in _PASS_SIGNALS_ON:
            process.send_signal(signal.SIGUSR1)
        else:
            command = self._on_each_node(starter("signal_ranks"), "USR1", os.environ["SLURM_JOB_ID"])
            subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def stage(self, pattern: str, files: Sequence[str]) -> str | None:
        """Copy files to the folder STAGE on the local disk of every node.

        Args:
            pattern: their glob.
            files: their names.

        Returns:
            The glob of the copies; None if they could not be made.
        """
        if not files:
            return None
        place = os.environ["STAGE"]
        folder = f"{place}/dist_calo-{os.environ['SLURM_JOB_ID']}"
        copy = 'mkdir -p -- "$1" && cp --preserve=timestamps -- "${@:2}" "$1/"'
        if not self.each_node("--kill-on-bad-exit=1", "bash", "-c", copy, "stage", folder, *files):
            self.each_node("rm", "-rf", "--", folder)
            _say(
                f"data: STAGE={place} cannot be written, or is full: read from where they are",
                file=sys.stderr,
            )
            return None
        self.staged = folder
        # Checkpoints name the files that are there tomorrow.
        os.environ["DIST_CALO_STAGED_FROM"] = os.path.realpath(os.path.dirname(files[0]))
        _say(f"data: {pattern} copied to {folder} on each node")
        return f"{folder}/{pattern.rpartition('/')[2]}"

    def judge_loss(self, code: int, told: str) -> None:
        """Set `lost`, and say of which node."""
        loss = job_end.read_loss(self.word / "lost-node")
        if loss is not None:
            _say(f"\nerror: {loss.cause}")
            self.lost = job_end.is_lost(loss, self.allocation.hosts, starts_process)
            if self.lost and loss.suspect:
                _say(f"error: node {loss.suspect} no longer answers")
        if (
            not self.lost
            and job_end.may_hide_a_loss(code, told, self.launcher)
            and starts_process(self.allocation.hosts[0])
            and not self.each_node("true", limit_s=30, quiet=True)
        ):
            self.lost = True
            _say("\nerror: a node of this job no longer answers")

    def requeue(self) -> bool:
        """Put the job back into the queue; True if SLURM does it, and so ends this process."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        if not _succeeds("scontrol", "requeue", self.allocation.job):
            return False
        time.sleep(_SLURM_ENDS_US_S)
        return True


def run_job(module: str, arguments: Sequence[str], files_to_stage: Callable[[str], Sequence[str]]) -> int:
    """Run a module on all ranks of this batch job, put the job back into the queue where that helps, and report.

    Args:
        module: what a rank runs.
        arguments: its arguments.
        files_to_stage: finds the files of a glob that nodes need on their local disks.

    Returns:
        The exit code of the job.

    Raises:
        LaunchError: if this is no batch job, or its launcher is none of ours.
    """
    began_s = time.monotonic()
    job = Job(slurm.find_allocation(os.environ))
    job.heed_signals()
    job.choose_launcher()
    checkpoints = setting("checkpoint.dir", arguments)
    progress = os.environ.get("PROGRESS") or checkpoints
    began_with = job_end.achieved(progress) if progress else ""
    starts, nodes = slurm.job_start()[1], os.environ.get("SLURM_JOB_NODELIST", "")
    _say(_described(job, starts, nodes))
    arguments = _with_staged_data(job, arguments, files_to_stage)
    before = _open_word(job, began_with, is_restart=starts > 0)
    os.environ["REQUEUE"] = os.environ.get("REQUEUE") or "yes"
    os.environ["MODULE"] = module
    code = job.run_ranks(arguments)
    told, reason = job_end.read_failure(job.word / "failure")
    job.judge_loss(code, told)
    code = job_end.final_code(code, told)
    if job.staged and not job.lost:
        job.each_node("rm", "-rf", "--", job.staged, limit_s=15)
    if _goes_back(job, code, progress, before, began_with):
        _say(f"job {job.allocation.job} (exit code {code}) goes back into the queue and will continue")
        if job.requeue():
            return code
    shutil.rmtree(job.word, ignore_errors=True)
    _say(f"\njob {job.allocation.job}: exit code {code} after {time.monotonic() - began_s:.0f} s on {nodes}")
    summarise(code, checkpoints, nodes, reason)
    return code


def _described(job: Job, starts: int, nodes: str) -> str:
    """Return the first line of the log."""
    place = job.allocation
    mpi = f" --mpi={os.environ['MPI']}" if os.environ.get("MPI") else ""
    return (
        f"job {place.job} ({starts} restarts) on {nodes}: {place.ranks} rank(s), {place.ranks_per_node} a node, "
        f"{place.cores} core(s) each; {job.launcher}{mpi}, Python {shutil.which('python')}"
    )


def choose_launcher(name: str) -> str:
    """Return the launcher that a name stands for: ``auto`` is the first that works here.

    Raises:
        LaunchError: if the name is unknown.
    """
    if name == "auto":
        if _succeeds("srun", "--mpi=none", "--nodes=1", "--ntasks=1", "true", quiet=True):
            return "srun"
        return "mpirun" if shutil.which("mpirun") else "torchrun"
    if name not in LAUNCHERS:
        raise LaunchError(
            f"LAUNCHER={name}: choose auto, srun, mpirun, torchrun, horovodrun, horovodrun_mpi or elastic"
        )
    return name


def starter(name: str) -> str:
    """Return the path of a script in ``launch/``."""
    return str(Path("launch", f"{name}.sh").absolute())


def mpi_plugin() -> str:
    """Return the plugin of srun that starts MPI: MPI where it is set, otherwise one that works here, or ``none``."""
    return os.environ.get("MPI") or slurm.output(starter("mpi_plugin")) or "none"


def setting(name: str, arguments: Sequence[str]) -> str:
    """Return the value of the last ``--NAME=VALUE`` or ``--NAME VALUE`` among the arguments, empty if there is none.

    >>> setting("data.path", ["--data.path", "a.h5", "--data.path=b.h5"])
    'b.h5'
    """
    value = previous = ""
    for word in arguments:
        if previous == f"--{name}":
            value = word
        if word.startswith(f"--{name}="):
            value = word.partition("=")[2]
        previous = word
    return value


def starts_process(node: str) -> bool:
    """Return whether a node starts a process; of the first one it tells whether srun works here at all."""
    step = ("srun", "--mpi=none", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={node}", "true")
    return _succeeds("timeout", "--kill-after=5", "30", *step, quiet=True)


def summarise(code: int, checkpoints: str, nodes: str, reason: str) -> None:
    """Say where the run stands, which nodes are lost, and last, as that is where people look, why a rank failed."""
    if checkpoints and any(Path(checkpoints).glob("step-*.json")):
        _succeeds(sys.executable, "-m", "dist_calo", "status", checkpoints)
    if code > EXIT_USER and code != EXIT_PREEMPTED:
        shown = slurm.output("sinfo", "-h", "-N", "-n", nodes, "-t", "down,fail,no_respond", "-o", "%N (%t)")
        if shown:
            _say(f"error: lost node(s): {' '.join(sorted(set(shown.splitlines())))}")
    if reason and code not in (0, EXIT_PREEMPTED):
        _say(reason)


def _with_staged_data(
    job: Job, arguments: Sequence[str], files_to_stage: Callable[[str], Sequence[str]]
) -> list[str]:
    """Return the arguments, with the place of the copies where STAGE has data copied."""
    if os.environ.get("STAGE"):
        if pattern := setting("data.path", arguments):
            if copies := job.stage(pattern, files_to_stage(pattern)):
                return [*arguments, f"--data.path={copies}"]
        else:
            _say(
                "data: STAGE copies what --data.path or DATA names, and neither is given: read from where it is",
                file=sys.stderr,
            )
    return list(arguments)


def _open_word(job: Job, began_with: str, *, is_restart: bool) -> str:
    """Make the folder in which ranks leave word, and return what the start before this one began with."""
    job.word.mkdir(exist_ok=True)
    for variable, name in (("DIST_CALO_LOST", "lost-node"), ("DIST_CALO_FAILURE", "failure")):
        (job.word / name).unlink(missing_ok=True)
        os.environ[variable] = str(job.word / name)
    began, before = job.word / "began", ""
    if is_restart:
        with suppress(OSError):
            before = began.read_text()
    began.write_text(began_with)
    return before


def _goes_back(job: Job, code: int, progress: str, before: str, began_with: str) -> bool:
    """Return whether the job goes back into the queue, and say why not where that surprises."""
    wanted = os.environ["REQUEUE"] != "no"
    if not job_end.asks_for_requeue(
        code, was_stopped=job.was_stopped, has_lost_node=job.lost, is_wanted=wanted
    ) or not slurm.may_be_requeued(job.allocation.job):
        return False
    if progress and job_end.stands_still(before, began_with, job_end.achieved(progress)):
        _say(
            f"not requeued: two starts of the job saved nothing new in {progress}; give it more time (--time, "
            "--signal), or save more often (--checkpoint.every_steps)",
            file=sys.stderr,
        )
        return False
    return True


def _timeout(limit_s: int) -> list[str]:
    return ["timeout", str(limit_s)] if limit_s else []


def _succeeds(*command: str, quiet: bool = False) -> bool:
    """Run a command and return whether it succeeded."""
    nowhere = subprocess.DEVNULL if quiet else None
    with suppress(OSError):
        return (
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=nowhere, stderr=nowhere).returncode == 0
        )
    return False


def _say(text: str, file: TextIO | None = None) -> None:
    """Print a line at once: the ranks write into the same log."""
    print(text, file=file or sys.stdout, flush=True)
