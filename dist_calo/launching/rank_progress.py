"""Signs of life that the ranks of a node leave for each other in memory that they share, and what is made of them.

A rank writes how far it is, and whether it waits for others, at each collective and step: a microsecond, no message.
Who looks at them (`comm/liveness/node_watch.py`, the launcher after a rank's end) tells by them which rank keeps all
others waiting, and where a rank was that has died. The memory belongs to no file: nothing is left of it when the ranks
are gone.
"""

import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from typing import Any

WHERE = "DIST_CALO_SIGNS"
"""Variable by which a launcher of ours names the memory of its ranks."""

_SLOT = struct.Struct("<qqqd?B8s32s")
_WRITTEN = ("pid", "beats", "step", "usual_s", "waits", "left", "unit", "phase")
_SLOT_BYTES = 128
_NAME = "dist_calo"
_BEATS, _BEATS_AT = struct.Struct("<q"), 8
_WAITS, _WAITS_AT = struct.Struct("<?"), 32
_MOST_TIMES_USUAL = 20
_SHARE_OF_TIMEOUT = 0.9


@dataclass(kw_only=True)
class Sign:
    """Last sign of life of a rank."""

    pid: int = 0
    """Its process, 0 before it has written anything."""
    beats: int = 0
    """Changes whenever the rank makes progress."""
    step: int = 0
    """Steps done since the beginning of the run."""
    usual_s: float = inf
    """Mean time of what the rank is doing, infinite where it does so for the first time, in seconds."""
    waits: bool = False
    """Whether the rank waits for other ranks."""
    left: int = 0
    """1 once the rank has left in order or because it was asked to, 2 if it has left with a message of its own."""
    unit: str = ""
    """What is counted: steps, or parts of showers."""
    phase: str = ""
    """What the rank does besides steps, such as a validation."""

    @property
    def place(self) -> str:
        """Return how far the rank has come, in words that follow what happened to it, such as `` after step 5``."""
        done = f" after {self.unit} {self.step}" if self.step else f" before its first {self.unit or 'step'}"
        if self.pid and not self.unit:
            # A program that does not count.
            done = ""
        return f"{done}{',' if done and self.phase else ''}{' ' if self.phase else ''}{self.phase}"


class Page:
    """Memory for the signs of the ranks of one node.

    Args:
        path: as `open_page` or another process's `path` gives it.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is another file by now.
    """

    def __init__(self, path: str) -> None:
        if not os.readlink(path).startswith(f"/memfd:{_NAME}"):
            raise ValueError(f"{path}: is no memory of ranks")
        self.path = path
        file = os.open(path, os.O_RDWR)
        try:
            self._memory = mmap.mmap(file, 0)
        finally:
            os.close(file)
        self.size = len(self._memory) // _SLOT_BYTES

    def read(self, number: int) -> Sign:
        """Return what the rank with this number on the node has written last."""
        values = _SLOT.unpack_from(self._memory, number * _SLOT_BYTES)
        plain: list[Any] = [
            v.rstrip(b"\0").decode(errors="replace") if isinstance(v, bytes) else v for v in values
        ]
        return Sign(**dict(zip(_WRITTEN, plain, strict=True)))

    def write(self, number: int, sign: Sign) -> None:
        """Replace what a rank has written."""
        values = {**vars(sign), "unit": sign.unit.encode()[:8], "phase": sign.phase.encode()[:32]}
        _SLOT.pack_into(self._memory, number * _SLOT_BYTES, *(values[name] for name in _WRITTEN))

    def mark_waiting(self, number: int, beats: int, waits: bool) -> None:
        """Replace no more than this, in half a microsecond: collectives come often."""
        _BEATS.pack_into(self._memory, number * _SLOT_BYTES + _BEATS_AT, beats)
        _WAITS.pack_into(self._memory, number * _SLOT_BYTES + _WAITS_AT, waits)

    def clear(self) -> None:
        """Forget all ranks, before others are started."""
        for number in range(self.size):
            self.write(number, Sign())


def open_page(ranks: int) -> Page | None:
    """Return new memory for so many ranks, which lives as long as this process or a rank; None if there is none."""
    with suppress(OSError, AttributeError):
        file = os.memfd_create(_NAME)
        os.ftruncate(file, ranks * _SLOT_BYTES)
        page = Page(f"/proc/{os.getpid()}/fd/{file}")
        page.clear()
        return page
    return None


