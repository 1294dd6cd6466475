"""``dist-calo evaluate`` of samples of any two sizes: always numbers, or a word on why there are none."""

import os
import sys

import h5py
import numpy as np
import pytest

from dist_calo.cli.evaluate import main as evaluate
from dist_calo.errors import EXIT_USER
from dist_calo.evaluation import evaluate as run
from tests.support.evaluations import metrics_of
from tests.support.ranks import run_ranks
from tests.support.small_runs import SAMPLE

SIZES = (1, 2, 3, 63, 65, 199, 200, 201, 900)


@pytest.fixture(scope="module")
def sample():
    """The showers and energies of the sample."""
    files = [h5py.File(path) for path in sorted(SAMPLE.glob("*.h5"))]
    return {name: np.concatenate([file[name][:] for file in files]) for name in ("ECAL", "energy")}


def written(path, sample, size, seed):
    chosen = np.sort(np.random.default_rng(seed).permutation(len(sample["energy"]))[:size])
    with h5py.File(path, "w") as file:
        for name, values in sample.items():
            file[name] = values[chosen]
    return str(path)


def evaluated(folder, sample, real, fake, *more):
    """``metrics.json``, read strictly, of samples of these sizes."""
    paths = {
        name: written(folder / f"{name}.h5", sample, n, n) for name, n in (("real", real), ("fake", fake))
    }
    given = ["--real", paths["real"], "--fake", paths["fake"], "--out", str(folder / "out"), *more]
    assert evaluate([*given, "--tracking-uri", "none"]) == 0
    return metrics_of(folder / "out")


@pytest.mark.parametrize(
    ("real", "fake"),
    [(a, SIZES[(3 * place + 1) % 9]) for place, a in enumerate(SIZES)] + [(900, 300), (201, 1300)],
)
def test_any_two_sizes_give_numbers(real, fake, sample, tmp_path):
    found = evaluated(tmp_path, sample, real, fake, "--no-report")
    assert found["showers"] == {"real": real, "fake": fake}
    few = min(real, fake) < 200
    assert few == any("need at least 200" in note for note in found["notes"])
    for kind in ("fpd", "kpd", "precision", "recall", "density", "coverage"):
        assert (f"{kind}/observables" in found["metrics"]) == (not few)
        assert few == (kind in found["not_computed"])
    assert (found["score"] is None) == (real < 10) == ("score" in found["not_computed"])
    assert found["metrics"]["relative_error/response"]["value"] is not None
    rough = min(real, fake) < 20
    assert rough == ("errors" in found["not_computed"])
    for name, number in found["metrics"].items():
        assert number["value"] is not None
        if rough:
            assert number["error"] is number["floor"] is number["sigmas"] is None
        elif min(real, fake) > 60:
            # Both are of one distribution.
            assert number["sigmas"] is None or number["sigmas"] < 8, name
    assert any(found["bins"].values()) or min(real, fake) < 3


def test_a_bin_that_one_side_leaves_empty_is_said(sample, tmp_path):
    low = sample["energy"][:, 0] < 40
    some = {name: values[low] for name, values in sample.items()}
    written(tmp_path / "real.h5", sample, 120, 0)
    written(tmp_path / "fake.h5", some, 90, 1)
    given = [
        "--real",
        str(tmp_path / "real.h5"),
        "--fake",
        str(tmp_path / "fake.h5"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert evaluate([*given, "--energy-edges", "10,50,100", "--no-report", "--tracking-uri", "none"]) == 0
    found = metrics_of(tmp_path / "out")
    assert found["bins"]["10-50 GeV"]
    assert not found["bins"]["50-100 GeV"]
    assert "no shower in 50-100 GeV" in found["not_computed"]["50-100 GeV"]


def test_more_ranks_than_showers(sample, tmp_path):
    for name, size in (("real", 2), ("fake", 1)):
        written(tmp_path / f"{name}.h5", sample, size, size)
    command = [sys.executable, "-m", "dist_calo.cli.evaluate", "--out", str(tmp_path / "out"), "--no-report"]
    command += [
        "--real",
        str(tmp_path / "real.h5"),
        "--fake",
        str(tmp_path / "fake.h5"),
        "--tracking-uri",
        "none",
    ]
    run_ranks(command, 3, "local", timeout=200).check()
    assert metrics_of(tmp_path / "out")["showers"] == {"real": 2, "fake": 1}


@pytest.mark.parametrize(("real", "fake"), [(60, 33), (33, 1)])
def test_the_classifier_takes_samples_of_two_sizes(real, fake, sample, tmp_path):
    found = evaluated(tmp_path, sample, real, fake, "--no-report", "--classifier", "high")
    assert ("auc/high" in found["metrics"]) != ("auc" in str(found["not_computed"]))


def test_files_that_change_while_they_are_read_are_refused(sample, tmp_path, monkeypatch, capsys):
    path = written(tmp_path / "both.h5", sample, 40, 1)
    given = [
        "--real",
        path,
        "--fake",
        path,
        "--no-report",
        "--tracking-uri",
        "none",
        "--out",
        str(tmp_path / "out"),
    ]
    collect = run.collect

    def collect_and(change):
        def both(*args, **options):
            found = collect(*args, **options)
            change()
            return found

        monkeypatch.setattr(run, "collect", both)

    collect_and(lambda: written(tmp_path / "both.h5", sample, 40, 2))
    assert evaluate(given) == EXIT_USER
    assert f"{path}: the file has changed since it was first read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    collect_and(lambda: os.utime(path, (1, 1)))
    assert evaluate(given) == 0
