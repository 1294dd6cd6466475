"""A data set that is far larger than the memory it may take."""

import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest

from tests.support.calochallenge_files import voxels
from tests.support.ranks import ROOT

ROWS, VOXELS, CHUNK = 40_000, 6480, 100
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from dist_calo.config import DataConfig
from dist_calo.data.loader import training_loader
from dist_calo.data.manifest import build_manifest, scan_rows
config = DataConfig(path=sys.argv[1], shuffle_window=4, validation_fraction=0, test_fraction=0)
manifest = build_manifest(config)
scan_rows(manifest)
seen = np.zeros(manifest.rows, dtype=np.int64)
with training_loader(manifest, config, seed=0, global_batch_size=128) as loader:
    while (batch := next(loader)).epoch == 0:
        seen[batch.ids] += 1
        assert batch.showers.shape[1:] == (6480,)
        assert (abs(batch.conditions[:, 0] - 1 - batch.ids / 1000) < 1e-4).all()
assert (seen == 1).all()
# Not ru_maxrss, which a process inherits from the one that started it.
lines = Path("/proc/self/status").read_text().splitlines()
print(next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_the_memory_of_validation_and_loader_is_bounded(tmp_path):
    path = tmp_path / "dataset_2.h5"
    with h5py.File(path, "w") as file:
        # One compressed chunk, stored again and again: 4e4 showers (1 GB) in a small file.
        showers = file.create_dataset(
            "showers", (ROWS, VOXELS), np.float32, chunks=(CHUNK, VOXELS), compression="gzip"
        )
        cells = np.zeros((CHUNK, VOXELS), dtype=np.float32)
        cells[:, :40] = 1000 * voxels(1, 40)
        packed = zlib.compress(cells.tobytes(), 9)
        for start in range(0, ROWS, CHUNK):
            showers.id.write_direct_chunk((start, 0), packed)
        file["incident_energies"] = 1000 + np.arange(ROWS, dtype=np.float64)[:, None]
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        cwd=ROOT,
    )
    peak = int(run.stdout)
    print(f"peak memory {peak / 1e6:.0f} MB, all showers {4 * ROWS * VOXELS / 1e6:.0f} MB")
    assert peak < 500e6


CONVERT = """
import sys
from pathlib import Path
from dist_calo.cli.data import main
assert main(["convert", sys.argv[1], "--out", sys.argv[2], "--compression", "none", "--chunk-rows", "64"]) == 0
lines = Path("/proc/self/status").read_text().splitlines()
print(next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
"""


def test_data_sets_are_carried_along_in_bounded_memory(tmp_path):
    rows, width = 10_000, 4096
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["signals"] = np.ones((rows, 1, 4), dtype=np.float32)
        file["signals"].attrs.update({"sample_ns": 1.0, "noise": 1.0})
        file["energy"] = np.full(rows, 5.0)
        chunk = zlib.compress(np.arange(200 * width, dtype=np.float32).tobytes(), 1)
        profile = file.create_dataset(
            "profile", (rows, width), np.float32, chunks=(200, width), compression="gzip"
        )
        for start in range(0, rows, 200):
            profile.id.write_direct_chunk((start, 0), chunk)
    run = subprocess.run(
        [sys.executable, "-c", CONVERT, str(tmp_path / "a.h5"), str(tmp_path / "b.h5")],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
        cwd=ROOT,
    )
    said, peak = run.stdout.splitlines()
    assert "10000 showers, with profile" in said
    with h5py.File(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(file["profile"][9_999], np.arange(199 * width, 200 * width))
    print(f"peak memory {int(peak) / 1e6:.0f} MB, the data set {4 * rows * width / 1e6:.0f} MB")
    assert int(peak) < 130e6
