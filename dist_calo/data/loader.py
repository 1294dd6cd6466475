"""Loader of a rank's batches, read ahead by a thread.

The thread takes one window of `Order` after the other: it finds the rows that this rank needs, reads the rows
of each block by one contiguous read, and puts every shower straight to its place in the window's batches. A
rank holds the window in use, those read ahead and one block: memory that does not depend on the size of the
data set.
"""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dist_calo.config import DataConfig
from dist_calo.data.identity import what_changed
from dist_calo.data.manifest import Manifest
from dist_calo.data.order import Order, Position, Share
from dist_calo.data.reader import Reader
from dist_calo.data.row_blocks import Blocks, Split, split_blocks


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of a global batch for one rank, those of the first micro-batch first; n may be 0."""

    showers: np.ndarray
    """Energies of cells in GeV, float32 with shape (n, *geometry.shape)."""
    conditions: np.ndarray
    """The geometry's conditions in GeV and rad, float32 with shape (n, C)."""
    ids: np.ndarray
    """Global sample ids, int64 with shape (n,)."""
    slots: np.ndarray
    """Positions of the samples in the global batch, int64 with shape (n,)."""
    epoch: int
    index: int
    """Number of the batch within its epoch."""
    micro: tuple[slice, ...]
    """This rank's samples of each micro-batch; may be empty."""
    global_size: int
    """Samples of the batch over all ranks."""
    micro_global_sizes: tuple[int, ...]
    """Samples of each micro-batch over all ranks."""
    end: Position
    """Position once this batch has been used."""


