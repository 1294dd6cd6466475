"""The wheel holds what the folders of the checkout hold, and is enough to work with, far from any checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = "import sys, setuptools.build_meta as backend; print(getattr(backend, sys.argv[1])(sys.argv[2]))"
PACKAGED = "dist_calo/packaged/"
MOST_BYTES = 3_000_000
SHORT = ("--train.max_steps=2", "--train.global_batch_size=16", "--train.validation_showers=16")


def build(what: str, source: Path, out: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{what}", out],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def content(wheel: Path) -> dict[str, tuple[bytes, int]]:
    """Content and permissions of each file, without the list of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            entry.filename: (archive.read(entry), entry.external_attr >> 16 & 0o111)
            for entry in archive.infolist()
            if not entry.filename.endswith("RECORD")
        }


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the checkout, in which builds leave their files."""
    copy = tmp_path_factory.mktemp("source") / "dist_calo"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "site.env")
    for name in ("configs", "data/sample", "dist_calo", "docker", "launch", "slurm", "tools"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source) -> Path:
    return build("wheel", source, source.parent)


def test_the_wheel_is_the_tree(wheel):
    assert wheel.stat().st_size <= MOST_BYTES
    found = content(wheel)
    packaged = {
        name.removeprefix(PACKAGED): kept for name, kept in found.items() if name.startswith(PACKAGED)
    }
    for name, (data, mode) in packaged.items():
        assert data == (ROOT / name).read_bytes()
        assert mode == (ROOT / name).stat().st_mode & 0o111
    whole = {
        path.relative_to(ROOT).as_posix()
        for folder in ("configs", "docker", "launch", "slurm")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.name != "site.env"
    }
    own = {
        "constraints.txt",
        "data/sample/EleEscan_lcd25_0.h5",
        "data/sample/README.md",
        "tools/build_horovod.py",
    }
    assert set(packaged) == whole | own
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dist_calo").rglob("*.py")}
    assert code == {name for name in found if name.endswith(".py") and not name.startswith(PACKAGED)}


def test_a_source_distribution_builds_the_same_wheel(source, wheel, tmp_path):
    with tarfile.open(build("sdist", source, tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (tmp_path / "again").mkdir()
    assert content(build("wheel", unpacked, tmp_path / "again")) == content(wheel)


class Installed:
    """An environment that holds the wheel, and borrows all else from that of the tests."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.bin = folder / "environment" / "bin"
        venv.create(self.bin.parent, with_pip=False)
        install = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile", str(wheel)]
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), *install],
            check=True,
            timeout=120,
        )
        (own,) = self.bin.parent.glob("lib/python3*/site-packages")
        (borrowed,) = Path(sys.prefix).glob("lib/python3*/site-packages")
        # Not a .pth file of that folder is read, so that its editable dist_calo is not found.
        (own / "borrowed.pth").write_text(f"{borrowed}\n")

    def run(self, *command: str | Path, code: int = 0) -> str:
        """Run a program of the environment in the working folder and return what it prints."""
        environ = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        environ["PATH"] = f"{self.bin}:/usr/bin:/bin"
        done = subprocess.run(
            command, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def test_a_working_folder(installed):
    where = installed.run("python", "-c", "import dist_calo; print(dist_calo.__file__)")
    assert where.startswith(str(installed.bin.parent))
    assert "lcd_fast " in installed.run("dist-calo", "configs")
    assert (
        installed.run("dist-calo", "configs", "--show", "lcd_fast")
        == (ROOT / "configs/lcd_fast.yaml").read_text()
    )
    installed.run("dist-calo", "init", "calo")
    folder = installed.folder / "calo"
    assert f"\nVENV={installed.bin.parent}\n" in (folder / "slurm/site.env").read_text()
    refused = installed.run("dist-calo", "init", "calo", code=2)
    assert refused == (
        "dist-calo init: calo: must be a new or empty folder, so that nothing of yours is overwritten; name another\n"
    )
    # The job scripts find what they need: only SLURM is missing.
    job = "cd calo && SLURM_SUBMIT_DIR=$PWD slurm/train_cpu.sh --config lcd_fast"
    assert "call this in a SLURM job" in installed.run("bash", "-c", job, code=2)
    key = installed.run("dist-calo", "horovod", "build", "--print-key")
    assert key.startswith("torch-")


def test_training_away_from_a_checkout(installed):
    training = ["python", "-m", "dist_calo.train", "--config", "lcd_fast", *SHORT, "--tracking.uri=none"]
    installed.run(*training)
    doctor = installed.run("dist-calo", "doctor", "--config", "lcd_fast", "--checkpoint.resume=auto", *SHORT)
    assert "500 showers" in doctor
    assert "of the package: nothing here is named data/sample" in doctor
    assert "The trainer would run here." in doctor
    plan = ["dist-calo", "scale", "plan", "scaling", "--config", "lcd_fast", "--nodes=1", "--ranks=1,2"]
    installed.run(*plan, "--mode=weak", "--tracking.uri=none")


def test_the_demo_away_from_a_checkout(installed):
    said = installed.run("dist-calo", "demo", *SHORT)
    (report,) = installed.folder.glob("demo/*/evaluation/report.html")
    assert str(report.relative_to(installed.folder)) in said
