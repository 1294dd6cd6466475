import json

import h5py
import numpy as np
import pytest

from dist_calo.config import DataConfig
from dist_calo.data.formats import FORMATS, ReadOptions, open_file, recognise
from dist_calo.data.loader import training_loader
from dist_calo.data.manifest import Manifest, build_manifest, find_problems, manifest_of
from dist_calo.errors import DataError
from dist_calo.geometry import LayeredGrid
from tests.support.calochallenge_files import LAYERS, incident_energies, layers, voxels, write
from tests.support.ranks import ROOT

SAMPLE = ROOT / "data" / "layers" / "layers_electrons.h5"


def read_all(path, **options):
    with open_file(path) as file:
        schema = recognise(file)
        found = ReadOptions(**options)
        return schema.rows(file, found).read(0, schema.describe(file, found).rows)


def test_layers_become_one_row_of_cells(tmp_path):
    path = write(tmp_path / "a.h5", {"units": "GeV, mm", "particle": "e-"}, **layers(40))
    manifest = manifest_of([str(path)])
    assert (manifest.format, manifest.particle, manifest.rows) == ("layers", "e-", 40)
    assert manifest.geometry == LayeredGrid(layers=LAYERS)
    showers, conditions = read_all(path)
    np.testing.assert_allclose(showers, voxels(40, manifest.geometry.cells), rtol=1e-6)
    np.testing.assert_allclose(conditions, incident_energies(40), rtol=1e-6)
    for part, cells in zip(manifest.geometry.layer_slices, list(layers(40).values())[:3], strict=True):
        np.testing.assert_array_equal(showers[:, part], cells.reshape(40, -1))


def test_rows_go_to_their_places_from_compressed_and_plain_layers(tmp_path):
    found = layers(90)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "layer_0", data=found["layer_0"], chunks=(7, 3, 8), compression="gzip", shuffle=True
        )
        file.create_dataset("layer_1", data=found["layer_1"])
        file.create_dataset("layer_2", data=found["layer_2"].astype(np.float64))
        file["energy"] = found["energy"][:, 0]
        file.attrs["cell_units"] = "GeV"
    rows, places = np.array([3, 4, 40, 88]), np.array([2, 0, 1, 5])
    showers, conditions = np.full((6, 44), -1, np.float32), np.full((6, 1), -1, np.float32)
    with open_file(tmp_path / "a.h5") as file:
        FORMATS["layers"].rows(file).place(rows, showers, conditions, places)
    np.testing.assert_allclose(showers[places], voxels(90, 44)[rows], rtol=1e-6)
    np.testing.assert_array_equal(conditions[places], found["energy"][rows])
    assert (showers[[3, 4]] == -1).all()


@pytest.mark.parametrize(
    ("attributes", "options", "factor"),
    [
        ({}, {}, 1000),
        ({"units": "MeV"}, {}, 1000),
        ({"units": "GeV, mm", "cell_units": "MeV"}, {}, 1000),
        ({"units": "GeV"}, {}, 1),
        ({}, {"cell_unit": "GeV"}, 1),
        ({"units": "GeV"}, {"cell_unit": "keV"}, 1e6),
    ],
)
def test_the_unit_is_the_users_or_the_attributes_or_calogans(tmp_path, attributes, options, factor):
    found = layers(20)
    cells = {name: values * np.float32(factor) for name, values in found.items() if name != "energy"}
    path = write(tmp_path / "a.h5", attributes, energy=found["energy"], **cells)
    manifest_of([str(path)], "auto", ReadOptions(**options))
    np.testing.assert_allclose(read_all(path, **options)[0], voxels(20, 44), rtol=1e-5)


@pytest.mark.parametrize(
    ("cells", "energy", "attributes", "message"),
    [
        (1, 1, {}, r"sum to 0.0009 times .*must be 0.0015 to 1.1.*cells in MeV.*set data.cell_unit=GeV"),
        (1000, 1, {"units": "GeV"}, r"sum to 900 times .*cells in GeV.*set data.cell_unit=MeV"),
        (1, 1000, {"units": "GeV"}, r"sum to 0.0009 times .*set data.energy_unit=MeV \(--energy-unit MeV\)$"),
        (1000, 1000, {}, r"sum to 0.0009 times .*data.energy_unit=MeV"),
        (10, 1e-2, {"units": "GeV"}, r"sum to 900 times .*data.cell_unit=MeV"),
        (1.5, 1, {"units": "GeV"}, r"sum to 1.35 times .*GeV and MeV do not help: correct the file"),
        (
            1000,
            1000,
            {"units": "GeV"},
            r"median 3.17e\+04 GeV, must be 0.05 to 5000.*data.cell_unit=MeV.*and data.energy_unit=MeV",
        ),
    ],
)
def test_a_wrong_unit_breaks_the_energy_balance(tmp_path, cells, energy, attributes, message):
    found = {name: values * np.float32(cells) for name, values in layers(40).items() if name != "energy"}
    path = write(tmp_path / "a.h5", attributes, energy=incident_energies(40) * energy, **found)
    with pytest.raises(DataError, match=message) as raised:
        build_manifest(DataConfig(path=str(path)))
    assert "\n" not in str(raised.value)


