import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.config import DataConfig
from dist_calo.data.formats import ReadOptions, open_file, read_deposits, recognise
from dist_calo.data.formats.protocol import rows_are_good
from dist_calo.data.loader import training_loader
from dist_calo.data.manifest import build_manifest, find_problems, manifest_of
from dist_calo.errors import DataError
from dist_calo.geometry import Waveforms
from tests.support.calochallenge_files import write
from tests.support.ranks import ROOT

SAMPLE = ROOT / "data" / "signals" / "signals_electrons.h5"
ATTRIBUTES = {"sample_ns": 0.5, "noise": 1.5}


def counts(rows=20, channels=6, samples=16):
    """ADC counts around 100 that tell the row in their first sample."""
    found = np.random.default_rng(1).integers(90, 200, (rows, channels, samples)).astype(np.int16)
    found[:, 0, 0] = np.arange(rows)
    return found


def write_signals(path, attributes=None, **data_sets):
    write(path, **({"signals": counts(), "energy": np.full((20, 1), 5.0)} | data_sets))
    with h5py.File(path, "a") as file:
        file["signals"].attrs.update(ATTRIBUTES if attributes is None else attributes)
    return path


def test_the_baseline_is_subtracted_and_the_attributes_tell_the_geometry(tmp_path):
    told = {**ATTRIBUTES, "baseline": 100.0, "channels": "2x3 row-major [x, y]", "units": "mV"}
    path = write_signals(tmp_path / "a.h5", told)
    manifest = manifest_of([str(path)])
    assert manifest.geometry == Waveforms(rows=2, columns=3, samples=16, sample_ns=0.5, noise=1.5, unit="mV")
    with open_file(path) as file:
        showers, conditions = recognise(file).rows(file).read(3, 9)
    assert showers.dtype == np.float32
    np.testing.assert_array_equal(showers, counts()[3:9] - 100.0)
    np.testing.assert_array_equal(conditions, np.full((6, 1), 5))
    assert list(find_problems(manifest)) == []


@pytest.mark.parametrize(("channels", "array"), [(9, (3, 3)), (6, (1, 6)), (1, (1, 1))])
def test_what_the_attributes_leave_unsaid(tmp_path, channels, array):
    path = write_signals(
        tmp_path / "a.h5", {"sample_ns": 0.2, "noise_counts": 1.0}, signals=counts(channels=channels)
    )
    assert manifest_of([str(path)]).geometry == Waveforms(rows=array[0], columns=array[1], samples=16)
    with open_file(path) as file:
        np.testing.assert_array_equal(recognise(file).rows(file).read(0, 20)[0], counts(channels=channels))


