"""Generation on ranks: the same bits on any number of them, whole after a kill, joined from parts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import h5py
import numpy as np
import psutil
import pytest
import torch

from dist_calo.cli.generate import main as generate
from dist_calo.comm import connect
from dist_calo.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_USER, ConfigError
from dist_calo.generation.partial_output import CHUNK_ROWS, PartialOutput, Partition, part_rows
from dist_calo.generation.shared_progress import SharedProgress
from dist_calo.geometry import VoxelGrid
from dist_calo.launching.environment import World
from dist_calo.training.checkpoint_folder import CheckpointFolder
from tests.support.ranks import ROOT, launcher_params, run_ranks, wait_until
from tests.support.untrained import untrained_state

ORDER = ("--showers", "230", "--batch-size", "16", "--energy", "20:60", "--seed", "5")
"""Parts of 32 showers: eight, the last one of six."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A quick one: 8 x 8 x 6 cells, weights as they are before training."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    ranges = {"energy": [10.0, 100.0]}
    state = untrained_state(VoxelGrid(shape=(8, 8, 6)), condition_ranges=ranges)
    CheckpointFolder(folder).save(state, {})
    return str(folder)


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    """What one rank makes without a break."""
    path = tmp_path_factory.mktemp("whole") / "fake.h5"
    assert generate(["--checkpoint", checkpoint, "--out", str(path), *ORDER]) == 0
    assert os.listdir(path.parent) == ["fake.h5"]
    return path


def command(checkpoint, out, *options):
    return [
        sys.executable,
        "-m",
        "dist_calo",
        "generate",
        "--checkpoint",
        checkpoint,
        "--out",
        str(out),
        *options,
    ]


def assert_equal_files(one, other):
    with h5py.File(one) as first, h5py.File(other) as second:
        assert set(first) == set(second)
        for name in first:
            np.testing.assert_array_equal(first[name][:], second[name][:])
            assert dict(first[name].attrs) == dict(second[name].attrs)
        assert {name: str(value) for name, value in first.attrs.items()} == {
            name: str(value) for name, value in second.attrs.items()
        }


def test_parts_are_whole_batches_and_whole_chunks():
    for samples in (1, 1000, 230, 10**6, 10**9):
        for batch in (1, 16, 100, 1000, 4096):
            rows = part_rows(samples, batch)
            assert rows % batch == rows % CHUNK_ROWS == 0
            partition = Partition(samples=samples, rows=rows)
            assert partition.part(0).start == 0
            assert partition.part(partition.count - 1).stop == samples
            assert partition.part(partition.count - 1).start < samples
    assert part_rows(1000, 100) == part_rows(10**6, 100) == 800
    assert part_rows(10**9, 100) == 9600


def test_the_number_of_ranks_changes_no_bit(checkpoint, whole, tmp_path):
    out = tmp_path / "fake.h5"
    run = run_ranks(command(checkpoint, out, *ORDER), 3).check()
    assert "230 showers of 20 to 60 GeV, from step 7" in run.ranks[0]
    assert not run.ranks[1]
    assert_equal_files(whole, out)
    assert os.listdir(tmp_path) == ["fake.h5"]


@pytest.mark.parametrize("launcher", launcher_params("mpirun", "horovodrun"))
def test_every_launcher_starts_it(checkpoint, whole, tmp_path, launcher):
    run_ranks(command(checkpoint, tmp_path / "fake.h5", *ORDER), 2, launcher=launcher).check()
    assert_equal_files(whole, tmp_path / "fake.h5")


def test_the_batch_size_changes_rounding_only(checkpoint, whole, tmp_path):
    out = tmp_path / "fake.h5"
    assert generate(["--checkpoint", checkpoint, "--out", str(out), *ORDER, "--batch-size", "7"]) == 0
    with h5py.File(whole) as first, h5py.File(out) as second:
        np.testing.assert_array_equal(first["energy"][:], second["energy"][:])
        one, other = first["ECAL"][:], second["ECAL"][:]
    flipped = (one > 0) != (other > 0)
    assert flipped.mean() < 1e-5
    np.testing.assert_allclose(one[~flipped], other[~flipped], rtol=1e-5)


