"""Attacks B and C of maxdinech/mnist-attack against a plain one-image loop of each, and closed-form distances."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from steelman.attacks.auto_loss import AutoLoss
from steelman.attacks.gda import GDA
from steelman.errors import UsageError
from steelman.threats import L1, L2, Linf
from tests.oracles.test_hyperplane import distances, grey, linear

Attacks = type[AutoLoss] | type[GDA]
BOTH = pytest.mark.parametrize("attack", [AutoLoss, GDA])


@dataclass(frozen=True)
class Original:
    """What tells the two originals apart."""

    perturbation: Callable[[Tensor], Tensor]  # what is added to the image
    term: Callable[[Tensor], Tensor]  # the norm, as it stands in the loss
    loss: Callable[[Tensor, Tensor], Tensor]  # of confidence and norm


def loss_b(confidence: Tensor, norm: Tensor) -> Tensor:
    return norm if confidence <= 0.2 else confidence + norm if confidence <= 0.4 else confidence


def loss_c(confidence: Tensor, norm: Tensor) -> Tensor:
    return norm if confidence < 0.2 else confidence + norm if confidence < 0.9 else confidence - norm


ORIGINALS = {
    AutoLoss: Original(lambda r: r.clamp(-1, 1), lambda r: r.norm(p=2), loss_b),
    GDA: Original(lambda r: r, lambda r: r.square().sum(), loss_c),
}


def published(
    original: Original, model: nn.Module, image: Tensor, label: int, steps: int, rate: float
) -> tuple[list[float], list[float]]:
    """The norms and confidences of one image, with torch's own Adam and autograd."""
    r = torch.zeros_like(image, requires_grad=True)
    adam = torch.optim.Adam([r], lr=rate)
    norms, confidences = [], []
    for _ in range(steps):
        adversarial = (image + original.perturbation(r)).clamp(0, 1)
        confidence = model(adversarial[None]).softmax(1)[0, label]
        norms.append(r.detach().norm().item())
        confidences.append(confidence.item())
        adam.zero_grad()
        original.loss(confidence, original.term(r)).backward()
        adam.step()
    return norms, confidences


@BOTH
def test_on_the_softmax_it_goes_the_way_of_the_published_loop(attack: Attacks):
    model, x = linear(3, 0, scale=0.05), grey(3, 0)
    y = torch.tensor(distances(model, x, 2)[0])
    ours = attack(on="softmax", steps=60, learning_rate=0.01, halvings=0)
    norms, confidences = ours.trace(model, x, y, L2(math.inf))
    for i in range(2):
        expected = published(ORIGINALS[attack], model, x[i], int(y[i]), 60, 0.01)
        torch.testing.assert_close(norms[:, i], torch.tensor(expected[0]), rtol=1e-2, atol=2e-3)
        torch.testing.assert_close(confidences[:, i], torch.tensor(expected[1]), rtol=1e-2, atol=2e-3)
    assert (confidences[-1] < 0.45).any()


@BOTH
@pytest.mark.parametrize(("norm", "dual", "slack"), [(L2, 2, 1.1), (Linf, 1, 1.6), (L1, math.inf, 8.0)])
def test_on_the_logits_it_comes_near_the_closed_form_distance(attack: Attacks, norm, dual, slack):
    model, x = linear(2, 1, scale=0.3), grey(6, 1)
    y, distance = distances(model, x, dual)
    ours = attack(steps=150, learning_rate=0.01)
    found = ours.run(model, x, torch.tensor(y), norm(math.inf, clip=False), closest=True)
    ratio = found.distance.double() / torch.tensor(distance.min(1))
    assert found.success.all()
    assert ratio.min() > 1 - 1e-4
    assert ratio.median() < slack


@BOTH
def test_on_the_softmax_a_saturated_image_never_moves(attack: Attacks):
    """At r = 0 the norm has no gradient either: half of the original's images resist without limit."""
    model, x = linear(2, 1, scale=200.0), grey(6, 1)
    y = torch.tensor(distances(model, x, 2)[0])
    with torch.no_grad():
        sure = model(x).softmax(1).amax(1) == 1
    norms, confidences = attack(on="softmax", steps=5).trace(model, x, y, L2(math.inf))
    assert sure.any()
    assert (norms[:, sure] == 0).all()
    assert (confidences[:, sure] == 1).all()
    assert attack(steps=60, learning_rate=0.01).run(model, x, y, L2(math.inf), closest=True).success.all()


@BOTH
def test_what_it_costs_is_what_it_says(attack: Attacks):
    model, x = linear(2, 0), grey(3, 0)
    y = torch.tensor(distances(model, x, 2)[0])
    ours = attack(steps=5, halvings=2)
    found = ours.run(model, x, y, L2(math.inf), closest=True)
    assert ours.cost() == "5 gradients, 3 forwards"
    assert (found.backwards == 5).all()
    assert (found.forwards <= 8).all()


@BOTH
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"low": 0.6, "high": 0.5}, "expected 0 <= low <= high <= 1"),
        ({"low": -0.1}, "expected 0 <= low <= high <= 1"),
        ({"high": 1.5}, "expected 0 <= low <= high <= 1"),
        ({"steps": 0}, "expected at least one step, and halvings of 0 or more"),
        ({"halvings": -1}, "expected at least one step, and halvings of 0 or more"),
        ({"learning_rate": 0.0}, "expected learning_rate > 0, and p >= 1 or None"),
        ({"p": 0.5}, "expected learning_rate > 0, and p >= 1 or None"),
    ],
)
def test_fields_out_of_range_are_named(attack: Attacks, fields, words):
    with pytest.raises(UsageError, match=words):
        attack(**fields)
