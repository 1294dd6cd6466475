"""A validation sees each held-out shower once, on any number of ranks, and a perfect generator scores best."""

import pytest
import torch

from dist_calo.comm.protocol import World
from dist_calo.comm.single import SingleCommunicator
from dist_calo.config import DataConfig, RunConfig
from dist_calo.data.blocks import split_blocks
from dist_calo.data.shards import build_manifest
from dist_calo.physics.observables import Bins
from dist_calo.physics.voxels import VoxelView
from dist_calo.training.validation import Validator
from tests.simulated_ranks import on_simulated_ranks
from tests.small_runs import write_showers


class Constant:
    """Generates the same shower for every condition and remembers which samples it was asked for."""

    def __init__(self):
        self.samples = []

    def generate(self, conditions, draws):
        self.samples.extend(draws.samples.tolist())
        showers = torch.zeros(len(conditions), 25, 25, 25)
        showers[:, 12, 12, 5:15] = 0.002 * conditions[:, :1].float()
        return showers


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


def test_three_ranks_find_what_one_finds(setting):
    config, manifest = setting
    bins = Bins()
    alone = Validator(
        config, manifest, Constant(), SingleCommunicator(World()), view=VoxelView(manifest.geometry, bins)
    ).run()

    def on_rank(rank, all_reduce):
        communicator = SingleCommunicator(World(rank=rank, size=3))
        communicator.all_reduce = all_reduce
        generator = Constant()
        return generator, Validator(
            config, manifest, generator, communicator, view=VoxelView(manifest.geometry, bins)
        ).run()

    ranks = on_simulated_ranks(3, on_rank)
    asked = sorted(sample for generator, _ in ranks for sample in generator.samples)
    assert len(asked) == len(set(asked)) == alone.real.compute().count[-1]
    for _, result in ranks:
        assert result.metrics == pytest.approx(alone.metrics, rel=1e-12)
    assert all(len(result.examples.fake) for _, result in ranks)
