"""``dist-calo evaluate`` of samples of any two sizes: always numbers, or a word on why there are none."""

import h5py
import numpy as np
import pytest

from dist_calo.evaluate import main as evaluate
from tests.evaluations import metrics_of
from tests.small_runs import SAMPLE

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
    if not few:
        assert all(
            None not in number.values()
            for name, number in found["metrics"].items()
            if name.startswith(("fpd", "kpd"))
        )
