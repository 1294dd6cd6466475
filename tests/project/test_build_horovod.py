"""Building Horovod: the cache key, the patch, the messages; and that what was built averages over ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ranks import launcher_params, run_ranks
from tools import build_horovod as tool

SCRIPT = Path(tool.__file__)


def fake_source(folder: Path, standard: str = "set(CMAKE_CXX_STANDARD 14)") -> Path:
    (folder / "horovod/torch").mkdir(parents=True)
    (folder / "CMakeLists.txt").write_text(f"project(horovod CXX)\n{standard}\n")
    (folder / "horovod/torch/CMakeLists.txt").write_text(f"if(TRUE)\n    {standard}\nendif()\n")
    return folder


def test_the_key_holds_all_that_a_build_depends_on():
    key = tool.cache_key("2.13.0+cpu", "wheel-4.1.8", "")
    assert key.startswith("torch-2.13.0+cpu_cp3")
    assert key.endswith("_mpi-wheel-4.1.8_gpu-none")
    others = [
        ("2.13.0", "wheel-4.1.8", ""),
        ("2.13.0+cpu", "system-4.1.8", ""),
        ("2.13.0+cpu", "wheel-4.1.8", "NCCL"),
    ]
    assert len({key, *(tool.cache_key(*other) for other in others)}) == 4


def test_the_patch_sets_the_standard_and_the_run_path(tmp_path):
    source = fake_source(tmp_path)
    tool.patch(source, relocatable=True)
    top = (source / "CMakeLists.txt").read_text()
    assert "set(CMAKE_CXX_STANDARD 20)" in top
    assert 'set(CMAKE_INSTALL_RPATH "\\$ORIGIN/../../../..:\\$ORIGIN/../../torch/lib")' in top
    assert "CMAKE_INSTALL_RPATH_USE_LINK_PATH OFF" in top
    assert "    set(CMAKE_CXX_STANDARD 20)" in (source / "horovod/torch/CMakeLists.txt").read_text()


def test_the_patch_refuses_another_release(tmp_path):
    with pytest.raises(tool.BuildError, match="is it another release"):
        tool.patch(fake_source(tmp_path, "set(CMAKE_CXX_STANDARD 17)"), relocatable=True)


def test_system_mpi_without_a_compiler_wrapper_is_one_line_and_code_2(tmp_path):
    answer = subprocess.run(
        [sys.executable, SCRIPT, "--mpi", "system", "--print-key"],
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 2
    assert (
        answer.stderr
        == "build_horovod: MPI=system, but no mpicxx is on PATH: load the cluster's MPI module first\n"
    )


@pytest.mark.parametrize("launcher", launcher_params("horovodrun", "horovodrun-mpi"))
def test_what_was_built_averages_over_ranks(launcher):
    code = (
        "import horovod.torch as hvd, torch\n"
        "hvd.init()\n"
        "mean = hvd.allreduce(torch.full((3,), float(hvd.rank())), op=hvd.Average)\n"
        "print('mean', mean.tolist(), 'over', hvd.size())"
    )
    run = run_ranks([sys.executable, "-c", code], 2, launcher).check()
    assert all("mean [0.5, 0.5, 0.5] over 2" in said for said in run.ranks.values())