def test_fewer_showers_are_the_first_of_more(checkpoint, whole, tmp_path):
    out = tmp_path / "few.h5"
    assert generate(["--checkpoint", checkpoint, "--out", str(out), *ORDER, "--showers", "21"]) == 0
    with h5py.File(whole) as first, h5py.File(out) as second:
        np.testing.assert_array_equal(first["ECAL"][:21], second["ECAL"][:])


def wait_for_parts(run, folder, count):
    """Return once so many parts are complete."""

    def there():
        return run.poll() is not None or len(list(folder.glob("part-*.h5"))) >= count

    wait_until(there, 60.0, f"{count} parts", every_s=0.005)
    assert run.poll() is None, "it ended before it was stopped"


def killed(checkpoint, out, *options):
    """Kill two ranks once some parts are complete and others are not; return the complete ones."""
    order = command(checkpoint, out, *options, "--launch", "2")
    run = subprocess.Popen(order, cwd=ROOT, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    folder = out.with_name(f"{out.name}.parts")
    ranks: list[psutil.Process] = []
    try:
        wait_for_parts(run, folder, 3)
    finally:
        ranks = psutil.Process(run.pid).children(recursive=True)
        for process in [*ranks, run]:
            process.send_signal(signal.SIGKILL)
        run.wait()
        psutil.wait_procs(ranks, timeout=20)
    return sorted(folder.glob("part-*.h5"))


def test_the_same_command_after_a_kill_makes_the_rest(checkpoint, tmp_path, capsys):
    order = ("--n", "4000", "--batch-size", "16", "--energy", "20:60")
    out, again = tmp_path / "fake.h5", tmp_path / "again.h5"
    kept = killed(checkpoint, out, *order)
    assert not out.exists()
    written = {path: path.stat().st_mtime_ns for path in kept}
    parts = tmp_path / "fake.h5.parts"
    shutil.copytree(parts, tmp_path / "other.h5.parts")
    (parts / ".part-0000099.h5.123.tmp").write_text("half")

    assert generate(["--checkpoint", checkpoint, "--out", str(out), *order, "--seed", "1"]) == EXIT_USER
    assert f"--seed 1: {parts} was begun with 0" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in kept} == written

    run = run_ranks(command(checkpoint, out, *order), 3).check()
    assert f"of 4000 showers are in {parts}" in run.ranks[0]
    assert generate(["--checkpoint", checkpoint, "--out", str(again), *order]) == 0
    assert_equal_files(out, again)

    other = tmp_path / "other.h5"
    assert generate(["--checkpoint", checkpoint, "--out", str(other), *ORDER, "--force"]) == 0
    with h5py.File(other) as file:
        assert len(file["ECAL"]) == 230
    assert sorted(os.listdir(tmp_path)) == ["again.h5", "fake.h5", "other.h5"]


