"""Measure the nodes of a job before it trains on them: ``dist-calo doctor --cluster`` on every rank.

What each rank does alone (the model, the data) is tried and agreed on, so that a rank that fails is a line of
the report and no other rank waits for it.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch

from dist_calo.comm import Communicator, choose_backend, connect, local_device
from dist_calo.comm.agreement import require_agreement
from dist_calo.comm.threads import set_threads
from dist_calo.config import RunConfig
from dist_calo.data.manifest import Manifest, build_manifest
from dist_calo.diagnostics import rank_measurements
from dist_calo.diagnostics.cluster_report import Report
from dist_calo.diagnostics.facts import CODE, library_of, settings_of, versions
from dist_calo.diagnostics.links import (
    PAIRS,
    Pairs,
    along_tree,
    measure_clock,
    measure_link,
    neighbours_within,
    ring_rounds,
    second_rounds,
    time_all_reduce,
    tree_rounds,
)
from dist_calo.diagnostics.node_comparison import (
    check_clocks,
    check_cores,
    check_hardware,
    check_medians,
    check_versions,
    slow_links,
    slow_nodes,
)
from dist_calo.diagnostics.nodes import Check, Node, Prediction, names_of, predict_step
from dist_calo.errors import LaunchError, UserError
from dist_calo.training.setup import require_enough_samples

Value = TypeVar("Value")
_ALL_REDUCE_S = 10.0
"""Expected time of an all-reduce of all gradients above which it is not tried."""
_MOST_TORCH_RANKS = 512
"""Of a backend that is not the trainer's: Gloo connects every rank with every other, twice."""


def check_cluster(config: RunConfig, communicator: Communicator, timeout_s: float) -> Report:
    """Measure all nodes; every rank calls it, and rank 0's report is complete.

    Args:
        config: the run's settings.
        communicator: connects all ranks; for what the doctor has to say, and measured as the others.
        timeout_s: for the backends that are connected besides, in seconds.
    """
    began = time.perf_counter()
    doctor = ClusterCheck(config, communicator, timeout_s)
    if doctor.look_at_versions() and doctor.look_at_settings():
        doctor.look_at_hardware()
        doctor.measure_steps()
        doctor.measure_disks()
        doctor.measure_backends()
        doctor.conclude()
    doctor.report.seconds = time.perf_counter() - began
    return doctor.report


