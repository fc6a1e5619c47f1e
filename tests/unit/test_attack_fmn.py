"""FMN in each norm against the closed-form distance of linear classifiers."""

import math

import pytest
import torch

from steelman.attacks.fmn import FMN
from steelman.errors import UsageError
from steelman.threats import L0, L1, L2, Linf
from tests.oracles.test_hyperplane import distances, grey, linear

NORMS = pytest.mark.parametrize(("norm", "dual"), [(Linf, 1), (L2, 2), (L1, math.inf)])


@NORMS
@pytest.mark.parametrize("seed", range(2))
def test_between_two_classes_the_distance_is_the_margin_over_the_dual_norm(norm, dual, seed):
    model, x = linear(2, seed), grey(10, seed)
    y, distance = distances(model, x, dual)
    found = FMN(steps=60).run(model, x, torch.tensor(y), norm(math.inf, clip=False), closest=True)
    ratio = found.distance.double() / torch.tensor(distance.min(1))
    assert found.success.all()
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.005


@NORMS
def test_among_many_classes_no_distance_is_below_the_nearest_boundary(norm, dual):
    model, x = linear(6, 1), grey(20, 1)
    y, distance = distances(model, x, dual)
    found = FMN().run(model, x, torch.tensor(y), norm(math.inf, clip=False), closest=True)
    ratio = found.distance.double() / torch.tensor(distance.min(1))
    assert ratio.min() > 1 - 1e-4
    assert ratio.median() < 1.01


@pytest.mark.parametrize("seed", range(3))
def test_the_fewest_pixels_are_those_with_the_largest_possible_rise(seed):
    """On a linear classifier the best k pixels are the k of largest weight times room, each moved to its end."""
    model, x = linear(2, seed, scale=0.3), grey(10, seed)
    y, _ = distances(model, x, 2)
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()
    found = FMN(steps=100).run(model, x, torch.tensor(y), L0(math.inf), closest=True)
    for i in range(len(x)):
        rise, flat = weight[1 - y[i]] - weight[y[i]], x[i].flatten().double()
        gain = (rise * torch.where(rise > 0, 1 - flat, -flat)).sort(descending=True).values.cumsum(0)
        missing = -(rise @ flat + bias[1 - y[i]] - bias[y[i]])
        fewest = int((gain <= missing).sum()) + 1
        assert fewest <= float(found.distance[i]) <= fewest + 1


def test_a_gradient_that_is_dead_at_the_start_gives_a_radius_within_bounds():
    """0 / 0 and a huge first radius: the attack must come back from there."""
    model, x = linear(2, 0, scale=1e-3), grey(4, 0)
    with torch.no_grad():
        model[1].bias += torch.tensor([50.0, 0.0])
    found = FMN(steps=5).run(model, x, torch.zeros(4, dtype=torch.int64), Linf(math.inf), closest=True)
    assert not found.success.any()
    assert torch.equal(found.x_adv, x)


def test_what_it_costs_is_what_it_says():
    assert FMN(steps=7, halvings=3).cost() == "7 gradients, 4 forwards"


@pytest.mark.parametrize("fields", [{"steps": 0}, {"halvings": -1}])
def test_counts_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected at least one step, and halvings of 0 or more"):
        FMN(**fields)


@pytest.mark.parametrize("fields", [{"step_size": 0.0}, {"gamma": 0.0}, {"growth": 1.0}])
def test_sizes_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected step_size > 0 or None, 0 < gamma < 1 and 0 <= growth < 1"):
        FMN(**fields)
