"""Delivery of a run's records: a thread takes them from memory to the disk, another one from there to the store."""

import logging
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from dist_calo.tracking.records import now_ms
from dist_calo.tracking.sender import Sender
from dist_calo.tracking.spool import Spool
from dist_calo.tracking.store import complaint, one_line
from dist_calo.tracking.system_load import SystemLoad

log = logging.getLogger("dist_calo.tracking")

WRITE_EVERY_S = 0.5
SEND_EVERY_S = 1.0
LONGEST_WAIT_S = 60.0
"""Longest pause between two tries to reach a store that is away, in seconds."""


class Delivery:
    """The two threads that deliver what is put into the outbox of a spool; nobody else waits for disk or store.

    Args:
        spool: of the run, locked by this process.
        system_metrics: whether to record the load of the machine as well.
    """

    def __init__(self, spool: Spool, system_metrics: bool) -> None:
        self.is_away = False
        """Whether the store did not answer the last time."""
        self._spool = spool
        self._system_metrics = system_metrics
        self._wake, self._complete, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._asked: deque[threading.Event] = deque()
        self._writer = self._thread("writer", self._write)
        self._sender = self._thread("sender", self._send)

    def start(self) -> None:
        """Start the threads."""
        self._writer.start()
        self._sender.start()

    @property
    def has_started(self) -> bool:
        """True once ``start`` was called."""
        return self._writer.ident is not None

    def secure(self, timeout_s: float) -> None:
        """Have all records so far written now; wait for it, for at most so many seconds."""
        if self._writer.is_alive():
            done = threading.Event()
            self._asked.append(done)
            self._wake.set()
            done.wait(timeout_s)

    def finish(self, deadline_s: float) -> bool:
        """Write everything to disk, send what the store takes, and let others have the spool.

        Args:
            deadline_s: when to give up, on the clock of ``time.monotonic``.

        Returns:
            Whether the store has everything; otherwise the spool keeps the rest.
        """
        spool = self._spool
        self._complete.set()
        self._wake.set()
        for thread in (self._writer, self._sender):
            thread.join(max(0.0, deadline_s - time.monotonic()))
        self._stopped.set()
        if self._writer.is_alive():  # and may write at any moment, so the spool stays locked
            what = f"the last records of run {spool.name} are lost if this process ends first"
            log.error("the spool %s takes nothing: %s", spool.folder, what)
            return False
        spool.outbox.flush()  # what a writer left that has ended, or the disk took not then
        if lost := spool.lost:
            why = f"neither the spool {spool.folder} nor {spool.identity.uri} took them in time"
            log.error("%d records of run %s were lost: %s", lost, spool.name, why)
        try:
            return self._close() and not lost
        except OSError as error:
            log.error("the spool %s cannot be closed: %s", spool.folder, one_line(error))
            return False

    def _close(self) -> bool:
        """Remove the spool if the store has everything, otherwise let others have it; return whether it has."""
        spool = self._spool
        is_sending = self._sender.is_alive()
        if not is_sending and spool.is_complete:
            if spool.outbox.has_failed and not spool.lost:
                log.warning("the spool %s took nothing for a time; nothing was lost", spool.folder)
            spool.remove()
            return True
        state = (
            "the end of run %s is not recorded yet in %s" if is_sending else "run %s is not complete in %s"
        )
        rest = "; the rest is kept: dist-calo runs sync --spool %s"
        log.warning(state + rest, spool.name, spool.identity.uri, shlex.quote(str(spool.folder.parent)))
        spool.lock.release()
        return False

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Make a thread whose end is not passed over in silence if it is an error."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                thread = f"the {name} of the record of run {self._spool.name}"
                log.error("%s has ended: %s", thread, one_line(error))

        return threading.Thread(target=run, name=f"tracking-{name}", daemon=True)

    def _write(self) -> None:
        last = False
        while not last:
            self._wake.wait(WRITE_EVERY_S)
            self._wake.clear()
            with suppress(Exception):
                self._spool.lock.beat()
            last = self._complete.is_set()
            asked = [self._asked.popleft() for _ in range(len(self._asked))]
            self._spool.outbox.flush()
            for event in asked:
                event.set()

    def _send(self) -> None:
        spool, sender, load = self._spool, Sender(self._spool), None
        with suppress(Exception):  # no record is worth less than that of the machine's load
            load = SystemLoad() if self._system_metrics else None
        wait_s, next_try_s = 0.0, 0.0
        last = False
        while not last:
            self._writer.join(SEND_EVERY_S)
            last = not self._writer.is_alive()
            if load and spool.outbox.end is None and (values := load.sample()):
                spool.outbox.put({"kind": "system", "time_ms": now_ms(), "values": values})
            if not last and time.monotonic() < next_try_s:
                continue
            try:
                if last and spool.refused and not self._stopped.is_set():
                    with suppress(OSError):  # a full disk
                        spool.offer_again()
                with spool.journal.sending() as alone:  # or `dist-calo runs sync` sends it just now
                    while alone and not self._stopped.is_set() and sender.send():
                        pass
            except Exception as error:
                wait_s = min(LONGEST_WAIT_S, max(1.0, 2 * wait_s))
                next_try_s = time.monotonic() + wait_s
                self._tell(complaint(error))
            else:
                wait_s = 0.0
                if alone:
                    self._tell(None)

    def _tell(self, failure: str | None) -> None:
        """Say once that the store went away, and once that it came back."""
        uri = self._spool.identity.uri
        if failure and not self.is_away:
            where = self._spool.folder if self._spool.outbox.failure is None else "memory alone"
            log.warning("%s %s; training goes on, the record is kept in %s", uri, failure, where)
        if self.is_away and not failure:
            log.warning("%s answers again; it has the whole record", uri)
        self.is_away = failure is not None
