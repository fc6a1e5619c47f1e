"""EAD: closed-form L1 and L2 distances on linear classifiers, and sparse changes."""

import math

import pytest
import torch

from steelman.attacks.ead import EAD
from steelman.errors import UsageError
from steelman.threats import L1, L2
from tests.oracles.test_hyperplane import distances, grey, linear

CASES = pytest.mark.parametrize(("norm", "dual"), [(L1, math.inf), (L2, 2)])


@CASES
@pytest.mark.parametrize("seed", range(2))
def test_between_two_classes_the_distance_is_the_margin_over_the_dual_norm(norm, dual, seed):
    model, x = linear(2, seed), grey(8, seed)
    y, distance = distances(model, x, dual)
    found = EAD().run(model, x, torch.tensor(y), norm(math.inf, clip=False), closest=True)
    ratio = found.distance.double() / torch.tensor(distance.min(1))
    assert found.success.all()
    assert ratio.min() > 1 - 1e-4
    assert ratio.median() < 1.05


@pytest.mark.parametrize("norm", [L1, L2])
def test_from_the_image_itself_it_works_too(norm):
    model, x = linear(3, 2, scale=0.3), grey(8, 2)
    y = torch.tensor(distances(model, x, 2)[0])
    found = EAD(start_steps=0, searches=4).run(model, x, y, norm(math.inf), closest=True)
    assert found.success.all()


def test_a_larger_beta_changes_fewer_pixels():
    model, x = linear(2, 0, scale=0.3), grey(8, 0)
    y = torch.tensor(distances(model, x, 2)[0])
    few, many = (
        EAD(beta=beta, start_steps=0, halvings=0).run(model, x, y, L1(math.inf), closest=True).x_adv
        for beta in (5.0, 0.0)
    )
    assert (few != x).sum() < 0.5 * (many != x).sum()


def test_an_image_that_cannot_be_broken_comes_back_unchanged_and_fails():
    model, x = linear(2, 0, scale=1e-3), grey(4, 0)
    with torch.no_grad():
        model[1].bias += torch.tensor([50.0, 0.0])
    found = EAD(steps=5, searches=2).run(model, x, torch.zeros(4, dtype=torch.int64), L1(math.inf), closest=True)
    assert not found.success.any()
    assert torch.equal(found.x_adv, x)


def test_what_it_costs_is_what_it_says():
    attack = EAD(steps=5, searches=2, start_steps=4, halvings=3)
    assert attack.cost() == "15 gradients, 4 forwards"
    assert EAD(steps=5, searches=2, start_steps=0, halvings=3, constant=1.0).cost() == "10 gradients, 3 forwards"
    model, x = linear(2, 0), grey(4, 0)
    found = attack.run(model, x, torch.tensor(distances(model, x, 2)[0]), L1(math.inf), closest=True)
    assert (found.backwards == 15).all()
    assert (found.forwards <= 19).all()


@pytest.mark.parametrize("fields", [{"steps": 0}, {"searches": 0}, {"halvings": -1}, {"start_steps": -1}])
def test_counts_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected at least one step and one search, the other counts of 0 or more"):
        EAD(**fields)


@pytest.mark.parametrize("fields", [{"learning_rate": 0.0}, {"confidence": -1.0}, {"beta": -1.0}, {"constant": 0.0}])
def test_sizes_out_of_range_are_named(fields):
    with pytest.raises(
        UsageError, match=r"expected (learning_rate > 0, confidence >= 0 and beta >= 0|a constant > 0) or None"
    ):
        EAD(**fields)
