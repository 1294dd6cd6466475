"""What a log says: each line with the time, those of steps with the time left, waits for ranks where there are some."""

import re

import pytest
import torch

from dist_calo.config import RunConfig, TrainConfig
from dist_calo.data.manifest import build_manifest
from dist_calo.training.progress import Progress, run_in_words
from tests.support.small_runs import write_showers

METRICS = {
    "generator/total": 1.5,
    "throughput/showers_per_s": 64.0,
    "time/wait_data_s": 0.001,
    "time/wait_comm_s": 0.002,
}


@pytest.mark.parametrize(
    ("ranks", "seconds", "left", "waits"),
    [
        (1, None, "0:01:34", "1.0 ms a step"),  # 40 steps in 4 s, 940 to go
        (2, 60.0, "0:00:56", "1.0 ms, for ranks 2.0 ms a step"),
        (2, 3.0, "0:00:00", "1.0 ms, for ranks 2.0 ms a step"),
    ],
)
def test_a_line_of_a_step(ranks, seconds, left, waits, capsys, monkeypatch):
    now_s = iter([100.0, 104.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now_s))
    progress = Progress(1000, 20, show=True, ranks=ranks, seconds=seconds)
    progress.line(60, 3, METRICS)
    progress.line(1000, 3, METRICS)
    progress.close()
    first, last = capsys.readouterr().out.splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
    rest = f"epoch 3  generator 1.5  64.0 showers/s  waiting for data {waits}"
    assert re.fullmatch(f"{stamp}step   60/1000  {left} left  {rest}", first)
    assert re.fullmatch(f"{stamp}step 1000/1000  {rest}", last)


def test_the_bar_of_a_run_that_ends_early_is_full(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    progress = Progress(1000, 20, show=True)
    progress.ended(60)
    assert progress._bar.finished
    progress.close()


def test_a_run_in_words(tmp_path):
    config = RunConfig(train=TrainConfig(global_batch_size=7, max_steps=100))
    config = RunConfig(
        train=config.train, data=type(config.data)(path=write_showers(tmp_path, rows=(96,)), test_fraction=0)
    )
    networks = {"generator": torch.nn.Linear(99, 10), "discriminator": torch.nn.Linear(10, 1)}
    data, model, steps = run_in_words(config, build_manifest(config.data), networks, 2)
    found = re.search(r": (\d+) for training, (\d+) for validation, 0 for test", data)
    assert data.startswith("96 showers in 1 file(s), ")
    assert sum(map(int, found.groups())) == 96
    assert model == "lcd_fast with hinge; parameters: generator 1,000, discriminator 11"
    assert steps == f"100 steps of 7 showers, 3 or 4 a rank; {700 / int(found[1]):.3g} epochs"
