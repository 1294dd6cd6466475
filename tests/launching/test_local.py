"""Local ranks without a launcher: started alike, ended together, signals passed on."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dist_calo.cli.launch import main
from dist_calo.errors import LaunchError
from dist_calo.launching.local import run_local, without_option
from tests.support.ranks import wait_until

SHOW = """
import os
words = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "DIST_CALO_LAUNCHER")]
os.write(1, (" ".join(words) + "\\n").encode())
"""
WAIT = """
import os, signal, sys, threading
def stop(number, _):
    os.write(1, f"saved {os.environ['RANK']} {number}\\n".encode())
    sys.exit(75)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, stop)
os.write(1, f"ready {os.getpid()}\\n".encode())
while True:
    threading.Event().wait(0.1)
"""
STUBBORN = """
import os, signal, sys, threading
if os.environ["RANK"] == "1":
    sys.exit(3)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
threading.Event().wait()
"""


def start(program: str, ranks: int) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-m",
        "dist_calo",
        "launch",
        "-n",
        str(ranks),
        "--",
        sys.executable,
        "-c",
        program,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )


def ready(launcher: "subprocess.Popen[str]", ranks: int) -> list[int]:
    """Process numbers of the ranks, once all of them are at work."""
    assert launcher.stdout is not None
    return [int(launcher.stdout.readline().split()[1]) for _ in range(ranks)]


def test_ranks_know_who_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_local([sys.executable, "-c", SHOW], 3) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == ["0 3 local", "1 3 local", "2 3 local"]


def test_variables_of_an_outer_launcher_do_not_reach_the_ranks(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    program = "import os; print(sorted(name for name in os.environ if name.startswith('SLURM_')))"
    assert run_local([sys.executable, "-c", program], 1) == 0
    assert capfd.readouterr().out == "['SLURM_CPUS_PER_TASK']\n"


def test_the_first_failure_ends_the_others() -> None:
    program = (
        "import os, sys, threading; sys.exit(3) if os.environ['RANK'] == '1' else threading.Event().wait()"
    )
    started = time.monotonic()
    assert run_local([sys.executable, "-c", program], 3) == 3
    assert time.monotonic() - started < 10


def test_ranks_that_ignore_the_request_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_calo.launching.local.GRACE_S", 0.5)
    assert run_local([sys.executable, "-c", STUBBORN], 2) == 3


KILL = "import os; os.kill(os.getpid(), 9)"
STEPS = (
    f"from dist_calo.launching.rank_progress import SIGNS; SIGNS.begin('', 'step'); SIGNS.reached(5); {KILL}"
)


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        (KILL, 137, "was killed by SIGKILL before its first step: perhaps out of memory (look at dmesg"),
        (STEPS, 137, "was killed by SIGKILL after step 5: perhaps out of memory (look at dmesg"),
        ("import os; os._exit(7)", 7, "has ended without a message before its first step: exit code 7"),
    ],
)
def test_a_rank_that_ends_without_a_word_is_named(
    program: str, code: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    only_1 = f"import os, time\nif os.environ['RANK'] == '1':\n    {program}\ntime.sleep(60)"
    assert run_local([sys.executable, "-c", only_1], 2) == code
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert re.match(rf"error: rank 1 of 2 on \S+ {re.escape(words)}", said[0])


def test_ctrl_z_stops_the_ranks_with_their_launcher() -> None:
    launcher = start(WAIT, 2)
    processes = [psutil.Process(number) for number in [launcher.pid, *ready(launcher, 2)]]
    launcher.send_signal(signal.SIGTSTP)
    wait_until(lambda: all(process.status() == psutil.STATUS_STOPPED for process in processes))
    launcher.send_signal(signal.SIGCONT)
    wait_until(lambda: all(process.status() != psutil.STATUS_STOPPED for process in processes))
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=30)
    assert launcher.returncode == 75


def test_a_rank_that_stopped_in_order_is_no_failure(capfd: pytest.CaptureFixture[str]) -> None:
    # Rank 0 still saves while rank 1 has left: it must not be disturbed.
    program = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("disturbed", flush=True))
if os.environ["RANK"] == "0":
    time.sleep(0.5)
sys.exit(75)
"""
    assert run_local([sys.executable, "-c", program], 2) == 75
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on_once_and_the_ranks_are_waited_for(number: int) -> None:
    launcher = start(WAIT, 2)
    ready(launcher, 2)
    launcher.send_signal(number)
    output, _ = launcher.communicate(timeout=30)
    assert sorted(output.split("\n")[:-1]) == [f"saved 0 {int(number)}", f"saved 1 {int(number)}"]
    assert launcher.returncode == 75


