"""Which nodes and links of a cluster are called slow, and how long a step is said to take."""

import math
from dataclasses import replace
from typing import Any

import pytest

from dist_calo.diagnostics.cluster_report import Report
from dist_calo.diagnostics.node_comparison import check_medians, slow_links, slow_nodes
from dist_calo.diagnostics.nodes import predict_step
from dist_calo.diagnostics.rank_measurements import step_statistics
from tests.support.cluster_nodes import cluster, report_with_links


def test_nodes_that_are_alike_are_not_blamed() -> None:
    nodes = cluster()
    # Scatter of a busy machine, and a file that is read in no time.
    nodes[1] = replace(nodes[1], step_s=0.12, scatter_s=0.01)
    nodes[2] = replace(nodes[2], bandwidth_bytes_per_s=6e8, latency_s=1e-4)
    nodes[3] = replace(nodes[3], read_bytes_per_s=1e7, read_s=0.01)
    assert slow_nodes(nodes) == {}


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({"step_s": 0.21}, "a step takes 2.1x the median"),
        ({"step_mean_s": 0.17}, "on average a step takes 1.7x the median"),
        ({"bandwidth_bytes_per_s": 1e8}, "network bandwidth 0.1x the median"),
        ({"latency_s": 1e-3}, "network latency 50x the median"),
        ({"read_bytes_per_s": 2e8}, "reading 0.4x the median"),
    ],
)
def test_a_slow_node_is_named_with_what_is_slow(measured: dict[str, float], words: str) -> None:
    nodes = cluster()
    nodes[2] = replace(nodes[2], **measured)  # type: ignore[arg-type]
    assert slow_nodes(nodes) == {"n2": [words]}


def test_of_two_nodes_the_one_that_computes_more_slowly_is_named() -> None:
    nodes = cluster(2)
    nodes[0] = replace(nodes[0], step_s=0.2)
    assert slow_nodes(nodes) == {"n0": ["a step takes 2x the median"]}


def test_a_disturbed_node_does_not_excuse_itself() -> None:
    # Deviations from the median of 1.6 are 0.4 at their own median; 3 errors of the median of 16 steps are 0.557.
    found = step_statistics([1.2, 2.0] * 8)
    error = math.sqrt(math.pi / 2 / 16) * 1.4826 * 0.4
    assert found == pytest.approx({"step_s": 1.6, "scatter_s": error, "step_mean_s": 1.6})
    nodes = [replace(node, step_s=0.9, step_mean_s=0.9) for node in cluster()]
    nodes[3] = replace(nodes[3], **found)  # type: ignore[arg-type]
    # The limit is 1.035 + 0.557 = 1.592; with the scatter of single steps it would be 2.81.
    assert slow_nodes(nodes)["n3"][0] == "a step takes 1.8x the median"


def test_a_node_that_stalls_now_and_then_is_named() -> None:
    found = step_statistics([0.1, 0.1, 0.3] * 6)
    assert found == pytest.approx({"step_s": 0.1, "scatter_s": 0.0, "step_mean_s": 1 / 6})
    nodes = cluster()
    nodes[1] = replace(nodes[1], **found)  # type: ignore[arg-type]
    assert slow_nodes(nodes) == {"n1": ["on average a step takes 1.7x the median"]}
    prediction = predict_step(
        nodes, showers=8, measured_ranks=8, bytes_=0.0, collectives=0.0, links=[(0.0, 1e9)]
    )
    assert prediction is not None
    assert prediction.compute_s == pytest.approx(1 / 6)


def test_where_most_are_slow_the_quick_ones_are_told() -> None:
    nodes = cluster(3)
    nodes[0] = replace(nodes[0], step_s=0.05, step_mean_s=0.09)
    assert slow_nodes(nodes) == {}
    (check,) = check_medians(nodes)
    assert (check.status, check.text.split(":")[0]) == ("--", "n0")
    assert "a step takes 0.5x the median or better, and 2 of 3 nodes are near the median" in check.text
    report = Report(launcher="srun", backend="torch", device="cpu", nodes=nodes, checks=[check])
    assert "Healthy" not in report.text()
    # One is slow against the median, one is much better, and one is the median itself.
    nodes[2] = replace(nodes[2], step_s=0.2)
    assert slow_nodes(nodes) == {"n2": ["a step takes 2x the median"]}
    assert "1 of 3 nodes are near" in check_medians(nodes)[0].text
    assert check_medians(cluster(3)) == []