class Signs:
    """Signs of life of this process: one rank, so there is one for the whole process, `SIGNS`."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._page: Page | None = None
        self._number = 0
        self._sign = Sign()
        self._times: dict[str, tuple[int, float]] = {}
        self._began: float | None = None
        # What a rank starts in turn is no rank.
        path = environ.pop(WHERE, None)
        self.launcher_looks = path is not None
        """Whether the launcher is one of ours, which names ranks that end."""
        if path is not None:
            with suppress(OSError, ValueError, KeyError):
                page, number = Page(path), int(environ["LOCAL_RANK"])
                # A variable that another job has left behind names memory of other ranks.
                if number < page.size:
                    self.use(page, number)

    @property
    def page(self) -> Page | None:
        """The memory in use; None before the ranks have met, unless the launcher gave it."""
        return self._page

    @property
    def sign(self) -> Sign:
        """Return what has been written last."""
        return self._sign

    def use(self, page: Page, number: int) -> None:
        """Write into this memory from now on, as the rank with this number on its node."""
        if page is not self._page:
            self.leave()
        self._page, self._number = page, number
        self._put(pid=os.getpid(), left=0)

    def begin(self, phase: str, unit: str | None = None) -> None:
        """Say what this rank is at from now on, such as ``in set-up``, and what `reached` will count from 0, if new."""
        if unit is not None:
            self._began, self._times = None, {}
            self._put(unit=unit, step=0)
        self._put(phase=phase, usual_s=inf)

    def reached(self, step: int) -> None:
        """Say that so many steps, or whatever is counted, are done; time spent in phases does not count for one."""
        now = time.monotonic()
        if self._began is not None:
            self._learn("", now - self._began)
        self._began = now
        self._put(step=step, phase="", usual_s=self._usual(""))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Say that this rank is at something else than a step, which has a usual time of its own."""
        before, usual_s, began = self._sign.phase, self._sign.usual_s, time.monotonic()
        self._put(phase=name, usual_s=self._usual(name))
        yield
        took = time.monotonic() - began
        self._learn(name, took)
        if self._began is not None:
            self._began += took
        self._put(phase=before, usual_s=usual_s)

    def wait(self, waits: bool) -> None:
        """Say that this rank begins or ends to wait for others."""
        self._sign.beats += 1
        self._sign.waits = waits
        if self._page is not None:
            self._page.mark_waiting(self._number, self._sign.beats, waits)

    def leave(self, *, told: bool = False) -> None:
        """Say that this rank ends by itself, with a message of its own or without: nothing has killed it."""
        self._put(left=max(self._sign.left, 1 + told))

    def _learn(self, name: str, took_s: float) -> None:
        times, total = self._times.get(name, (0, 0.0))
        self._times[name] = times + 1, total + took_s

    def _usual(self, name: str) -> float:
        times, total = self._times.get(name, (0, 0.0))
        return total / times if times else inf

    def _put(self, **changes: object) -> None:
        for name, value in changes.items():
            setattr(self._sign, name, value)
        self._sign.beats += 1
        if self._page is not None:
            self._page.write(self._number, self._sign)


SIGNS = Signs(os.environ)


@dataclass(frozen=True, kw_only=True)
class Silence:
    """A rank that keeps the others waiting."""

    number: int
    """Of the rank on its node."""
    seconds: float
    """For how long it has made no progress."""
    state: str
    """Of its process, as the operating system calls it: T stopped, D in the kernel, R computing, S asleep."""
    over: bool
    """Whether the job should end; otherwise it is only named."""


class Judge:
    """Tells from the signs of a node's ranks which of them are silent.

    A stopped rank (SIGSTOP) is silent once it has made no progress for ``silence_s``. One that runs, but does not
    wait for others while they wait for it, has ``silence_s`` or 20 times its usual time, whichever is longer; then it
    is named, and after twice that time the job ends, since a file system may be slow. What a rank does for the first
    time (its first step, validation, checkpoint) has no usual time: then 0.9 of ``timeout_s`` is the limit, which holds
    in every case, so that the rank is named before the others give up.

    Args:
        silence_s: the setting ``comm.silence_s``, in seconds.
        timeout_s: the setting ``comm.timeout_s``, in seconds.
    """

    def __init__(self, silence_s: float, timeout_s: float) -> None:
        self._silence_s, self._most_s = silence_s, _SHARE_OF_TIMEOUT * timeout_s
        self._seen: dict[int, tuple[int, float]] = {}

    def limit(self, usual_s: float) -> float:
        """Return the time after which a rank is named that runs and makes no progress, in seconds."""
        return min(max(self._silence_s, _MOST_TIMES_USUAL * usual_s), self._most_s)

    def waits_for_long(self, signs: Sequence[Sign], seconds: float) -> bool:
        """Return whether a rank of this node has waited for others so long, as of the last `look`."""
        return any(
            sign.waits and not sign.left and self._seen.get(number, (0, 0.0))[1] >= seconds
            for number, sign in enumerate(signs)
        )

    def look(
        self, signs: Sequence[Sign], state_of: Callable[[int], str], awake_s: float, asked: bool
    ) -> list[Silence]:
        """Return the ranks that are silent.

        Args:
            signs: of the node's ranks.
            state_of: state of a process, such as `process_state`; asked for those that make no progress.
            awake_s: time since the last look in which this process ran, in seconds: what is suspended together with
                all others has missed nothing.
            asked: whether ranks of another node wait as well.
        """
        for number, sign in enumerate(signs):
            beats, still_s = self._seen.get(number, (-1, 0.0))
            self._seen[number] = sign.beats, still_s + awake_s if sign.beats == beats else 0.0
        others_wait = asked or any(sign.waits and not sign.left for sign in signs)
        found = []
        for number, sign in enumerate(signs):
            seconds = self._seen[number][1]
            if not sign.pid or sign.left or not seconds:
                continue
            if (state := state_of(sign.pid)) == "T":
                limit = end = min(self._silence_s, self._most_s)
            elif others_wait and not sign.waits:
                limit = self.limit(sign.usual_s)
                end = min(2 * limit, self._most_s)
            else:
                continue
            if seconds >= limit:
                found.append(Silence(number=number, seconds=seconds, state=state, over=seconds >= end))
        return found


def process_state(pid: int) -> str:
    """Return the state of a process in the system's words, such as T for stopped; empty if unknown."""
    with suppress(OSError, IndexError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]
    return ""
