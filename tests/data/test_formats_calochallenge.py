import json
from dataclasses import replace

import numpy as np
import pytest

from dist_calo.config import DataConfig
from dist_calo.data.formats import ReadOptions, open_file, recognise
from dist_calo.data.formats.binning import binning_text, parse_binning
from dist_calo.data.loader import training_loader
from dist_calo.data.manifest import Manifest, build_manifest, find_problems, manifest_of, require_same_files
from dist_calo.errors import DataError
from dist_calo.geometry import CylindricalLayers
from tests.support.calochallenge_files import (
    VOXELS,
    binning,
    incident_energies,
    voxels,
    write,
    write_calochallenge,
)

TWO = """<Bins>
  <Bin pid="22" name="photon">
    <Layer id="0" r_edges="0,1,3" n_bin_alpha="2"/> <Layer id="2" r_edges="0,5" n_bin_alpha="4"/>
  </Bin>
  <Bin pid="211" name="pion">
    <Layer id="0" r_edges="0" n_bin_alpha="1"/> <Layer id="1" r_edges="0,2,4" n_bin_alpha="3"/>
  </Bin>
</Bins>"""


def described(path, **options):
    with open_file(path) as file:
        return recognise(file).describe(file, ReadOptions(**options))


@pytest.mark.parametrize(
    ("name", "layers", "edges", "sectors"),
    [
        ("dataset_1_photons", (8, 160, 190, 5, *[0] * 8, 5, *[0] * 11), 17, 10),
        ("dataset_1_pions", (8, 100, 100, 5, *[0] * 8, 150, 160, 10, *[0] * 9), 11, 10),
        ("dataset_2", (144,) * 45, 10, 16),
        ("dataset_3", (900,) * 45, 19, 50),
    ],
)
def test_each_data_set_of_the_challenge_is_known_by_its_voxels(tmp_path, name, layers, edges, sectors):
    path = write_calochallenge(tmp_path / "a.hdf5", VOXELS[name])
    manifest = manifest_of([str(path)])
    assert list(find_problems(manifest)) == []
    geometry = manifest.geometry
    assert (manifest.format, manifest.rows, geometry.cells) == ("calochallenge", 40, VOXELS[name])
    assert geometry == binning(name)
    assert geometry.layer_cells == layers
    assert (len(geometry.r_edges[1]), geometry.sectors[1]) == (edges, sectors)
    with open_file(path) as file:
        showers, conditions = recognise(file).rows(file).read(0, 40)
    assert showers.dtype == conditions.dtype == np.float32
    np.testing.assert_allclose(showers, voxels(40, VOXELS[name]), rtol=1e-5)
    np.testing.assert_allclose(conditions, incident_energies(40), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "particle"),
    [("dataset_1_photons", "gamma"), ("dataset_1_pions", "pi+-"), ("dataset_2", "e-"), ("dataset_3", "e-")],
)
def test_the_binning_tells_the_particle(tmp_path, name, particle):
    assert described(write_calochallenge(tmp_path / "a.h5", VOXELS[name], 2)).particle == particle


def test_the_outermost_edges_of_datasets_2_and_3_are_the_same():
    assert binning("dataset_2").r_edges[0][-1] == binning("dataset_3").r_edges[44][-1] == 41.85


def test_the_ring_is_the_fastest_index():
    geometry = binning("dataset_2")
    cells = np.arange(geometry.cells).reshape(45, 16, 9)
    np.testing.assert_array_equal(
        np.arange(geometry.cells)[geometry.layer_slices[7]].reshape(16, 9), cells[7]
    )


