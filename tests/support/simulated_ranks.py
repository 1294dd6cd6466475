"""Ranks as threads of one process: for what needs nothing of a rank but a sum over all of them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
TIMEOUT_SECONDS = 60.0


def on_simulated_ranks(size: int, function: Callable[[int, Callable[[torch.Tensor], None]], T]) -> list[T]:
    """Call ``function(rank, all_reduce)`` on every rank at once and return the results in rank order.

    A rank that raises breaks the others' sums instead of leaving them waiting, and its exception is raised here.
    """
    barrier = threading.Barrier(size, timeout=TIMEOUT_SECONDS)
    handed_in: list[torch.Tensor | None] = [None] * size

    def rank_main(rank: int) -> T:
        def all_reduce(tensor: torch.Tensor) -> None:
            assert tensor.is_contiguous()
            handed_in[rank] = tensor.detach().clone()
            barrier.wait()
            total = torch.stack([part for part in handed_in if part is not None]).sum(0)
            barrier.wait()
            tensor.copy_(total)

        try:
            return function(rank, all_reduce)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        running = [pool.submit(rank_main, rank) for rank in range(size)]
        errors = [error for future in running if (error := future.exception()) is not None]
    own = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    for error in [*own, *errors]:
        raise error
    return [future.result() for future in running]
