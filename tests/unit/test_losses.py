"""Losses by hand, and the laws that they owe to their definitions."""

import math

import pytest
import torch

from steelman.losses import LOSSES, cross_entropy, dlr, margin

LOGITS = torch.tensor([[3.0, 1.0, 0.0, -2.0, 0.5], [0.0, 4.0, 3.0, 1.0, 2.0]])
Y = torch.tensor([0, 2])
TARGET = torch.tensor([3, 0])
EVERY = pytest.mark.parametrize("name", sorted(LOSSES))


def random_logits(n: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator)
    y = torch.randint(classes, (n,), generator=generator)
    target = (y + torch.randint(1, classes, (n,), generator=generator)) % classes
    return logits, y, target


def test_cross_entropy_by_hand():
    own = math.log(sum(math.exp(z) for z in (3, 1, 0, -2, 0.5))) - 3
    other = math.log(sum(math.exp(z) for z in (0, 4, 3, 1, 2))) - 3
    torch.testing.assert_close(cross_entropy(LOGITS, Y), torch.tensor([own, other]))
    torch.testing.assert_close(cross_entropy(LOGITS, Y, TARGET), torch.tensor([-(own + 5), -(other + 3)]))


def test_margin_by_hand():
    torch.testing.assert_close(margin(LOGITS, Y), torch.tensor([1.0 - 3, 4.0 - 3]))
    torch.testing.assert_close(margin(LOGITS, Y, TARGET), torch.tensor([-2.0 - 3, 0.0 - 4]))


def test_dlr_by_hand():
    """Croce & Hein 2020, equations 6 and 7."""
    torch.testing.assert_close(dlr(LOGITS, Y), torch.tensor([-(3 - 1) / (3 - 0.5), -(3 - 4) / (4 - 2.0)]))
    expected = torch.tensor([-(3 + 2) / (3 - (0.5 + 0) / 2), -(3 - 0) / (4 - (2 + 1) / 2)])
    torch.testing.assert_close(dlr(LOGITS, Y, TARGET), expected)


def test_dlr_with_few_classes():
    three = torch.tensor([[3.0, 1.0, 0.0]])
    torch.testing.assert_close(dlr(three, torch.tensor([1])), torch.tensor([2 / 3]))
    torch.testing.assert_close(dlr(three, torch.tensor([0]), torch.tensor([2])), torch.tensor([-3 / 2.5]))
    two = torch.tensor([[3.0, 1.0]])
    torch.testing.assert_close(dlr(two, torch.tensor([0])), torch.tensor([-2.0]))
    torch.testing.assert_close(dlr(two, torch.tensor([0]), torch.tensor([1])), torch.tensor([-2.0]))


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_classes_that_are_ruled_out_do_not_count_for_dlr(classes):
    """A model says -inf of classes that cannot be: value and gradient are those of the others alone."""
    few, y, target = random_logits(50, classes)
    many = torch.cat((few, torch.full((50, 6), -torch.inf)), 1)
    for aim in (None, target):
        grads = []
        for logits in (few.requires_grad_(), many.requires_grad_()):
            value = dlr(logits, y, aim)
            grads.append((value.detach(), torch.autograd.grad(value.sum(), logits)[0][:, :classes]))
        torch.testing.assert_close(grads[0], grads[1])
        assert grads[1][1].abs().sum(1).gt(0).float().mean() > 0.4


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("loss", [margin, dlr])
def test_above_zero_means_broken(classes, loss):
    logits, y, _ = random_logits(200, classes)
    assert torch.equal(loss(logits, y) > 0, logits.argmax(1) != y)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_target_is_reached_where_its_margin_is_above_zero(classes):
    logits, y, target = random_logits(200, classes)
    assert torch.equal(margin(logits, y, target) > 0, logits.argmax(1) == target)
    assert (margin(logits, y, target) > 0).any()


@EVERY
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_one_sign_an_attacker_maximises(name, classes):
    """Lowering the label's logit, or raising the target's, raises every loss."""
    logits, y, target = random_logits(50, classes)
    rows = torch.arange(50)
    away, towards = logits.clone(), logits.clone()
    away[rows, y] -= 0.1
    towards[rows, target] += 0.1
    held = logits.argmax(1) == y  # elsewhere DLR has flat parts: it is 1 wherever the label comes third
    assert (LOSSES[name](away, y, None) > LOSSES[name](logits, y, None))[held].all()
    assert (LOSSES[name](towards, y, target) > LOSSES[name](logits, y, target))[held].all()
    assert held.any()


@EVERY
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("targeted", [True, False])
def test_adding_a_constant_to_all_logits_changes_nothing(name, classes, targeted):
    logits, y, target = random_logits(20, classes)
    aim = target if targeted else None
    torch.testing.assert_close(LOSSES[name](logits + 7, y, aim), LOSSES[name](logits, y, aim), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("factor", [1e-3, 10.0, 1e4])
def test_dlr_does_not_change_when_logits_are_rescaled(targeted, factor):
    logits, y, target = random_logits(20, 10)
    aim = target if targeted else None
    torch.testing.assert_close(dlr(factor * logits, y, aim), dlr(logits, y, aim))


@EVERY
def test_renaming_the_classes_changes_nothing(name):
    logits, y, target = random_logits(20, 6)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    where = order.argsort()
    for aim, other in ((None, None), (target, where[target])):
        torch.testing.assert_close(LOSSES[name](logits[:, order], where[y], other), LOSSES[name](logits, y, aim))


@EVERY
def test_equal_logits_give_finite_values_and_gradients(name):
    logits = torch.zeros(2, 4, requires_grad=True)
    value = LOSSES[name](logits, torch.tensor([0, 1]), None)
    assert value.isfinite().all()
    value.sum().backward()
    assert logits.grad.isfinite().all()


@EVERY
def test_one_value_an_image_whatever_the_batch(name):
    logits, y, target = random_logits(6, 5)
    for aim in (None, target):
        one_by_one = [
            LOSSES[name](logits[i : i + 1], y[i : i + 1], None if aim is None else aim[i : i + 1]) for i in range(6)
        ]
        torch.testing.assert_close(torch.cat(one_by_one), LOSSES[name](logits, y, aim))