def test_ranks_do_not_outlive_their_launcher() -> None:
    launcher = start(WAIT, 2)
    ranks = [psutil.Process(number) for number in ready(launcher, 2)]
    launcher.kill()
    assert not psutil.wait_procs(ranks, timeout=10)[1]
    launcher.communicate(timeout=10)


def test_the_command_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], int]] = []

    def record(command: list[str], n: int) -> int:
        started.append((command, n))
        return 0

    monkeypatch.setattr("dist_calo.cli.launch.run_local", record)
    trainer = [sys.executable, "-m", "dist_calo.train"]
    assert main(["-n", "2", "python", "x.py", "-n", "3"]) == 0
    assert main(["--ranks=2", "--", "python", "--", "x"]) == 0
    assert main(["-n2", "--train.max_steps=5"]) == 0
    assert main(["-n", "4"]) == 0
    assert started == [
        (["python", "x.py", "-n", "3"], 2),
        (["python", "--", "x"], 2),
        ([*trainer, "--train.max_steps=5"], 2),
        (trainer, 4),
    ]
    assert main(["--help"]) == 0
    assert "usage: dist-calo launch -n N" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "number of ranks is missing"),
        (["-n", "0"], "0 ranks"),
        (["-n", "2", "/no/such"], "/no/such cannot be started"),
    ],
)
def test_what_cannot_be_started(arguments: list[str], words: str) -> None:
    with pytest.raises(LaunchError, match=re.escape(words)):
        main(arguments)


def test_ranks_do_not_start_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match="rank 1 of 2 of torchrun already"):
        run_local(["true"], 2)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--launch", "2", "--a=1"], ["--a=1"]),
        (["--a=1", "--launch=2"], ["--a=1"]),
        (["--launch", "2", "--launch=3", "--launcher=x"], ["--launcher=x"]),
        (["--a", "--launch"], ["--a"]),
    ],
)
def test_an_option_is_taken_out(given: list[str], kept: list[str]) -> None:
    assert without_option(given, "--launch") == kept


