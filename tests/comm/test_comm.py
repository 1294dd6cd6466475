"""One contract for every backend, under every launcher that can start it."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dist_calo.comm import BACKENDS, CommunicationError, choose_backend, connect
from dist_calo.comm.device import local_device
from dist_calo.comm.torch_dist import TorchCommunicator
from dist_calo.errors import ConfigError, LaunchError, MissingComponentError
from dist_calo.launching.environment import World
from tests.support.collectives import DTYPES, reports
from tests.support.ranks import LAUNCHERS

STARTED_BY = [
    ("single", "single", 1),
    ("local", "torch", 3),
    ("torchrun", "torch", 2),
    ("mpirun", "mpi", 3),
    ("mpirun", "torch", 2),
    ("horovodrun", "horovod", 3),
    ("horovodrun-mpi", "horovod", 2),
]
CASES = [
    pytest.param(
        case, id=f"{case[1]}-by-{case[0]}", marks=[pytest.mark.requires(name) for name in LAUNCHERS[case[0]]]
    )
    for case in STARTED_BY
]


@pytest.fixture(params=CASES)
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What every rank of a job saw."""
    return reports(*request.param)


def test_every_backend_is_covered() -> None:
    assert {backend for _, backend, _ in STARTED_BY} == set(BACKENDS)