class Loader:
    """Iterator over the batches of one rank from a position on.

    Args:
        manifest: the data set.
        order: the global batches of the split.
        rank: number of this rank.
        size: number of ranks.
        accumulation: micro-batches of a batch.
        start: where the first batch begins.
        epochs: epochs to go through from there on; None goes on for ever.
        prefetch_batches: batches to prepare ahead, rounded up to whole windows.

    Raises, while iterating:
        DataError: if a file has changed or cannot be read, or a row breaks a rule.
    """

    def __init__(
        self,
        manifest: Manifest,
        order: Order,
        *,
        rank: int = 0,
        size: int = 1,
        accumulation: int = 1,
        start: Position | None = None,
        epochs: int | None = None,
        prefetch_batches: int = 4,
    ) -> None:
        self.samples = order.blocks.samples
        """Showers of the split."""
        self.wait_s = 0.0
        """Time that the consumer has waited for data since the start, in seconds."""
        self._manifest = manifest
        self._order = order
        self._rank, self._size, self._accumulation = rank, size, accumulation
        self._epoch, self._step = order.locate(start or Position())
        self._last_epoch = None if epochs is None else self._epoch + epochs
        self._windows: queue.SimpleQueue[list[Batch] | BaseException | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        ahead = -(-prefetch_batches // order.window)
        self._may_read = threading.Semaphore(ahead)
        self._thread = threading.Thread(target=self._read_ahead, name=f"loader-{rank}", daemon=True)
        self._batches = self._consume()
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self._batches

    def __next__(self) -> Batch:
        return next(self._batches)

    def _consume(self) -> Iterator[Batch]:
        while True:
            began = time.perf_counter()
            window = self._windows.get()
            self.wait_s += time.perf_counter() - began
            if window is None:
                return
            if isinstance(window, BaseException):
                raise window
            self._may_read.release()
            # Drop each batch once used, so that the window is freed with its last one.
            window.reverse()
            while window:
                yield window.pop()

    def what_changed(self) -> str | None:
        """Return a file of the run that has changed, if any; each rank checks its share of all files."""
        return what_changed(
            file
            for entry in self._manifest.files[self._rank :: self._size]
            for file in (entry, *entry.sources)
        )

    def close(self) -> None:
        """Stop the reading thread; batches that were handed out stay valid."""
        self._stop.set()
        self._may_read.release()
        self._windows.put(None)
        self._thread.join()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_ahead(self) -> None:
        reader = Reader(self._manifest)
        try:
            for epoch, steps in self._plan():
                self._may_read.acquire()
                window = self._read_window(reader, epoch, steps)
                if self._stop.is_set():
                    return
                self._windows.put(window)
                del window
            self._windows.put(None)
        except BaseException as error:
            self._windows.put(error)
        finally:
            reader.close()

    def _plan(self) -> Iterator[tuple[int, range]]:
        """Yield epoch and steps of each window, from the first batch on."""
        epoch, step = self._epoch, self._step
        while self._last_epoch is None or epoch < self._last_epoch:
            for window in range(self._order.window_of(step), self._order.windows_per_epoch):
                steps = self._order.window_steps(window)
                yield epoch, range(max(step, steps.start), steps.stop)
            epoch, step = epoch + 1, 0

    def _read_window(self, reader: Reader, epoch: int, steps: range) -> list[Batch]:
        shares = [
            self._order.share(epoch, step, self._rank, self._size, self._accumulation) for step in steps
        ]
        showers, conditions = reader.read(np.concatenate([share.ids for share in shares]), self._stop.is_set)
        bounds = np.cumsum([0, *(len(share.ids) for share in shares)])
        return [
            self._batch(share, showers[first:last], conditions[first:last], epoch, step)
            for share, step, first, last in zip(shares, steps, bounds[:-1], bounds[1:], strict=True)
        ]

    def _batch(
        self, share: Share, showers: np.ndarray, conditions: np.ndarray, epoch: int, step: int
    ) -> Batch:
        ends = np.cumsum(share.micro_sizes).tolist()
        return Batch(
            showers=showers,
            conditions=conditions,
            ids=share.ids,
            slots=share.slots,
            epoch=epoch,
            index=step,
            micro=tuple(slice(end - size, end) for end, size in zip(ends, share.micro_sizes, strict=True)),
            global_size=share.global_size,
            micro_global_sizes=share.micro_global_sizes,
            end=self._order.position_after(epoch, step),
        )


def training_order(manifest: Manifest, config: DataConfig, seed: int, global_batch_size: int) -> Order:
    """Return the global batches of the training split; raises as `training_loader` does."""
    return Order(
        split_blocks(manifest, "train", config),
        seed=seed,
        global_batch_size=global_batch_size,
        window=config.shuffle_window,
        remainder=config.remainder,
    )


def training_loader(
    manifest: Manifest,
    config: DataConfig,
    *,
    seed: int,
    global_batch_size: int,
    rank: int = 0,
    size: int = 1,
    accumulation: int = 1,
    start: Position | None = None,
) -> Loader:
    """Return a loader of shuffled batches of the training split, epoch after epoch without end.

    Raises:
        ConfigError: if not one batch can be made.
        DataError: if the split is empty, or no batch begins at `start`.
    """
    return Loader(
        manifest,
        training_order(manifest, config, seed, global_batch_size),
        rank=rank,
        size=size,
        accumulation=accumulation,
        start=start,
        prefetch_batches=config.prefetch_batches,
    )


def evaluation_loader(
    manifest: Manifest,
    config: DataConfig,
    split: Split,
    *,
    global_batch_size: int,
    rank: int = 0,
    size: int = 1,
) -> Loader:
    """Return a loader of every sample of a split exactly once over all ranks, in file order, without padding.

    Raises:
        DataError: if the split is empty.
    """
    return ordered_loader(
        manifest,
        split_blocks(manifest, split, config),
        global_batch_size=global_batch_size,
        rank=rank,
        size=size,
        ahead=config.prefetch_batches,
    )


def ordered_loader(
    manifest: Manifest, blocks: Blocks, *, global_batch_size: int, rank: int, size: int, ahead: int
) -> Loader:
    """Return a loader of every sample of some blocks exactly once over all ranks, in their order.

    Raises:
        DataError: if there is no sample.
    """
    order = Order(blocks, seed=0, global_batch_size=global_batch_size, window=ahead, shuffle=False)
    return Loader(manifest, order, rank=rank, size=size, epochs=1, prefetch_batches=ahead)
