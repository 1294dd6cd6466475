"""Progress of a run as the user sees it: a bar on a terminal, plain lines in a log file; rank 0 alone speaks."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch

from dist_calo.comm.protocol import Communicator
from dist_calo.config import RunConfig
from dist_calo.data.loader import Loader
from dist_calo.data.manifest import Manifest
from dist_calo.data.row_blocks import split_blocks
from dist_calo.resources import described_showers


def run_in_words(
    config: RunConfig, manifest: Manifest, networks: Mapping[str, torch.nn.Module], ranks: int
) -> Iterator[str]:
    """Tell what is trained on what, so that a wrong set-up shows at the start."""
    train = split_blocks(manifest, "train", config.data).samples
    validation = split_blocks(manifest, "validation", config.data).samples
    yield (
        f"{manifest.rows} showers in {len(manifest.files)} file(s), "
        f"{', '.join(map(described_showers, config.data.patterns))}, of {manifest.geometry.described}: {train} for "
        f"training, {validation} for validation, {manifest.rows - train - validation} for test"
    )
    sizes = (
        f"{name} {sum(weights.numel() for weights in network.parameters()):,}"
        for name, network in networks.items()
    )
    yield f"{config.model.name} with {config.objective.name}; parameters: {', '.join(sizes)}"
    batch, steps = config.train.global_batch_size, config.train.max_steps
    share = f"{batch // ranks}" if batch % ranks == 0 else f"{batch // ranks} or {batch // ranks + 1}"
    yield f"{steps} steps of {batch} showers, {share} a rank; {steps * batch / train:.3g} epochs"


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

    The lines of a step wait for `show`: what the log tells of has been saved, if it was to be. In a log, lines begin
    with the time.

    Args:
        max_steps: last step of the run.
        step: step that the run starts from.
        ranks: number of ranks of the run.
        show: False on ranks other than 0.
        launcher: what started the ranks. Those of a cluster write log files, even where they look like terminals.
        seconds: time after which the run ends if its steps do not end it before; None without a limit.
    """

    def __init__(
        self,
        max_steps: int,
        step: int,
        *,
        show: bool,
        ranks: int = 1,
        launcher: str = "none",
        seconds: float | None = None,
    ) -> None:
        self._max_steps = max_steps
        self._ranks = ranks
        self._first, self._began = step, time.monotonic()
        self._seconds = math.inf if seconds is None else seconds
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
            print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)

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
        left = "" if self._bar or step == self._max_steps else f"{self._time_left(step)} left  "
        waits = f"waiting for data {1e3 * metrics['time/wait_data_s']:.1f} ms"
        if self._ranks > 1:
            waits += f", for ranks {1e3 * metrics['time/wait_comm_s']:.1f} ms"
        self._waiting.append(
            f"step {step:>{len(str(self._max_steps))}}/{self._max_steps}  {left}epoch {epoch}  {losses}  "
            f"{metrics['throughput/showers_per_s']:.1f} showers/s  {waits} a step"
        )
        if self._bar:
            self._bar.update(self._task, completed=step)

    def _time_left(self, step: int) -> timedelta:
        """Return the time to the last step or the end of the run's time, if all goes on like since the start."""
        spent_s = time.monotonic() - self._began
        left_s = spent_s / (step - self._first) * (self._max_steps - step)
        return timedelta(seconds=round(max(0.0, min(left_s, self._seconds - spent_s))))

    def ended(self, step: int) -> None:
        """Show a run that ends with this step as complete."""
        if self._bar:
            self._bar.update(self._task, completed=step, total=step)

    def validation(self, step: int, words: str) -> None:
        """Report a validation in a few numbers."""
        self._waiting.append(f"step {step}: validation  {words}")

    def close(self) -> None:
        """Print what waits, and leave the terminal tidy."""
        self.show()
        if self._bar:
            self._bar.stop()
