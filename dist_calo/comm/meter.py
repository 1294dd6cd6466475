"""Counters of every backend: payload handed over and time spent waiting."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dist_calo.comm.liveness.leaving import CommunicationError
from dist_calo.launching.rank_progress import SIGNS

if TYPE_CHECKING:
    import torch


class Meter:
    """Counters of a communicator, kept in the same way by every backend.

    Attributes:
        bytes_sent: payload of this rank's tensor collectives, in bytes: each tensor handed over counts once, in the
            number format in which it travels, whatever the algorithm and the number of ranks (also for one rank).
        collectives: tensors handed over; each costs the latency of the network at least once.
        wait_s: time blocked in collectives, in seconds; on a GPU the time of the host only.
    """

    def __init__(self) -> None:
        self.bytes_sent = 0
        self.collectives = 0
        self.wait_s = 0.0

    def count(self, tensor: "torch.Tensor") -> None:
        """Count a tensor that is handed over.

        Raises:
            ValueError: if the tensor is not contiguous.
        """
        if not tensor.is_contiguous():
            raise ValueError(
                f"collectives take contiguous tensors, not shape {tuple(tensor.shape)}, stride {tensor.stride()}"
            )
        self.bytes_sent += tensor.numel() * tensor.element_size()
        self.collectives += 1

    @contextmanager
    def blocked(self, what: str) -> Iterator[None]:
        """Count the time of the block as waiting, and say so to the other ranks of this node.

        Raises:
            CommunicationError: in place of the backend's own error.
        """
        start = time.perf_counter()
        SIGNS.wait(True)
        try:
            yield
        except RuntimeError as error:
            raise CommunicationError(
                f"{what} failed: another rank has ended or does not answer; see that rank's message ({_reason(error)})"
            ) from error
        finally:
            SIGNS.wait(False)
            self.wait_s += time.perf_counter() - start


def _reason(error: RuntimeError) -> str:
    """Return the first sentence of a library's message, without the place in its source."""
    text = re.sub(r"^\[[^\]]*\.\w+:\d+\]\s*", "", str(error).strip())
    return re.split(r"\.\s|\n", text)[0] or type(error).__name__