def test_an_attribute_with_two_units_is_refused(tmp_path):
    path = write(tmp_path / "a.h5", {"units": "GeV, cells MeV"}, **layers(4))
    with pytest.raises(DataError, match=r"names GeV and MeV: set the attribute cell_units"):
        manifest_of([str(path)])


@pytest.mark.parametrize(
    ("data_sets", "message"),
    [
        ({"layer_1": None}, r"data set layer_1 is missing; the file holds energy, layer_0, layer_2"),
        ({"layer_0": None}, "data set layer_0 is missing"),
        ({"energy": None}, "data set energy is missing"),
        ({"energy": np.ones((9, 1))}, "data set energy has 9 rows and layer_0 has 10"),
        ({"layer_2": np.ones((11, 2, 2))}, "data set layer_2 has 11 rows and layer_0 has 10"),
        ({"layer_1": np.ones((10, 16))}, r"layer_1 has shape \(10, 16\), must be \(N, eta, phi\)"),
        ({"layer_1": np.array([[["a"]]] * 10, "S1")}, "must hold numbers"),
        ({name: values[:0] for name, values in layers(10).items()}, "data set layer_0 has no rows"),
    ],
)
def test_wrong_data_sets_are_named(tmp_path, data_sets, message):
    path = write(tmp_path / "a.h5", {"units": "GeV"}, **(layers(10) | data_sets))
    with pytest.raises(DataError, match=message):
        manifest_of([str(path)])


def test_the_manifest_carries_the_units_to_the_loader(tmp_path):
    found = {name: values * np.float32(1000) for name, values in layers(40).items()}
    path = write(tmp_path / "a.h5", {"units": "GeV"}, **found)
    config = DataConfig(
        path=str(path), cell_unit="MeV", energy_unit="MeV", validation_fraction=0, test_fraction=0
    )
    manifest = Manifest.from_dict(json.loads(build_manifest(config).to_json()))
    assert manifest == build_manifest(config)
    with training_loader(manifest, config, seed=0, global_batch_size=8) as loader:
        batch = next(loader)
    np.testing.assert_allclose(batch.showers, voxels(40, 44)[batch.ids], rtol=1e-5)
    np.testing.assert_allclose(batch.conditions, incident_energies(40)[batch.ids], rtol=1e-5)


def test_cell_sizes_are_a_pair_for_each_layer(tmp_path):
    sizes = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.5]]
    path = write(tmp_path / "a.h5", {"units": "GeV", "cell_sizes_mm": sizes}, **layers(4))
    assert manifest_of([str(path)]).geometry.cell_sizes == ((1.0, 2.0), (3.0, 4.0), (5.0, 6.5))
    path = write(tmp_path / "b.h5", {"units": "GeV", "cell_sizes_mm": sizes[:2]}, **layers(4))
    with pytest.raises(DataError, match="must be 3 pairs of positive numbers"):
        manifest_of([str(path)])


def test_bad_rows_are_named(tmp_path):
    found = layers(20)
    found["layer_1"][3, 0, 0] = -1
    found["layer_2"][5, 0, 0] = np.nan
    for number in range(3):
        found[f"layer_{number}"][7] = 0
    found["energy"][9] = 0
    path = write(tmp_path / "a.h5", {"units": "GeV"}, **found)
    assert [(problem.row, problem.data_set) for _, problem in find_problems(manifest_of([str(path)]))] == [
        (3, "layer_1"),
        (5, "layer_2"),
        (7, "layer_0 and layer_1 and layer_2"),
        (9, "energy"),
    ]


def test_the_sample_keeps_the_response_that_it_was_made_with():
    manifest = manifest_of([str(SAMPLE)])
    assert (manifest.rows, manifest.particle) == (3900, "e-")
    assert manifest.geometry == LayeredGrid(
        layers=((3, 96), (12, 12), (12, 6)), cell_sizes=((160.0, 5.0), (40.0, 40.0), (40.0, 80.0))
    )
    showers, conditions = read_all(SAMPLE)
    assert np.mean(showers.sum(axis=1) / conditions[:, 0]) == pytest.approx(0.19, abs=0.001)
