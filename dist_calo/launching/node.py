"""Facts about a rank's node: energy, memory, the kernel that it shares with other ranks."""

import socket
import time
from pathlib import Path

import psutil

POWERCAP = Path("/sys/class/powercap")
CRAY = Path("/sys/cray/pm_counters/energy")


def process_age_s() -> float:
    """Return the time since this process was started, in seconds."""
    return time.time() - psutil.Process().create_time()


def peak_memory_bytes() -> int | None:
    """Return the largest resident memory of this process, in bytes; None where the kernel does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def kernel_id() -> str:
    """Return the same for all processes under one kernel, whatever their hosts are called: containers share cores."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


class EnergyCounter:
    """Energy that this node has used: Cray's counter of the whole node, or RAPL's of processors and memory.

    Args:
        powercap: where the kernel shows RAPL's zones.
        cray: Cray's counter.
    """

    def __init__(self, powercap: Path = POWERCAP, cray: Path = CRAY) -> None:
        self._cray = cray if _read_number(cray) is not None else None
        zones = [] if self._cray else sorted(powercap.glob("*rapl:*"))
        self._zones = [zone for zone in zones if _is_counted(zone)]
        self._start = self._read()

    def used_j(self) -> float | None:
        """Return the energy since this counter was made, in J; None where the node does not tell."""
        now = self._read()
        if not self._start or now.keys() != self._start.keys():
            return None
        return sum((value - self._start[name]) % self._range(name) for name, value in now.items())

    def _read(self) -> dict[Path, float]:
        """Return the energy that each counter shows, in J."""
        if self._cray:
            number = _read_number(self._cray)
            return {} if number is None else {self._cray: number}
        numbers = {zone: _read_number(zone / "energy_uj") for zone in self._zones}
        return {zone: number / 1e6 for zone, number in numbers.items() if number is not None}

    def _range(self, name: Path) -> float:
        """Return where a counter starts again from 0, in J."""
        largest = None if name == self._cray else _read_number(name / "max_energy_range_uj")
        return largest / 1e6 if largest else float("inf")


def _is_counted(zone: Path) -> bool:
    """Return whether a zone is a whole package, or the memory beside one, and may be read; cores are part of one."""
    try:
        name = (zone / "name").read_text().strip()
    except OSError:
        return False
    return name.startswith(("package", "dram")) and _read_number(zone / "energy_uj") is not None


def _read_number(file: Path) -> float | None:
    try:
        return float(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
