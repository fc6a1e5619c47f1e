"""Attack C against a plain one-image loop of the published algorithm, and closed-form distances."""

import math

import pytest
import torch
from torch import Tensor, nn

from steelman.attacks.gda import GDA
from steelman.errors import UsageError
from steelman.threats import L1, L2, Linf
from tests.oracles.test_hyperplane import distances, grey, linear


def published(model: nn.Module, image: Tensor, label: int, steps: int, rate: float) -> tuple[list[float], list[float]]:
    """The norms and confidences of attack C on one image, with torch's own Adam and autograd."""
    r = torch.zeros_like(image, requires_grad=True)
    adam = torch.optim.Adam([r], lr=rate)
    norms, confidences = [], []
    for _ in range(steps):
        adversarial = (image + r).clamp(0, 1)
        confidence = model(adversarial[None]).softmax(1)[0, label]
        norm = r.square().sum()
        norms.append(norm.sqrt().item())
        confidences.append(confidence.item())
        if confidence < 0.2:
            loss = norm
        elif confidence < 0.9:
            loss = confidence + norm
        else:
            loss = confidence - norm
        adam.zero_grad()
        loss.backward()
        adam.step()
    return norms, confidences


def test_on_the_softmax_it_goes_the_way_of_the_published_loop():
    model, x = linear(3, 0, scale=0.05), grey(3, 0)
    y = torch.tensor(distances(model, x, 2)[0])
    attack = GDA(on="softmax", steps=60, learning_rate=0.01, halvings=0)
    norms, confidences = attack.trace(model, x, y, L2(math.inf))
    for i in range(2):
        expected = published(model, x[i], int(y[i]), 60, 0.01)
        torch.testing.assert_close(norms[:, i], torch.tensor(expected[0]), rtol=1e-2, atol=2e-3)
        torch.testing.assert_close(confidences[:, i], torch.tensor(expected[1]), rtol=1e-2, atol=2e-3)
    assert (confidences[-1] < 0.45).any()


@pytest.mark.parametrize(("norm", "dual", "slack"), [(L2, 2, 1.1), (Linf, 1, 1.6), (L1, math.inf, 8.0)])
def test_on_the_logits_it_comes_near_the_closed_form_distance(norm, dual, slack):
    model, x = linear(2, 1, scale=0.3), grey(6, 1)
    y, distance = distances(model, x, dual)
    attack = GDA(steps=150, learning_rate=0.01)
    found = attack.run(model, x, torch.tensor(y), norm(math.inf, clip=False), closest=True)
    ratio = found.distance.double() / torch.tensor(distance.min(1))
    assert found.success.all()
    assert ratio.min() > 1 - 1e-4
    assert ratio.median() < slack


def test_on_the_softmax_a_saturated_image_does_not_move_from_where_both_gradients_are_zero():
    """At r = 0 the squared norm has no gradient either: half of the original's images resist without limit."""
    model, x = linear(2, 1, scale=200.0), grey(6, 1)
    y = torch.tensor(distances(model, x, 2)[0])
    with torch.no_grad():
        sure = model(x).softmax(1).amax(1) == 1
    norms, confidences = GDA(on="softmax", steps=5).trace(model, x, y, L2(math.inf))
    assert sure.any()
    assert (norms[:, sure] == 0).all()
    assert (confidences[:, sure] == 1).all()
    assert GDA(steps=60, learning_rate=0.01).run(model, x, y, L2(math.inf), closest=True).success.all()


def test_what_it_costs_is_what_it_says():
    model, x = linear(2, 0), grey(3, 0)
    y = torch.tensor(distances(model, x, 2)[0])
    attack = GDA(steps=5, halvings=2)
    found = attack.run(model, x, y, L2(math.inf), closest=True)
    assert attack.cost() == "5 gradients, 3 forwards"
    assert (found.backwards == 5).all()
    assert (found.forwards <= 8).all()


@pytest.mark.parametrize("fields", [{"low": 0.6, "high": 0.5}, {"low": -0.1}, {"high": 1.5}])
def test_thresholds_out_of_order_are_named(fields):
    with pytest.raises(UsageError, match="expected 0 <= low <= high <= 1"):
        GDA(**fields)


@pytest.mark.parametrize("fields", [{"steps": 0}, {"halvings": -1}])
def test_counts_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected at least one step, and halvings of 0 or more"):
        GDA(**fields)


@pytest.mark.parametrize("fields", [{"learning_rate": 0.0}, {"p": 0.5}])
def test_sizes_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected learning_rate > 0, and p >= 1 or None"):
        GDA(**fields)
