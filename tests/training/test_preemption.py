"""Signals set a flag; the flag is agreed on at the end of a step."""

import os
import signal

import pytest

from dist_calo.comm.single import SingleCommunicator
from dist_calo.launching import early_signals
from dist_calo.launching.environment import World
from dist_calo.train import main as train
from dist_calo.training.preemption import StopRequest
from dist_calo.training.trainer import Trainer
from tests.support.small_runs import train_command, write_showers


@pytest.fixture
def stop():
    with StopRequest(SingleCommunicator(World())) as request:
        yield request


def test_without_a_signal_nothing_stops(stop):
    stop.ask()
    assert stop.agreed() is None


def test_the_end_of_the_time_is_agreed_on_with_the_signals():
    flags = []

    class SecondRank(SingleCommunicator):
        """Another rank says that the time is over."""

        def all_reduce_async(self, tensor, reduction="sum"):
            assert reduction == "max"
            flags.append(tensor.tolist())
            tensor[1] = 1
            return super().all_reduce_async(tensor, reduction)

    with StopRequest(SecondRank(World())) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        stop.ask()
        # Neither hides the other.
        assert (stop.agreed(), stop.time_over) == ("SIGTERM", True)
    with StopRequest(SingleCommunicator(World())) as stop:
        for over in (True, False):
            stop.ask(time_over=over)
            assert (stop.agreed(), stop.time_over) == (None, over)
    assert flags == [[signal.SIGTERM, 0]]


@pytest.mark.parametrize("number", early_signals.STOP_SIGNALS)
def test_a_signal_before_the_step_stops_at_its_end(stop, number):
    os.kill(os.getpid(), number)
    stop.ask()
    assert stop.agreed() == number.name


def test_a_signal_within_the_step_stops_at_the_end_of_the_next(stop):
    stop.ask()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.agreed() is None
    stop.ask()
    assert stop.agreed() == "SIGTERM"


def test_one_interrupt_delivered_twice_is_one_and_a_later_one_interrupts(stop, monkeypatch):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr("dist_calo.training.preemption.time.monotonic", lambda: 1e12)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_handlers_of_before_are_put_back():
    before = [signal.getsignal(number) for number in early_signals.STOP_SIGNALS]
    with StopRequest(SingleCommunicator(World())):
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(number) for number in early_signals.STOP_SIGNALS] == before


def test_a_run_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(SingleCommunicator(World())) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop.ask()
            assert stop.agreed() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_came_early_stops_after_the_first_step():
    before = signal.getsignal(signal.SIGUSR1)
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        early_signals.remember()
        os.kill(os.getpid(), signal.SIGUSR1)
        for expected in ("SIGUSR1", None):
            with StopRequest(SingleCommunicator(World())) as stop:
                stop.ask()
                assert stop.agreed() == expected
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_before_the_first_step_says_what_is_there(tmp_path, monkeypatch, capsys):
    def interrupted(_trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", interrupted)
    more = ["--tracking.uri=none", "--train.global_batch_size=1000"]
    assert train(train_command(write_showers(tmp_path / "data"), tmp_path, *more)[3:]) == 130
    said = capsys.readouterr()
    assert "warning: train.global_batch_size=1000 is larger than the " in said.out
    there = f"{tmp_path}/checkpoints holds no checkpoint: the same command begins anew"
    assert said.err.endswith(f"interrupted before its first step, in set-up; {there}\n")
