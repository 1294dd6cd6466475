"""Report of ``dist-calo doctor --cluster``: one page of text, and the same as JSON."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dist_calo.diagnostics.nodes import Check, Node, Prediction, and_more
from dist_calo.files import write_text

_MOST_ROWS = 16


@dataclass(kw_only=True)
class Report:
    """Measurements of all nodes and the judgement on them."""

    launcher: str
    backend: str
    """That the trainer would use."""
    device: str
    nodes: list[Node]
    checks: list[Check] = field(default_factory=list)
    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each backend that runs here: times of an all-reduce by its bytes, and single links."""
    absent: dict[str, str] = field(default_factory=dict)
    """Why the other backends do not."""
    write_bytes_per_s: float | None = None
    slow: dict[str, list[str]] = field(default_factory=dict)
    """For each slow node, the quantities in which it is slow."""
    slow_links: dict[str, str] = field(default_factory=dict)
    """The same for each slow link between nodes that are not slow."""
    prediction: Prediction | None = None
    prediction_without: Prediction | None = None
    """On the nodes that are not slow."""
    seconds: float = 0.0
    links_backend: str = ""

    @property
    def ranks(self) -> int:
        """Return the ranks on all nodes."""
        return sum(len(node.ranks) for node in self.nodes)

    @property
    def failed(self) -> bool:
        """Tell if something stops the job or slows it down."""
        return any(check.status == "FAIL" for check in self.checks)

    def use_links_of(self, backend: str) -> None:
        """Enter a backend's links with the nodes."""
        self.links_backend = backend
        for node in self.nodes:
            links = [link for link in self.backends[backend]["links"] if node.name in link["nodes"]]
            inside = [link for link in links if link["nodes"] == [node.name, node.name]]
            outside = [link for link in links if link not in inside]
            if outside:
                node.latency_s = min(link["latency_s"] for link in outside)
                node.bandwidth_bytes_per_s = max(link["bandwidth_bytes_per_s"] for link in outside)
            if inside:
                node.within_latency_s = max(link["latency_s"] for link in inside)
                node.within_bandwidth_bytes_per_s = min(link["bandwidth_bytes_per_s"] for link in inside)

    @property
    def links(self) -> list[dict[str, Any]]:
        """Return the links of the backend that the nodes are judged by."""
        return self.backends.get(self.links_backend, {}).get("links", [])

    def ring_links(self, names: Collection[str]) -> list[dict[str, Any]]:
        """Return the measured links in a ring of some of the nodes, and within these.

        A node that is left out has its neighbours become each other's.
        """
        ring = [node.name for node in self.nodes if node.name in names]
        edges = {frozenset(ends) for ends in zip(ring + ring, ring[1:] + ring[:1] + ring, strict=True)}
        return [link for link in self.links if frozenset(link["nodes"]) in edges]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        predictions = {"prediction": self.prediction, "prediction_without_slow": self.prediction_without}
        return {
            "healthy": not self.failed,
            "launcher": self.launcher,
            "backend": self.backend,
            "device": self.device,
            "ranks": self.ranks,
            "nodes": [node.to_dict() for node in self.nodes],
            "checks": [vars(check) for check in self.checks],
            "backends": self.backends,
            "absent_backends": self.absent,
            "write_bytes_per_s": self.write_bytes_per_s,
            "slow": self.slow,
            "slow_links": self.slow_links,
            **{name: found.to_dict() if found else None for name, found in predictions.items()},
            "seconds": self.seconds,
        }

    def write(self, path: str | Path) -> None:
        """Write `to_dict` as JSON.

        Raises:
            OSError: if the disk refuses.
        """
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    def text(self) -> str:
        """Return the report as one page of text."""
        lines = [
            f"{self.ranks} rank(s) on {len(self.nodes)} node(s), launcher {self.launcher}, backend {self.backend}, "
            f"{self.device}; looked at in {self.seconds:.0f} s",
            "",
            *_table(self.nodes, set(self.slow)),
            "",
        ]
        lines += [str(check) for check in [*self.checks, *self._backend_lines(), *self._disk_and_step()]]
        return "\n".join([*lines, self._judgement()])

    def _backend_lines(self) -> list[Check]:
        checks = []
        for name, found in self.backends.items():
            times = [f"{_bytes(size)} {_seconds(time)}" for size, time in found["all_reduce_s"].items()]
            parts = [f"all-reduce of {', '.join(times)}"]
            for where, same in (("between nodes", False), ("within nodes", True)):
                links = [link for link in found["links"] if (len(set(link["nodes"])) == 1) == same]
                if links:
                    slowest = max(link["latency_s"] for link in links)
                    narrowest = min(link["bandwidth_bytes_per_s"] for link in links)
                    parts.append(f"{where} {_seconds(slowest)}, {_bytes(narrowest)}/s or better")
            checks.append(Check("ok", name, "; ".join(parts)))
        return checks + [Check("--", name, f"not measured: {reason}") for name, reason in self.absent.items()]

    def _disk_and_step(self) -> list[Check]:
        checks = []
        if self.write_bytes_per_s is not None:
            checks.append(Check("ok", "checkpoint", f"rank 0 writes {_bytes(self.write_bytes_per_s)}/s"))
        if self.prediction is not None:
            found = self.prediction
            text = (
                f"{_seconds(found.step_s)} for {found.showers} showers ({found.showers / found.step_s:.0f} showers/s): "
                f"{_seconds(found.compute_s)} computing on the slowest rank, {_seconds(found.all_reduce_s)} "
                "communication if none of it is hidden"
            )
            if self.prediction_without is not None:
                less = self.prediction_without
                text += (
                    f"; without {and_more(list(self.slow))} at most {_seconds(less.step_s)} "
                    f"({less.showers / less.step_s:.0f} showers/s)"
                )
            checks.append(Check("ok", "step", text))
        return checks

    def _judgement(self) -> str:
        named = [f"{name} is slow: {', '.join(reasons)}" for name, reasons in self.slow.items()]
        named += [f"link {name} is slow: {reason}" for name, reason in self.slow_links.items()]
        if named:
            return f"Not healthy: {and_more(named)}."
        if self.failed:
            return "Not healthy: see the lines marked FAIL."
        if any(check.name == "median" for check in self.checks):
            return "No node is slower than most, but some are much better: see the lines marked median."
        return "Healthy: all nodes keep step." if len(self.nodes) > 1 else "Healthy."


