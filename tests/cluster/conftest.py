"""A virtual cluster for each test of this folder, and a checkout as a user has it."""

import compileall
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster
from tests.support.ranks import ROOT

SITE = f"""
VENV={sys.prefix}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.requires("slurm"))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster of four free nodes that nothing has happened to.

    Starting one takes a second. One for all tests would hand on what a test did to it: a job that is cancelled at the
    moment of its restart leaves SLURM 22.05 with processors that are never free again, on nodes that it calls idle.
    """
    # Two test runs on one machine, or two workers of one, have clusters of their own.
    own = os.getpid() % 160
    cluster = Cluster(prefix=f"v{own}n", subnet=90 + own)
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What users get, compiled once: every rank of every job would do so in a fresh copy."""
    folder = tmp_path_factory.mktemp("release") / "dist_calo"
    for name in ("dist_calo", "configs", "launch", "slurm", "data/sample"):
        leave_out = shutil.ignore_patterns("__pycache__", "site.env")
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    (folder / "slurm" / "site.env").write_text(SITE)
    compileall.compile_dir(folder / "dist_calo", quiet=1)
    return folder


@pytest.fixture
def checkout(tmp_path: Path, release: Path) -> Path:
    """A copy of the release for one test; job numbers, and so logs, repeat in every cluster."""
    return Path(shutil.copytree(release, tmp_path / "site" / "dist_calo"))