def test_a_binning_file_beside_the_data_or_named(tmp_path):
    (tmp_path / "data").mkdir()
    path = write_calochallenge(tmp_path / "data" / "a.h5", 8)
    with pytest.raises(
        DataError, match=r"has 8 voxels, but .*368, 533, 6480, 40500: name the XML file .*data.binning"
    ):
        described(path)
    other = tmp_path / "own.xml"
    other.write_text(TWO)
    geometry = CylindricalLayers(r_edges=((0.0, 1.0, 3.0), (), (0.0, 5.0)), sectors=(2, 1, 4))
    assert described(path, binning=str(other)).geometry == geometry
    assert build_manifest(DataConfig(path=str(path), binning=str(other))).geometry == geometry
    (tmp_path / "data" / "notes.xml").write_text("<notes/>")
    (tmp_path / "data" / "binning.xml").write_text(TWO)
    assert described(path) == replace(described(path), geometry=geometry, particle="gamma")
    pions = described(write_calochallenge(tmp_path / "data" / "b.h5", 6))
    assert (pions.particle, pions.geometry.layer_cells) == ("pi+-", (0, 6))


def test_binnings_that_differ_need_a_name_or_a_particle(tmp_path):
    both = TWO.replace('r_edges="0,2,4" n_bin_alpha="3"', 'r_edges="0,2,4" n_bin_alpha="4"')
    (tmp_path / "binning.xml").write_text(both)
    path = write_calochallenge(tmp_path / "a.h5", 8)
    with pytest.raises(DataError, match=r"different binnings of 8 voxels \(photon/22, pion/211\): name one"):
        described(path)
    path = write(
        tmp_path / "b.h5",
        {"particle": "pion"},
        incident_energies=1e3 * incident_energies(4),
        showers=1e3 * voxels(4, 8),
    )
    assert described(path).geometry.layer_cells == (0, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<Bins", "not an XML file"),
        ("<Bins/>", "no binning file: it must hold <Bins>"),
        (TWO.replace('n_bin_alpha="2"', ""), "needs numbers id, r_edges"),
        (TWO.replace("0,1,3", "0,x"), "needs numbers id, r_edges"),
        (TWO.replace("0,1,3", "0,3,1"), "edges must increase"),
        (TWO.replace('id="2"', 'id="0"'), "layer id 0: each is given once"),
        (None, "the binning file cannot be read"),
    ],
)
def test_a_binning_that_is_none_is_refused(tmp_path, text, message):
    path = write_calochallenge(tmp_path / "a.h5", 8)
    if text is not None:
        (tmp_path / "b.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        described(path, binning=str(tmp_path / "b.xml"))


@pytest.mark.parametrize("name", VOXELS)
def test_a_binning_that_is_written_is_the_one_read(name):
    text = binning_text(binning(name), "gamma")
    (found,) = parse_binning(text, "text")
    assert (found.geometry, found.particle) == (binning(name), "gamma")
    assert len(text) < 64_000  # What an HDF5 attribute holds.


@pytest.mark.parametrize(
    ("showers", "energy", "message"),
    [
        (1, 1, r"median 0.0317 GeV, must be 0.2 to 5000 GeV.*data.cell_unit=GeV.* and data.energy_unit=GeV"),
        (1, 1000, r"sum to 0.0009 times .*set data.cell_unit=GeV \(--cells-unit GeV\)$"),
        (1000, 1, r"sum to 900 times .*set data.energy_unit=GeV"),
    ],
)
def test_gev_where_mev_is_meant(tmp_path, showers, energy, message):
    data = {"incident_energies": energy * incident_energies(40), "showers": showers * voxels(40, 368)}
    path = write(tmp_path / "a.h5", **data)
    with pytest.raises(DataError, match=message):
        manifest_of([str(path)])


def test_files_in_gev_are_read_when_told(tmp_path):
    path = write_calochallenge(tmp_path / "a.h5", 368, unit=1.0)
    options = ReadOptions(cell_unit="GeV", energy_unit="GeV")
    assert list(find_problems(manifest_of([str(path)], "auto", options))) == []


def test_a_few_showers_may_sum_to_more_than_there_was(tmp_path):
    showers = 1000 * voxels(40, 368)
    showers[::3] *= 1.7
    manifest_of([str(write_calochallenge(tmp_path / "a.h5", 368, showers=showers))])


@pytest.mark.parametrize(
    ("data_sets", "message"),
    [
        ({"incident_energies": None}, "data set incident_energies is missing; the file holds showers"),
        ({"incident_energies": np.ones((39, 1))}, "incident_energies has 39 rows and showers has 40"),
        ({"showers": np.ones((40, 2, 2))}, r"showers has shape \(40, 2, 2\), must be \(N, voxels\)"),
        ({"showers": np.ones((40, 367))}, "has 367 voxels, but the CaloChallenge's data sets have 368, 533"),
    ],
)
def test_wrong_data_sets_are_named(tmp_path, data_sets, message):
    path = write_calochallenge(tmp_path / "a.h5", 368, **data_sets)
    with pytest.raises(DataError, match=message):
        manifest_of([str(path)])


@pytest.mark.parametrize(
    ("attributes", "options", "message"),
    [
        ({"cell_units": "GeV", "energy_units": "GeV"}, {}, r"median 1e\+04 GeV, must be 0.2 to 5000 GeV"),
        ({}, {"cell_unit": "GeV", "energy_unit": "GeV"}, r"median 1e\+04 GeV, must be 0.2 to 5000 GeV"),
        ({}, {"cell_unit": "keV", "energy_unit": "keV"}, "median 0.01 GeV, must be 0.2 to 5000 GeV"),
    ],
)
def test_a_unit_that_is_wrong_for_both_is_refused_also_when_told(tmp_path, attributes, options, message):
    energy = np.full((40, 1), 1e4)
    showers = 1e4 * voxels(40, 368) / incident_energies(40)
    path = write(tmp_path / "a.h5", attributes, incident_energies=energy, showers=showers)
    advice = r".*set data.cell_unit=MeV.* and data.energy_unit=MeV"
    with pytest.raises(DataError, match=message + advice):
        manifest_of([str(path)], "auto", ReadOptions(**options))


def test_ranks_open_files_without_looking_for_the_binning_again(tmp_path):
    (tmp_path / "beside.xml").write_text(TWO)
    for name in "ab":
        write_calochallenge(tmp_path / f"{name}.h5", 8)
    config = DataConfig(path=str(tmp_path / "*.h5"), validation_fraction=0, test_fraction=0)
    manifest = Manifest.from_dict(json.loads(build_manifest(config).to_json()))
    assert (manifest.geometry.layer_cells, manifest.particle) == ((4, 0, 4), "gamma")
    (tmp_path / "beside.xml").write_text(TWO.replace("0,5", "0,6"))
    (tmp_path / "stray.xml").write_text(TWO)
    with training_loader(manifest, config, seed=0, global_batch_size=80) as loader:
        np.testing.assert_allclose(next(loader).showers.sum(), 2 * voxels(40, 8).sum(), rtol=1e-5)
    write_calochallenge(tmp_path / "b.h5", 6)
    with (
        training_loader(manifest, config, seed=0, global_batch_size=80) as loader,
        pytest.raises(DataError, match=r"b.h5: "),
    ):
        next(loader)


def test_a_binning_that_is_named_is_not_needed_once_the_manifest_is_made(tmp_path):
    (tmp_path / "own.xml").write_text(TWO)
    path = write_calochallenge(tmp_path / "a.h5", 8)
    config = DataConfig(
        path=str(path), binning=str(tmp_path / "own.xml"), validation_fraction=0, test_fraction=0
    )
    manifest = build_manifest(config)
    (tmp_path / "own.xml").unlink()
    with training_loader(manifest, config, seed=0, global_batch_size=40) as loader:
        assert next(loader).showers.shape == (40, 8)


def test_another_binning_of_as_many_voxels_is_another_data_set(tmp_path):
    path = write_calochallenge(tmp_path / "a.h5", 8)
    manifests = []
    for name, text in (("one", TWO), ("same", TWO), ("other", TWO.replace("0,5", "0,6"))):
        (tmp_path / f"{name}.xml").write_text(text)
        options = ReadOptions(binning=str(tmp_path / f"{name}.xml"))
        manifests.append(manifest_of([str(path)], "auto", options))
    one, same, other = manifests
    require_same_files(one, same)
    assert one.checksum == same.checksum != other.checksum
    with pytest.raises(
        DataError, match=r"geometry r_edges is \(.*6.0.*, and in the manifest .*data.binning as"
    ):
        require_same_files(one, other)
