"""What every model keeps: it is pure in its draws, deaf to the rest of the batch, and sound on empty shares.

In evaluation mode, in which batch norms do not look at the batch; in training they look at all ranks' (test_layers.py).
"""

import numpy as np
import pytest
import torch

from dist_calo.config import ModelConfig, ObjectiveConfig, TransformConfig
from dist_calo.models import MODELS, build_model
from dist_calo.objectives import build_objective
from dist_calo.randomness import Draws
from dist_calo.training.checkpoint import not_finite
from dist_calo.transforms import Transform
from tests.support.geometries import geometry_of, rough_showers

ROWS = 64


def transform_of(name):
    return Transform.from_config(
        TransformConfig(scale=0.01, power=1.0) if name.startswith("signals_") else TransformConfig()
    )


@pytest.fixture(scope="module", params=MODELS)
def fitted(request):
    """A calibrated model, some showers in network units and their conditions."""
    name = request.param
    geometry, transform = geometry_of(name), transform_of(name)
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name), geometry)
    showers, conditions = rough_showers(geometry, ROWS)
    seen = transform.forward(showers)
    model.calibrate(
        {
            "energy": conditions[:, 0],
            "energy_sum": showers.reshape(ROWS, -1).sum(axis=1, dtype=np.float64),
            "showers": showers,
            "network_units": seen,
        }
    )
    return model.eval(), torch.from_numpy(seen[:3]), torch.from_numpy(conditions[:3])


def objective_of(model, name):
    kind = "vae" if hasattr(model, "elbo") else "hinge"
    return build_objective(ObjectiveConfig(name=kind), model, transform_of(name))


def losses(fitted, name, samples):
    model, showers, conditions = fitted
    objective = objective_of(model, name)
    return {
        update.name: objective.losses(
            update, showers[samples], conditions[samples], Draws(1, 1, samples, update.name), 3
        )
        for update in objective.updates
    }


@pytest.fixture
def name(fitted, request):
    return request.node.callspec.params["fitted"]


def test_it_generates_showers_of_its_read_out(fitted, name):
    model, _, conditions = fitted
    with torch.no_grad():
        showers = model.generate(conditions, Draws(0, 1, [7, 8, 11]))
    assert showers.shape == (3, *geometry_of(name).shape)
    assert torch.isfinite(showers).all()
    assert set(model.generating) <= set(model.networks)


def test_what_it_is_calibrated_with_can_be_saved(fitted):
    assert not_finite({"model": fitted[0].state_dict()}) is None


def test_every_weight_belongs_to_one_network(fitted):
    model = fitted[0]
    ids = [id(p) for network in model.networks.values() for p in network.parameters()]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters()}


def test_weights_are_named_after_their_network(fitted):
    """Checkpoints, moving averages and files of losses go by these names."""
    model = fitted[0]
    for name, network in model.named_children():
        assert model.networks.get(name) is network or not list(network.parameters())
    for name, network in model.networks.items():
        assert getattr(model, name) is network
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == set(model.networks)


def test_a_shower_depends_on_its_own_draws_alone(fitted):
    model, _, conditions = fitted
    with torch.no_grad():
        together = model.generate(conditions, Draws(5, 1, [0, 1, 2]))
        alone = model.generate(conditions[2:], Draws(5, 1, [2]))
        other = model.generate(conditions[2:], Draws(5, 2, [2]))
    torch.testing.assert_close(together[2:], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(alone, other, rtol=1e-4, atol=1e-4)


def test_shares_of_a_batch_add_up_and_empty_ones_add_nothing(fitted, name):
    whole = losses(fitted, name, np.arange(3))
    parts = [losses(fitted, name, np.array(share, dtype=int)) for share in ([0, 1], [], [2])]
    for update, terms in whole.items():
        assert torch.isfinite(terms["total"])
        for term, value in terms.items():
            total = sum(float(part[update][term].detach()) for part in parts)
            assert total == pytest.approx(float(value.detach()), rel=1e-3, abs=1e-4), f"{update}/{term}"
        empty = parts[1][update]["total"]
        assert float(empty.detach()) == 0.0
        empty.backward()
    gradients = [p.grad for p in fitted[0].parameters() if p.grad is not None]
    assert all(bool((gradient == 0).all()) for gradient in gradients)
    fitted[0].zero_grad(set_to_none=True)


def test_losses_are_finite_and_have_gradients_in_bf16(fitted, name):
    """Under autocast, as by train.precision=bf16; they are near those of float32."""
    model, showers, conditions = fitted
    objective = objective_of(model, name)
    exact = losses(fitted, name, np.arange(3))
    for update in objective.updates:
        model.zero_grad(set_to_none=True)
        draws = Draws(1, 1, np.arange(3), update.name)
        with torch.autocast("cpu", torch.bfloat16):
            terms = objective.losses(update, showers, conditions, draws, 3)
        terms["total"].backward()
        gradients = [p.grad for p in model.networks[update.network].parameters() if p.grad is not None]
        assert gradients, update.name
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients), update.name
        for term, value in terms.items():
            near = pytest.approx(float(exact[update.name][term].detach()), rel=0.1, abs=0.1)
            assert float(value.detach()) == near, f"{update.name}/{term}"
    model.zero_grad(set_to_none=True)


def test_generated_showers_are_finite_in_bf16(fitted):
    model, _, conditions = fitted
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        showers = model.generate(conditions, Draws(0, 1, [7, 8, 11]))
    assert torch.isfinite(showers).all()


def test_the_seed_decides_the_weights(name):
    def weights(seed):
        torch.manual_seed(seed)
        parameters = build_model(ModelConfig(name=name), geometry_of(name)).parameters()
        return torch.cat([p.detach().flatten() for p in parameters])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