_COLUMNS: dict[str, Callable[[Node], str]] = {
    "node": lambda node: node.name,
    "ranks": lambda node: str(len(node.ranks)),
    "cores": lambda node: f"{len(node.cores)}",
    "threads": lambda node: str(node.threads),
    "memory free": lambda node: f"{_bytes(node.memory_free_bytes)} of {_bytes(node.memory_bytes)}",
    "GPUs": lambda node: str(len(node.gpus)),
    "step alone": lambda node: _or_dash(node.step_s, _seconds),
    "to neighbours": lambda node: _link(node.latency_s, node.bandwidth_bytes_per_s),
    "within": lambda node: _link(node.within_latency_s, node.within_bandwidth_bytes_per_s),
    "reading": lambda node: _or_dash(node.read_bytes_per_s, lambda rate: f"{_bytes(rate)}/s"),
    "clock": lambda node: _or_dash(
        node.clock_s, lambda offset: f"{offset * 1e3:+.2f} +-{node.clock_error_s * 1e3:.2f} ms"
    ),
}
_NUMBERS: dict[str, Callable[[Node], float | None]] = {
    "step alone": lambda node: node.step_s,
    "to neighbours": lambda node: node.bandwidth_bytes_per_s,
    "within": lambda node: node.within_bandwidth_bytes_per_s,
    "reading": lambda node: node.read_bytes_per_s,
    "clock": lambda node: node.clock_s,
}


def _table(nodes: Sequence[Node], slow: Collection[str]) -> list[str]:
    """Return a line for each node; for many nodes the slow ones, and the extremes and the middle of every column."""
    shown = list(nodes)
    summary: list[list[str]] = []
    if len(nodes) > _MOST_ROWS:
        shown = [node for node in nodes if node.name in slow][:_MOST_ROWS]
        for label, place in (("least", 0.0), ("median", 0.5), ("most", 1.0)):
            row = [label]
            for name, cell in list(_COLUMNS.items())[1:]:
                number = _NUMBERS.get(name)
                there = [node for node in nodes if number and number(node) is not None]
                ordered = sorted(there, key=number) if number else []  # type: ignore[arg-type]
                row.append(cell(ordered[round(place * (len(ordered) - 1))]) if ordered else "")
            summary.append(row)
    rows = [list(_COLUMNS), *([cell(node) for cell in _COLUMNS.values()] for node in shown), *summary]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _or_dash(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)


def _link(latency_s: float | None, bandwidth: float | None) -> str:
    return "-" if latency_s is None or bandwidth is None else f"{_seconds(latency_s)}, {_bytes(bandwidth)}/s"


def _seconds(value: float) -> str:
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if value < limit:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.3g} s"


def _bytes(value: float) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f} B"
