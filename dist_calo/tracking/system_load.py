"""The load of the machine that a run is recorded on."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from dist_calo.tracking.store import quiet_mlflow

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

LOAD_EVERY_S = 10.0
"""Time between two samples, in seconds."""


class SystemLoad:
    """Load of this machine: processor, memory, disk, network and, where MLflow finds one, GPU."""

    def __init__(self) -> None:
        quiet_mlflow()
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
        from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

        self._monitors: list[BaseMetricsMonitor] = []
        for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor, ROCMMonitor):
            with suppress(Exception):  # no such device, or its library is missing
                self._monitors.append(kind())
        self._next = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for the next sample."""
        return time.monotonic() >= self._next

    def sample(self) -> dict[str, float]:
        """Values by MLflow's own names, which its page of system metrics looks for."""
        self._next = time.monotonic() + LOAD_EVERY_S
        values: dict[str, float] = {}
        for monitor in self._monitors:
            with suppress(Exception):
                monitor.collect_metrics()
                values |= {
                    f"system/{key}": float(value) for key, value in monitor.aggregate_metrics().items()
                }
            monitor.clear_metrics()
        return values