LAUNCH = Path(__file__).parents[2] / "launch"
HELPERS = {"common", "job", "mpi_plugin", "signal_ranks", "discover_hosts"}
SCRIPTS = sorted(script for script in LAUNCH.glob("*.sh") if script.stem not in HELPERS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_hand_their_arguments_to_the_trainer(script: Path, tmp_path: Path) -> None:
    """Every program that a script may call is replaced by one that shows its arguments."""
    for name in ("python", "mpirun", "horovodrun", "torchrun", "srun"):
        fake = tmp_path / name
        fake.write_text('#!/bin/sh\nfor word in "${0##*/}" "$@"; do printf "<%s>" "$word"; done\n')
        fake.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RANKS": "3", "SLURM_NTASKS": "3"}
    shown = subprocess.run(
        ["bash", str(script), "--train.max_steps=5", "--tracking.run_name=a b"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace("<--checkpoint.resume=auto>", "")
    assert shown.endswith("<-m><dist_calo.train><--train.max_steps=5><--tracking.run_name=a b>") or (
        "<dist_calo><launch>" in shown and shown.endswith("<--train.max_steps=5><--tracking.run_name=a b>")
    )


def test_there_is_a_script_for_every_launcher() -> None:
    assert {script.stem for script in SCRIPTS} >= {"local", "horovodrun", "mpirun", "torchrun", "srun"}


def where(script: str, **environ: str) -> str:
    """What a starter would start, one word after the other."""
    command = ["bash", str(LAUNCH / f"{script}.sh"), "--a=1"]
    path = {"PATH": f"{environ.pop('fakes')}:/usr/bin:/bin"}
    return subprocess.run(command, env=path | environ, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Programs that show how they are called, and a scontrol that knows two nodes."""
    folder = tmp_path_factory.mktemp("fakes")
    # Where the ranks go is asked of Python itself.
    asks = f'[ "$2 $3" != "dist_calo job" ] || PYTHONPATH={LAUNCH.parent} exec {sys.executable} "$@"'
    for name in ("python", "mpirun", "horovodrun", "torchrun", "srun"):
        (folder / name).write_text(f'#!/bin/sh\n{asks}\necho "${{0##*/}}" "$@"\n')
    (folder / "scontrol").write_text("#!/bin/sh\necho n1\necho n2\n")
    for program in folder.iterdir():
        program.chmod(0o755)
    return str(folder)


ALLOCATION = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_CPUS_ON_NODE": "48",
}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("srun", ["--nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=12", "--mpi=pmi2"]),
        ("mpirun", ["mpirun -np 8", "ppr:4:node"]),
        (
            "torchrun",
            ["srun --mpi=none", "--cpus-per-task=48 torchrun --nnodes=2", "--rdzv-endpoint=n1:28007"],
        ),
        ("horovodrun", ["horovodrun --gloo -np 8 -H n1:4,n2:4"]),
        ("horovodrun_mpi", ["horovodrun --mpi -np 8 -H n1:4,n2:4"]),
    ],
)
def test_an_allocation_decides_where_the_ranks_go(script: str, words: list[str], fakes: str) -> None:
    shown = where(script, fakes=fakes, MPI="pmi2", MODULE="dist_calo.cli.scale", **ALLOCATION)
    assert all(word in shown for word in words)
    assert shown.endswith("-m dist_calo.cli.scale --a=1\n")


NO_NUMBERS = ["BASH_VERSINFO[$(touch ran)]", "4.0", " 4", "-1", "08", "4x", "\u0664", "9" * 30]
NUMBERS = ("RANKS", "RANKS_PER_NODE", "NODES", "PORT")
HOSTS = ["-oProxyCommand=x", "n1 n2", "n1:x", "n1:4;touch ran", "n1,,n2", "$(touch ran)", "n1:-1", "'"]


@pytest.mark.parametrize("hosts", HOSTS)
def test_hosts_are_names_and_numbers(hosts: str, fakes: str) -> None:
    environ = {"PATH": f"{fakes}:/usr/bin:/bin", "HOSTS": hosts}
    done = subprocess.run(["bash", str(LAUNCH / "mpirun.sh")], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("HOSTS=")
    assert "must be hosts and their ranks such as node1:4,node2:4" in done.stderr


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_numbers_of_the_environment_are_checked_before_they_are_computed_with(
    text: str, fakes: str, tmp_path: Path
) -> None:
    source = (
        f'for name in {" ".join(NUMBERS)}; do (export $name="$1"; bash {LAUNCH}/mpirun.sh; echo $?); done\n'
    )
    done = subprocess.run(
        ["bash", "-c", source, "bash", text],
        env={"PATH": f"{fakes}:/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["2"] * len(NUMBERS)
    named = [line.split("=")[0] for line in done.stderr.splitlines() if ": must be " in line]
    assert named == [*NUMBERS]
    assert not any(tmp_path.iterdir())


def test_a_job_with_a_variable_that_is_no_number_starts_nothing(fakes: str, tmp_path: Path) -> None:
    environ = {"PATH": f"{fakes}:/usr/bin:/bin", **ALLOCATION, "SLURM_NTASKS": NO_NUMBERS[0]}
    command = ["bash", str(LAUNCH / "mpirun.sh")]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("SLURM_NTASKS=")
    assert not any(tmp_path.iterdir())


def test_ranks_get_the_cores_of_the_smallest_node(fakes: str) -> None:
    shown = where("srun", fakes=fakes, MPI="none", **ALLOCATION, SLURM_JOB_CPUS_PER_NODE="128(x3),48,64(x2)")
    assert "--cpus-per-task=12" in shown


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("RUNNING", 0, f"--meet=n3:{28000 + 12 + 2 * 1009} --join"),
        ("PENDING", 75, "it is PENDING"),
        ("CANCELLED", 2, "it is CANCELLED"),
    ],
)
def test_a_node_joins_a_job_where_it_meets_or_follows_it_into_the_queue(
    state: str, code: int, words: str, fakes: str, tmp_path: Path
) -> None:
    facts = f"JobId=12 JobName=a JobState={state} Reason=None Restarts=2 BatchHost=n3 NumNodes=2"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho '{facts}'\n")
    scontrol.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{fakes}:/usr/bin:/bin", "JOIN": "12"}
    done = subprocess.run(["bash", str(LAUNCH / "elastic.sh")], env=environ, capture_output=True, text=True)
    assert done.returncode == code
    assert words in done.stdout + done.stderr


def test_the_same_variables_place_the_ranks_without_an_allocation(fakes: str) -> None:
    place = {"fakes": fakes, "RANKS": "6", "HOSTS": "n1:3,n2:3"}
    assert "-np 6 --bind-to none --host n1:3,n2:3" in where("mpirun", **place)
    assert "-np 6 -H n1:3,n2:3" in where("horovodrun", **place)
    assert "--nnodes=2" in where("torchrun", RENDEZVOUS="n1:29500", **place)
    assert "--nproc-per-node=3" in where("torchrun", RENDEZVOUS="n1:29500", **place)
    assert "-n 6 python -m dist_calo.train" in where("local", **place)