@pytest.mark.parametrize(
    ("count", "slow"), [(3, [1]), (4, [1]), (7, [1]), (4, [1, 3]), (8, [1, 3]), (8, [0, 7])]
)
def test_all_slow_nodes_and_none_of_their_neighbours_are_blamed(count: int, slow: list[int]) -> None:
    report = report_with_links(count, slow)
    assert list(slow_nodes(report.nodes)) == [f"n{number}" for number in slow]
    assert slow_links(report.nodes, report.links) == {}
    assert check_medians(report.nodes) == []


def test_a_network_without_any_quick_link_has_nothing_to_be_compared_with() -> None:
    report = report_with_links(3, slow=[1, 2])
    assert [node.bandwidth_bytes_per_s for node in report.nodes] == [1e7] * 3
    assert slow_nodes(report.nodes) == {}
    assert check_medians(report.nodes) == []
    # Three of five: the links between the others are quick, the median is not.
    report = report_with_links(5, slow=[0, 1, 2])
    assert slow_nodes(report.nodes) == {}
    (check,) = check_medians(report.nodes)
    assert check.text.startswith("n3, n4: network bandwidth 1e+02x the median or better, and 3 of 5 nodes")


@pytest.mark.parametrize(("count", "ends"), [(3, (0, 1)), (4, (1, 2)), (8, (2, 4))])
def test_a_slow_link_between_nodes_that_are_not_is_named(count: int, ends: tuple[int, int]) -> None:
    report = report_with_links(count, slow_link=ends)
    assert slow_nodes(report.nodes) == {}
    report.slow_links = slow_links(report.nodes, report.links)
    name = f"n{ends[0]}-n{ends[1]}"
    assert report.slow_links == {name: "bandwidth 0.01x the median"}
    assert report.text().endswith(f"Not healthy: link {name} is slow: bandwidth 0.01x the median.")


def test_a_prediction_uses_the_links_of_its_ring_alone() -> None:
    report = report_with_links(6)

    def ring(*numbers: int) -> set[tuple[str, str]]:
        links = report.ring_links([f"n{number}" for number in numbers])
        return {tuple(sorted(link["nodes"])) for link in links}

    around = {(f"n{number}", f"n{number + 1}") for number in range(5)} | {("n0", "n5")}
    assert ring(0, 1, 2, 3, 4, 5) == around
    assert ring(0, 1, 3, 4, 5) == around - {("n1", "n2"), ("n2", "n3")} | {("n1", "n3")}
    assert ring(0, 1) == {("n0", "n1")}
    assert ring(1) == set()


def test_a_step_is_computing_and_a_ring_over_the_slowest_link() -> None:
    nodes = cluster(2)
    nodes[1] = replace(nodes[1], step_s=0.3)
    sent: dict[str, Any] = {"showers": 30, "bytes_": 8e6, "collectives": 5}
    found = predict_step(nodes, **sent, measured_ranks=4, links=[(1e-5, 1e9), (2e-5, 1e8)])
    assert found is not None
    # 2 (p - 1) = 6 messages of each of 5 collectives, and 2 (p - 1) / p = 1.5 times the payload.
    assert found.all_reduce_s == pytest.approx(6 * 5 * 2e-5 + 1.5 * 8e6 / 1e8)
    assert found.step_s == pytest.approx(0.3 + found.all_reduce_s)
    assert found.to_dict()["showers_per_s"] == pytest.approx(30 / found.step_s)
    assert predict_step(nodes, **sent, measured_ranks=4, links=[]) is None
    alone = predict_step(cluster(1, ranks=1), **sent, measured_ranks=1, links=[])
    assert alone is not None
    assert alone.all_reduce_s == 0


def test_fewer_ranks_compute_a_larger_share_of_the_same_batch() -> None:
    """Without a node that is a fifth slower, a step of the three others takes longer."""
    nodes = cluster(4, ranks=1)
    nodes[3] = replace(nodes[3], step_s=0.12)
    sent: dict[str, Any] = {
        "showers": 30,
        "measured_ranks": 4,
        "bytes_": 0.0,
        "collectives": 0.0,
        "links": [(0.0, 1e9)],
    }
    every, without = predict_step(nodes, **sent), predict_step(nodes[:3], **sent)
    assert every is not None
    assert without is not None
    # 8 showers a rank become 10.
    assert (every.compute_s, without.compute_s) == pytest.approx((0.12, 0.1 * 10 / 8))
    assert without.to_dict()["showers_per_s"] == pytest.approx(30 / 0.125)
    report = Report(launcher="srun", backend="torch", device="cpu", nodes=nodes, slow={"n3": ["a step"]})
    report.prediction, report.prediction_without = every, without
    assert "120 ms for 30 showers (250 showers/s)" in report.text()
    assert "; without n3 at most 125 ms (240 showers/s)" in report.text()
