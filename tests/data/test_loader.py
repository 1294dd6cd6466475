import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dist_calo.config import DataConfig
from dist_calo.data.loader import Loader, evaluation_loader, training_loader
from dist_calo.data.manifest import build_manifest
from dist_calo.data.order import Order, Position
from dist_calo.data.row_blocks import split_blocks
from dist_calo.errors import DataError
from tests.support.shower_files import energies, rows_of, showers, write_lcd

ROWS = (150, 64, 91)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A data set whose showers tell their global ids."""
    folder = tmp_path_factory.mktemp("data")
    first = 0
    for number, rows in enumerate(ROWS):
        options: list[dict[str, Any]] = [
            {"chunk": None},
            {"ecal_compression": "gzip"},
            {"ecal_compression": "lzf", "chunk": 10},
        ]
        write_lcd(folder / f"EleEscan_{number}.h5", rows, first, **options[number])
        first += rows
    return DataConfig(path=str(folder / "*.h5"), shuffle_window=3, prefetch_batches=2)


@pytest.fixture(scope="module")
def manifest(config):
    return build_manifest(config)


def loaded(manifest, config, steps, **options):
    with training_loader(manifest, config, **{"seed": 5, "global_batch_size": 24} | options) as loader:
        return [next(loader) for _ in range(steps)]


def steps_per_epoch(manifest, config):
    return -(-split_blocks(manifest, "train", config).samples // 24)


def test_showers_are_those_of_the_ids(manifest, config):
    for batch in loaded(manifest, config, 3 * steps_per_epoch(manifest, config), accumulation=2):
        np.testing.assert_array_equal(rows_of(batch.showers), batch.ids)
        np.testing.assert_array_equal(batch.conditions, energies(sum(ROWS))[batch.ids])
        assert batch.showers.dtype == batch.conditions.dtype == np.float32
        assert batch.showers.flags.c_contiguous


@pytest.mark.parametrize("size", [1, 2, 3, 7, 30])
def test_every_number_of_ranks_trains_on_the_same_batches(manifest, config, size):
    steps = steps_per_epoch(manifest, config) + 3
    whole = loaded(manifest, config, steps)
    ranks = [loaded(manifest, config, steps, rank=rank, size=size, accumulation=2) for rank in range(size)]
    for batch, *shares in zip(whole, *ranks, strict=True):
        slots = np.concatenate([share.slots for share in shares])
        ids = np.concatenate([share.ids for share in shares])
        np.testing.assert_array_equal(ids[np.argsort(slots)], batch.ids)
        for share in shares:
            assert (share.epoch, share.index, share.global_size) == (batch.epoch, batch.index, len(batch.ids))
            assert share.end == batch.end
            assert len(share.micro) == len(share.micro_global_sizes) == min(2, len(batch.ids))
            assert np.concatenate([share.ids[micro] for micro in share.micro]).tolist() == share.ids.tolist()
    epoch = np.concatenate([batch.ids for batch in whole if batch.epoch == 0])
    assert len(epoch) == len(set(epoch)) == split_blocks(manifest, "train", config).samples
    assert [batch.epoch for batch in whole][-3:] == [1, 1, 1]


def test_a_run_goes_on_where_it_was_stopped(manifest, config):
    steps = 2 * steps_per_epoch(manifest, config)
    whole = loaded(manifest, config, steps)
    for stopped in (1, 2, 3, 4, steps_per_epoch(manifest, config) - 1, steps_per_epoch(manifest, config)):
        rest = loaded(manifest, config, steps - stopped, start=whole[stopped - 1].end)
        assert [batch.ids.tolist() for batch in rest] == [batch.ids.tolist() for batch in whole[stopped:]]


@pytest.mark.parametrize("split", ["validation", "test", "all"])
@pytest.mark.parametrize("size", [1, 3])
def test_evaluation_takes_every_sample_once(manifest, config, split, size):
    seen = []
    for rank in range(size):
        with evaluation_loader(manifest, config, split, global_batch_size=10, rank=rank, size=size) as loader:
            batches = list(loader)
        seen += [sample for batch in batches for sample in batch.ids.tolist()]
        assert all((rows_of(batch.showers) == batch.ids).all() for batch in batches)
        assert [batch.index for batch in batches] == list(range(len(batches)))
    blocks = split_blocks(manifest, split, config)
    expected = [f + r for f, n in zip(blocks.first_ids, blocks.rows, strict=True) for r in range(n)]
    assert sorted(seen) == expected


def test_batches_outlive_the_loader_and_each_other(manifest, config):
    """Memory is used again, but never that of a batch that somebody holds."""
    with training_loader(manifest, config, seed=5, global_batch_size=24) as loader:
        held = [next(loader) for _ in range(30)]
    for batch in held:
        np.testing.assert_array_equal(rows_of(batch.showers), batch.ids)


def test_memory_is_used_again(manifest, config):
    addresses = set()
    with training_loader(manifest, config, seed=5, global_batch_size=24) as loader:
        for _ in range(60):
            addresses.add(next(loader).showers.ctypes.data)
    assert len(addresses) < 30


def test_iteration_ends_after_the_epochs_asked_for(manifest, config):
    order = Order(split_blocks(manifest, "train", config), seed=0, global_batch_size=50, window=2)
    start = Position(epoch=4, samples_seen=50)
    with Loader(manifest, order, start=start, epochs=2) as loader:
        places = [(batch.epoch, batch.index) for batch in loader]
        assert next(loader, None) is None
    steps = order.steps_per_epoch
    assert places == [(4, step) for step in range(1, steps)] + [(5, step) for step in range(steps)]


def test_closing_ends_the_thread(manifest, config):
    before = threading.active_count()
    for consumed in (0, 1, 5):
        loader = training_loader(manifest, config, seed=0, global_batch_size=8)
        for _ in range(consumed):
            next(loader)
        loader.close()
        loader.close()
        assert threading.active_count() == before
    assert loader.wait_s > 0


def test_a_bad_row_is_told_to_the_consumer(tmp_path):
    cells = showers(100)
    cells[70, 3, 3, 3] = np.nan
    write_lcd(tmp_path / "a.h5", 100, ECAL=cells)
    config = DataConfig(path=str(tmp_path / "*.h5"), validation_fraction=0, test_fraction=0)
    with (
        training_loader(build_manifest(config), config, seed=0, global_batch_size=10) as loader,
        pytest.raises(DataError, match=r"a.h5: data set ECAL, row 70: a cell is NaN or infinite"),
    ):
        next(loader)


def test_a_file_that_shrank_or_vanished_is_told(tmp_path):
    config = DataConfig(path=str(tmp_path / "*.h5"), validation_fraction=0, test_fraction=0)
    write_lcd(tmp_path / "a.h5", 100)
    manifest = build_manifest(config)
    write_lcd(tmp_path / "a.h5", 90)
    for message in ("a.h5: the file has changed since", "a.h5: the file has changed .*: it is gone"):
        with (
            training_loader(manifest, config, seed=0, global_batch_size=10) as loader,
            pytest.raises(DataError, match=message),
        ):
            next(loader)
        (tmp_path / "a.h5").unlink(missing_ok=True)


def test_more_files_than_are_kept_open(tmp_path):
    for number in range(40):
        write_lcd(tmp_path / f"{number:02}.h5", 5, first=5 * number)
    config = DataConfig(path=str(tmp_path / "*.h5"), validation_fraction=0, test_fraction=0, shuffle_window=2)
    for batch in loaded(build_manifest(config), config, 20):
        np.testing.assert_array_equal(rows_of(batch.showers), batch.ids)


PEAK_MEMORY = """
import sys
from pathlib import Path
from dist_calo.config import DataConfig
from dist_calo.data.loader import training_loader
from dist_calo.data.manifest import build_manifest, scan_rows
config = DataConfig(path=sys.argv[1], shuffle_window=4)
manifest = build_manifest(config)
scan_rows(manifest)
with training_loader(manifest, config, seed=0, global_batch_size=16) as loader:
    while next(loader).epoch == 0:
        pass
# Not ru_maxrss, which a process inherits from the one that started it.
lines = Path("/proc/self/status").read_text().splitlines()
print(next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
"""


def test_peak_memory_does_not_grow_with_the_data_set(tmp_path):
    peaks = []
    for rows in (1_000, 8_000):
        path = tmp_path / f"{rows}.h5"
        with h5py.File(path, "w") as file:
            # One compressed chunk, stored again and again: 8,000 showers (0.5 GB) in a small file.
            cells = file.create_dataset(
                "ECAL", (rows, 25, 25, 25), np.float32, chunks=(40, 25, 25, 25), compression="gzip"
            )
            cells[:40] = showers(40)
            mask, chunk = cells.id.read_direct_chunk((0, 0, 0, 0))
            for start in range(40, rows, 40):
                cells.id.write_direct_chunk((start, 0, 0, 0), chunk, mask)
            file["energy"] = energies(rows)
        run = subprocess.run(
            [sys.executable, "-c", PEAK_MEMORY, str(path)],
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        peaks.append(int(run.stdout))
    print(f"peak memory: {peaks[0] / 1e6:.0f} MB and {peaks[1] / 1e6:.0f} MB with eight times the data")
    assert peaks[1] - peaks[0] < 50e6
