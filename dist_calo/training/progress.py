"""Progress of a run as the user sees it: a bar on a terminal, plain lines in a log file; rank 0 alone speaks."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from dist_calo.comm.protocol import Communicator
from dist_calo.data.loader import Loader


class StepTimes:
    """Throughput and waiting times between two log lines, averaged over all ranks."""

    def __init__(self, communicator: Communicator, loader: Loader) -> None:
        self._communicator = communicator
        self._loader = loader
        self.restart()

    def restart(self) -> None:
        """Begin a new interval, so that validation and checkpoints are not counted as training."""
        self._steps = self._showers = 0
        self._began = time.perf_counter()
        self._data_s, self._comm_s = self._loader.wait_s, self._communicator.wait_s

    def count(self, showers: int) -> None:
        """Count a step on a global batch of so many showers."""
        self._steps += 1
        self._showers += showers

    def since_last(self) -> dict[str, float]:
        """Return rates of the interval that ends now; collective."""
        elapsed = time.perf_counter() - self._began
        waits = torch.tensor(
            [elapsed, self._loader.wait_s - self._data_s, self._communicator.wait_s - self._comm_s],
            dtype=torch.float64,
        )
        self._communicator.all_reduce(waits)
        mean_elapsed, data_s, comm_s = (waits / self._communicator.world.size).tolist()
        rate = self._showers / mean_elapsed
        metrics = {
            "time/step_s": mean_elapsed / self._steps,
            "time/wait_data_s": data_s / self._steps,
            "time/wait_comm_s": comm_s / self._steps,
            "throughput/showers_per_s": rate,
            "throughput/showers_per_s_per_rank": rate / self._communicator.world.size,
        }
        self.restart()
        return metrics


class Progress:
    """Lines and bar of one run.

    The lines of a step wait for `show`: what the log tells of has been saved, if it was to be.

    Args:
        max_steps: last step of the run.
        step: step that the run starts from.
        show: False on ranks other than 0.
        launcher: what started the ranks. Those of a cluster write log files, even where they look like terminals.
    """

    def __init__(self, max_steps: int, step: int, *, show: bool, launcher: str = "none") -> None:
        self._max_steps = max_steps
        self._show = show
        self._bar: Any = None
        self._waiting: list[str] = []
        if show and launcher in ("none", "local") and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns)
            self._task = self._bar.add_task("training", total=max_steps, completed=step)
            self._bar.start()

    def say(self, text: str) -> None:
        """Print one line."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self._show:
            print(text, flush=True)

    def show(self) -> None:
        """Print the lines that wait."""
        for text in self._waiting:
            self.say(text)
        self._waiting.clear()

    def line(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Report a logging interval."""
        losses = "  ".join(
            f"{k.removesuffix('/total')} {v:.4g}" for k, v in metrics.items() if k.endswith("/total")
        )
        self._waiting.append(
            f"step {step:>{len(str(self._max_steps))}}/{self._max_steps}  epoch {epoch}  {losses}  "
            f"{metrics['throughput/showers_per_s']:.1f} showers/s  "
            f"waiting for data {1e3 * metrics['time/wait_data_s']:.1f} ms, "
            f"for ranks {1e3 * metrics['time/wait_comm_s']:.1f} ms a step"
        )
        if self._bar:
            self._bar.update(self._task, completed=step)

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report a validation in a few numbers."""
        values = "  ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        self._waiting.append(f"step {step}: validation  {values}")

    def close(self) -> None:
        """Print what waits, and leave the terminal tidy."""
        self.show()
        if self._bar:
            self._bar.stop()
