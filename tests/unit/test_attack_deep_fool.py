"""DeepFool: on linear classifiers one step is the exact distance to the nearest boundary, whatever the classes."""

import math

import pytest
import torch

from steelman.attacks.deep_fool import DeepFool
from steelman.errors import UsageError
from steelman.threats import L2, Linf
from tests.oracles.test_hyperplane import distances, grey, linear

NORMS = pytest.mark.parametrize(("norm", "dual"), [(Linf, 1), (L2, 2)])


@NORMS
@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("seed", range(2))
def test_one_step_on_a_linear_classifier_is_the_distance_to_the_nearest_boundary(norm, dual, classes, seed):
    model, x = linear(classes, seed), grey(20, seed)
    y, distance = distances(model, x, dual)
    attack = DeepFool(steps=1, halvings=0)
    found = attack.run(model, x, torch.tensor(y), norm(math.inf, clip=False), closest=True)
    ratio = found.distance.double() / torch.tensor(distance.min(1))
    assert found.success.all()
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1.02), rtol=1e-3, atol=0)
    polished = DeepFool(steps=1).run(model, x, torch.tensor(y), norm(math.inf, clip=False), closest=True)
    assert (polished.distance.double() / torch.tensor(distance.min(1))).max() < 1.004
    assert (polished.distance.double() / torch.tensor(distance.min(1))).min() > 1 - 1e-4


@NORMS
def test_towards_a_target_the_step_is_the_distance_to_that_boundary(norm, dual):
    model, x = linear(3, 0), grey(20, 0)
    y, distance = distances(model, x, dual)
    target = (torch.tensor(y) + 1) % 3
    found = DeepFool().run(model, x, torch.tensor(y), norm(math.inf, clip=False), target=target, closest=True)
    pair = torch.tensor(distance).gather(1, target[:, None]).squeeze(1)
    assert found.success.any()
    assert (found.distance[found.success] > 0.999 * pair[found.success]).all()


def test_fewer_candidates_look_at_the_likeliest_classes_only():
    model, x = linear(6, 2), grey(10, 2)
    y, distance = distances(model, x, 2)
    attack = DeepFool(steps=1, candidates=2, halvings=0)
    found = attack.run(model, x, torch.tensor(y), L2(math.inf, clip=False), closest=True)
    logits = model(x).scatter(1, torch.tensor(y)[:, None], -math.inf)
    second = torch.tensor(distance).gather(1, logits.argmax(1)[:, None]).squeeze(1)
    assert found.success.any()
    assert (found.distance <= 1.021 * second).logical_or(~found.success).all()
    assert (found.backwards == 1).all()


def test_no_gradient_no_step():
    model, x = linear(2, 0, scale=0.0), grey(3, 0)
    found = DeepFool(steps=2).run(model, x, torch.tensor([0, 0, 0]), L2(math.inf), closest=True)
    assert torch.equal(found.x_adv, x)
    assert not found.success.any()


def test_what_it_costs_is_what_it_says():
    assert DeepFool(steps=3, candidates=5, halvings=2).cost() == "12 gradients, 6 forwards"


@pytest.mark.parametrize("fields", [{"steps": 0}, {"candidates": 1}])
def test_too_few_steps_or_candidates_are_named(fields):
    with pytest.raises(UsageError, match="expected at least one step and two candidates"):
        DeepFool(**fields)


@pytest.mark.parametrize("fields", [{"overshoot": -0.1}, {"halvings": -1}])
def test_negative_sizes_are_named(fields):
    with pytest.raises(UsageError, match="expected overshoot >= 0 and halvings of 0 or more"):
        DeepFool(**fields)
