"""Load of the machine that a run is recorded on."""

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
        self._next_s = time.monotonic()

    def sample(self) -> dict[str, float]:
        """Return values by MLflow's own names, which its page of system metrics shows; nothing before it is time."""
        if time.monotonic() < self._next_s:
            return {}
        self._next_s = time.monotonic() + LOAD_EVERY_S
        values: dict[str, float] = {}
        for monitor in self._monitors:
            with suppress(Exception):
                monitor.collect_metrics()
                means = monitor.aggregate_metrics()
                values |= {f"system/{key}": float(value) for key, value in means.items()}
            monitor.clear_metrics()
        return values
