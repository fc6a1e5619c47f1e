"""DDN against the closed-form distance of linear classifiers, and against its own published form."""

import math

import pytest
import torch
from torch import Tensor, nn

from steelman.attacks.ddn import DDN
from steelman.attacks.fmn import FMN
from steelman.errors import UsageError
from steelman.threats import L2
from tests.oracles.test_hyperplane import digits, distances, grey, linear


class Wall(nn.Module):
    """Wrong beyond a distance from black, with gradients that only point there from outside."""

    def __init__(self, edge: float) -> None:
        super().__init__()
        self.edge = edge

    def forward(self, x: Tensor) -> Tensor:
        rise = torch.linalg.vector_norm(x.flatten(1), dim=1) - self.edge
        return torch.stack((torch.zeros_like(rise), rise), 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
def test_between_two_classes_the_distance_is_the_margin_over_the_norm_of_the_weights(seed, loss):
    model, x = linear(2, seed), grey(10, seed)
    y, distance = distances(model, x, 2)
    found = DDN(steps=60, loss=loss).run(model, x, torch.tensor(y), L2(math.inf, clip=False), closest=True)
    ratio = found.distance.double() / torch.tensor(distance.min(1))
    assert found.success.all()
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.005


@pytest.mark.parametrize("seed", range(2))
def test_among_many_classes_no_distance_is_below_the_nearest_boundary(seed):
    model, x = linear(6, seed), grey(20, seed)
    y, distance = distances(model, x, 2)
    found = DDN(loss="margin").run(model, x, torch.tensor(y), L2(math.inf, clip=False), closest=True)
    ratio = found.distance.double() / torch.tensor(distance.min(1))
    assert ratio.min() > 1 - 1e-4
    assert ratio.median() < 1.01


def test_at_the_ends_of_the_pixel_range_the_nearest_point_is_that_of_a_float64_bisection():
    """Cut by the range, the nearest wrong point is clip(x + t w) for one t: pixels that cannot move cost nothing."""
    model, x = linear(2, 3, scale=0.2), digits(10, 3)
    y, _ = distances(model, x, 2)
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()
    found = DDN(steps=80).run(model, x, torch.tensor(y), L2(math.inf), closest=True)
    for i in range(len(x)):
        rise = weight[1 - y[i]] - weight[y[i]]
        flat, low, high = x[i].flatten().double(), 0.0, 1e4
        for _ in range(100):
            t = (low + high) / 2
            point = (flat + t * rise).clamp(0, 1)
            wrong = float(rise @ point + bias[1 - y[i]] - bias[y[i]]) > 0
            low, high = (low, t) if wrong else (t, high)
        assert 1 - 1e-4 < float(found.distance[i]) / float((point - flat).norm()) < 1.02


@pytest.mark.parametrize("edge", [0.01, 0.3, 3.0, 5.0])
def test_the_distance_may_be_far_from_the_first_radius_and_steps_are_few(edge):
    """With changes of 5 % a step alone, 30 steps reach no further than 4.3 times the first radius."""
    x, y = torch.full((1, 1, 6, 6), 1e-4), torch.tensor([0])
    found = DDN(steps=30).run(Wall(edge), x, y, L2(math.inf), closest=True)
    assert edge * 0.9 < float(found.distance[0]) + 6e-4 < edge * 1.02
    assert not DDN(steps=30, growth=0.0, radius=0.5).run(Wall(5.0), x, y, L2(math.inf), closest=True).success.any()


def test_a_model_that_is_never_wrong_leaves_the_images_as_they_are():
    x = grey(3, 0)
    found = DDN(steps=5).run(Wall(100.0), x, torch.zeros(3, dtype=torch.int64), L2(math.inf), closest=True)
    assert not found.success.any()
    assert found.distance.isnan().all()
    assert torch.equal(found.x_adv, x)


def test_a_radius_that_grows_for_hundreds_of_steps_stays_a_number():
    """1.5^250 is beyond float32: the candidates were NaN, and the panel blamed the model's gradients for it."""
    x = grey(3, 0)
    for attack in (DDN(steps=250), FMN(steps=300)):
        found = attack.run(Wall(100.0), x, torch.zeros(3, dtype=torch.int64), L2(math.inf), closest=True)
        assert not found.health.nan.any()


def test_what_it_costs_is_what_it_says():
    found = DDN(steps=7, halvings=3).run(
        linear(2, 0), grey(4, 0), torch.tensor(distances(linear(2, 0), grey(4, 0), 2)[0]), L2(math.inf), closest=True
    )
    assert DDN(steps=7, halvings=3).cost() == "7 gradients, 4 forwards"
    assert (found.backwards == 7).all()
    assert (found.forwards <= 7 + 4).all()


@pytest.mark.parametrize("fields", [{"steps": 0}, {"halvings": -1}])
def test_counts_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected at least one step, and halvings of 0 or more"):
        DDN(**fields)


@pytest.mark.parametrize("fields", [{"radius": 0.0}, {"step_size": -1.0}, {"gamma": 1.0}, {"growth": -0.1}])
def test_sizes_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected radius > 0, step_size > 0, 0 < gamma < 1 and 0 <= growth < 1"):
        DDN(**fields)
