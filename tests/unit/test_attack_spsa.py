"""SPSA: gradients estimated from the loss alone, on nets whose gradient is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from steelman.attacks import Problem
from steelman.attacks.noise import Noise
from steelman.attacks.spsa import SPSA
from steelman.errors import UsageError
from steelman.threats import L2, Ball, Linf

SHAPE = (1, 5, 5)


def linear(seed: int = 0) -> nn.Sequential:
    """Two classes; grey is on the boundary."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 25, generator=torch.Generator().manual_seed(seed)))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model


def slope(model: nn.Sequential, y: Tensor) -> Tensor:
    """The gradient of the margin, by hand: the other class's weights minus the label's."""
    weight = model[1].weight.detach()
    return (weight[1 - y] - weight[y]).view(-1, *SHAPE)


def problem(model: nn.Module, x: Tensor, y: Tensor, threat: Ball) -> Problem:
    return Problem(model, x, y, threat, generator=torch.Generator().manual_seed(3), batch=64, closest=True)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    return nn.functional.cosine_similarity(first.flatten(1), second.flatten(1))


def images(n: int, seed: int = 0) -> Tensor:
    return 0.3 + 0.4 * torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("threat", [Linf(0.2), L2(1.0)], ids=repr)
def test_the_estimate_points_along_the_true_gradient_the_more_the_more_samples(threat):
    """Of k pairs in d dimensions the cosine is about sqrt(k / (k + d))."""
    model, x = linear(), images(20)
    y = model(x).argmax(1)
    for samples, pairs in ((16, 8), (400, 200)):
        estimate = SPSA(samples=samples).estimate(problem(model, x, y, threat), x)
        expected = math.sqrt(pairs / (pairs + 25))
        assert abs(float(cosine(estimate, slope(model, y)).mean()) - expected) < 0.1


def test_the_estimate_has_the_size_of_the_gradient_also_where_the_set_ends():
    """At a corner of the ball, and at black and white, every pair is cut to half its way: no slope may be halved."""
    model, x = linear(), images(60)
    x[:, :, :2] = 0
    x[:, :, 4] = 1
    y = model(x).argmax(1)
    threat = Linf(0.1)
    for point in (x, threat.project(x + 1, x)):
        estimate = SPSA(samples=200).estimate(problem(model, x, y, threat), point)
        true = slope(model, y)
        scale = (estimate * true).flatten(1).sum(1) / true.flatten(1).square().sum(1)
        assert abs(float(scale.mean()) - 1) < 0.1
        assert cosine(estimate, true).mean() > 0.8


@pytest.mark.parametrize("threat", [Linf(0.02), L2(0.1)], ids=repr)
def test_on_a_linear_net_it_breaks_nearly_all_that_can_be_broken(threat):
    model, x = linear(), images(40)
    y = model(x).argmax(1)
    margin = -(model(x)[:, 0] - model(x)[:, 1]).abs().detach()
    most = margin + threat.eps * threat.dual(slope(model, y))  # no pixel is cut by the range
    found = SPSA(steps=12, samples=24, step_size=0.25).run(model, x, y, threat)
    assert not found.success[most < -1e-4].any()
    clear = most > 0.1 * -margin
    assert 5 < int(clear.sum()) < 35
    assert found.success[clear].float().mean() > 0.9
    noise = Noise(100).run(model, x, y, threat)
    assert int(found.success.sum()) > int(noise.success.sum()) + 3


def test_no_gradient_is_asked_for_and_none_is_needed():
    """A net that rounds its input has gradient 0 everywhere; SPSA sees past the steps."""

    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear()

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x * 200).round() / 200)

    model, x = Rounded(), images(20)
    y = model(x).argmax(1)
    found = SPSA(steps=12, samples=24, step_size=0.25).run(model, x, y, Linf(0.2))
    assert found.success.float().mean() > 0.9
    assert not found.backwards.any()


def test_the_cost_is_what_it_says():
    model, x = linear(), images(4)
    attack = SPSA(steps=3, samples=4)
    found = attack.run(model, x, model(x).argmax(1), Linf(0.0))
    assert (found.forwards == 15).all()
    assert attack.cost() == "15 forwards"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SPSA(steps=0), r"SPSA\(steps=0\): expected at least one step and an even number of samples"),
        (lambda: SPSA(samples=0), r"SPSA\(samples=0\): expected at least one step and an even number of samples"),
        (lambda: SPSA(samples=3), r"SPSA\(samples=3\): expected at least one step and an even number of samples"),
        (lambda: SPSA(step_size=0.0), r"SPSA\(step_size=0.0\): expected a step size and a delta above 0"),
        (lambda: SPSA(delta=-0.1), r"SPSA\(delta=-0.1\): expected a step size and a delta above 0"),
    ],
)
def test_hyperparameters_that_make_no_search_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()