def test_the_backend_is_the_one_asked_for(
    ranks: list[dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    backend = request.node.callspec.params["ranks"][1]
    assert {report["backend"].lower() for report in ranks} == {f"{backend}communicator"}
    assert {report["named"] for report in ranks} == {backend}


def test_ranks_are_numbered(ranks: list[dict[str, Any]]) -> None:
    assert [report["world"]["rank"] for report in ranks] == list(range(len(ranks)))
    assert {report["world"]["size"] for report in ranks} == {len(ranks)}
    assert [report["world"]["local_rank"] for report in ranks] == list(range(len(ranks)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_reduce(ranks: list[dict[str, Any]], dtype: str) -> None:
    size = len(ranks)
    expected = {
        "sum": lambda k: sum(r + 1 + k for r in range(size)),
        "max": lambda k: size + k,
        "min": lambda k: 1 + k,
    }
    for report in ranks:
        for reduction, value in expected.items():
            seen = report["reductions"][f"{dtype}/{reduction}"]
            assert seen["blocking"] == [value(0)]
            assert seen["async"] == [[value(0)], [value(1)], [value(2)]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_are_those_on_the_wire(ranks: list[dict[str, Any]], dtype: str) -> None:
    width = DTYPES[dtype].itemsize
    if dtype == "bfloat16" and ranks[0]["backend"] == "HorovodCommunicator":
        width = 4  # Horovod does not know bfloat16
    assert {report["reductions"][f"{dtype}/sum"]["bytes"] for report in ranks} == {12 * width}


def test_results_are_the_same_bits_on_all_ranks(ranks: list[dict[str, Any]]) -> None:
    for report in ranks[1:]:
        assert report["bits"] == ranks[0]["bits"]


def test_broadcast_and_objects(ranks: list[dict[str, Any]]) -> None:
    size = len(ranks)
    for report in ranks:
        assert all(report["exchanges"]["broadcast"])
        assert report["exchanges"]["object"] == {"from": size - 1}
        assert report["exchanges"]["objects"] == [{"from": rank} for rank in range(size)]


def test_weights_are_broadcast(ranks: list[dict[str, Any]]) -> None:
    assert len({report["weights"] for report in ranks}) == 1


def test_waiting_is_measured(ranks: list[dict[str, Any]]) -> None:
    for report in ranks:
        assert (report["waited"] > 0) == (report["backend"] != "SingleCommunicator")


def test_threads_do_not_oversubscribe(ranks: list[dict[str, Any]]) -> None:
    import os

    cores = len(os.sched_getaffinity(0))
    assert sum(report["threads"][0] for report in ranks) <= max(cores, len(ranks))


@pytest.mark.requires("mpi")
def test_mpi_starts_without_mpirun_when_asked_for() -> None:
    (report,) = reports("single", "mpi", 1)
    assert report["backend"] == "MpiCommunicator"


@pytest.mark.requires("horovod")
def test_horovod_starts_without_horovodrun_when_asked_for() -> None:
    (report,) = reports("single", "horovod", 1)
    assert report["backend"] == "HorovodCommunicator"


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr("dist_calo.comm.is_installed", lambda backend: backend in ("single", "torch", *names))


OMPI = {"OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0"}


@pytest.mark.parametrize(
    ("launcher", "environ", "present", "chosen"),
    [
        ("none", {}, ("mpi", "horovod"), "single"),
        ("local", {}, ("mpi", "horovod"), "torch"),
        ("torchrun", {}, ("mpi", "horovod"), "torch"),
        ("horovodrun", {"HOROVOD_RANK": "0"}, ("mpi", "horovod"), "horovod"),
        ("horovodrun", OMPI, ("mpi", "horovod"), "horovod"),
        ("horovodrun", OMPI, ("mpi",), "mpi"),
        ("mpirun", OMPI, ("mpi", "horovod"), "mpi"),
        ("mpirun", OMPI, ("horovod",), "horovod"),
        ("srun", {"PMIX_RANK": "0"}, ("mpi", "horovod"), "mpi"),
        ("srun", {"PMIX_RANK": "0"}, ("horovod",), "horovod"),
        ("srun", {"PMIX_RANK": "0"}, (), "torch"),
        ("srun", {}, ("mpi", "horovod"), "torch"),
    ],
)
def test_auto_picks_by_launcher(
    monkeypatch: pytest.MonkeyPatch,
    launcher: str,
    environ: dict[str, str],
    present: tuple[str, ...],
    chosen: str,
) -> None:
    installed(monkeypatch, *present)
    size = 1 if launcher == "none" else 2
    assert choose_backend("auto", World(size=size, launcher=launcher), environ) == chosen


@pytest.mark.parametrize(
    ("backend", "launcher", "environ", "words"),
    [
        ("single", "mpirun", OMPI, "started 4 ranks"),
        ("mpi", "torchrun", {}, "mpirun"),
        ("mpi", "horovodrun", {"HOROVOD_RANK": "0"}, "mpirun"),
        ("mpi", "srun", {}, "--mpi=pmix"),
        ("horovod", "local", {}, "horovodrun"),
    ],
)
def test_a_backend_that_contradicts_the_launcher(
    backend: str, launcher: str, environ: dict[str, str], words: str
) -> None:
    with pytest.raises(LaunchError, match=words):
        choose_backend(backend, World(size=4, launcher=launcher), environ)
    # What the message advises.
    assert choose_backend("auto", World(size=4, launcher=launcher), environ) in BACKENDS
    assert choose_backend(backend, World(), environ) == backend
    if backend != "single":
        assert choose_backend(backend, World(size=4, launcher="mpirun"), OMPI) == backend


@pytest.mark.parametrize("launcher", ["none", "local", "torchrun", "horovodrun", "mpirun", "srun"])
def test_one_rank_needs_no_library(launcher: str) -> None:
    assert choose_backend("auto", World(launcher=launcher), OMPI) == "single"


@pytest.mark.parametrize(
    ("backend", "install"),
    [("mpi", r"pip install 'dist_calo\[mpi\]'"), ("horovod", "dist-calo horovod build")],
)
def test_a_missing_backend_names_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, backend: str, install: str
) -> None:
    installed(monkeypatch)
    with pytest.raises(MissingComponentError, match=install):
        choose_backend(backend, World(size=2, launcher="mpirun"), OMPI)


def test_an_unknown_backend_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="auto, single, torch, horovod, mpi"):
        choose_backend("nccl", World(), {})


def test_a_library_that_counts_other_ranks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone:
        world = World(rank=1, size=4, launcher="mpirun")
        rank_and_size = (0, 1)

    monkeypatch.setitem(BACKENDS, "torch", lambda *_: Alone())
    monkeypatch.setattr("dist_calo.comm.Door", lambda *_: SimpleNamespace(agree=lambda _facts: None))
    with pytest.raises(
        LaunchError, match=r"rank 1 of 4, but torch calls it rank 0 of 1.*built for another MPI"
    ):
        connect("torch", Alone.world)


def test_gradients_wait_no_longer_than_other_collectives() -> None:
    communicator = TorchCommunicator(World(), 7, "cpu")
    group: Any = communicator._async_group
    assert group._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=7)
    communicator.close()


def test_a_tensor_must_be_contiguous() -> None:
    communicator = connect("single", World())
    with pytest.raises(ValueError, match="contiguous"):
        communicator.all_reduce(torch.zeros(3, 4).t())


def test_a_library_error_becomes_one_line() -> None:
    from dist_calo.comm.meter import Meter

    def fails() -> None:
        with Meter().blocked("all-reduce"):
            raise RuntimeError("[/build/gloo/pair.cc:12] Connection closed by peer. Check the logs.\nmore")

    with pytest.raises(CommunicationError, match=r"^all-reduce failed: .* \(Connection closed by peer\)$"):
        fails()


def test_the_gpu_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(rank=5, size=8, local_rank=1, local_size=4, node="node42")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert local_device("auto", world) == local_device("cuda", world) == "cuda:1"
    assert local_device("cpu", world) == "cpu"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert local_device("auto", world) == "cuda:0"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert local_device("auto", world) == "cpu"
    with pytest.raises(LaunchError, match="rank 5 on node42 sees no GPU"):
        local_device("cuda", world)


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(LaunchError, match="start 2 ranks a node"):
        local_device("auto", World(rank=2, size=3, local_rank=2, local_size=3))