class ClusterCheck:
    """Probes of a cluster, in the order in which every rank has to call them."""

    def __init__(self, config: RunConfig, communicator: Communicator, timeout_s: float) -> None:
        self._config, self._communicator, self._timeout_s = config, communicator, timeout_s
        self._world = communicator.world
        self._backend = choose_backend(config.comm.backend, self._world)
        self._device = torch.device(local_device(config.train.device, self._world))
        self._manifest: Manifest | None = None
        self._gradient_bytes = 0
        self._sent: Mapping[str, float] = {}
        self._pairs: Pairs | None = None
        where = communicator.all_gather_object(self._world.node)
        nodes = {name: Node(name=name, ranks=[]) for name in where}
        for rank, name in enumerate(where):
            nodes[name].ranks.append(rank)
        self._nodes = list(nodes.values())
        self._leaders = [node.ranks[0] for node in self._nodes]
        self._leads = self._world.rank in self._leaders
        """Whether this rank speaks for its node."""
        self.report = Report(
            launcher=self._world.launcher, backend=self._backend, device=str(self._device), nodes=self._nodes
        )

    def look_at_versions(self) -> bool:
        """Compare versions and tell if all ranks run the same code of this package; other differences stop nothing."""
        mine = versions(self._leads) | library_of(self._backend)
        # Plain values: the least that different versions of this package agree on.
        found = dict(enumerate(self._communicator.all_gather_object(mine)))
        self.report.checks += check_versions(found, self._nodes)
        if len({rank.get(CODE) for rank in found.values()} - {None}) > 1:
            self.report.checks.append(
                Check("FAIL", "dist_calo", "not the same code on all nodes: nothing more was measured")
            )
            return False
        return True

    def look_at_settings(self) -> bool:
        """Tell if all ranks have the same settings, without which they cannot work together."""
        try:
            require_agreement(self._communicator, settings_of(self._config))
        except LaunchError as error:
            self.report.checks.append(Check("FAIL", "settings", f"{error}; nothing more was measured"))
            return False
        return True

    def look_at_hardware(self) -> None:
        """Look at cores, memory and GPUs of each node; the threads of each rank are set as in training."""
        threads, _ = set_threads(self._communicator, self._config.comm.threads)
        facts = self._communicator.all_gather_object(rank_measurements.hardware() | {"threads": threads})
        for node in self._nodes:
            own = [facts[rank] for rank in node.ranks]
            every_core = [core for fact in own for core in fact["cores"]]
            node.kernel = own[0]["kernel"]
            node.cores = sorted(set(every_core))
            node.shared_cores = sorted(core for core in node.cores if every_core.count(core) > 1)
            node.threads = sum(fact["threads"] for fact in own)
            node.memory_bytes = own[0]["memory_bytes"]
            node.memory_free_bytes = own[0]["memory_free_bytes"]
            node.gpus = max((fact["gpus"] for fact in own), key=len)
        self.report.checks += [*check_cores(self._nodes), *check_hardware(self._nodes)]

    def measure_steps(self) -> None:
        """Time training steps of the configured model on each rank, at the same time but without communication."""
        config, world = self._config, self._world
        first = world.rank == 0
        found, fine = self._try("data", lambda: build_manifest(config.data).to_dict() if first else None)
        if not fine:
            return
        self._manifest = Manifest.from_dict(self._communicator.broadcast_object(found))
        if not self._try("batch", lambda: require_enough_samples(config, world.size))[1]:
            return
        alone = rank_measurements.Alone(world)

        def build() -> rank_measurements.LoneSteps:
            assert self._manifest is not None
            return rank_measurements.LoneSteps(config, self._manifest, alone, self._device)

        # Rank 0 reads what the model is calibrated with, as in training; the others get it by this broadcast.
        steps, fine = self._try("model", lambda: build() if first else None)
        if not fine:
            return
        alone.fresh = self._communicator.broadcast_object(alone.fresh)
        others, fine = self._try("model", lambda: None if first else build())
        lone = steps or others
        if not fine or lone is None:
            return
        self._gradient_bytes = lone.gradient_bytes
        self._communicator.barrier()
        measured, fine = self._try("step", lone.measure)
        if not fine:
            return
        assert measured is not None
        everyone = self._communicator.all_gather_object(measured)
        self._sent = everyone[0]
        for node in self._nodes:
            slowest = max((everyone[rank] for rank in node.ranks), key=lambda found: found["step_s"])
            node.step_s, node.scatter_s = slowest["step_s"], slowest["scatter_s"]
            node.step_mean_s = max(everyone[rank]["step_mean_s"] for rank in node.ranks)

    def measure_disks(self) -> None:
        """Time each node reading a share of the data, and rank 0 writing to the folder of checkpoints."""
        manifest = self._manifest
        if manifest is not None:
            parts = len(self._nodes)
            part = self._leaders.index(self._world.rank) if self._leads else None
            self._communicator.barrier()
            read, _ = self._try(
                "reading",
                lambda: None if part is None else rank_measurements.reading_rate(manifest.files, part, parts),
            )
            rates = self._communicator.all_gather_object(read)
            for node in self._nodes:
                if (found := rates[node.ranks[0]]) is not None:
                    bytes_, node.read_s = found
                    node.read_bytes_per_s = bytes_ / max(node.read_s, 1e-9)
        folder = self._config.checkpoint.dir
        first = self._world.rank == 0
        rate, _ = self._try("checkpoint", lambda: rank_measurements.writing_rate(folder) if first else None)
        self.report.write_bytes_per_s = rate

    def measure_backends(self) -> None:
        """Time all-reduce and single links on each backend that runs under this launcher, the trainer's own first."""
        if self._world.size == 1:
            return
        self._measure(self._backend, self._communicator)
        for name in ("torch", "mpi", "horovod"):
            if name == self._backend:
                continue
            with self._connected(name) as communicator:
                if communicator is not None:
                    self._measure(name, communicator)
                    self._add_libraries(name)

    def conclude(self) -> None:
        """Judge which nodes and links are slow, and predict the time of a step."""
        self.report.checks += check_clocks(self._nodes)
        slow = slow_nodes(self._nodes)
        self.report.slow = slow
        self.report.slow_links = slow_links(self._nodes, self.report.links)
        self.report.prediction = self._predict(self._nodes)
        if slow:
            self.report.prediction_without = self._predict(
                [node for node in self._nodes if node.name not in slow]
            )
        for name, reasons in slow.items():
            self.report.checks.append(Check("FAIL", "node", f"{name} is slow: {', '.join(reasons)}"))
        for name, reason in self.report.slow_links.items():
            self.report.checks.append(
                Check("FAIL", "link", f"{name} is slow, both nodes are not: {reason}; have it looked at")
            )
        self.report.checks += check_medians(self._nodes)

    def _predict(self, nodes: list[Node]) -> Prediction | None:
        links = self.report.ring_links([node.name for node in nodes])
        return predict_step(
            nodes,
            showers=self._config.train.global_batch_size,
            measured_ranks=self._world.size,
            bytes_=self._sent.get("bytes", 0.0),
            collectives=self._sent.get("collectives", 0.0),
            links=[(link["latency_s"], link["bandwidth_bytes_per_s"]) for link in links],
        )

    def _try(self, name: str, action: Callable[[], Value]) -> tuple[Value | None, bool]:
        """Do something on every rank and agree on whether it worked on all of them. Collective.

        What goes wrong is a line of the report.
        """
        value: Value | None = None
        problem: str | None = None
        try:
            value = action()
        except UserError as error:
            problem = str(error)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        problems = self._communicator.all_gather_object(problem)
        by_text: dict[str, list[int]] = {}
        for rank, text in enumerate(problems):
            if text is not None:
                by_text.setdefault(text, []).append(rank)
        for text, ranks in by_text.items():
            self.report.checks.append(Check("FAIL", name, f"{names_of(ranks, self._nodes)}: {text}"))
        return value, not by_text

    @contextmanager
    def _connected(self, name: str) -> Iterator[Communicator | None]:
        """Connect a backend besides the trainer's own; None where it does not run here."""
        reason = None
        try:
            choose_backend(name, self._world)
            if name == "torch" and self._world.size > _MOST_TORCH_RANKS:
                reason = (
                    f"above {_MOST_TORCH_RANKS} ranks it would open some {2 * self._world.size} sockets a rank; "
                    "--comm.backend=torch has it measured"
                )
        except UserError as error:
            reason = str(error)
        reasons = [reason for reason in self._communicator.all_gather_object(reason) if reason]
        if reasons:
            self.report.absent[name] = reasons[0]
            yield None
            return
        if name == "torch":
            _meet(self._communicator)
        checks = len(self.report.checks)
        device = str(self._device)
        made, fine = self._try(name, lambda: connect(name, self._world, self._timeout_s, device))
        if not fine:
            # Not the trainer's: what it says is told, and stops nothing.
            self.report.checks[checks:] = [
                Check("--", check.name, check.text) for check in self.report.checks[checks:]
            ]
        with ExitStack() as stack:
            # Where Horovod has started MPI, Horovod ends it.
            if made is not None and fine and not (name == "mpi" and self._backend == "horovod"):
                stack.callback(made.close)
            yield made if fine else None

    def _add_libraries(self, name: str) -> None:
        found = self._communicator.all_gather_object(library_of(name))
        odd = check_versions(dict(enumerate(found)), self._nodes)
        self.report.checks += odd[1:]

    def _measure(self, name: str, communicator: Communicator) -> None:
        """Time an all-reduce, and the links between and within nodes."""
        bucket = int(self._config.comm.bucket_mb * 2**20)
        total = self._gradient_bytes or bucket
        bucket = min(bucket, total)
        device = self._device if name in (self._backend, "torch") else torch.device("cpu")
        times: dict[int, float] = {}

        def all_reduce() -> None:
            for size in dict.fromkeys((8, bucket, total)):
                if size <= bucket or times[bucket] * size / bucket < _ALL_REDUCE_S:
                    times[size] = time_all_reduce(communicator, size, device)

        _, fine = self._try(name, all_reduce)
        links: list[dict[str, Any]] = []
        if fine and name in PAIRS:
            pairs = PAIRS[name](communicator)  # type: ignore[arg-type]
            on = device if name == "torch" else torch.device("cpu")
            mine, fine = self._try(name, lambda: self._links(pairs, communicator, bucket, on))
            links = [link for found in self._communicator.all_gather_object(mine or []) for link in found]
        if fine:
            self.report.backends[name] = {"all_reduce_s": times, "links": links}
            if links and self._pairs is None:
                self._pairs = pairs
                self.report.use_links_of(name)
                self._measure_clocks(pairs)

    def _links(
        self, pairs: Pairs, communicator: Communicator, bytes_: int, device: torch.device
    ) -> list[dict[str, Any]]:
        """Measure the links that this rank takes part in; return those of which it is the first end."""
        rounds = [
            [(self._leaders[a], self._leaders[b]) for a, b in pairs_]
            for pairs_ in ring_rounds(len(self._nodes)) + second_rounds(len(self._nodes))
        ]
        within = neighbours_within([node.ranks for node in self._nodes])
        names = {rank: node.name for node in self._nodes for rank in node.ranks}
        found = []
        for round_ in [*rounds, within]:
            communicator.barrier()
            for a, b in round_:
                if self._world.rank in (a, b):
                    link = measure_link(pairs, a + b - self._world.rank, bytes_, device)
                    if self._world.rank == a:
                        found.append({"ranks": [a, b], "nodes": [names[a], names[b]], **vars(link)})
        return found

    def _measure_clocks(self, pairs: Pairs) -> None:
        if len(self._nodes) == 1:
            return
        steps: dict[int, tuple[float, float]] = {}

        def measure() -> None:
            for round_ in tree_rounds(len(self._nodes)):
                for parent, child in round_:
                    ends = self._leaders[parent], self._leaders[child]
                    if self._world.rank in ends:
                        first = self._world.rank == ends[0]
                        offset = measure_clock(pairs, ends[1] if first else ends[0], first)
                        if offset is not None:
                            steps[child] = offset

        _, fine = self._try("clocks", measure)
        every = {
            child: step
            for found in self._communicator.all_gather_object(steps)
            for child, step in found.items()
        }
        if fine:
            for node, (offset, error) in zip(self._nodes, along_tree(every, len(self._nodes)), strict=True):
                node.clock_s, node.clock_error_s = offset, error


def _meet(communicator: Communicator) -> None:
    """Tell torch.distributed where, as a user would under launchers that do not."""
    mine = None
    if communicator.world.rank == 0:
        with socket.socket() as probe:
            probe.bind(("", 0))
            mine = socket.gethostname(), str(probe.getsockname()[1])
    address, port = communicator.broadcast_object(mine)
    if communicator.world.launcher not in ("srun", "torchrun", "local"):
        os.environ.setdefault("MASTER_ADDR", address)
        os.environ.setdefault("MASTER_PORT", port)
