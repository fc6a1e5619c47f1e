"""Sigma-zero against the fewest pixels that a linear classifier needs."""

import math

import pytest
import torch

from steelman.attacks.sigma_zero import SigmaZero
from steelman.errors import UsageError
from steelman.threats import L0
from tests.oracles.test_hyperplane import distances, grey, linear


def fewest(model: torch.nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The k pixels of largest weight times room are the best k; each moves to its end of the range."""
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()
    counts = []
    for image, label in zip(x.flatten(1).double(), y, strict=True):
        rise = weight[1 - label] - weight[label]
        gain = (rise * torch.where(rise > 0, 1 - image, -image)).sort(descending=True).values.cumsum(0)
        missing = -(rise @ image + bias[1 - label] - bias[label])
        counts.append(int((gain <= missing).sum()) + 1)
    return torch.tensor(counts)


@pytest.mark.parametrize("seed", range(2))
def test_between_two_classes_it_finds_the_fewest_pixels_there_are(seed):
    model, x = linear(2, seed, scale=0.3), grey(10, seed)
    y = torch.tensor(distances(model, x, 2)[0])
    found = SigmaZero(steps=100).run(model, x, y, L0(math.inf), closest=True)
    least = fewest(model, x, y)
    assert found.success.all()
    assert (found.distance >= least).all()
    assert (found.distance <= least + 1).all()
    assert (found.distance == least).float().mean() >= 0.7


def test_towards_a_target_success_is_that_class():
    model, x = linear(4, 0), grey(10, 0)
    y = torch.tensor(distances(model, x, 2)[0])
    target = (y + 1) % 4
    found = SigmaZero(steps=40).run(model, x, y, L0(math.inf), target=target, closest=True)
    assert found.success.any()
    assert torch.equal(model(found.x_adv).argmax(1) == target, found.success)


def test_pixels_that_it_does_not_change_keep_their_very_bits():
    model, x = linear(2, 0), grey(5, 0) / 3
    y = torch.tensor(distances(model, x, 2)[0])
    found = SigmaZero(steps=40).run(model, x, y, L0(math.inf), closest=True)
    assert found.success.all()
    assert torch.equal((found.x_adv != x).flatten(1).sum(1).float(), found.distance)
    assert (found.distance < 20).all()


def test_what_it_costs_is_what_it_says():
    model, x = linear(2, 0), grey(3, 0)
    y = torch.tensor(distances(model, x, 2)[0])
    attack = SigmaZero(steps=9, removals=4)
    found = attack.run(model, x, y, L0(math.inf), closest=True)
    assert attack.cost() == "10 gradients, 5 forwards"
    assert (found.backwards <= 10).all()
    assert (found.forwards <= 15).all()


def test_after_enough_removals_every_change_is_needed():
    """On a linear classifier a change that could not be undone before cannot be undone later."""
    model, x = linear(2, 0), grey(8, 0)
    y = torch.tensor(distances(model, x, 2)[0])
    few = SigmaZero(steps=5, stretch=0, removals=0).run(model, x, y, L0(math.inf), closest=True)
    found = SigmaZero(steps=5, stretch=0, removals=32).run(model, x, y, L0(math.inf), closest=True)
    assert (found.distance < few.distance).any()
    assert found.success.all()
    for image, clean, label in zip(found.x_adv, x, y, strict=True):
        for place in (image != clean).nonzero():
            undone = image.clone()
            undone[tuple(place)] = clean[tuple(place)]
            assert model(undone[None]).argmax(1) == label


@pytest.mark.parametrize("fields", [{"steps": 0}, {"removals": -1}, {"stretch": -1}])
def test_counts_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected at least one step, and stretch and removals of 0 or more"):
        SigmaZero(**fields)


@pytest.mark.parametrize("fields", [{"step_size": 0.0}, {"sigma": 0.0}, {"pace": -1.0}, {"threshold": 2.0}])
def test_sizes_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected step_size, sigma and pace > 0, and a threshold between 0 and 1"):
        SigmaZero(**fields)
