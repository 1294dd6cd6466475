"""Small training runs for tests: odd-sized shower files, a command line, and what a run leaves behind."""

import itertools
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import torch

from dist_calo.cli.runs import main as runs
from dist_calo.config import DataConfig
from dist_calo.data.formats import ShowerWriter
from dist_calo.data.ledger import read_ledger
from dist_calo.data.manifest import build_manifest
from dist_calo.data.row_blocks import split_blocks
from dist_calo.geometry import VoxelGrid
from dist_calo.training.checkpoint import Checkpoint, load_checkpoint
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.restore import restore_generator
from tests.support.mlflow_store import made_store
from tests.support.ranks import ROOT

SAMPLE = ROOT / "data" / "sample"


def write_showers(folder: Path, rows: tuple[int, ...] = (61, 46)) -> str:
    """Write files of the first sample showers and return their glob."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = np.cumsum([0, *rows])
    with h5py.File(sorted(SAMPLE.glob("*.h5"))[0]) as sample:
        for number, (first, last) in enumerate(itertools.pairwise(bounds)):
            path = folder / f"EleEscan_{number}.h5"
            with ShowerWriter(path, VoxelGrid(shape=(25, 25, 25)), chunk_rows=8) as writer:
                writer.append(sample["ECAL"][first:last], sample["energy"][first:last])
    return str(folder / "EleEscan_*.h5")


def write_part(source: Path, folder: Path, rows: tuple[int, ...] = (61, 46)) -> str:
    """Write files of the first rows of a file, with all its data sets and attributes, and return their glob."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = np.cumsum([0, *rows])
    with h5py.File(source) as whole:
        for number, (first, last) in enumerate(itertools.pairwise(bounds)):
            with h5py.File(folder / f"part_{number}.h5", "w") as part:
                part.attrs.update(whole.attrs)
                for name, values in whole.items():
                    chunks = (8, *values.shape[1:])
                    part.create_dataset(name, data=values[first:last], chunks=chunks).attrs.update(
                        values.attrs
                    )
    return str(folder / "part_*.h5")


def train_command(data: str, folder: Path, *overrides: str, model: str = "lcd_fast") -> list[str]:
    """A trainer's command line that writes everything below `folder`."""
    settings = {
        "config": ROOT / "configs" / f"{model}.yaml",
        "data.path": data,
        "data.ledger": folder / "ledger",
        "data.test_fraction": "0",
        "checkpoint.dir": folder / "checkpoints",
        "tracking.uri": made_store(folder),
        "tracking.spool": folder / "spool",
        "tracking.system_metrics": "false",
        "tracking.log_pictures": "false",
        "train.global_batch_size": "6",
        "train.validate_every_steps": "0",
        "train.log_every_steps": "1",
        "train.seed": "3",
    }
    given = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "dist_calo.train", *given, *overrides]


def own_run(data: str, folder: Path, *overrides: str) -> list[str]:
    """The arguments of a training in the test's own process, without a record or ledger of its own."""
    return [*train_command(data, folder, *overrides)[3:], "--tracking.uri=none"]


def final_state(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    checkpoints = CheckpointFolder(folder / "checkpoints")
    return load_checkpoint(checkpoints.path(checkpoints.steps()[-1]))


def tensors(state: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a nested state by dotted name."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    if isinstance(state, dict):
        parts = [tensors(value, f"{prefix}.{key}") for key, value in state.items()]
    elif isinstance(state, list | tuple):
        parts = [tensors(value, f"{prefix}.{number}") for number, value in enumerate(state)]
    else:
        parts = []
    return {name: tensor for part in parts for name, tensor in part.items()}


def parameters(state: dict[str, Any], network: str) -> torch.Tensor:
    """What is learned of one network of a checkpoint, without its constants, one after the other, float64."""
    learned = dict(restore_generator(Checkpoint.from_dict(state)).model.networks[network].named_parameters())
    return torch.cat([state["model"][f"{network}.{name}"].double().ravel() for name in learned])


def training_ids(data: str, **settings: float) -> list[int]:
    """The samples of an epoch of these files."""
    config = DataConfig(path=data, test_fraction=0.0, **settings)  # type: ignore[arg-type]
    blocks = split_blocks(build_manifest(config), "train", config)
    return sorted(
        first + row
        for first, rows in zip(blocks.first_ids.tolist(), blocks.rows.tolist(), strict=True)
        for row in range(rows)
    )


def same_bits(one: Any, other: Any) -> bool:
    """Whether all tensors of two nested states are equal bit for bit."""
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(
        first[name].numpy().tobytes() == second[name].numpy().tobytes() for name in first
    )


@contextmanager
def small_disk(room: int = 0) -> Iterator[None]:
    """Have the kernel refuse to make any file longer than this many bytes, whoever writes it: EFBIG.

    Use with ``capsys``: what pytest itself writes to is a file as well.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def stop_at(step: int, command: list[str], *numbers: int) -> int:
    """Start runs, send each a signal, to all processes, once it has taken a step, and return the exit code."""
    run = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert run.stdout is not None
    left = list(numbers)
    try:
        for line in run.stdout:
            print(line, end="")
            if f" step {step:>2}/" in line:
                number = left.pop(0)
                # The ranks before their launcher, which would ask them to stop in order.
                if number == signal.SIGKILL:
                    for process in psutil.Process(run.pid).children(recursive=True):
                        process.send_signal(number)
                run.send_signal(number)
                if not left:
                    break
        print(run.stdout.read())
        return run.wait(60)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.stdout.close()


def logged_metrics(folder: Path) -> tuple[dict[tuple[str, int], float], int]:
    """All points in MLflow as (name, step) -> value, and the number of runs; times and rates are left out."""
    # A busy machine may have left some of it in the spool when the run ended.
    assert runs(["sync", "--spool", str(folder / "spool")]) == 0
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        (number,) = store.execute("select count(*) from runs").fetchone()
        points = store.execute("select key, step, value from metrics").fetchall()
    kept = [point for point in points if not point[0].startswith(("time/", "throughput/", "system/"))]
    assert kept, f"MLflow has no point of the {number} run(s) in {folder}"
    assert len({(key, step) for key, step, _ in kept}) == len(kept), "a point was logged twice"
    return {(key, step): value for key, step, value in kept}, number


def ledger_sets(folder: Path) -> dict[tuple[int, int], list[int]]:
    """Sample ids of each (epoch, step), over all ranks."""
    return {key: sorted(ids.tolist()) for key, ids in read_ledger(folder / "ledger").items()}