@pytest.mark.parametrize(
    ("attributes", "data_sets", "message"),
    [
        ({"noise": 1}, {}, r"attribute sample_ns of data set signals, the time between .* is missing"),
        ({"sample_ns": 1}, {}, r"attribute noise .*is missing, must be a number above 0: set it, as by"),
        ({"sample_ns": 0, "noise": 1}, {}, "attribute sample_ns .* is 0, must be a number above 0"),
        ({**ATTRIBUTES, "baseline": "low"}, {}, "attribute baseline .*must be a finite number"),
        (
            {**ATTRIBUTES, "channels": "3x3"},
            {},
            r"'3x3', must begin with rows x columns that make 6 channels",
        ),
        (None, {"signals": np.ones((20, 9))}, r"must be \(N, channels, samples\)"),
        (None, {"energy": None}, "data set energy is missing; the file holds signals"),
        (None, {"energy": np.ones(19)}, "data set energy has 19 rows and signals has 20"),
        (
            None,
            {"energy": np.full(20, 5e4)},
            r"median 5e\+04 GeV, must be 0.05 to 1000 GeV.*set data.energy_unit=MeV",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, attributes, data_sets, message):
    path = write_signals(tmp_path / "a.h5", attributes, **data_sets)
    with pytest.raises(DataError, match=message):
        manifest_of([str(path)])


def test_waveforms_have_no_unit_of_energy(tmp_path):
    path = write_signals(tmp_path / "a.h5")
    with pytest.raises(DataError, match=r"data.cell_unit=MeV, but waveforms are no energies"):
        manifest_of([str(path)], "auto", ReadOptions(cell_unit="MeV"))


def test_bad_rows_are_named_and_negative_samples_are_good(tmp_path):
    signals = counts().astype(np.float32) - 100
    signals[4, 2, 3], signals[6, 1, 1], signals[8] = np.nan, -np.inf, 0
    energy = np.full(20, 5.0)
    energy[2] = -1
    path = write_signals(tmp_path / "a.h5", signals=signals, energy=energy)
    found = [(problem.data_set, problem.row) for _, problem in find_problems(manifest_of([str(path)]))]
    assert found == [("signals", 4), ("energy", 2)]


@given(st.lists(st.floats(width=32), min_size=1, max_size=6))
def test_the_quick_check_of_signed_numbers_agrees_with_the_rule(samples):
    row = np.array([samples], dtype=np.float32)
    assert rows_are_good(row, np.ones((1, 1), np.float32), signed=True) == np.isfinite(row).all()


def test_the_loader_gives_signed_waveforms(tmp_path):
    path = write_signals(tmp_path / "a.h5", {**ATTRIBUTES, "baseline": 100})
    config = DataConfig(path=str(path), validation_fraction=0, test_fraction=0)
    with training_loader(build_manifest(config), config, seed=0, global_batch_size=8) as loader:
        batch = next(loader)
        np.testing.assert_array_equal(batch.showers, counts()[batch.ids] - 100.0)


def test_deposits_are_the_truth_behind_the_sample():
    deposits = read_deposits(SAMPLE, 10, 15)
    assert (deposits.shape, deposits.dtype) == ((5, 66, 3, 3), np.float32)
    with open_file(SAMPLE) as file:
        schema = recognise(file)
        layout = schema.describe(file)
        signals, conditions = schema.rows(file).read(10, 15)
        np.testing.assert_array_equal(deposits, file["edep"][10:15])
    assert (layout.rows, layout.geometry, layout.particle) == (3200, Waveforms(), "e-")
    sums = deposits.sum(axis=(1, 2, 3))
    assert ((sums > 0.1 * conditions[:, 0]) & (sums < 0.25 * conditions[:, 0])).all()
    assert abs(signals[:, :, :100].mean()) < 0.5
    brightest = deposits.sum(axis=1).reshape(5, 9).argmax(axis=1)
    np.testing.assert_array_equal(signals.max(axis=2).argmax(axis=1), brightest)


def test_files_without_deposits_are_told(tmp_path):
    with pytest.raises(DataError, match="data set edep is missing"):
        read_deposits(write_signals(tmp_path / "a.h5"), 0, 2)
    path = write_signals(tmp_path / "b.h5", edep=np.ones((19, 2, 2, 3)))
    with pytest.raises(DataError, match="data set edep has 19 rows and signals has 20"):
        read_deposits(path, 0, 2)


@pytest.mark.parametrize(
    ("factor", "options", "message"),
    [
        (1000, {}, r"edep .*sum to 0.000167 times .*0.0015 to 1.1 times: .*set data.energy_unit=MeV"),
        (1, {"energy_unit": "MeV"}, r"edep .*sum to 167 times .*set data.energy_unit=GeV"),
        (1000, {"energy_unit": "keV"}, r"edep .*sum to 167 times .*set data.energy_unit=MeV"),
    ],
)
@pytest.mark.parametrize("deposits", [True, False])
def test_another_unit_of_the_samples_energies_is_refused_also_when_told(
    tmp_path, factor, options, message, deposits
):
    with h5py.File(SAMPLE) as sample, h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("signals", "energy") + ("edep",) * deposits:
            file[name] = sample[name][:200] * (factor if name == "energy" else 1)
        file["signals"].attrs.update(sample["signals"].attrs)
    if not deposits:
        message = r"median (0.0|1.0)\d+(e\+04)? GeV, must be 0.05 to 1000 GeV: .*set data.energy_unit="
    with pytest.raises(DataError, match=message) as raised:
        manifest_of([str(tmp_path / "a.h5")], "auto", ReadOptions(**options))
    assert "\n" not in str(raised.value)
    assert "cell_unit" not in str(raised.value)
    right = ReadOptions(energy_unit="MeV" if factor == 1000 else "GeV")
    assert manifest_of([str(tmp_path / "a.h5")], "auto", right).rows == 200
