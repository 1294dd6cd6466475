"""What a rank can tell about its node: energy, memory, the kernel that it shares with other ranks."""

import socket
import time
from pathlib import Path

import psutil

POWERCAP = Path("/sys/class/powercap")
CRAY = Path("/sys/cray/pm_counters/energy")


def process_age_s() -> float:
    """Seconds since this process was started."""
    return time.time() - psutil.Process().create_time()


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process since its start; None where the kernel does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def kernel_id() -> str:
    """The same for all processes under one kernel, whatever their hosts are called: containers share its cores."""
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
        """Joules since this counter was made; None where the node does not tell."""
        now = self._read()
        if not self._start or now.keys() != self._start.keys():
            return None
        return sum((value - self._start[name]) % self._range(name) for name, value in now.items())

    def _read(self) -> dict[Path, float]:
        """Joules shown by each counter."""
        if self._cray:
            number = _read_number(self._cray)
            return {} if number is None else {self._cray: number}
        numbers = {zone: _read_number(zone / "energy_uj") for zone in self._zones}
        return {zone: number / 1e6 for zone, number in numbers.items() if number is not None}

    def _range(self, name: Path) -> float:
        """Where a counter starts again from 0."""
        largest = None if name == self._cray else _read_number(name / "max_energy_range_uj")
        return largest / 1e6 if largest else float("inf")


def _is_counted(zone: Path) -> bool:
    """Whole packages, and the memory beside them; cores are part of their package. Others' counters are root's."""
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
