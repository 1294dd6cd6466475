import errno
import fcntl
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.data.conditions import read_conditions
from dist_calo.data.formats import FORMATS, ReadOptions, ShowerWriter, format_named, open_file, recognise
from dist_calo.data.formats.protocol import rows_are_good
from dist_calo.data.formats.rows import RowReader
from dist_calo.data.manifest import find_problems, manifest_of
from dist_calo.errors import ConfigError, DataError, of_user
from dist_calo.geometry import VoxelGrid
from tests.support.shower_files import energies, rows_of, showers, write_lcd


def layout_of(path):
    with open_file(path) as file:
        return recognise(file).describe(file)


def read_all(path):
    with open_file(path) as file:
        schema = recognise(file)
        return schema.rows(file).read(0, schema.describe(file).rows)


@pytest.mark.parametrize("energy", [energies(5), energies(5)[:, 0], energies(5).astype(np.float64)])
def test_energy_in_either_shape(tmp_path, energy):
    path = write_lcd(tmp_path / "a.h5", 5, energy=energy)
    cells, conditions = read_all(path)
    assert cells.dtype == conditions.dtype == np.float32
    np.testing.assert_array_equal(cells, showers(5))
    np.testing.assert_array_equal(conditions, energies(5))
    assert layout_of(path).geometry == VoxelGrid(shape=(25, 25, 25))


def test_older_files_hold_the_energy_in_column_1_of_target(tmp_path):
    target = np.column_stack([np.full(5, 11.0), energies(5)[:, 0], np.zeros(5)])
    path = write_lcd(tmp_path / "a.h5", 5, energy=None, target=target)
    np.testing.assert_array_equal(read_all(path)[1], energies(5))


def test_the_wide_window_with_and_without_angle(tmp_path):
    wide, theta = showers(3, shape=(51, 51, 25)), np.array([1.1, 1.2, 1.3])
    with_angle = write_lcd(tmp_path / "a.h5", 3, chunk=1, ECAL=wide, theta=theta)
    assert layout_of(with_angle).geometry == VoxelGrid(shape=(51, 51, 25), conditions=("energy", "theta"))
    np.testing.assert_allclose(
        read_all(with_angle)[1], np.column_stack([energies(3)[:, 0], theta]), rtol=1e-6
    )
    without = write_lcd(tmp_path / "b.h5", 3, chunk=1, ECAL=wide)
    assert layout_of(without).geometry.conditions == ("energy",)


@pytest.mark.parametrize(
    ("name", "attribute", "particle"),
    [
        ("EleEscan_1.h5", None, "e-"),
        ("GammaEscan_1.h5", None, "gamma"),
        ("Pi0Escan_1.h5", None, "pi0"),
        ("ChPiEscan_1.h5", None, "pi+-"),
        ("other.h5", None, None),
        ("other.h5", "Photon", "gamma"),
        ("EleEscan_1.h5", "mu-", "mu-"),
        ("other.h5", b"e-", "e-"),
    ],
)
def test_particle_by_attribute_or_prefix(tmp_path, name, attribute, particle):
    path = write_lcd(tmp_path / name, 2, chunk=2)
    if attribute is not None:
        with h5py.File(path, "a") as file:
            file.attrs["particle"] = attribute
    assert layout_of(path).particle == particle


@pytest.mark.parametrize(
    ("data_sets", "message"),
    [
        ({"ECAL": None}, r"a.h5: its data sets \(energy\) fit no known schema: lcd needs ECAL"),
        ({"energy": None}, r"a.h5: data set energy \(or target\) is missing; the file holds ECAL"),
        (
            {"ECAL": np.ones((4, 24, 25, 25))},
            r"ECAL has shape \(4, 24, 25, 25\), must be \(N, 25, 25, 25\) or",
        ),
        ({"ECAL": np.ones((0, 25, 25, 25)), "energy": energies(0)}, "ECAL has no rows"),
        ({"energy": energies(3)}, "energy has 3 rows and ECAL has 4"),
        ({"energy": np.ones((4, 2))}, r"energy has shape \(4, 2\), must be \(N, 1\)"),
        ({"energy": None, "target": np.ones((4, 2, 5))}, r"target has shape \(4, 2, 5\), must be \(N,\), "),
        ({"theta": np.ones(5)}, "theta has 5 rows"),
        ({"energy": np.array([b"a"] * 4)}, r"energy holds \|S1, must hold numbers"),
        ({"energy": 3.0}, r"energy has shape \(\)"),
    ],
)
def test_wrong_data_sets_are_named(tmp_path, data_sets, message):
    path = write_lcd(tmp_path / "a.h5", 4, chunk=None, **data_sets)
    with pytest.raises(DataError, match=message):
        layout_of(path)


