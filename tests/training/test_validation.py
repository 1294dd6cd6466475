"""A validation sees each held-out shower once, on any number of ranks, and a perfect generator scores best."""

import math

import numpy as np
import pytest
import torch

from dist_calo.comm.single import SingleCommunicator
from dist_calo.config import DataConfig, RunConfig
from dist_calo.data.row_blocks import split_blocks
from dist_calo.data.shards import build_manifest
from dist_calo.errors import DataError
from dist_calo.launching.environment import World
from dist_calo.physics.monitors.voxel_grid import VoxelMonitor
from dist_calo.physics.observables.shower_summary import Bins
from dist_calo.training.validation import Comparison, Validator
from tests.support.simulated_ranks import on_simulated_ranks
from tests.support.small_runs import write_showers


class Constant:
    """Generates the same shower for every condition and remembers which samples it was asked for."""

    def __init__(self):
        self.samples = []

    def generate(self, conditions, draws):
        self.samples.extend(draws.samples.tolist())
        showers = torch.zeros(len(conditions), 25, 25, 25)
        showers[:, 12, 12, 5:15] = 0.002 * conditions[:, :1].float()
        return showers


class SimulatedCommunicator(SingleCommunicator):
    """One of several ranks that are threads: sums, minima, maxima, and objects of any rank.

    Args:
        shared: one dictionary for all ranks.
        all_reduce: as `on_simulated_ranks` gives it.
    """

    def __init__(self, rank, size, shared, all_reduce):
        super().__init__(World(rank=rank, size=size))
        self._shared, self._sum = shared, all_reduce

    def all_reduce(self, tensor, reduction="sum"):
        each = torch.zeros(self.world.size, *tensor.shape, dtype=tensor.dtype)
        each[self.world.rank] = tensor
        self._sum(each)
        tensor.copy_({"sum": each.sum(0), "min": each.amin(0), "max": each.amax(0)}[reduction])

    def broadcast_object(self, value, root=0):
        if self.world.rank == root:
            self._shared["object"] = value
        self._sum(torch.zeros(1))
        received = self._shared["object"]
        self._sum(torch.zeros(1))
        return received


def on_ranks(size, config, manifest, view):
    """The generator and the comparison of each rank; the second one, so that what is remembered is used."""
    shared = {}

    def on_rank(rank, all_reduce):
        communicator = SimulatedCommunicator(rank, size, shared, all_reduce)
        generator = Constant()
        validator = Validator(config, manifest, generator, communicator, monitor=view())
        validator.run()
        generator.samples.clear()
        return generator, validator.run(repeat=1)

    return on_simulated_ranks(size, on_rank)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    data = write_showers(tmp_path_factory.mktemp("data"))
    config = RunConfig(data=DataConfig(path=data, validation_fraction=0.3, test_fraction=0.0))
    return config, build_manifest(config.data)


def test_every_held_out_shower_is_generated_for_once(setting):
    config, manifest = setting
    generator = Constant()
    result = Validator(config, manifest, generator, SingleCommunicator(World())).run()
    samples = split_blocks(manifest, "validation", config.data).samples
    assert len(generator.samples) == len(set(generator.samples)) == samples
    assert result.real.compute().count[-1] == result.fake.compute().count[-1] == samples
    assert result.metrics["validation/response_ratio"] == pytest.approx(0.02 / 0.0204, rel=0.05)


def test_again_reads_nothing_and_gives_the_same(setting, monkeypatch):
    config, manifest = setting
    validator = Validator(config, manifest, Constant(), SingleCommunicator(World()))
    first = validator.run().metrics
    monkeypatch.setattr("dist_calo.training.validation.evaluation_loader", None)
    assert validator.run().metrics == first


def settled_view(manifest):
    return lambda: VoxelMonitor(manifest.geometry, Bins())


def test_three_ranks_find_what_one_finds(setting):
    config, manifest = setting
    view = settled_view(manifest)
    alone = Validator(config, manifest, Constant(), SingleCommunicator(World()), monitor=view()).run()
    ranks = on_ranks(3, config, manifest, view)
    asked = sorted(sample for generator, _ in ranks for sample in generator.samples)
    assert len(asked) == len(set(asked)) == alone.real.compute().count[-1]
    for _, result in ranks:
        assert result.metrics == pytest.approx(alone.metrics, rel=1e-12)
        for name in ("real", "fake", "energies"):
            np.testing.assert_array_equal(
                getattr(result.examples, name), getattr(alone.examples, name)[: len(result.examples.real)]
            )


@pytest.mark.parametrize("settled", [True, False])
def test_more_ranks_than_showers_still_have_examples_to_draw(tmp_path, settled):
    path = write_showers(tmp_path, rows=(16,))
    config = RunConfig(data=DataConfig(path=path, validation_fraction=0.2, test_fraction=0.0))
    manifest = build_manifest(config.data)
    samples = split_blocks(manifest, "validation", config.data).samples
    assert 0 < samples < 4
    view = settled_view(manifest) if settled else lambda: VoxelMonitor(manifest.geometry)
    ranks = on_ranks(4, config, manifest, view)
    assert not ranks[0][0].samples
    first = next(generator for generator, _ in ranks if generator.samples)
    for _, result in ranks:
        examples = result.examples
        assert len(examples.real) == len(examples.fake) == len(examples.energies) == len(first.samples) > 0
        np.testing.assert_allclose(examples.fake.sum((1, 2, 3)), 0.02 * examples.energies, rtol=1e-5)
        assert (np.abs(examples.real.sum((1, 2, 3)) / examples.energies - 0.02) < 0.005).all()
    ranks[0][1].pictures()["pictures/showers"]()


def test_a_split_without_showers_is_refused(setting):
    config, manifest = setting
    with pytest.raises(
        DataError, match=r"data\.test_fraction=0 keeps no showers.* higher data\.test_fraction"
    ):
        Validator(config, manifest, Constant(), SingleCommunicator(World()), split="test")


def test_numbers_that_are_not_finite_are_counted():
    class Numbers:
        def numbers(self, fake, real):
            return {"a": 1.0, "b": math.nan, "c": math.inf, "d": 0.0}

        def score(self, numbers):
            return numbers["a"]

    metrics = Comparison(monitor=Numbers(), real=None, fake=None, examples=None).metrics
    assert metrics == {
        "validation/score": 1.0,
        "validation/undefined": 2.0,
        "validation/a": 1.0,
        "validation/d": 0.0,
    }
