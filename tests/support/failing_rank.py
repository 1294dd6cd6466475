"""A rank of a job in which something goes wrong: ``python -m tests.support.failing_rank BACKEND WHAT``."""

import os
import signal
import sys
import tempfile
import threading
import time

import torch

from dist_calo.comm import Communicator, connect, report_failure
from dist_calo.errors import ConfigError, DataError
from dist_calo.launching.environment import find_world
from dist_calo.launching.rank_progress import SIGNS

STEPS = 50
SILENCE_S = 2.0
SIGNALS = {"killed": signal.SIGKILL, "crashed": signal.SIGSEGV, "stopped": signal.SIGSTOP}


def work(communicator: Communicator, what: str) -> None:
    rank = communicator.world.rank
    what, _, culprit = what.partition("-")
    SIGNS.begin("in set-up", unit="step")
    for step in range(STEPS):
        communicator.all_reduce(torch.ones(10))
        SIGNS.reached(step)
        if step == 3 and rank == int(culprit or 1):
            print(f"failing at {time.time()}", flush=True)
            if what in SIGNALS:
                os.kill(os.getpid(), SIGNALS[what])
            if what == "exits":
                os._exit(7)
            if what == "endless":
                while True:
                    pass
            if what == "reads":
                # Nobody ever writes to it.
                with tempfile.TemporaryDirectory() as folder:
                    os.mkfifo(pipe := os.path.join(folder, "pipe"))
                    os.open(pipe, os.O_RDONLY)
            raise DataError("e.h5: row 7 is NaN") if what == "user" else ValueError("a bug")
        if step == 3 and what == "busy":
            # A rank that computes for long and takes signals as requests to save its work.
            threading.Event().wait()


def main(backend: str, what: str) -> int:
    signal.signal(signal.SIGTERM, lambda *_: None)
    world = find_world(os.environ)
    communicator = None
    try:
        if what == "config":
            raise ConfigError("train.seed=-1: must not be negative")
        communicator = connect(backend, world, timeout_s=60, silence_s=SILENCE_S)
        work(communicator, what)
        communicator.close()
    except BaseException as error:
        return report_failure(error, world, communicator)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
