"""Measurements of a cluster: which pairs are measured when, and what is concluded from what was found."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.cli.doctor import main
from dist_calo.comm.single import SingleCommunicator
from dist_calo.config import RunConfig
from dist_calo.data.manifest import FileEntry
from dist_calo.diagnostics.cluster_check import ClusterCheck
from dist_calo.diagnostics.facts import CODE
from dist_calo.diagnostics.links import (
    along_tree,
    neighbours_within,
    offset_of,
    ring_rounds,
    second_rounds,
    tree_rounds,
)
from dist_calo.diagnostics.missing_ranks import await_ranks
from dist_calo.diagnostics.node_comparison import (
    check_clocks,
    check_cores,
    check_hardware,
    check_versions,
    odd_ones,
    slow_nodes,
)
from dist_calo.diagnostics.nodes import Check, names_of
from dist_calo.diagnostics.rank_measurements import reading_rate, writing_rate
from dist_calo.errors import ConfigError, LaunchError
from dist_calo.launching.environment import World
from tests.support.cluster_nodes import cluster, report_with_links
from tests.support.ranks import run_ranks
from tests.support.small_runs import write_showers


def disjoint(pairs: list[tuple[int, int]]) -> bool:
    ends = [end for pair in pairs for end in pair]
    return len(ends) == len(set(ends))


def test_ranks_with_other_settings_or_versions_are_findings(tmp_path: Path) -> None:
    data = write_showers(tmp_path / "data", rows=(20,))
    for rank, version in enumerate(("1.0", "1.1")):
        package = tmp_path / str(rank) / f"h5py-{version}.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: h5py\nVersion: {version}\n")
    command = f"{sys.executable} -m dist_calo.cli.doctor --cluster --data.path={data} --tracking.uri=none"
    command = f"PYTHONPATH={tmp_path}/$RANK:$PYTHONPATH exec {command} --train.seed=$RANK"
    run = run_ranks(["sh", "-c", command], 2, timeout=120)
    assert run.returncode == 1
    assert re.search(r"FAIL +versions +h5py is 1\.[01] on .*, and 1\.[01] on", run.output)
    assert re.search(r"FAIL +settings +the ranks do not agree: .*: train\.seed=1, rank 0 ", run.output)
    assert run.seconds < 60


@given(st.integers(1, 600))
def test_a_ring_is_gone_round_in_rounds_of_disjoint_pairs(nodes: int) -> None:
    rounds = ring_rounds(nodes)
    assert len(rounds) <= 3
    assert all(map(disjoint, rounds))
    found = sorted(tuple(sorted(pair)) for pairs in rounds for pair in pairs)
    edges = {tuple(sorted((node, (node + 1) % nodes))) for node in range(nodes)} if nodes > 1 else set()
    assert found == sorted(edges)


@given(st.integers(1, 600))
def test_the_neighbours_of_neighbours_take_two_more_rounds(nodes: int) -> None:
    rounds = second_rounds(nodes)
    assert len(rounds) <= 2
    assert all(map(disjoint, rounds))
    found = sorted(pair for pairs in rounds for pair in pairs)
    assert found == ([(node, node + 2) for node in range(nodes - 2)] if nodes > 3 else [])


@given(st.integers(1, 600))
def test_a_tree_reaches_every_node_once_in_a_logarithmic_number_of_rounds(nodes: int) -> None:
    rounds = tree_rounds(nodes)
    assert len(rounds) == math.ceil(math.log2(nodes))
    assert all(map(disjoint, rounds))
    reached = {0}
    for pairs in rounds:
        assert {parent for parent, _ in pairs} <= reached
        reached |= {child for _, child in pairs}
    assert reached == set(range(nodes))
    assert sum(map(len, rounds)) == nodes - 1


def test_neighbours_on_a_node() -> None:
    assert neighbours_within([[0, 1], [2, 3, 4], [5]]) == [(0, 1), (2, 3)]


@given(
    st.floats(-10, 10),
    st.lists(st.tuples(st.floats(1e-5, 1e-2), st.floats(1e-5, 1e-2)), min_size=1, max_size=10),
)
def test_an_offset_is_right_within_its_error(offset: float, delays: list[tuple[float, float]]) -> None:
    trips = [(t, t + there + offset, t + there + back) for t, (there, back) in enumerate(delays)]
    found, error = offset_of(trips)
    assert abs(found - offset) <= error + 1e-9
    assert error == pytest.approx(min(there + back for there, back in delays) / 2, rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_offsets_add_up_along_the_tree(clocks: list[float]) -> None:
    steps = {
        child: (clocks[child] - clocks[parent], 0.5)
        for pairs in tree_rounds(len(clocks))
        for parent, child in pairs
    }
    found = along_tree(steps, len(clocks))
    assert [offset for offset, _ in found] == pytest.approx([clock - clocks[0] for clock in clocks])
    # Node 7 = 4 + 2 + 1 is three steps from node 0.
    assert [error for _, error in found] == [0.5 * node.bit_count() for node in range(len(clocks))]


def test_the_majority_is_right_and_a_tie_goes_to_the_first_rank() -> None:
    assert odd_ones({0: "b", 1: "a", 2: "a"}) == ("a", {"b": [0]})
    assert odd_ones({0: "b", 1: "a"}) == ("b", {"a": [1]})


def test_a_node_or_rank_with_another_version_is_named() -> None:
    nodes = cluster(3)
    found = {rank: {"torch": "2.13", "numpy": "2.4"} for rank in range(6)}
    (line,) = check_versions(found, nodes)
    assert line.status == "ok"
    assert "torch 2.13, numpy 2.4" in line.text
    found[2] = found[3] = {"torch": "2.4", "numpy": "2.4"}
    found[5] = {"torch": "2.13", "numpy": "missing"}
    same, *odd = check_versions(found, nodes)
    assert same.text == "the same everywhere: nothing"
    assert [check.status for check in odd] == ["FAIL", "FAIL"]
    assert "torch is 2.4 on n1, and 2.13 on 4 others" in odd[0].text
    assert "numpy is missing on n2 (rank 5), and 2.4 on 5 others" in odd[1].text


def test_a_version_that_one_rank_of_a_node_looks_for_is_put_down_to_the_node() -> None:
    nodes = cluster(3)
    found = {rank: {CODE: "a" if rank < 4 else "b"} if rank % 2 == 0 else {} for rank in range(6)}
    (_, odd) = check_versions(found, nodes)
    assert f"{CODE} is b on n2, and a on 2 others" in odd.text


def test_many_names_are_cut_short() -> None:
    assert names_of(range(40), cluster(20)).endswith("n7 and 12 more")


def test_threads_are_counted_against_the_cores_of_a_kernel() -> None:
    nodes = cluster(2)
    assert [check.status for check in check_cores(nodes)] == ["ok"]
    nodes = [replace(node, kernel="same") for node in nodes]
    (crowded,) = check_cores(nodes)
    assert "n0, n1 (under one kernel): 4 on 2" in crowded.text
    nodes = cluster(2)
    nodes[1] = replace(nodes[1], shared_cores=[0, 1])
    (shared,) = check_cores(nodes)
    assert shared.text.startswith("ranks share cores on n1: bind")


def test_a_node_of_other_hardware_is_named() -> None:
    nodes = cluster(3)
    nodes[1] = replace(nodes[1], gpus=["H200"])
    (check,) = check_hardware(nodes)
    assert (check.status, check.text) == ("--", "GPUs: H200 on n1, none on most")


def test_a_wrong_clock_is_named_even_if_it_is_the_first() -> None:
    assert check_clocks(cluster(1)) == []
    nodes = cluster(3)
    assert [check.status for check in check_clocks(nodes)] == ["ok"]
    nodes[1:] = [replace(node, clock_s=-2.0) for node in nodes[1:]]
    (check,) = check_clocks(nodes)
    assert check.status == "--"
    assert "n0 +2 s;" in check.text


def test_a_line_for_each_node_or_for_the_odd_ones_among_many() -> None:
    report = report_with_links(4, slow=[1])
    report.slow = slow_nodes(report.nodes)
    text = report.text()
    assert all(f"\nn{number}  " in text for number in range(4))
    assert text.endswith("Not healthy: n1 is slow: network bandwidth 0.01x the median.")
    report = report_with_links(64, slow=[33])
    report.slow = slow_nodes(report.nodes)
    rows = report.text().splitlines()[2:7]
    assert [row.split()[0] for row in rows] == ["node", "n33", "least", "median", "most"]
    assert "10 MB/s" in rows[2]
    assert "1 GB/s" in rows[3]


def test_the_report_as_json(tmp_path: Path) -> None:
    report = report_with_links(2)
    report.checks.append(Check("--", "cores", "few"))
    report.write(tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["healthy"] is True
    assert found["nodes"][1]["bandwidth_bytes_per_s"] == 1e9
    assert found["checks"] == [{"status": "--", "name": "cores", "text": "few"}]


def test_nodes_read_disjoint_shares_of_all_files(tmp_path: Path) -> None:
    entries = []
    for name, size in (("a", 1000), ("b", 17), ("c", 500)):
        (tmp_path / name).write_bytes(b"x" * size)
        path = str(tmp_path / name)
        entries.append(FileEntry(name=name, path=path, rows=1, bytes=size, chunk_rows=None, fingerprint=""))
    shares = [reading_rate(entries, part, 4)[0] for part in range(4)]
    assert sum(shares) == 1517
    assert max(shares) - min(shares) <= 1
    (tmp_path / "c").write_bytes(b"")
    with pytest.raises(OSError, match="c is shorter here than its 500 bytes"):
        reading_rate(entries, 3, 4)


def test_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    assert writing_rate(tmp_path / "not" / "yet") > 0
    assert list(tmp_path.iterdir()) == []


def test_only_tasks_of_srun_are_awaited() -> None:
    assert await_ranks(World(size=4, launcher="torchrun"), 1.0) is None


def test_data_that_cannot_be_read_are_a_line_of_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dist_calo.diagnostics.cluster_check.set_threads", lambda *_: (1, ""))
    assert main(["--cluster", "--data.path=/no/such.h5", f"--checkpoint.dir={tmp_path}"]) == 1
    shown = capsys.readouterr().out
    assert "/no/such.h5: no such file" in next(
        line for line in shown.splitlines() if line.startswith("FAIL data")
    )
    assert "rank 0 writes" in shown
    assert shown.endswith("Not healthy: see the lines marked FAIL.\n")


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--cluster", "--json=/no/such/folder/found.json"]) == 2
    assert (
        "--json /no/such/folder/found.json: name a file in a folder that is there" in capsys.readouterr().err
    )


def test_options_of_the_cluster_are_not_ignored_without_it() -> None:
    with pytest.raises(ConfigError, match="belong to --cluster"):
        main(["--json=found.json"])


@pytest.mark.parametrize("ranks", [512, 513])
def test_torch_is_left_out_of_many_ranks_that_train_without_it(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = []

    def connect(name: str, *_: object) -> None:
        connected.append(name)
        raise LaunchError("not in this test")

    monkeypatch.setattr("dist_calo.diagnostics.cluster_check.choose_backend", lambda *_: "mpi")
    monkeypatch.setattr("dist_calo.diagnostics.cluster_check.connect", connect)
    monkeypatch.setattr(ClusterCheck, "_measure", lambda *_: None)
    communicator = SingleCommunicator(World(size=ranks, launcher="torchrun"))
    doctor = ClusterCheck(RunConfig(), communicator, timeout_s=1.0)
    doctor.measure_backends()
    assert connected == (["torch", "horovod"] if ranks == 512 else ["horovod"])
    assert ("torch" in doctor.report.absent) == (ranks == 513)
    assert ("torch      not measured: above 512 ranks it would open some 1026" in doctor.report.text()) == (
        ranks == 513
    )


def test_two_ranks_are_measured(tmp_path: Path) -> None:
    data = write_showers(tmp_path / "data", rows=(40,))
    settings = [f"--data.path={data}", "--train.global_batch_size=4", f"--checkpoint.dir={tmp_path}"]
    command = [
        sys.executable,
        "-m",
        "dist_calo",
        "doctor",
        "--cluster",
        *settings,
        f"--json={tmp_path}/found.json",
    ]
    run = run_ranks(command, 2, timeout=240).check()
    assert run.ranks[1] == ""
    assert run.ranks[0].endswith("Healthy.")
    found = json.loads((tmp_path / "found.json").read_text())
    (node,) = found["nodes"]
    assert node["ranks"] == [0, 1]
    assert node["step_s"] > 0
    assert node["within_bandwidth_bytes_per_s"] > 0
    assert node["read_bytes_per_s"] > 0
    bucket = 4 * 551_355  # all gradients of lcd_fast
    assert set(found["backends"]["torch"]["all_reduce_s"]) == {"8", str(bucket)}
    assert set(found["absent_backends"]) == {"mpi", "horovod"}
    assert found["prediction"]["step_s"] > node["step_s"]