def test_a_signal_stops_all_ranks_in_order(checkpoint, tmp_path):
    out = tmp_path / "fake.h5"
    order = command(checkpoint, out, "--n", "1000000", "--batch-size", "16", "--launch", "2")
    run = subprocess.Popen(order, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    parts = tmp_path / "fake.h5.parts"
    try:
        wait_for_parts(run, parts, 1)
        run.terminate()
        said, _ = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == EXIT_PREEMPTED, said
    assert said == f"stopped; complete parts are kept in {parts}: give the same command again\n"
    assert not out.exists()
    assert not list(parts.glob(".*"))


def test_complete_parts_are_kept_as_they_are(checkpoint, whole, tmp_path, capsys):
    """Parts that another run has finished are joined, not made again; one that is damaged is named."""
    out = tmp_path / "fake.h5"
    parts = tmp_path / "fake.h5.parts"
    given = ["--checkpoint", checkpoint, "--out", str(out), *ORDER]

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dist_calo.generation.partial_output.PartialOutput.join", stop)
        assert generate(given) == EXIT_INTERRUPTED
    assert len(list(parts.glob("part-*.h5"))) == 8
    assert json.loads((parts / "request.json").read_text())["n"] == 230
    third = parts / "part-0000002.h5"
    content = third.read_bytes()
    third.write_bytes(content[:1000])
    capsys.readouterr()
    assert generate(given) == EXIT_USER
    assert str(third) in capsys.readouterr().err
    assert not out.exists()
    third.write_bytes(content)
    assert generate(given) == 0
    assert_equal_files(whole, out)


def test_settings_under_their_earlier_name_are_read(tmp_path):
    output = PartialOutput(tmp_path / "fake.h5")
    output.open({"n": 1}, renew=False)
    output.close()
    output.path(0).touch()
    (output.folder / "request.json").rename(output.folder / "what.json")
    with pytest.raises(ConfigError, match=r"--n 2: .* was begun with 1"):
        output.open({"n": 2}, renew=False)
    output.close()
    output.open({"n": 1}, renew=False)
    output.close()
    assert output.complete() == {0}
    assert sorted(os.listdir(output.folder)) == ["lock", "part-0000000.h5", "request.json"]


def test_two_processes_do_not_make_the_same_file(checkpoint, tmp_path, capsys):
    folder = PartialOutput(tmp_path / "fake.h5")
    folder.open({"n": 1}, renew=False)
    assert generate(["--checkpoint", checkpoint, "--out", str(tmp_path / "fake.h5"), *ORDER]) == EXIT_USER
    said = capsys.readouterr().err
    assert "another process is making fake.h5" in said
    assert f"held by {socket.gethostname()}" in said
    folder.close()


FULL = """
import resource, sys
from dist_calo.cli.generate import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(checkpoint, tmp_path):
    given = ["--checkpoint", checkpoint, "--out", str(tmp_path / "fake.h5"), *ORDER]
    run = subprocess.run(
        [sys.executable, "-c", FULL, *given], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == EXIT_USER, run.stderr
    assert "no room is left on the disk" in run.stderr
    assert run.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["fake.h5.parts"]
    assert sorted(os.listdir(tmp_path / "fake.h5.parts")) == ["lock", "request.json"]


def spoiled(checkpoint, path, value):
    """The same weights with another response of the calorimeter."""
    state = torch.load(CheckpointFolder(checkpoint).path(7), weights_only=True)
    for weights in (state["model"], state["average"]["generator"]):
        for name in weights:
            if name.endswith("response"):
                weights[name].fill_(value)
    torch.save(state, path)
    return str(path)


def test_a_rank_that_makes_nonsense_names_itself(checkpoint, tmp_path):
    spoiled(checkpoint, tmp_path / "bad.pt", 3e38)
    run = run_ranks(command(str(tmp_path / "bad.pt"), tmp_path / "fake.h5", *ORDER), 2)
    assert run.returncode == EXIT_USER
    assert "[rank 0 of 2 on" in run.output
    assert "step 7 generates cells that are not finite" in run.output
    assert not (tmp_path / "fake.h5").exists()


def test_weights_that_are_not_numbers_are_refused(checkpoint, tmp_path, capsys):
    bad = spoiled(checkpoint, tmp_path / "bad.pt", float("nan"))
    assert generate(["--checkpoint", bad, "--out", str(tmp_path / "fake.h5")]) == EXIT_USER
    assert "checkpoint of step 7 has weights that are not finite" in capsys.readouterr().err


def test_a_rank_alone_counts_what_it_adds():
    seen = []
    progress = SharedProgress(connect("single", World()), seen.append)
    progress.add(3)
    progress.add(4)
    progress.wait_for_all()
    assert seen == [7]


def test_empty_showers_are_counted_over_all_parts(checkpoint, tmp_path, capsys):
    dark = spoiled(checkpoint, tmp_path / "dark.pt", 0.0)
    assert generate(["--checkpoint", dark, "--out", str(tmp_path / "fake.h5"), *ORDER]) == 0
    assert "230 of them are empty" in capsys.readouterr().out
    with h5py.File(tmp_path / "fake.h5") as file:
        assert "empty_showers" not in file.attrs
