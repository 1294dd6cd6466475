"""Pictures of a run, drawn on a thread of their own: they may take minutes on a busy core; nothing waits for them."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from dist_calo.tracking.store import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("dist_calo.tracking")

Drawing: TypeAlias = "Figure | Callable[[], Figure]"
Keep: TypeAlias = Callable[[str, Callable[[Path], object]], str]
"""Has the file of a name written by a function of its path, and tells where it is."""


class Artist:
    """Drawer of pictures, one after the other.

    Args:
        keep: writes a picture.
        record: takes path and name of a picture that was drawn; called at most until ``close`` returns.
    """

    def __init__(self, keep: Keep, record: Callable[[str, str], None]) -> None:
        self._keep = keep
        self._record = record
        self._waiting: deque[tuple[str, Drawing]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tracking-artist", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, drawing: Drawing, name: str) -> None:
        """Have a picture drawn; returns at once."""
        with self._changed:
            self._waiting.append((name, drawing))
            self._changed.notify_all()

    def close(self, timeout_s: float) -> None:
        """Draw what waits, for at most so many seconds, and name the pictures that are lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if self._changed.wait_for(lambda: not self._waiting, timeout_s):
                return
            names = [name for name, _ in self._waiting]
            self._waiting.clear()
        listed = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
        log.warning("pictures that were not drawn in time are lost (%d): %s", len(names), listed)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                name, drawing = self._waiting[0]
            path, failure = None, None
            try:
                figure = drawing() if callable(drawing) else drawing
                path = self._keep(Path(name).name, partial(figure.savefig, dpi=120))
            except Exception as error:
                # A run does not end for a picture that cannot be drawn.
                failure = one_line(error)
            with self._changed:
                if not self._waiting:  # given up meanwhile
                    return
                self._waiting.popleft()
                if failure is not None:
                    log.warning("the picture %s is not recorded: %s", name, failure)
                elif path is not None:
                    self._record(path, name)
                self._changed.notify_all()
