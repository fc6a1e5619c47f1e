"""Attack A: closed-form distances, and float32 saturation as published."""

import math

import pytest
import torch

from steelman.attacks.confidence import length, order
from steelman.attacks.dichotomy import Dichotomy
from steelman.errors import UsageError
from steelman.threats import L1, L2, Linf
from tests.oracles.test_hyperplane import distances, grey, linear


@pytest.mark.parametrize(("norm", "dual", "slack"), [(L2, 2, 1.2), (Linf, 1, 1.2), (L1, math.inf, 2.0)])
def test_between_two_classes_the_distance_is_the_margin_over_the_dual_norm(norm, dual, slack):
    """Adam moves all pixels alike: right for L-inf, slow to become the direction of L2 or the one pixel of L1."""
    model, x = linear(2, 1, scale=0.3), grey(4, 1)
    y, distance = distances(model, x, dual)
    found = Dichotomy(steps=30, halvings=8).run(model, x, torch.tensor(y), norm(math.inf, clip=False), closest=True)
    ratio = found.distance.double() / torch.tensor(distance.min(1))
    assert found.success.all()
    assert ratio.min() > 1 - 1e-4
    assert ratio.median() < slack


def test_on_the_softmax_a_saturated_image_holds_and_on_the_logits_it_does_not():
    """The original's images of infinite resistance: confidence exactly 1.0 in float32, gradient exactly 0."""
    model, x = linear(2, 1, scale=1.0), grey(4, 1)
    y, _ = distances(model, x, 2)
    with torch.no_grad():
        model[1].weight.mul_(200)
        model[1].bias.mul_(200)
        sure = model(x).softmax(1).amax(1) == 1
    assert sure.any()
    soft, sharp = (
        Dichotomy(on=on, steps=30, halvings=4).run(model, x, torch.tensor(y), L2(math.inf), closest=True)
        for on in ("softmax", "logits")
    )
    assert not soft.success[sure].any()
    assert sharp.success.all()


def test_each_halving_stops_at_the_first_wrong_candidate():
    model, x = linear(2, 1), grey(4, 1)
    y, _ = distances(model, x, 2)
    found = Dichotomy(steps=100, halvings=3).run(model, x, torch.tensor(y), L2(math.inf), closest=True)
    assert found.success.all()
    assert (found.backwards < 250).all()
    assert Dichotomy(steps=100, halvings=3).cost() == "300 gradients"


def test_another_p_than_the_threats_is_searched_in_and_the_distance_is_the_threats():
    model, x = linear(2, 1), grey(4, 1)
    y, distance = distances(model, x, 2)
    found = Dichotomy(p=5.0, steps=30, halvings=6).run(
        model, x, torch.tensor(y), L2(math.inf, clip=False), closest=True
    )
    assert found.success.all()
    assert (found.distance.double() >= torch.tensor(distance.min(1)) * 0.9999).all()
    assert (found.distance.double() > torch.tensor(distance.min(1)) * 1.01).any()


def test_the_order_of_the_norm_is_the_threats_unless_given():
    assert [order(None, ball(1.0)) for ball in (L1, L2, Linf)] == [1.0, 2.0, math.inf]
    assert order(3.0, L2(1.0)) == 3.0
    assert length(torch.tensor([[[[3.0, -4.0]]]]), 2.0).item() == pytest.approx(5.0)


@pytest.mark.parametrize("fields", [{"steps": 0}, {"halvings": -1}])
def test_counts_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected at least one step, and halvings of 0 or more"):
        Dichotomy(**fields)


@pytest.mark.parametrize("fields", [{"learning_rate": 0.0}, {"p": 0.5}])
def test_sizes_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected learning_rate > 0, and p >= 1 or None"):
        Dichotomy(**fields)


@pytest.mark.parametrize("fields", [{"halvings": 0}, {"upper": 0.0}])
def test_a_bisection_of_nothing_is_named(fields):
    with pytest.raises(UsageError, match="expected at least one halving, and upper > 0 or None"):
        Dichotomy(**fields)