@pytest.mark.parametrize("size", [5.1, [5.1, 5.1], [5.1, 5.1, 0.0], [5.1, 5.1, float("nan")], "5.1 5.1 5.1"])
def test_a_cell_size_is_three_positive_lengths(tmp_path, size):
    path = write_lcd(tmp_path / "a.h5", 2, chunk=2)
    with h5py.File(path, "a") as file:
        file.attrs["cell_size_mm"] = size
    with pytest.raises(DataError, match=r"a.h5: attribute cell_size_mm is .*three positive numbers"):
        layout_of(path)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_file(tmp_path / "none.h5")
    path = write_lcd(tmp_path / "a.h5", 40)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"a.h5: not a complete HDF5 file .*truncated"):
        open_file(path)
    (tmp_path / "b.h5").write_text("no HDF5")
    with pytest.raises(DataError, match=r"not an HDF5 file, it begins with b'no HDF5'"):
        open_file(tmp_path / "b.h5")


def test_an_unknown_schema_lists_the_choices():
    assert format_named("lcd") is FORMATS["lcd"]
    with pytest.raises(ConfigError, match="choose auto or one of lcd"):
        format_named("layer")


@pytest.mark.parametrize(
    ("change", "data_set", "row", "rule"),
    [
        (lambda cells, energy: cells.__setitem__((2, 1, 1, 1), np.nan), "ECAL", 2, "NaN or infinite"),
        (lambda cells, energy: cells.__setitem__((3, 1, 1, 1), np.inf), "ECAL", 3, "NaN or infinite"),
        (lambda cells, energy: cells.__setitem__((1, 1, 1, 1), -1e-9), "ECAL", 1, "negative energy"),
        (lambda cells, energy: cells.__setitem__(4, 0), "ECAL", 4, "no energy in any cell"),
        (lambda cells, energy: energy.__setitem__(2, 0), "energy", 2, "not above 0"),
        (lambda cells, energy: energy.__setitem__(0, -5), "energy", 0, "not above 0"),
        (lambda cells, energy: energy.__setitem__(1, np.nan), "energy", 1, "NaN or infinite"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, data_set, row, rule):
    cells, energy = showers(6), energies(6)
    change(cells, energy)
    path = write_lcd(tmp_path / "a.h5", 6, chunk=2, ECAL=cells, energy=energy)
    with open_file(path) as file:
        rows = FORMATS["lcd"].rows(file)
        problems = rows.problems(*rows.read(0, 6), 0)
    assert len(problems) == 1
    assert (problems[0].data_set, problems[0].row) == (data_set, row)
    assert rule in problems[0].rule
    assert str(problems[0]).startswith(f"data set {data_set}, row {row}: ")


@pytest.mark.parametrize("value", [-0.1, 3.2, 90.0, np.nan])
def test_an_angle_that_cannot_be_is_a_bad_row(tmp_path, value):
    theta = np.full(4, 1.5)
    theta[2] = value
    path = write_lcd(tmp_path / "a.h5", 4, chunk=1, theta=theta)
    (problem,) = (problem for _, problem in find_problems(manifest_of([str(path)])))
    assert (problem.data_set, problem.row) == ("theta", 2)
    with pytest.raises(DataError, match="row 2: theta"):
        read_conditions(str(path))


def test_angles_in_degrees_are_read_where_the_file_says_so(tmp_path):
    path = write_lcd(tmp_path / "a.h5", 4, chunk=1, theta=np.full((4, 1), 90.0))
    with h5py.File(path, "a") as file:
        file["theta"].attrs["units"] = "degrees"
    names, conditions = read_conditions(str(path))
    assert names == ("energy", "theta")
    np.testing.assert_allclose(conditions[:, 1], np.pi / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EACCES, "the file may not be read by this user"),
        (errno.EIO, r"cannot be read: Input/output error \(5\)"),
        (errno.ESTALE, r"cannot be read: Stale file handle \(116\)"),
        (524, r"cannot be read: operation not supported \(524\)"),
    ],
)
def test_what_the_system_answers_is_told_in_words(tmp_path, monkeypatch, number, told):
    def refuse(*_, **__):
        raise OSError(f"Unable to open file (errno = {number}, error message = '...')")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(DataError, match=told):
        open_file(tmp_path / "a.h5")


