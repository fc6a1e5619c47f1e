"""Training for smoothing: the papers' formulas in float64, and closed forms of a linear classifier."""

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn
from torch.nn import functional as F

from steelman.defences.gaussian import Gaussian, disagreement
from steelman.errors import UsageError
from steelman.spec import parse
from tests.nets import seeded


@pytest.fixture
def model():
    linear = nn.Linear(6, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(3, 6, generator=seeded(2)))
        linear.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return nn.Sequential(nn.Flatten(), linear)


@pytest.fixture
def batch():
    return 0.3 + 0.4 * torch.rand(5, 1, 2, 3, generator=seeded(1)), torch.arange(5) % 3


def noise_of(objective, x, generator):
    return objective.sigma * torch.randn(objective.samples, *x.shape, generator=generator)


def test_the_loss_is_the_cross_entropy_on_noisy_images(model, batch):
    x, y = batch
    for objective in (Gaussian(0.4), Gaussian(0.4, samples=3)):
        loss = objective(model, x, y, progress=0.5, generator=seeded(3))
        each = [F.cross_entropy(model(x + one), y) for one in noise_of(objective, x, seeded(3))]
        torch.testing.assert_close(loss, torch.stack(each).mean())


def test_disagreement_is_the_papers_formula(batch):
    """lambda mean_i KL(mean p || p_i) + eta H(mean p), equation 8 of Jeong & Shin 2020, in float64."""
    logits = 3 * torch.randn(4, 5, 3, generator=seeded(4), dtype=torch.float64)
    p = special.softmax(logits.numpy(), 2)
    mean = p.mean(0)
    divergence = special.rel_entr(mean, p).sum(2).mean(0)
    expected = (5.0 * divergence + 0.5 * special.entr(mean).sum(1)).mean()
    assert float(disagreement(logits, 5.0, 0.5)) == pytest.approx(expected, rel=1e-12)


def test_draws_that_agree_and_are_sure_cost_nothing():
    sure = torch.tensor([[50.0, 0.0, 0.0]]).expand(2, 4, 3)
    assert float(disagreement(sure, 10.0, 0.5)) == pytest.approx(0, abs=1e-12)
    unsure = torch.zeros(2, 4, 3)
    assert float(disagreement(unsure, 10.0, 0.5)) == pytest.approx(0.5 * math.log(3), rel=1e-6)


def test_the_regulariser_joins_the_loss(model, batch):
    x, y = batch
    objective = Gaussian(0.4, samples=2, consistency=5.0)
    loss = objective(model, x, y, progress=0.5, generator=seeded(3))
    logits = torch.stack([model(x + one) for one in noise_of(objective, x, seeded(3))])
    plain = Gaussian(0.4, samples=2)(model, x, y, progress=0.5, generator=seeded(3))
    torch.testing.assert_close(loss, plain + disagreement(logits, 5.0, 0.5))


def test_attacked_images_lie_where_the_mean_probability_falls_most():
    """Of two classes it falls most along the difference of their weights, for any noise."""
    linear = nn.Linear(6, 2)
    model, x = nn.Sequential(nn.Flatten(), linear), torch.full((4, 1, 2, 3), 0.5)
    objective = Gaussian(0.2, samples=3, radius=0.3, steps=4)
    y = torch.tensor([0, 1, 0, 1])
    moved = objective.images(model, x, y, noise_of(objective, x, seeded()), 0.3)
    way = (linear.weight[1] - linear.weight[0]).detach()
    expected = 0.3 * way / way.norm() * (1 - 2 * y)[:, None]
    torch.testing.assert_close((moved - x).flatten(1), expected, rtol=1e-4, atol=1e-5)


def test_the_radius_grows_from_zero_over_the_warm_up(model, batch):
    x, y = batch
    objective = Gaussian(0.2, radius=0.3, warm_up=0.5)
    plain = Gaussian(0.2)
    losses = [objective(model, x, y, progress=p, generator=seeded()).item() for p in (0.0, 0.25, 0.5, 1.0)]
    assert losses[0] == plain(model, x, y, progress=0.0, generator=seeded()).item()
    assert losses[0] < losses[1] < losses[2] == losses[3]
    at_once = Gaussian(0.2, radius=0.3, warm_up=0.0)
    assert at_once(model, x, y, progress=0.0, generator=seeded()).item() == losses[2]


def test_gradients_reach_the_weights_and_nothing_else_is_left(model, batch):
    x, y = batch
    model.train()
    objective = Gaussian(0.2, samples=2, radius=0.3, consistency=1.0)
    before = torch.random.get_rng_state()
    objective(model, x, y, progress=1.0, generator=seeded()).backward()
    assert all(np.isfinite(value.grad.numpy()).all() and value.grad.any() for value in model.parameters())
    assert model.training
    assert x.grad is None
    assert torch.equal(torch.random.get_rng_state(), before)
    assert parse(repr(objective), "objective") == objective


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sigma": 0.0}, "sigma is 0.0. Expected a noise above 0"),
        ({"samples": 0}, "samples is 0. Expected one draw or more"),
        ({"consistency": -1.0}, "consistency is -1.0. Expected 0 or more"),
        ({"entropy": -1.0}, "entropy is -1.0. Expected 0 or more"),
        ({"radius": -1.0}, "radius is -1.0. Expected 0 or more"),
        ({"steps": 0}, "steps is 0. Expected one step or more"),
        ({"warm_up": 2.0}, "warm_up is 2.0. Expected a share of training"),
        ({"consistency": 1.0}, "consistency=1.0 compares draws, and samples is 1. Give samples=2"),
    ],
)
def test_numbers_out_of_range_are_refused(given, words):
    with pytest.raises(UsageError, match=words):
        Gaussian(**given)
