"""Container images without Docker: buildah as root with chroot isolation, which needs no daemon and no kernel feature.

Where no registry answers, debootstrap makes a stand-in for a Debian base image: the same packages, without what
Docker's image strips off. pip's settings of this machine (indexes, folders of wheels, certificates) hold in builds.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REGISTRY = "https://registry-1.docker.io/v2/"
CA_IN_BUILD = "/opt/host-certificates.crt"
OF_HOST_ALONE = ("cache-dir", "constraint", "require-virtualenv", "target", "user")
"""Settings of pip that say nothing about where packages come from."""
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


class CommandError(Exception):
    """A program failed, or what it found does not hold: a few lines that say so."""


def output(command: Sequence[str]) -> str:
    """Run a program and return what it prints.

    Raises:
        CommandError: if it fails, with the end of its output.
    """
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise CommandError(f"code {done.returncode}: {' '.join(command)}\n{tail}")
    return done.stdout.strip()


class Store:
    """The images and containers that buildah keeps in one folder, apart from those of the machine.

    Args:
        folder: where they are kept; a second build takes its layers from there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = ["buildah", "--root", str(folder / "store"), "--runroot", str(folder / "run")]

    def __call__(self, *arguments: str) -> str:
        """Run buildah and return what it prints."""
        return output([*self.command, *arguments])

    def config(self, image: str) -> dict[str, Any]:
        """What an image says about how it is run, in Docker's form."""
        return json.loads(self("inspect", "--type", "image", image))["Docker"]["config"]

    def gigabytes(self, image: str) -> float:
        """Size of an image, unpacked."""
        (entry,) = json.loads(self("images", "--json", image))
        number, unit = entry["size"].split()
        return float(number) * {"KB": 1e-6, "MB": 1e-3, "GB": 1.0}[unit]

    @contextmanager
    def container(self, image: str) -> Iterator["Container"]:
        name = self("from", "--pull-never", "--add-host", "mlflow:127.0.0.1", image)
        try:
            yield Container(self, name)
        finally:
            self("rm", name)

    def make_base(self, image: str, mirror: str) -> str:
        """Have a Debian base image here: kept from before, pulled, or made of Debian's packages.

        Args:
            image: its full name, such as docker.io/library/debian:bookworm-slim.
            mirror: of Debian.

        Returns:
            where it comes from.
        """
        if subprocess.run([*self.command, "inspect", image], capture_output=True).returncode == 0:
            return "kept from before"
        # Without limits, buildah asks a registry that is cut off for an hour.
        pull = ["timeout", "120", *self.command, "pull", image]
        if answers(REGISTRY) and subprocess.run(pull, capture_output=True).returncode == 0:
            return "pulled"
        suite = image.rpartition(":")[2].removesuffix("-slim")
        with tempfile.TemporaryDirectory(prefix="base-", dir=self.folder) as work:
            tree, archive = Path(work, "tree"), Path(work, "base.tar")
            output(["debootstrap", "--variant=minbase", suite, str(tree), mirror])
            (tree / "etc/apt/sources.list").unlink(missing_ok=True)
            sources = SOURCES.format(mirror=mirror, suite=suite)
            (tree / "etc/apt/sources.list.d/debian.sources").write_text(sources)
            for kept in (*tree.glob("var/cache/apt/archives/*.deb"), *tree.glob("var/lib/apt/lists/*_*")):
                kept.unlink()
            output(["tar", "--directory", str(tree), "--create", "--file", str(archive), "."])
            container = self("from", "scratch")
            self("add", container, str(archive), "/")
            self("config", "--cmd", "bash", container)
            self("commit", "--rm", container, image)
        return f"made by debootstrap from {mirror}"

    def build(self, dockerfile: Path, tag: str, context: Path, *options: str) -> float:
        """Build an image and return the seconds it took; the output is in FOLDER/DOCKERFILE.log.

        Raises:
            CommandError: if the build fails, with the end of its output.
        """
        log = self.folder / f"{dockerfile.name}.log"
        # The form of Docker, since that of OCI has no health checks.
        common = ["--isolation", "chroot", "--layers", "--force-rm", "--format", "docker", "--pull-never"]
        names = ["--file", str(dockerfile), "--tag", tag, str(context)]
        started = time.monotonic()
        with log.open("w+") as written:
            command = [*self.command, "bud", *common, *options, *names]
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=written, stderr=written
            ).returncode
            written.seek(0)
            tail = "".join(written.readlines()[-25:])
        if code:
            raise CommandError(f"buildah ends with code {code}; the whole output is in {log}\n{tail}")
        return time.monotonic() - started


class Container:
    """A place to run an image's programs in, as its user and in its working folder."""

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


def answers(address: str) -> bool:
    """Whether a server is there, whatever it says."""
    try:
        urllib.request.urlopen(address, timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def pip_mounts(file: Path, wheels: bool = True) -> list[str]:
    """Options of a build that give it pip's settings of this machine.

    Args:
        file: takes the settings; what they name on this machine's disks is mounted under the same path.
        wheels: whether the machine's own folders of wheels, made for its kind of hardware, suit the image.
    """
    settings: dict[str, str] = {}
    listed = output([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    # Variables of the environment win over files.
    for line in sorted(listed, key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if key.startswith(("global.", "install.", ":env:.")) and name not in OF_HOST_ALONE:
            settings[name] = value.strip("'\"").replace("\\n", " ")
    if not wheels:
        settings.pop("find-links", None)
    mounts: dict[str, str] = {}
    if "cert" in settings:
        mounts[settings["cert"]] = settings["cert"] = CA_IN_BUILD
    for word in " ".join(settings.values()).split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            # The pages of an index lead to files that lie beside their folder.
            place = path.parent if word.startswith("file://") else path
            mounts[str(place)] = str(place)
    file.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items()), ""]))
    mounts[str(file)] = "/etc/pip.conf"
    return [option for source, target in mounts.items() for option in ("--volume", f"{source}:{target}:ro")]