def test_a_file_that_another_process_writes_is_not_read(tmp_path):
    path = write_lcd(tmp_path / "a.h5", 4)
    with path.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process has the file open for writing: wait"):
            manifest_of([str(path)])
    with h5py.File(path):  # this process reads it too, with a lock
        assert manifest_of([str(path)]).rows == 4


def test_the_energy_of_an_older_file_is_named_target(tmp_path):
    target = np.column_stack([np.ones(3), [10.0, -1.0, 10.0]])
    path = write_lcd(tmp_path / "a.h5", 3, chunk=1, energy=None, target=target)
    with open_file(path) as file:
        rows = FORMATS["lcd"].rows(file)
        assert [str(problem)[:22] for problem in rows.problems(*rows.read(0, 3), 0)] == [
            "data set target, row 1"
        ]


def test_a_negative_zero_is_a_zero(tmp_path):
    cells = showers(3)
    cells[1, 5, 5, 5] = -0.0
    path = write_lcd(tmp_path / "a.h5", 3, chunk=1, ECAL=cells)
    with open_file(path) as file:
        rows = FORMATS["lcd"].rows(file)
        assert rows.problems(*rows.read(0, 3), 0) == []


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=6), st.floats(width=32))
def test_the_quick_check_agrees_with_the_rules(cells, energy):
    row = np.array([cells], dtype=np.float32)
    row[row == 0] = 0.0
    rules = np.isfinite(row).all() and (row >= 0).all() and (row > 0).any() and 0 < energy <= 1e6
    assert rows_are_good(row, np.array([[energy]], dtype=np.float32)) == rules


