"""One virtual cluster for all tests of this folder, and a checkout as a user has it."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster
from tests.ranks import ROOT

SITE = f"""
VENV={sys.prefix}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.requires("slurm"))


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Cluster]:
    # Two test runs on one machine, or two workers of one, have clusters of their own.
    own = os.getpid() % 160
    cluster = Cluster(prefix=f"v{own}n", subnet=90 + own)
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture
def cluster(_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with all four nodes free; whatever a test leaves in its queue is ended."""
    _cluster.idle()
    yield _cluster
    _cluster.end_all_jobs()
    down = [
        number for number in range(1, _cluster.nodes + 1) if _cluster.node("exec", number, "true").returncode
    ]
    for number in down:
        _cluster.node("up", number)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what users get, with the settings of this site."""
    folder = tmp_path_factory.mktemp("site") / "dist_calo"
    for name in ("dist_calo", "configs", "launch", "slurm", "data/sample"):
        leave_out = shutil.ignore_patterns("__pycache__", "site.env")
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    (folder / "slurm" / "site.env").write_text(SITE)
    return folder
