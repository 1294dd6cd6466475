"""Blocks of rows, the unit of splitting and shuffling, and the stable rule that splits a data set by blocks.

A block is a run of rows of one file that is read by one contiguous read of whole HDF5 chunks.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dist_calo.config import DataConfig
from dist_calo.data.manifest import FileEntry, Manifest
from dist_calo.errors import DataError

Split = Literal["train", "validation", "test", "all"]

_GOLDEN = 0.6180339887498949
_LEAST_ROWS, _UNCHUNKED_ROWS, _MOST_ROWS = 32, 64, 1024
_LEAST_BLOCKS = 16


@dataclass(frozen=True)
class Blocks:
    """Blocks in the order of the files, 16 bytes each."""

    first_ids: np.ndarray
    """Global id of each block's first row, int64."""
    rows: np.ndarray
    """Rows of each block, int64."""

    @property
    def samples(self) -> int:
        return int(self.rows.sum())


def block_rows(entry: FileEntry) -> int:
    """Return the number of rows of a block of this file (its last block may be shorter).

    The smallest number of whole chunks with at least 32 rows, at most 1,024; 64 rows where the file is not
    chunked. Small files, of at most 1,024 rows, are cut into at least 16 blocks, so that they too can be
    split.
    """
    chunk = entry.chunk_rows
    rows = min(chunk * -(-_LEAST_ROWS // chunk), _MOST_ROWS) if chunk else _UNCHUNKED_ROWS
    if entry.rows <= _MOST_ROWS:
        rows = min(rows, -(-entry.rows // _LEAST_BLOCKS))
    return rows


def split_of(block: np.ndarray, validation_fraction: float, test_fraction: float) -> np.ndarray:
    """Return the split of the blocks of a file, from their number within the file.

    The golden-ratio sequence frac((k + 1) 0.618...) spreads evenly over [0, 1): its lowest part is
    validation, the next test. So a row's split depends on its place in its file alone and stays when files
    are added.

    Returns:
        0 for train, 1 for validation, 2 for test; the shape of `block`.

    Example:
        >>> split_of(np.arange(8), validation_fraction=0.2, test_fraction=0.2).tolist()
        [0, 2, 0, 0, 1, 0, 2, 0]
    """
    place = ((block + 1) * _GOLDEN) % 1.0
    return np.where(
        place < validation_fraction, 1, np.where(place < validation_fraction + test_fraction, 2, 0)
    )


def split_blocks(manifest: Manifest, split: Split, config: DataConfig) -> Blocks:
    """Return the blocks of one split.

    Raises:
        DataError: if it is empty, though its fraction is not 0, because the files are too small.
    """
    first_ids, rows = [], []
    wanted = {"train": 0, "validation": 1, "test": 2}.get(split)
    for entry, first_id in zip(manifest.files, manifest.first_ids, strict=False):
        size = block_rows(entry)
        starts = np.arange(0, entry.rows, size, dtype=np.int64)
        if wanted is not None:
            numbers = np.arange(len(starts))
            starts = starts[split_of(numbers, config.validation_fraction, config.test_fraction) == wanted]
        first_ids.append(first_id + starts)
        rows.append(np.minimum(entry.rows - starts, size))
    blocks = Blocks(np.concatenate(first_ids), np.concatenate(rows))
    fraction = {"validation": config.validation_fraction, "test": config.test_fraction}.get(split, 1.0)
    if fraction > 0 and not blocks.samples:
        remedy = (
            "use more showers"
            if fraction == 1.0
            else f"raise data.{split}_fraction={fraction:g} or set it to 0, or "
            + (
                "merge the files with dist-calo data convert"
                if len(manifest.files) > 1
                else "use more showers"
            )
        )
        largest = max(entry.rows for entry in manifest.files)
        raise DataError(
            f"no showers are left for {split}: {manifest.rows} rows in {len(manifest.files)} file(s), "
            f"the largest of {largest} rows, are too few to split: {remedy}"
        )
    return blocks
