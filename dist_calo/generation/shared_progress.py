"""Progress of all ranks with work that each does alone, shared without making any of them wait."""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from dist_calo.comm.protocol import Communicator, Work
from dist_calo.launching.rank_progress import SIGNS

EXCHANGE_S = 1.0
"""Shortest time between two exchanges of a rank that works, in seconds."""
LINE_S = 30.0
"""Time between two lines in a log file, in seconds."""


class GenerationStopped(Exception):
    """Request to stop that some rank has received; raised on all of them."""


class SharedProgress:
    """A count over all ranks by one all-reduce of 24 bytes a second, which runs while a rank works.

    Every rank takes part in every exchange, those that have finished at the pace of the others: so nobody waits longer
    than one piece of another rank's work, and the end is seen by all in the same exchange.

    Args:
        communicator: of all ranks.
        show: called with the sum over all ranks after each exchange.
        asked_to_stop: returns whether this rank has been asked to stop.

    Raises, in any method:
        GenerationStopped: if some rank has been asked to stop.
    """

    def __init__(
        self,
        communicator: Communicator,
        show: Callable[[int], None] = lambda _: None,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._communicator = communicator
        self._show = show
        self._asked_to_stop = asked_to_stop
        self._mine = self._pieces = 0
        self._last = time.monotonic()
        self._under_way: tuple[torch.Tensor, Work] | None = None

    def add(self, count: int) -> None:
        """Add to the count of this rank; call it after each piece of work."""
        self._mine += count
        if count:
            self._pieces += 1
            SIGNS.reached(self._pieces)
        if time.monotonic() - self._last >= EXCHANGE_S:
            self._exchange(finished=False)

    def wait_for_all(self) -> None:
        """Wait until all ranks have finished; every rank calls it once."""
        while not self._exchange(finished=True):
            pass

    def _exchange(self, *, finished: bool) -> bool:
        """Finish the exchange under way and begin the next; return True if all ranks have finished."""
        if self._under_way is not None:
            sums, work = self._under_way
            work.wait()
            self._under_way = None
            done, ranks, stops = sums.tolist()
            self._show(done)
            if stops:
                raise GenerationStopped
            if ranks == self._communicator.world.size:
                return True
        sums = torch.tensor([self._mine, finished, self._asked_to_stop()], dtype=torch.int64)
        self._under_way = sums, self._communicator.all_reduce_async(sums)
        self._last = time.monotonic()
        return False


class ShowerCount:
    """The progress that rank 0 shows: a bar on a terminal, a line every 30 s in a log file.

    Args:
        total: showers to make.
        kept: showers that were there before.
        show: False on ranks other than 0.
        launcher: what started the ranks; those of a cluster write log files, even where they look like terminals.
    """

    def __init__(self, total: int, kept: int, *, show: bool, launcher: str = "none") -> None:
        self._total, self._kept, self._show = total, kept, show
        self._began = self._told = time.monotonic()
        self._bar: Any = None
        if show and launcher in ("none", "local") and sys.stdout.isatty():
            from rich import progress as rich

            columns = (rich.TextColumn("showers"), rich.BarColumn(), rich.MofNCompleteColumn())
            rate = rich.TextColumn("{task.fields[rate]}")
            self._bar = rich.Progress(*columns, rate, rich.TimeRemainingColumn())
            self._task = self._bar.add_task("showers", total=total, completed=kept, rate="")
            self._bar.start()

    def made(self, showers: int) -> None:
        """Show how many showers all ranks have made together, besides those that were there before."""
        now = time.monotonic()
        rate = showers / (now - self._began)
        if self._bar:
            self._bar.update(self._task, completed=self._kept + showers, rate=f"{rate:.1f}/s")
        if self._show and not self._bar and showers and now - self._told >= LINE_S:
            left = (self._total - self._kept - showers) / rate
            print(
                f"{self._kept + showers}/{self._total} showers  {rate:.1f} showers/s  {left:.0f} s left",
                flush=True,
            )
            self._told = now

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar:
            self._bar.stop()
