"""Start ranks for a test under any launcher, never hang, leave no process behind, show what every rank printed.

    run = run_ranks([sys.executable, "-m", "dist_calo.train", "--train.max_steps=5"], 2, launcher="mpirun")
    run.check()

The whole output is printed as well: pytest shows it when the test fails.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "DIST_CALO_TEST_RUN"
GRACE_SECONDS = 20.0

# What a launcher needs beyond Python and torch; the names are those of tests/support/components.py.
LAUNCHERS: dict[str, tuple[str, ...]] = {
    "single": (),
    "local": (),
    "torchrun": (),
    "mpirun": ("mpi",),
    "horovodrun": ("horovod",),
    "horovodrun-mpi": ("horovod", "mpi"),
}

_LAUNCHER_VARIABLES = re.compile(
    r"(OMPI|PMIX|PMI|PRTE|SLURM|HOROVOD|TORCHELASTIC|GROUP|ROLE)_|"
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT)$"
)
# Open MPI and Horovod over MPI: [1,0]<stdout>:text   Horovod over Gloo: [0]<stderr>:text   torchrun: [default0]:text
_TAG = re.compile(r"\[(?:\d+,|default)?(\d+)\](<std(?:out|err)>)?:")


class RanksHung(AssertionError):
    """The ranks did not end within the time allowed; all of them were killed."""


@dataclass(frozen=True, kw_only=True)
class RankRun:
    """What is left of a run: how it ended and what was said.

    Attributes:
        returncode: that of the launcher; under "local" that of the first rank that failed, 0 when none did.
            As with subprocess, a rank ended by a signal has the signal's number, negative.
        output: everything printed, stdout and stderr together: the launcher's lines, then those of rank 0, 1, ...,
            each headed by ``[rank 0] `` and so on.
        ranks: what each rank printed.
        seconds: from the start to the end of the last process.
        killed: processes that had to be killed: they outlived their launcher, or (under "local") were still running
            GRACE_SECONDS after another rank had failed.
    """

    returncode: int
    output: str
    ranks: dict[int, str]
    seconds: float
    killed: int

    def check(self) -> "RankRun":
        """Return itself, or fail with the output when the run did or left processes behind."""
        if self.returncode or self.killed:
            pytest.fail(
                f"exit code {self.returncode}, {self.killed} processes killed\n{self.output}", pytrace=False
            )
        return self


def launcher_params(*names: str) -> list[Any]:
    """Launchers (by default all) for ``pytest.mark.parametrize``, each marked with what it requires."""
    return [
        pytest.param(name, marks=[pytest.mark.requires(component) for component in LAUNCHERS[name]])
        for name in names or LAUNCHERS
    ]


def run_ranks(
    argv: Sequence[str | Path],
    n: int,
    launcher: str = "local",
    env: Mapping[str, str] | None = None,
    timeout: float = 120.0,
    cwd: str | Path | None = None,
) -> RankRun:
    """Run ``argv`` on ``n`` ranks and wait for the end of all of them.

    Args:
        argv: the command of one rank, its program included: ``[sys.executable, "-m", "dist_calo.train", ...]``.
        n: number of ranks; 1 for the launcher "single", which starts the command as it is.
        launcher: one of LAUNCHERS. "local" starts the ranks itself with torchrun's variables.
        env: variables added to this process's own, from which every launcher's variables have been removed. Each
            rank runs with one OpenMP thread unless told otherwise.
        timeout: seconds after which every process of the run is killed and RanksHung is raised.
        cwd: the folder to run in; this project's folder by default.

    Raises:
        RanksHung: with the output of every rank.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"launcher {launcher!r} is none of {', '.join(LAUNCHERS)}")
    if launcher == "single" and n != 1:
        raise ValueError(f"the launcher 'single' starts 1 rank, not {n}")
    mark = f"{os.getpid()}-{uuid.uuid4().hex}"
    base = _environment(env or {}, mark)
    command = [str(part) for part in argv]
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        job = _Job(Path(folder), mark, cwd or ROOT, tagged=launcher not in ("single", "local"))
        try:
            if launcher == "local":
                port = str(free_port())
                for rank in range(n):
                    job.start(command, base | _torchrun_variables(rank, n, port))
            else:
                job.start(_launch(launcher, n) + command, base)
            return job.wait(timeout)
        finally:
            job.kill()


