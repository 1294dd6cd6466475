"""Order of samples: global batches as a pure function of (seed, epoch, data set, global batch size).

1. The blocks of the split are permuted for the epoch; laid end to end they are the epoch's *stream* of N
   samples.
2. A *window* is the run of the stream that feeds W global batches of B samples. It is cut into B runs of W
   samples, and each run gives one sample to each of the W batches, in an order drawn for that run. So every
   batch is spread evenly over the window, and all samples of a run have the same place (*slot*) in their
   batches.
3. A rank gets a contiguous range of slots of each batch: thus a contiguous piece of the stream, read in whole
   blocks that no other rank reads, but for the ends of the piece.

The last window holds fewer batches; the samples after the last whole batch are its last, smaller batch, or
are left out. Random numbers are raw Philox words: the order does not change with the version of NumPy.

The state takes 16 bytes a block of the split, and as much for each of two epochs; nothing else grows with the data
set. With blocks of 32 showers 10^7 showers take 15 MB.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dist_calo.data.row_blocks import Blocks
from dist_calo.errors import ConfigError, DataError
from dist_calo.randomness import derived_seed

_PHILOX_WORDS = 4
_EPOCHS_KEPT = 2


@dataclass(frozen=True, kw_only=True)
class Position:
    """Progress of a training, the same on every rank and for every number of ranks."""

    epoch: int = 0
    samples_seen: int = 0
    """Samples of this epoch that all ranks together have used."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Samples of a global batch for one rank, those of the first micro-batch first."""

    ids: np.ndarray
    """Global sample ids, int64 with shape (n,)."""
    slots: np.ndarray
    """Positions of the samples in the global batch, int64 with shape (n,)."""
    global_size: int
    """Samples of the batch over all ranks."""
    micro_sizes: tuple[int, ...]
    """This rank's samples of each micro-batch; may be 0."""
    micro_global_sizes: tuple[int, ...]
    """Samples of each micro-batch over all ranks."""


