import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.config import DataConfig
from dist_calo.data.manifest import FileEntry, Manifest
from dist_calo.data.row_blocks import block_rows, split_blocks, split_of
from dist_calo.errors import DataError
from dist_calo.geometry import VoxelGrid


def entry(rows, chunk_rows=32, name="a.h5"):
    return FileEntry(name=name, path=name, rows=rows, bytes=1, chunk_rows=chunk_rows, fingerprint="")


def manifest(*files):
    return Manifest(format="lcd", geometry=VoxelGrid(shape=(25, 25, 25)), particle=None, files=files)


def ids(blocks):
    return [
        int(first) + row
        for first, rows in zip(blocks.first_ids, blocks.rows, strict=True)
        for row in range(rows)
    ]


@pytest.mark.parametrize(
    ("rows", "chunk", "expected"),
    [
        (10_000, 32, 32),
        (10_000, 10, 40),
        (10_000, 1, 32),
        (10_000, 100, 100),
        (10_000, 5000, 1024),
        (10_000, None, 64),
        (500, 32, 32),
        (200, None, 13),
        (5, 5, 1),
    ],
)
def test_blocks_are_whole_chunks_but_in_small_files(rows, chunk, expected):
    assert block_rows(entry(rows, chunk)) == expected


@given(
    st.lists(
        st.tuples(st.integers(1, 3000), st.sampled_from([None, 1, 10, 32, 100])), min_size=1, max_size=4
    ),
    st.sampled_from([(0.1, 0.1), (0.0, 0.3), (0.5, 0.0), (0.0, 0.0)]),
)
def test_the_splits_share_all_rows(files, fractions):
    data = manifest(*(entry(rows, chunk, f"{n}.h5") for n, (rows, chunk) in enumerate(files)))
    config = DataConfig(validation_fraction=fractions[0], test_fraction=fractions[1])
    found = []
    for split in ("train", "validation", "test"):
        try:
            blocks = split_blocks(data, split, config)
        except DataError:
            assert max(rows for rows, _ in files) < 2 * 16 * 100
            continue
        assert blocks.samples == len(ids(blocks))
        found += ids(blocks)
    assert sorted(found) == list(range(data.rows))
    assert ids(split_blocks(data, "all", config)) == list(range(data.rows))


def test_the_split_of_a_row_stays_when_files_are_added():
    config = DataConfig()
    before = split_blocks(manifest(entry(3000, name="b.h5")), "test", config)
    after = split_blocks(manifest(entry(777, name="a.h5"), entry(3000, name="b.h5")), "test", config)
    assert [sample + 777 for sample in ids(before)] == [sample for sample in ids(after) if sample >= 777]


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.1), (0.05, 0.3), (0.0, 0.01)])
def test_fractions_are_kept_and_spread_evenly(validation, test):
    which = split_of(np.arange(1000), validation, test)
    assert np.mean(which == 1) == pytest.approx(validation, abs=0.005)
    assert np.mean(which == 2) == pytest.approx(test, abs=0.005)
    for part in np.split(which, 10):
        assert np.mean(part == 0) == pytest.approx(1 - validation - test, abs=0.04)


def test_files_too_small_to_split_are_told():
    config = DataConfig()
    tiny = manifest(entry(3))
    with pytest.raises(DataError, match=r"no showers are left for validation: 3 rows in 1 file.*set it to 0"):
        split_blocks(tiny, "validation", config)
    assert split_blocks(tiny, "validation", DataConfig(validation_fraction=0.0)).samples == 0
    for rows in (100, 200, 333, 1500):
        for split in ("train", "validation", "test"):
            assert split_blocks(manifest(entry(rows, None)), split, config).samples > 0