def wait_until(
    condition: Callable[[], object],
    within_s: float = 30.0,
    what: str = "the condition",
    every_s: float = 0.05,
) -> None:
    """Return once the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + within_s
    never = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {within_s:g} s"
        never.wait(every_s)


def free_port() -> int:
    """A TCP port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def split_by_rank(text: str) -> tuple[str, dict[int, str]]:
    """Undo the tags that a launcher writes in front of what its ranks print.

    Open MPI tags each piece as it arrives, so that one rank's line may be cut by another's; pieces are put together
    again for each rank and stream.

    Returns:
        the launcher's own lines, and for each rank its lines in the order in which they were completed.
    """
    first, *pieces = _TAG.split(text)
    launcher = [first]
    open_lines: dict[tuple[int, str], str] = {}
    ranks: dict[int, list[str]] = {}
    for number, stream, piece in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
        key = (int(number), stream)
        said, newline, rest = piece.partition("\n")
        open_lines[key] = open_lines.get(key, "") + said
        launcher.append(rest)
        if newline:
            ranks.setdefault(key[0], []).append(open_lines.pop(key))
    for (rank, _), line in open_lines.items():
        ranks.setdefault(rank, []).append(line)
    return "".join(launcher).rstrip("\n"), {rank: "\n".join(ranks[rank]) for rank in sorted(ranks)}


class _Job:
    """The processes of one run; their output goes to files, so that no full or inherited pipe can block a rank."""

    def __init__(self, folder: Path, mark: str, cwd: str | Path, tagged: bool) -> None:
        self.folder, self.mark, self.cwd, self.tagged = folder, mark, cwd, tagged
        self.started = time.monotonic()
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], env: dict[str, str]) -> None:
        with (self.folder / str(len(self.processes))).open("wb") as output:
            self.processes.append(
                subprocess.Popen(
                    command,
                    env=env,
                    cwd=self.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def wait(self, timeout: float) -> RankRun:
        failed_at: float | None = None
        first_code = 0
        while None in [process.poll() for process in self.processes]:
            now = time.monotonic()
            codes = [process.returncode for process in self.processes if process.returncode]
            if codes and failed_at is None:
                failed_at, first_code = now, codes[0]
            if now - self.started > timeout:
                self.kill()
                output, _ = self.read()
                print(output)
                raise RanksHung(f"still running after {timeout:g} s, killed; what was printed:\n{output}")
            if failed_at is not None and now - failed_at > GRACE_SECONDS:
                break
            time.sleep(0.05)
        # What a launcher leaves behind for a moment, such as its own helpers, is no rank that hangs.
        psutil.wait_procs(self.alive(), timeout=3)
        killed = self.kill()
        codes = [process.returncode for process in self.processes if process.returncode]
        output, ranks = self.read()
        print(output)
        return RankRun(
            returncode=first_code or (codes[0] if codes else 0),
            output=output,
            ranks=ranks,
            seconds=time.monotonic() - self.started,
            killed=killed,
        )

    def read(self) -> tuple[str, dict[int, str]]:
        """The whole output, and that of each rank, as RankRun describes them."""
        texts = [(self.folder / str(i)).read_text(errors="replace") for i in range(len(self.processes))]
        if self.tagged:
            launcher, ranks = split_by_rank(texts[0])
        else:
            launcher, ranks = "", {rank: text.rstrip("\n") for rank, text in enumerate(texts)}
        lines = [f"[rank {rank}] {line}" for rank, text in ranks.items() for line in text.splitlines()]
        return "\n".join([launcher, *lines] if launcher else lines), ranks

    def kill(self) -> int:
        """End every process of the run that is left, wherever its parents went; return how many there were."""
        killed = 0
        while victims := self.alive():
            for victim in victims:
                with suppress(psutil.NoSuchProcess):
                    victim.send_signal(signal.SIGKILL)
            killed += len(victims)
            psutil.wait_procs(victims, timeout=5)
            for process in self.processes:
                process.poll()
        return killed

    def alive(self) -> list[psutil.Process]:
        """The mark in their environment finds the processes that no longer descend from the launcher."""
        own = {process.pid for process in self.processes if process.poll() is None}
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.pid in own or process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found


def _environment(extra: Mapping[str, str], mark: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not _LAUNCHER_VARIABLES.match(name)}
    bin_folder = str(Path(sys.executable).parent)
    env["PATH"] = os.pathsep.join([bin_folder, env.get("PATH", "")])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    env["PYTHONUNBUFFERED"] = "1"
    env["OMP_NUM_THREADS"] = "1"
    return env | dict(extra) | {MARK: mark}


def _torchrun_variables(rank: int, n: int, port: str) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(n),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


def _launch(launcher: str, n: int) -> list[str]:
    """The launcher's own part of the command line, for ``n`` ranks on a host that may have fewer cores."""
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    match launcher:
        case "single":
            return []
        case "torchrun":
            local = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--tee=3"]
            return [program("torchrun"), *local, f"--nproc-per-node={n}", "--no-python"]
        case "mpirun":
            flags = f"--oversubscribe --bind-to none --tag-output -np {n}"
            return [program("mpirun"), *as_root, *flags.split()]
        case "horovodrun":
            return [program("horovodrun"), "--gloo", "-np", str(n)]
        case _:
            mpi_flags = " ".join([*as_root, "--oversubscribe"])
            return [program("horovodrun"), "--mpi", f"--mpi-args={mpi_flags}", "-np", str(n)]


def program(name: str) -> str:
    """The program of this environment, or else the first on PATH."""
    own = Path(sys.executable).parent / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is neither in {own.parent} nor on PATH")
    return found
