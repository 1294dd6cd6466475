"""The process in which Geant4 runs, as seen by a rank."""

import math
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from types import TracebackType

import numpy as np

from dist_calo.errors import DataError, MissingComponentError
from dist_calo.launching.early_signals import STOP_SIGNALS
from dist_calo.simulation.beam import Beam
from dist_calo.simulation.detectors import Detector
from dist_calo.simulation.geant4.events import Event, serve
from dist_calo.simulation.geant4.physics import MANTISSA_BITS
from dist_calo.simulation.signals import signals_from_deposits

VERSION = "0.1.3"
"""Of geant4-pybind: physics is made through C++ symbols, which are known for this one."""
START_S = 300.0
"""Time in which Geant4 must be ready."""


def require_wheel(option: str = "", remedy: str = "") -> None:
    """Look for the wheel.

    Args:
        option: beginning of the message.
        remedy: its end: what can be done instead.

    Raises:
        MissingComponentError: if it is not installed, or in another version.
    """
    if (found := installed()) != VERSION:
        raise MissingComponentError(
            f"{option}needs geant4-pybind {VERSION}, found {found or 'none'}: pip install 'dist_calo[geant4]', "
            f"or pip install geant4-pybind=={VERSION}{remedy}"
        )


def installed() -> str | None:
    """Return the wheel's version, None where it is missing."""
    try:
        return version("geant4-pybind")
    except PackageNotFoundError:
        return None


class Geant4Process:
    """Geant4 in a process of its own, which starts with the ``with`` block and is ended with it.

    A second process, as Geant4 allows one detector in its life, may end it, and prints to its standard output.

    Args:
        detector: to build.
        beam: energies and angles.
        seed: of the whole sample.

    Raises:
        DataError: if Geant4 cannot start.
    """

    def __init__(self, detector: Detector, beam: Beam, seed: int) -> None:
        self._given = (detector, beam, seed)

    def __enter__(self) -> "Geant4Process":
        context = get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="geant4-")
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=serve, args=(other, self._folder.name, *self._given), name="Geant4", daemon=True
        )
        # The rank decides when to stop; a terminal's and a job's signals come to this process too, at any time from its
        # birth on. It inherits the mask of this thread, in which the rank's own wait till the end of the block.
        resource_tracker.ensure_running()  # else the start does it, and unblocks what it has blocked
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        other.close()
        try:
            if not self._connection.poll(START_S):
                raise DataError(f"Geant4 was not ready within {START_S:g} s: {self._last_words()}")
            self._receive()
        except BaseException:
            self._end()
            raise
        return self

    def simulate(self, numbers: range) -> Iterator[Event]:
        """Yield the showers of these numbers, in order.

        Raises:
            DataError: if Geant4 fails.
        """
        with suppress(OSError):  # told by what is received, or not
            self._connection.send(numbers)
        for _ in numbers:
            event = self._receive()
            assert event is not None
            yield event

    def _receive(self) -> Event | None:
        try:
            found: Event | None = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise DataError(f"Geant4 ended with {self._process.exitcode}: {self._last_words()}") from None
        return found

    def _last_words(self) -> str:
        with suppress(OSError):
            return " ".join(Path(self._folder.name, "log").read_text(errors="replace").split())[-300:]
        return "it left no log"

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._folder.cleanup()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


def rows_of(
    event: Event, detector: Detector, seed: int, number: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the rows of a shower in a file.

    Args:
        event: the shower.
        detector: its read-out.
        seed: of the whole sample.
        number: of the shower.

    Returns:
        The shower as the detector's geometry has it, float32 with shape (1, *geometry.shape), and ``impact`` in mm;
        of signals also ``edep`` in GeV and ``t0`` in ns.
    """
    deposits = np.zeros((1, math.prod(detector.cells.shape)), dtype=np.float32)
    deposits[0, event.cells] = rounded(event.energies.astype(np.float32))
    deposits = deposits.reshape(1, *detector.cells.shape)
    extras = {"impact": np.array([event.primary.impact], dtype=np.float32)}
    if detector.chain is None:
        return deposits, extras
    made = signals_from_deposits(deposits, seed, number, detector.chain)
    signals = (made["signals"] - detector.chain.baseline_counts).astype(np.float32)
    return signals, extras | {"edep": deposits, "t0": made["t0"]}


def rounded(values: np.ndarray) -> np.ndarray:
    """Round float32 numbers to `MANTISSA_BITS` bits of the mantissa.

    Example:
        >>> rounded(np.array([1.0, 1.0001, 1.0002], dtype=np.float32)).tolist()
        [1.0, 1.0, 1.000244140625]
    """
    dropped = 23 - MANTISSA_BITS
    words = values.view(np.uint32) + np.uint32(1 << (dropped - 1))
    return (words >> np.uint32(dropped) << np.uint32(dropped)).view(np.float32)
