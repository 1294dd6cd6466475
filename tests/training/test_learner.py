"""One training step touches one network at a time, sends each gradient once, and skips what is not finite."""

import copy

import numpy as np
import pytest
import torch

from dist_calo.comm.single import SingleCommunicator
from dist_calo.config import (
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TransformConfig,
)
from dist_calo.data.loader import Batch
from dist_calo.data.order import Position
from dist_calo.errors import TrainingError
from dist_calo.geometry import VoxelGrid
from dist_calo.launching.environment import World
from dist_calo.models import build_model
from dist_calo.objectives import build_objective
from dist_calo.training.learner import Learner, MovingAverage
from dist_calo.transforms import Transform
from tests.support.small_runs import same_bits

CONFIG = RunConfig(
    model=ModelConfig(name="lcd_fast"),
    transform=TransformConfig(scale=1000.0, power=0.5),
    objective=ObjectiveConfig(generator_steps=2),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    train=TrainConfig(max_bad_steps=3, global_batch_size=4),
)


def batch(rows=4, seed=0):
    random = np.random.default_rng(seed)
    cells = random.exponential(1e-3, (rows, 25, 25, 25)) * (random.random((rows, 25, 25, 25)) < 0.05)
    return Batch(
        showers=cells.astype(np.float32),
        conditions=np.linspace(20, 90, rows, dtype=np.float32)[:, None],
        ids=np.arange(rows),
        slots=np.arange(rows),
        epoch=0,
        index=0,
        micro=(slice(0, rows // 2), slice(rows // 2, rows)),
        global_size=rows,
        micro_global_sizes=(rows // 2, rows - rows // 2),
        end=Position(epoch=0, samples_seen=rows),
    )


@pytest.fixture
def learner():
    torch.manual_seed(0)
    model = build_model(CONFIG.model, VoxelGrid(shape=(25, 25, 25)))
    transform = Transform.from_config(CONFIG.transform)
    objective = build_objective(CONFIG.objective, model, transform)
    return Learner(CONFIG, model, objective, transform, SingleCommunicator(World()))


def gradients(network):
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def test_an_update_leaves_no_gradient_in_the_other_network(learner, monkeypatch):
    seen = []
    for name, optimizer in learner.optimizers.items():
        others = [net for other, net in learner.model.networks.items() if other != name]

        def step(learning_rate, name=name, others=others):
            own = gradients(learner.model.networks[name])
            assert any(float(gradient.abs().max()) > 0 for gradient in own)
            assert all(not gradient.any() for net in others for gradient in gradients(net))
            seen.append(name)

        monkeypatch.setattr(optimizer, "step", step)
    learner.learn(batch(), 1)
    assert seen == ["discriminator", "generator", "generator"]
    assert all(parameter.requires_grad for parameter in learner.model.parameters())


def test_each_update_moves_its_network_alone(learner):
    before = {name: [p.clone() for p in net.parameters()] for name, net in learner.model.networks.items()}
    moved = []
    original = learner._step

    def watched(network, step):
        finite = original(network, step)
        for name, net in learner.model.networks.items():
            changed = any(
                not torch.equal(old, new) for old, new in zip(before[name], net.parameters(), strict=True)
            )
            moved.append((network, name, changed))
            before[name] = [p.clone() for p in net.parameters()]
        return finite

    learner._step = watched
    learner.learn(batch(), 1)
    assert all(changed == (trained == network) for trained, network, changed in moved)


def test_bytes_sent_are_the_parameters_of_each_update_however_many_micro_batches(learner):
    sizes = {
        name: 4 * sum(p.numel() for p in net.parameters()) for name, net in learner.model.networks.items()
    }
    communicator = learner.averagers["generator"]._communicator
    before = communicator.bytes_sent
    learner.learn(batch(), 1)
    assert communicator.bytes_sent - before == sizes["discriminator"] + 2 * sizes["generator"]


def test_a_step_that_is_not_finite_is_skipped_and_too_many_in_a_row_end_the_run(learner):
    bad = batch()
    bad.conditions[0, 0] = np.nan
    before = [p.clone() for p in learner.model.discriminator.parameters()]
    learner.learn(bad, 1)
    assert all(
        torch.equal(old, new)
        for old, new in zip(before, learner.model.discriminator.parameters(), strict=True)
    )
    assert (learner.bad_steps, learner.bad_in_a_row) == (1, 1)
    learner.learn(batch(), 2)
    assert (learner.bad_steps, learner.bad_in_a_row) == (1, 0)
    learner.learn(bad, 3)
    learner.learn(bad, 4)
    with pytest.raises(TrainingError, match="step 5: the gradients were not finite in 3 steps in a row"):
        learner.learn(bad, 5)


def test_a_restored_learner_takes_the_same_next_step(learner):
    learner.learn(batch(), 1)
    saved = copy.deepcopy(learner.state_dict())
    learner.learn(batch(seed=1), 2)
    after = copy.deepcopy(learner.state_dict())
    learner.load_state_dict(saved)
    learner.learn(batch(seed=1), 2)
    assert same_bits(learner.state_dict(), after)


def test_the_moving_average_follows_its_formula_and_gives_the_weights_back():
    network = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
    average = MovingAverage({"generator": network}, 0.5)
    with torch.no_grad():
        network.weight.fill_(1.0)
    average.update(1)
    average.update(100)
    start = 1.0 - 1.0 / 11.0
    expected = start + 0.5 * (1.0 - start)
    with average.applied():
        assert network.weight.item() == pytest.approx(expected)
        assert not network.training
    assert network.weight.item() == 1.0
    assert network.training


def test_an_empty_share_adds_nothing(learner):
    learner.learn(batch(), 1)
    empty = batch()
    share = Batch(
        **{
            **vars(empty),
            "showers": empty.showers[:0],
            "conditions": empty.conditions[:0],
            "ids": empty.ids[:0],
            "slots": empty.slots[:0],
            "micro": (slice(0, 0), slice(0, 0)),
        }
    )
    learner.learn(share, 2)
    assert learner.bad_steps == 0
    assert all(float(value) == 0 for name, value in learner.losses.items() if name.endswith("/total"))
