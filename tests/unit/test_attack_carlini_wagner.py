"""Carlini and Wagner's L2 attack: closed-form distances, and the defects of its implementations elsewhere."""

import math

import pytest
import torch
from torch import nn

from steelman.attacks.carlini_wagner import CarliniWagner
from steelman.errors import UsageError
from steelman.threats import L2
from tests.oracles.test_hyperplane import digits, distances, grey, linear

LIMITLESS = L2(math.inf, clip=False)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("start_steps", "searches", "slack"), [(0, 6, 1.1), (10, 3, 1.02)])
def test_between_two_classes_the_distance_is_the_margin_over_the_norm_of_the_weights(
    seed, start_steps, searches, slack
):
    model, x = linear(2, seed), grey(8, seed)
    y, distance = distances(model, x, 2)
    attack = CarliniWagner(steps=40, searches=searches, learning_rate=0.01, start_steps=start_steps)
    found = attack.run(model, x, torch.tensor(y), LIMITLESS, closest=True)
    ratio = found.distance.double() / torch.tensor(distance.min(1))
    assert found.success.all()
    assert ratio.min() > 1 - 1e-4
    assert ratio.median() < slack


@pytest.mark.parametrize("first", [1e-4, 1e4])
def test_the_search_for_the_constant_comes_back_from_far_off(first):
    model, x = linear(2, 0), grey(6, 0)
    y, distance = distances(model, x, 2)
    attack = CarliniWagner(steps=25, searches=9, constant=first, start_steps=0)
    found = attack.run(model, x, torch.tensor(y), LIMITLESS, closest=True)
    assert found.success.all()
    assert (found.distance.double() / torch.tensor(distance.min(1))).median() < 1.5


def test_log_probabilities_are_attacked_as_well_as_logits():
    """Negative outputs that give no gradient: success 0.00 on a log-softmax model."""
    model, x = linear(3, 1, scale=0.3), grey(8, 1)
    y = torch.tensor(distances(model, x, 2)[0])
    attack = CarliniWagner(steps=20, searches=2, start_steps=0)
    plain, logs = (
        attack.run(one, x, y, L2(math.inf), closest=True) for one in (model, nn.Sequential(model, nn.LogSoftmax(1)))
    )
    assert logs.success.all()
    torch.testing.assert_close(logs.distance, plain.distance, rtol=0.02, atol=0)


def test_black_and_white_pixels_move():
    """With tanh they have no gradient at all."""
    model, x = linear(2, 3, scale=0.2), digits(8, 3)
    y = torch.tensor(distances(model, x, 2)[0])
    found = CarliniWagner(steps=20, searches=4, start_steps=0).run(model, x, y, L2(math.inf), closest=True)
    ends = (x == 0) | (x == 1)
    assert found.success.all()
    assert (found.x_adv != x)[ends].float().mean() > 0.3


def test_an_image_that_cannot_be_broken_comes_back_unchanged_and_fails():
    """Not black, and not counted as a success."""
    model, x = linear(2, 0, scale=1e-3), grey(4, 0)
    with torch.no_grad():
        model[1].bias += torch.tensor([50.0, 0.0])
    found = CarliniWagner(steps=5, searches=2).run(
        model, x, torch.zeros(4, dtype=torch.int64), L2(math.inf), closest=True
    )
    assert not found.success.any()
    assert torch.equal(found.x_adv, x)
    assert found.distance.isnan().all()


def test_an_image_that_makes_no_progress_ends_its_search_by_itself():
    """Early stopping of the whole batch makes the result of an image depend on the others."""
    model, x = linear(2, 0), grey(6, 0)
    y = torch.tensor(distances(model, x, 2)[0])
    attack = CarliniWagner(steps=60, searches=1, start_steps=0)
    together = attack.run(model, x, y, LIMITLESS, closest=True)
    assert (together.backwards < 61).any()
    for i in range(2):
        alone = attack.run(model, x[i : i + 1], y[i : i + 1], LIMITLESS, closest=True)
        assert int(alone.backwards[0]) == int(together.backwards[i])
        torch.testing.assert_close(alone.x_adv[0], together.x_adv[i])


def test_confidence_aims_beyond_the_boundary():
    model, x = linear(2, 0), grey(6, 0)
    y = torch.tensor(distances(model, x, 2)[0])
    near, far = (
        CarliniWagner(steps=20, searches=1, confidence=k, start_steps=0, halvings=0).run(
            model, x, y, LIMITLESS, closest=True
        )
        for k in (0.0, 50.0)
    )
    assert far.score.median() > 2 * near.score.median()


def test_what_it_costs_is_what_it_says():
    attack = CarliniWagner(steps=5, searches=2, start_steps=4, halvings=3)
    assert attack.cost() == "15 gradients, 4 forwards"
    assert CarliniWagner(steps=5, searches=2, start_steps=0, halvings=3, constant=1.0).cost() == (
        "10 gradients, 3 forwards"
    )
    model, x = linear(2, 0), grey(4, 0)
    found = attack.run(model, x, torch.tensor(distances(model, x, 2)[0]), LIMITLESS, closest=True)
    assert (found.backwards <= 15).all()
    assert (found.forwards <= 19).all()


@pytest.mark.parametrize("fields", [{"steps": 0}, {"searches": 0}, {"halvings": -1}, {"start_steps": -1}])
def test_counts_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected at least one step and one search, the other counts of 0 or more"):
        CarliniWagner(**fields)


@pytest.mark.parametrize("fields", [{"learning_rate": 0.0}, {"confidence": -1.0}, {"constant": 0.0}])
def test_sizes_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected learning_rate > 0, confidence >= 0 and constant > 0 or None"):
        CarliniWagner(**fields)