class Order:
    """Global batches of every epoch.

    Args:
        blocks: the blocks of the split.
        seed: seed of the run.
        global_batch_size: samples of a batch over all ranks.
        window: global batches that are shuffled together; a rank holds its share of a window in memory.
        remainder: whether the samples after the last whole batch are a smaller batch or are left out.
        shuffle: False takes the samples in the order of the files.

    Raises:
        ConfigError: if not one batch can be made.

    Example:
        >>> import numpy as np
        >>> blocks = Blocks(first_ids=np.array([0, 4, 8]), rows=np.array([4, 4, 4]))
        >>> order = Order(blocks, seed=0, global_batch_size=4, window=2, shuffle=False)
        >>> order.steps_per_epoch, order.locate(Position(epoch=0, samples_seen=8))
        (3, (0, 2))
        >>> whole = order.batch_ids(epoch=0, step=0).tolist()
        >>> whole == [i for rank in range(3) for i in order.share(0, 0, rank, size=3).ids.tolist()]
        True
    """

    def __init__(
        self,
        blocks: Blocks,
        *,
        seed: int,
        global_batch_size: int,
        window: int = 16,
        remainder: Literal["keep", "drop"] = "keep",
        shuffle: bool = True,
    ) -> None:
        self.blocks = blocks
        self.global_batch_size = global_batch_size
        self.window = window
        self._seed = seed
        self._shuffle = shuffle
        whole, rest = divmod(blocks.samples, global_batch_size)
        self._whole_batches = whole
        self._rest = rest if remainder == "keep" else 0
        self.steps_per_epoch = whole + (self._rest > 0)
        self.samples = whole * global_batch_size + self._rest
        """Samples used in an epoch."""
        if not self.steps_per_epoch:
            raise ConfigError(
                f"train.global_batch_size={global_batch_size} with data.remainder=drop: there are only "
                f"{blocks.samples} samples; lower the batch size or use data.remainder=keep"
            )
        self._streams: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    @property
    def windows_per_epoch(self) -> int:
        return max(1, -(-self._whole_batches // self.window))

    def batch_size(self, step: int) -> int:
        """Return the number of samples of the step-th batch of an epoch, over all ranks."""
        return self.global_batch_size if step < self._whole_batches else self._rest

    def window_steps(self, window: int) -> range:
        """Return the steps of an epoch that are shuffled together in this window."""
        last = window == self.windows_per_epoch - 1
        return range(window * self.window, self.steps_per_epoch if last else (window + 1) * self.window)

    def window_of(self, step: int) -> int:
        """Return the window that a step of an epoch belongs to."""
        return min(step // self.window, self.windows_per_epoch - 1)

    def batch_ids(self, epoch: int, step: int) -> np.ndarray:
        """Return the global sample ids of a global batch in the order of their slots, int64."""
        return self._ids(epoch, step, np.arange(self.batch_size(step)))

    def share(self, epoch: int, step: int, rank: int, size: int, accumulation: int = 1) -> Share:
        """Return the samples of a global batch that a rank trains on.

        Micro-batch m holds every ``accumulation``-th slot beginning with slot m, and the rank-th of ``size``
        contiguous parts of it, equal but for 1 sample, belongs to the rank: so a micro-batch is the same for
        every number of ranks, and a sample has the same slot for every number of micro-batches. A batch
        smaller than ``accumulation`` has as many micro-batches as samples.
        """
        total = self.batch_size(step)
        micro_batches = min(accumulation, total)
        micro_global_sizes = tuple(
            (total - first + micro_batches - 1) // micro_batches for first in range(micro_batches)
        )
        parts = [
            first
            + micro_batches * np.arange(rank * count // size, (rank + 1) * count // size, dtype=np.int64)
            for first, count in enumerate(micro_global_sizes)
        ]
        slots = np.concatenate(parts)
        ascending = np.argsort(slots)
        ids = np.empty_like(slots)
        ids[ascending] = self._ids(epoch, step, slots[ascending])
        return Share(
            ids=ids,
            slots=slots,
            global_size=total,
            micro_sizes=tuple(len(part) for part in parts),
            micro_global_sizes=micro_global_sizes,
        )

    def locate(self, position: Position) -> tuple[int, int]:
        """Return epoch and step of the next batch at a position.

        Raises:
            DataError: if no batch begins there, as when the data set or the batch size has changed.
        """
        if position.samples_seen == self.samples:
            return position.epoch + 1, 0
        step, within = divmod(position.samples_seen, self.global_batch_size)
        if within or not 0 <= step < self.steps_per_epoch:
            raise DataError(
                f"position after {position.samples_seen} samples of epoch {position.epoch}: no batch begins "
                f"there, for an epoch has {self.samples} samples in batches of {self.global_batch_size}; "
                "continue with the data and train.global_batch_size that the run began with"
            )
        return position.epoch, step

    def position_after(self, epoch: int, step: int) -> Position:
        """Return the position after this batch; the end of an epoch is the start of the next."""
        if step + 1 == self.steps_per_epoch:
            return Position(epoch=epoch + 1)
        return Position(epoch=epoch, samples_seen=(step + 1) * self.global_batch_size)

    def _ids(self, epoch: int, step: int, slots: np.ndarray) -> np.ndarray:
        """Return the global ids of the samples in these ascending slots of a batch."""
        if not self._shuffle:
            return self._stream_ids(epoch, step * self.global_batch_size + slots)
        window = self.window_of(step)
        steps = self.window_steps(window)
        begin = steps.start * self.global_batch_size
        length = min(begin + len(steps) * self.global_batch_size, self.samples) - begin
        runs = slots if step < self._whole_batches else self._longer_runs(length)[slots]
        starts = runs * length // self.global_batch_size
        sizes = (runs + 1) * length // self.global_batch_size - starts
        drawn = self._draw(epoch, window, runs, len(steps))
        # In the last window a run may have no sample for the last batch: that one comes last in the order
        # drawn.
        drawn[np.arange(len(steps)) >= sizes[:, None]] = np.iinfo(np.uint64).max
        within = np.argsort(drawn, axis=1, kind="stable")[:, step - steps.start]
        return self._stream_ids(epoch, begin + starts + within)

    def _longer_runs(self, length: int) -> np.ndarray:
        """Return the runs of the last window with one sample more than others; they make the smaller batch."""
        bounds = np.arange(self.global_batch_size + 1, dtype=np.int64) * length // self.global_batch_size
        return np.flatnonzero(np.diff(bounds) > length // self.global_batch_size)

    def _draw(self, epoch: int, window: int, runs: np.ndarray, count: int) -> np.ndarray:
        """Draw random words for each run, uint64 with shape (runs, count)."""
        counters = -(-count // _PHILOX_WORDS)
        out = np.empty((len(runs), counters * _PHILOX_WORDS), dtype=np.uint64)
        key = derived_seed(self._seed, "order", epoch, window)
        # Only the words of these runs are computed, so that the work of a rank does not grow with their
        # number.
        for first, last in _contiguous(runs):
            source = np.random.Philox(key=key)
            source.advance(int(runs[first]) * counters)
            out[first:last] = source.random_raw((last - first) * out.shape[1]).reshape(-1, out.shape[1])
        return out[:, :count]

    def _stream_ids(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """Return the global ids of places in the stream of an epoch."""
        first_ids, starts = self._stream(epoch)
        block = np.searchsorted(starts, places, side="right") - 1
        return first_ids[block] + places - starts[block]

    def _stream(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first id of each block and its place, in the order of the stream."""
        if epoch not in self._streams:
            first_ids, rows = self.blocks.first_ids, self.blocks.rows
            if self._shuffle:
                words = np.random.Philox(key=derived_seed(self._seed, "blocks", epoch)).random_raw(len(rows))
                permutation = np.argsort(words, kind="stable")
                first_ids, rows = first_ids[permutation], rows[permutation]
            self._streams[epoch] = first_ids, np.cumsum(rows) - rows
            while len(self._streams) > _EPOCHS_KEPT:
                self._streams.popitem(last=False)
        return self._streams[epoch]


def _contiguous(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Return the ranges of places between which ascending numbers have no gaps."""
    if not len(numbers):
        return []
    breaks = (np.flatnonzero(np.diff(numbers) != 1) + 1).tolist()
    return list(zip([0, *breaks], [*breaks, len(numbers)], strict=True))
