"""A validation sees each held-out shower once, on any number of ranks, and a perfect generator scores best."""

import math

import numpy as np
import pytest
import torch

from dist_calo.comm.single import SingleCommunicator
from dist_calo.config import DataConfig, RunConfig
from dist_calo.data.manifest import build_manifest
from dist_calo.data.row_blocks import split_blocks
from dist_calo.errors import DataError
from dist_calo.evaluation.samples import GeneratedFor, collect
from dist_calo.launching.environment import World
from dist_calo.physics.metrics.evaluation import measured_sums
from dist_calo.training.showers import Files
from dist_calo.training.validation import Validator, in_words, logged_metrics, pictures
from dist_calo.transforms import Transform
from tests.support.simulated_ranks import on_simulated_ranks
from tests.support.small_runs import write_showers


class Constant:
    """Generates the same shower for every condition and remembers which samples it was asked for."""

    transform = Transform()

    def __init__(self):
        self.samples = []

    @classmethod
    def of(cls, geometry):
        generator = cls()
        generator.geometry = geometry
        return generator

    def generate(self, conditions, draws):
        self.samples.extend(draws.samples.tolist())
        showers = torch.zeros(len(conditions), 25, 25, 25)
        showers[:, 12, 12, 5:15] = 0.002 * conditions[:, :1].float()
        return showers


class SimulatedCommunicator(SingleCommunicator):
    """One of several ranks that are threads.

    Args:
        shared: one dictionary for all ranks.
        all_reduce: as `on_simulated_ranks` gives it.
    """

    def __init__(self, rank, size, shared, all_reduce):
        super().__init__(World(rank=rank, size=size))
        self._shared, self._sum = shared, all_reduce

    def all_reduce(self, tensor, reduction="sum"):
        assert reduction == "sum"
        self._sum(tensor)

    def all_gather_object(self, value):
        self._shared[self.world.rank] = value
        self._sum(torch.zeros(1))
        received = [self._shared[rank] for rank in range(self.world.size)]
        self._sum(torch.zeros(1))
        return received

    def broadcast_object(self, value, root=0):
        return self.all_gather_object(value)[root]


def on_ranks(size, config, manifest):
    """The generator and the comparison of each rank; the second one, so that what is remembered is used."""
    shared = {}

    def on_rank(rank, all_reduce):
        communicator = SimulatedCommunicator(rank, size, shared, all_reduce)
        generator = Constant()
        validator = Validator(config, manifest, generator, communicator)
        validator.run()
        generator.samples.clear()
        return generator, validator.run(repeat=1)

    return on_simulated_ranks(size, on_rank)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    data = write_showers(tmp_path_factory.mktemp("data"))
    config = RunConfig(data=DataConfig(path=data, validation_fraction=0.3, test_fraction=0.0))
    return config, build_manifest(config.data)


def asked_for(generator, result):
    """The samples that were generated for the comparison, without those of the pictures, which come last."""
    return generator.samples[: -len(result.examples.energies)]


def test_every_held_out_shower_is_generated_for_once(setting):
    config, manifest = setting
    generator = Constant()
    result = Validator(config, manifest, generator, SingleCommunicator(World())).run()
    samples = split_blocks(manifest, "validation", config.data).samples
    asked = asked_for(generator, result)
    assert len(asked) == len(set(asked)) == samples
    assert result.real.count == result.fake.count == samples
    assert logged_metrics(result)["validation/response/mean"] == pytest.approx(0.02 / 0.0204 - 1, abs=0.05)


def test_again_reads_nothing_and_gives_the_same(setting, monkeypatch):
    config, manifest = setting
    validator = Validator(config, manifest, Constant(), SingleCommunicator(World()))
    first = validator.run().whole
    monkeypatch.setattr("dist_calo.training.showers.ordered_loader", None)
    assert validator.run().whole == first


def test_three_ranks_find_what_one_finds(setting):
    config, manifest = setting
    alone = Validator(config, manifest, Constant(), SingleCommunicator(World())).run()
    ranks = on_ranks(3, config, manifest)
    asked = sorted(sample for generator, result in ranks for sample in asked_for(generator, result))
    assert len(asked) == len(set(asked)) == alone.real.count
    for _, result in ranks:
        assert result.whole == ranks[0][1].whole
        assert logged_metrics(result) == pytest.approx(logged_metrics(alone), rel=1e-6, abs=1e-9)
        for name in ("real", "fake", "energies"):
            np.testing.assert_array_equal(getattr(result.examples, name), getattr(alone.examples, name))


def test_more_ranks_than_showers_still_have_examples_to_draw(tmp_path):
    path = write_showers(tmp_path, rows=(16,))
    config = RunConfig(data=DataConfig(path=path, validation_fraction=0.2, test_fraction=0.0))
    manifest = build_manifest(config.data)
    samples = split_blocks(manifest, "validation", config.data).samples
    assert 0 < samples < 4
    ranks = on_ranks(4, config, manifest)
    assert any(not asked_for(*rank) for rank in ranks)
    for _, result in ranks:
        examples = result.examples
        assert len(examples.real) == len(examples.fake) == len(examples.energies) == samples
        np.testing.assert_allclose(examples.fake.sum((1, 2, 3)), 0.02 * examples.energies, rtol=1e-5)
        assert (np.abs(examples.real.sum((1, 2, 3)) / examples.energies - 0.02) < 0.005).all()
    drawn = pictures(ranks[0][1])
    assert set(drawn) == {
        f"pictures/{name}" for name in ("response", "profiles", "observables", "correlations", "showers")
    }
    for draw in drawn.values():
        draw().canvas.draw()


def test_the_score_is_that_of_an_evaluation_of_the_same_showers(setting):
    config, manifest = setting
    result = Validator(config, manifest, Constant(), SingleCommunicator(World())).run()
    files = Files(manifest=manifest, config=config.data, split="validation")
    generated = GeneratedFor(generator=Constant.of(manifest.geometry), known=manifest.geometry)
    samples = collect(files, generated, SingleCommunicator(World()))
    _, whole = measured_sums(samples.real, samples.fake, paired=True)
    assert result.score == whole["score"]
    assert list(result.score_terms.values()) == sorted(result.score_terms.values(), reverse=True)
    assert np.mean(list(result.score_terms.values())) == pytest.approx(result.score.value)
    words = in_words(result)
    assert words.startswith(f"score {result.score.value:.4g} +- ")
    assert f"floor {result.score.floor:.3g}" in words


def test_a_split_without_showers_is_refused(setting):
    config, manifest = setting
    with pytest.raises(
        DataError, match=r"data\.test_fraction=0 keeps no showers.* higher data\.test_fraction"
    ):
        Validator(config, manifest, Constant(), SingleCommunicator(World()), split="test")


def test_a_generator_without_numbers_has_no_score(setting):
    config, manifest = setting
    spoilt = Constant()
    spoilt.generate = lambda conditions, draws: torch.full((len(conditions), 25, 25, 25), math.nan)
    result = Validator(config, manifest, spoilt, SingleCommunicator(World())).run()
    assert result.score.value == math.inf
    assert logged_metrics(result) == {"validation/bad_showers": 1.0}
    in_words(result)