STORED: dict[str, tuple[str, dict[str, Any]]] = {
    "contiguous": ("plain", {"chunk": None}),
    "chunked": ("plain", {}),
    "gzip": ("gzip", {"ecal_compression": "gzip"}),
    "gzip, shuffled": ("gzip", {"ecal_compression": "gzip", "ecal_shuffle": True}),
    "lzf": ("other", {"ecal_compression": "lzf"}),
    "checksums": ("other", {"ecal_compression": "gzip", "ecal_fletcher32": True}),
    "float64": ("other", {"ECAL": showers(70).astype(np.float64)}),
    "big-endian": ("other", {"ECAL": showers(70).astype(">f4")}),
    "integers": ("other", {"ECAL": (256 * showers(70)).astype(np.int32)}),
    "chunks of parts of rows": ("other", {"ecal_chunks": (8, 5, 25, 25)}),
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("rows", [range(70), range(31, 34), [0, 5, 6, 31, 32, 69], [68]], ids=str)
def test_rows_reach_their_places_however_they_are_stored(tmp_path, stored, rows):
    storage, options = STORED[stored]
    path = write_lcd(tmp_path / "a.h5", 70, **options)
    rows = np.array(rows)
    places = np.random.default_rng(0).permutation(80)[: len(rows)]
    out = np.full((80, 25, 25, 25), -1, dtype=np.float32)
    with h5py.File(path) as file:
        reader = RowReader(file["ECAL"])
        assert reader.storage == storage
        reader.read(rows, out, places)
        np.testing.assert_array_equal(out[places], file["ECAL"][:][rows])
    others = np.setdiff1d(np.arange(80), places)
    assert (out[others] == -1).all()


def test_chunks_that_were_never_written_are_read_as_zeros(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        cells = file.create_dataset("ECAL", (40, 2, 2, 2), np.float32, chunks=(8, 2, 2, 2))
        cells[16:20] = 7
        out = np.ones((40, 2, 2, 2), dtype=np.float32)
        file.flush()
        RowReader(cells).read(np.arange(40), out, np.arange(40))
        np.testing.assert_array_equal(out, cells[:])


def test_a_damaged_chunk_is_told_with_its_rows(tmp_path):
    path = write_lcd(tmp_path / "a.h5", 64, ecal_compression="gzip")
    with h5py.File(path) as file:
        info = file["ECAL"].id.get_chunk_info_by_coord((32, 0, 0, 0))
    with path.open("r+b") as file:
        file.seek(info.byte_offset + 10)
        file.write(bytes(64))
    with open_file(path) as file:
        rows = FORMATS["lcd"].rows(file)
        rows.read(0, 32)
        with pytest.raises(DataError, match=r"a.h5: rows 32 to 63 cannot be read: gzip.*damaged"):
            rows.read(32, 64)


@pytest.mark.parametrize("compression", ["gzip", "lzf", "none"])
def test_what_is_written_is_what_is_read(tmp_path, compression):
    geometry = VoxelGrid(shape=(51, 51, 25), conditions=("energy", "theta"), cell_size=(5.0, 5.0, 4.0))
    cells = showers(23, shape=(51, 51, 25))
    conditions = np.column_stack([energies(23)[:, 0], np.linspace(1, 2, 23)]).astype(np.float32)
    path = tmp_path / "made.h5"
    with ShowerWriter(path, geometry, {"particle": "gamma"}, chunk_rows=4, compression=compression) as writer:
        for first, last in [(0, 1), (1, 9), (9, 9), (9, 22), (22, 23)]:
            writer.append(cells[first:last], conditions[first:last])
        assert not path.exists()
        assert writer.rows == 23
    layout = layout_of(path)
    assert (layout.rows, layout.geometry, layout.chunk_rows) == (23, geometry, 4)
    assert (layout.storage, layout.particle) == (compression, "gamma")
    found = read_all(path)
    np.testing.assert_array_equal(rows_of(found[0]), np.arange(23))
    np.testing.assert_array_equal(found[0], cells)
    np.testing.assert_array_equal(found[1], conditions)


def test_a_file_that_is_not_finished_leaves_nothing_behind(tmp_path):
    path = write_lcd(tmp_path / "made.h5", 3, chunk=1)
    before = path.read_bytes()

    def fail():
        with ShowerWriter(path, VoxelGrid(shape=(25, 25, 25))) as writer:
            writer.append(showers(40), energies(40))
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["made.h5"]
    assert path.read_bytes() == before


def test_the_writer_refuses_wrong_shapes_and_folders(tmp_path):
    geometry = VoxelGrid(shape=(25, 25, 25))
    with ShowerWriter(tmp_path / "a.h5", geometry) as writer:
        with pytest.raises(ValueError, match="showers have shape"):
            writer.append(showers(2)[:, :24], energies(2))
        with pytest.raises(ValueError, match="conditions have shape"):
            writer.append(showers(2), energies(3))
        writer.append(showers(1), energies(1))
    with pytest.raises(FileNotFoundError) as raised:
        ShowerWriter(tmp_path / "none" / "a.h5", geometry)
    assert "make the folder, or name one that exists" in str(of_user(raised.value))


@pytest.mark.parametrize(
    ("name", "response", "energy", "options", "message"),
    [
        ("EleEscan_a.h5", 20.0, 50, {}, r"sum to 20 times .*must be 0.0025 to 5 times.*data.cell_unit=MeV"),
        ("other.h5", 20.0, 50, {}, "sum to 20 times .*data.cell_unit=MeV"),
        ("EleEscan_a.h5", 0.02, 50, {"cell_unit": "MeV"}, r"sum to 2e-05 times .*data.cell_unit=GeV"),
        ("EleEscan_a.h5", 1.4, 50, {"cell_unit": "MeV"}, r"sum to 0.0014 times .*data.cell_unit=GeV"),
        ("other.h5", 0.02, 50, {"cell_unit": "MeV"}, "sum to 2e-05 times .*data.cell_unit=GeV"),
        ("EleEscan_a.h5", 2.0, 5e4, {}, r"median 5e\+04 GeV, must be 0.05 to 5000 GeV.*data.energy_unit=MeV"),
        (
            "EleEscan_a.h5",
            0.02,
            5e4,
            {},
            r"median 5e\+04 GeV, must be 0.05 to 5000 GeV.*data.energy_unit=MeV",
        ),
        ("EleEscan_a.h5", 0.02, 50, {"energy_unit": "MeV"}, "sum to 20 times .*data.energy_unit=GeV"),
    ],
)
def test_energies_that_belie_their_unit_are_refused(tmp_path, name, response, energy, options, message):
    path = write_lcd(tmp_path / name, 9, **lcd_of(response, energy))
    with pytest.raises(DataError, match=message) as raised:
        manifest_of([str(path)], "auto", ReadOptions(**options))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "response"), [("EleEscan_a.h5", 0.02), ("GammaEscan_a.h5", 2.0), ("ChPiEscan_a.h5", 5e-4)]
)
def test_the_calibrations_of_lcd_files_are_accepted(tmp_path, name, response):
    assert manifest_of([str(write_lcd(tmp_path / name, 9, **lcd_of(response, 50)))]).rows == 9


def lcd_of(response, energy, rows=9):
    """Data sets of showers whose cells sum to `response` times the incident energy."""
    cells = np.zeros((rows, 25, 25, 25), dtype=np.float32)
    cells[:, 12, 12, 5:15] = response * energy / 10
    return {"ECAL": cells, "energy": np.full((rows, 1), energy)}
