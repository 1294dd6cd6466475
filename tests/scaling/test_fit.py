"""The cost model: parameters found again, unseen points predicted, an error that grows where nothing was measured."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dist_calo.scaling.conclusions import cost_models, sentences
from dist_calo.scaling.cost import ring_seconds
from dist_calo.scaling.fit import Case, check_model, design, fit_model, independent
from dist_calo.scaling.forecast import Forecast, forecast
from dist_calo.scaling.point_summaries import summarise
from dist_calo.scaling.report import write_report
from dist_calo.scaling.results import read_results, write_result
from tests.support.scaling_results import (
    BANDWIDTH,
    BASE_S,
    LATENCY_S,
    SAMPLE_S,
    point,
    seconds,
    write_experiment,
)

GRID = [point(nodes, ranks) for nodes in (1, 2, 4) for ranks in (1, 2)]


def summary_of(folder, points, **experiment):
    return summarise(folder, write_experiment(folder, points, **experiment))


def series_of(summary):
    return next(iter(summary.series.values()))


def test_efficiency_refers_to_the_smallest_point(tmp_path):
    rows = series_of(summary_of(tmp_path, GRID))
    first, last = rows[0], rows[-1]
    assert (first.point.ranks, first.efficiency, first.speed_up) == (1, 1.0, 1.0)
    expected = seconds(point()) / seconds(point(4, 2))
    assert last.efficiency == pytest.approx(expected)
    assert last.speed_up == pytest.approx(8 * expected)


def test_a_strong_study_divides_the_same_batch(tmp_path):
    points = [point(1, ranks, study="strong", batch=64) for ranks in (1, 2, 4)]
    rows = series_of(summary_of(tmp_path, points))
    assert rows[2].speed_up == pytest.approx(seconds(points[0]) / seconds(points[2]))
    assert rows[2].efficiency == pytest.approx(rows[2].speed_up / 4)


def test_errors_come_from_the_spread_of_repeats(tmp_path):
    rows = series_of(summary_of(tmp_path, GRID, noise=0.05))
    assert rows[0].efficiency_error == 0.0
    assert all(0.005 < row.efficiency_error < 0.2 for row in rows[1:])


@pytest.mark.parametrize("algorithm", ["ring", "tree"])
def test_the_parameters_are_found_again(tmp_path, algorithm):
    points = [
        point(n, r, batch=batch, wire=w)
        for n in (1, 2, 3, 5)
        for r in (1, 2)
        for batch in (8, 16)
        for w in ("fp32", "bf16")
    ]
    fit = fit_model(summary_of(tmp_path, points, algorithm=algorithm).rows, algorithm)
    base, sample, _, _, latency, inverse = fit.parameters
    assert (base, sample) == pytest.approx((BASE_S, SAMPLE_S), rel=1e-3)
    assert (latency, 1 / inverse) == pytest.approx((LATENCY_S, BANDWIDTH), rel=1e-2)
    assert fit.misfit < 1e-6


def test_eight_ranks_are_predicted_from_fewer(tmp_path):
    fitted, checks = check_model(summary_of(tmp_path, GRID).rows)
    assert fitted == [1, 2, 4]
    ring = next(check for check in checks if check.algorithm == "ring")
    assert ring.row.point.ranks == 8
    assert abs(ring.error) < 0.01
    assert ring.low_s <= ring.predicted_s * 1.001


def test_the_points_that_are_predicted_do_not_choose_the_algorithm(tmp_path):
    summary = summary_of(tmp_path, GRID)
    (part,) = cost_models(summary)
    assert min(part.fits, key=lambda fit: fit.misfit).algorithm == "ring"
    checks = [replace(check, misfit=0.1 if check.algorithm == "ring" else 0.0) for check in part.checks]
    (line,) = (line for line in sentences(summary, [replace(part, checks=checks)]) if "it predicts" in line)
    assert line.startswith("cost model (tree)")


def test_too_few_points_are_not_checked(tmp_path):
    assert check_model(summary_of(tmp_path, GRID[:2]).rows) == ([], [])


def test_ranks_that_take_turns_compute_longer(tmp_path):
    rows = summary_of(tmp_path, GRID, cores=2).rows
    assert [row.oversubscribed for row in rows] == [False, False, False, True, True, True]
    fit = fit_model(rows, "ring")
    assert fit.seconds([Case.of(row) for row in rows]) == pytest.approx(
        [row.values["step_s"] for row in rows], rel=1e-3
    )


def test_the_band_grows_outside_of_what_was_measured(tmp_path):
    rows = series_of(summary_of(tmp_path, GRID, noise=0.02))
    found = forecast(rows, [fit_model(rows, algorithm) for algorithm in ("ring", "tree")])
    width = found.high - found.low
    assert found.ranks[-1] == 4096
    assert width[-1] > 3 * width[3]
    assert np.all(found.low <= found.efficiency)
    assert np.all(found.efficiency <= found.high)


COMPUTING_S = 0.2


def overlapped_step(ranks, hidden):
    """A ring of 25 MB in ten collectives, 5 us and 2.5 GB/s, behind a share of 0.2 s of computing."""
    return COMPUTING_S + max(0.0, ring_seconds(ranks, 25e6, 10 * 5e-6, 2.5e9) - hidden * COMPUTING_S)


def overlapped(hidden):
    return lambda point: {
        "step_s": overlapped_step(point.ranks, hidden if point.overlap else 0.0),
        "compute_s": COMPUTING_S,
        "cpu_s": COMPUTING_S,
        "bytes_per_step": 25e6,
    }


@pytest.mark.parametrize("hidden", [0.0, 1 / 3, 2 / 3])
def test_what_is_hidden_at_few_ranks_is_predicted_from_the_points_without_overlap(tmp_path, hidden):
    points = [point(2**power, overlap=overlap) for overlap in (True, False) for power in range(6)]
    summary = summary_of(tmp_path, points, noise=0.005, changes=overlapped(hidden))
    series = {
        key.overlap: found for part in cost_models(summary) for key, (_, found) in part.forecasts.items()
    }
    for overlap, found in series.items():
        truth = COMPUTING_S / overlapped_step(4096, hidden if overlap else 0.0)
        assert not found.obstacle
        assert found.low[-1] <= truth <= found.high[-1]
    assert series[True].efficiency[-1] < 0.6
    assert np.all(series[True].low <= series[True].efficiency)
    assert np.all(series[True].efficiency <= series[True].high)


def test_points_with_overlap_alone_predict_nothing_where_buckets_may_leave_early(tmp_path):
    points = [point(2**power) for power in range(6)]
    summary = summary_of(tmp_path, points, changes=overlapped(2 / 3))
    assert any("plan with --overlap on,off" in line for line in sentences(summary, cost_models(summary)))


def test_points_of_gpus_are_fitted_by_the_time_of_a_step_alone(tmp_path):
    parts = ("compute_s", "compute_slowest_node", "wait_comm_s", "core_share_least")
    plan = write_experiment(tmp_path, GRID, changes=lambda point: dict.fromkeys(parts))
    rows = series_of(summarise(tmp_path, plan))
    assert [row.core_share for row in rows] == [1.0] * 6
    fit = fit_model(rows, "ring")
    assert fit.seconds([Case.of(row) for row in rows]) == pytest.approx(
        [row.values["step_s"] for row in rows]
    )
    assert not forecast(rows, [fit]).obstacle
    *_, page, _ = write_report(tmp_path, tmp_path / "out")
    written = Path(page).read_text()
    assert "computing and communication are not told apart" in written
    # Computing, in collectives, waiting for data.
    assert written.count("<td>–</td><td>–</td><td>0</td>") == len(GRID)


@pytest.mark.parametrize(("algorithm", "rank"), [("ring", 3), ("tree", 2)])
@pytest.mark.parametrize("payload", [1e3, 4e6, 1e12])
def test_parameters_that_points_determine_are_counted_whatever_the_payload(algorithm, rank, payload):
    cases = [
        Case(ranks=n, share=16, several_nodes=n > 1, bytes_per_step=payload, collectives_per_step=10)
        for n in (1, 2, 4, 8)
    ]
    assert independent(design(cases, algorithm)) == rank


def test_a_point_that_does_not_count_is_neither_base_nor_fitted(tmp_path):
    points = [point(1, ranks) for ranks in (1, 2, 4)]
    busy = {"step_s": 1.0, "cpu_s": 0.01}
    summary = summary_of(tmp_path, points, changes=lambda point: busy if point.ranks == 1 else {})
    rows = series_of(summary)
    assert [row.counts for row in rows] == [False, True, True]
    assert [row.base for row in rows] == [1, 1, 1]
    assert rows[2].efficiency == pytest.approx(seconds(points[1]) / seconds(points[2]))
    (part,) = cost_models(summary)
    assert [row.number for row in part.rows] == [1, 2]
    assert "at 4 ranks, relative to 2" in sentences(summary, [part])[0]


def test_ranks_that_share_one_quota_are_no_scaling(tmp_path):
    points = [point(1, ranks) for ranks in (1, 2, 4, 8)]
    summary = summary_of(tmp_path, points, changes=lambda p: {"thread_quota": min(1.0, 2 / p.ranks)})
    assert [row.throttled for row in series_of(summary)] == [False, False, True, True]
    same = summary_of(tmp_path / "same", points, changes=lambda point: {"thread_quota": 0.5})
    assert all(row.counts for row in series_of(same))


def test_the_worst_served_rank_decides_whether_a_point_counts(tmp_path):
    summary = summary_of(tmp_path, GRID, changes=lambda point: {"core_share_least": 1.02 - 0.1 * point.ranks})
    assert [row.counts for row in series_of(summary)] == [True, False, False, False, False, False]


def test_results_of_earlier_versions_still_open(tmp_path):
    plan = write_experiment(tmp_path, GRID)
    for number in range(len(GRID)):
        for repeat, values in enumerate(read_results(tmp_path, number)):
            del values["thread_quota"]
            write_result(tmp_path, number, repeat, values)
    assert all(row.counts for row in series_of(summarise(tmp_path, plan)))


def test_ranks_that_other_programs_kept_waiting_are_told(tmp_path):
    rows = summary_of(tmp_path, GRID, cores=2).rows
    assert [row.core_share for row in rows] == pytest.approx([1.0] * 6)
    rows[0].values["cpu_s"] /= 4
    assert rows[0].core_share == pytest.approx(0.25)
    rows[0].values["thread_quota"] = 0.25
    assert rows[0].core_share == pytest.approx(1.0)


def test_the_verdict_gives_the_efficiency_and_where_it_falls_below_ninety_per_cent_with_their_bands():
    ranks = np.array([1, 2, 4, 8])
    falling, steady = np.array([1.0, 0.95, 0.85, 0.7]), np.full(4, 0.99)
    parts = {"ranks": ranks, "algorithm": "ring", "measured_to": 4}
    found = Forecast(efficiency=falling, low=falling, high=steady, **parts)
    assert found.falls_below(falling) == pytest.approx(2 * 2**0.5)
    assert found.falls_below(steady) is None
    assert found.described() == (
        "efficiency at 8 ranks: 70 % (70-99 %); falls below 90 % at about 3 ranks (3 to over 8)"
    )
    assert Forecast(efficiency=steady, low=falling, high=steady, **parts).described() == (
        "efficiency at 8 ranks: 99 % (70-99 %); stays above 90 %, or falls below from 3 ranks on"
    )


def verdict_of(folder, points, **experiment):
    rows = series_of(summary_of(folder, points, **experiment))
    return forecast(rows, [fit_model(rows, algorithm) for algorithm in ("ring", "tree")])


@pytest.mark.parametrize(
    ("points", "cores", "reason"),
    [
        (
            [point(1), point(2)],
            9,
            "it takes 3 numbers of ranks that count as scaling, and these points have 2 (1, 2)",
        ),
        (GRID, 2, "it takes 3 numbers of ranks that count as scaling, and these points have 2 (1, 2)"),
        (
            [point(1, ranks) for ranks in (1, 2, 4)],
            9,
            "4,096 ranks are on several nodes, and no point of several nodes",
        ),
        (
            [point(1, 1), point(1, 2), point(2, 2)],
            9,
            "latency and bandwidth between nodes cannot be told apart",
        ),
    ],
)
def test_there_is_no_prediction_from_points_that_do_not_allow_one(tmp_path, points, cores, reason):
    found = verdict_of(tmp_path, points, cores=cores)
    assert found.described().startswith(f"no prediction: {reason}")
    assert found.ranks[-1] <= max(point.ranks for point in points)


def test_points_that_other_programs_disturbed_do_not_count(tmp_path):
    rows = summary_of(tmp_path, [point(nodes) for nodes in (1, 2, 4)]).rows
    fits = [fit_model(rows, algorithm) for algorithm in ("ring", "tree")]
    assert not forecast(rows, fits).obstacle
    rows[1].values["cpu_s"] *= 0.36
    assert "these points have 2 (1, 4)" in forecast(rows, fits).obstacle


def test_a_report_of_too_few_points_predicts_nothing(tmp_path):
    write_experiment(tmp_path, [point(1), point(2)], noise=0.2, cores=1)
    *lines, page, _ = write_report(tmp_path, tmp_path / "out")
    text = " ".join(lines)
    assert "no prediction: it takes 3 numbers of ranks" in text
    assert "90 %" not in text
    assert lines[-1] == (
        "mind: point 1 not counted (more threads than cores); cost model not checked on an unseen point"
    )
    written = Path(page).read_text()
    assert "no prediction: it takes 3" in written
    assert "Predicted efficiency" not in written
    assert "goes through them" not in written


def test_the_report_holds_everything_in_one_file(tmp_path):
    strong = [point(n, 1, study="strong", batch=64) for n in (1, 2, 4)]
    write_experiment(tmp_path / "r", GRID + strong, noise=0.02, cores=4)
    lines = write_report(tmp_path / "r", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert any("fitted to 1, 2, 4 ranks it predicts" in line for line in lines)
    assert any("efficiency at 4,096 ranks: " in line for line in lines)
    assert any("% on the unseen 8 ranks" in line for line in lines)
    assert page.count("<img") == 6
    assert "http" not in page.replace("http://www.w3.org", "")
    for words in (
        "Weak scaling",
        "Strong scaling",
        "take turns",
        "No node reports energy",
        "LNCS 11203",
        "do not hold differences between nodes",
        "(base)",
    ):
        assert words in page
    with (tmp_path / "out" / "points.csv").open() as table:
        read = list(csv.DictReader(table))
    assert [row["number"] for row in read] == [str(number) for number in range(9)]
    assert read[0]["energy_j"] == ""
    assert float(read[5]["efficiency"]) < 0.9
