"""Objectives against hand calculations."""

import math

import pytest
import torch
from torch import nn

from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.defences import Objective
from steelman.defences.adversarial import Adversarial
from steelman.defences.standard import Standard
from steelman.errors import UsageError
from steelman.spec import catalogue, parse
from steelman.threats import L2, Linf, Threat


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(10, 1, 2, 3, generator=generator)
    return x, torch.arange(10) % 3


@pytest.fixture
def model():
    """A linear classifier: the gradient with respect to x and to the weights is known in closed form."""
    linear = nn.Linear(6, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(3, 6, generator=torch.Generator().manual_seed(2)))
        linear.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return nn.Sequential(nn.Flatten(), linear)


def one_hot(y):
    return torch.eye(3)[y]


def test_the_base_defines_nothing(model, batch, generator):
    with pytest.raises(NotImplementedError):
        Objective()(model, *batch, progress=0.0, generator=generator)


def test_gradient_of_cross_entropy_is_probability_minus_label(model, batch, generator):
    x, y = batch
    loss = Standard()(model, x, y, progress=0.0, generator=generator)
    loss.backward()
    residual = model(x).softmax(1).detach() - one_hot(y)
    torch.testing.assert_close(model[1].weight.grad, residual.T @ x.flatten(1) / len(x))
    torch.testing.assert_close(model[1].bias.grad, residual.mean(0))


def test_loss_of_zero_logits_is_log_of_the_number_of_classes(batch, generator):
    zero = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    for parameter in zero.parameters():
        nn.init.zeros_(parameter)
    for objective in (Standard(), Standard(label_smoothing=0.3), Adversarial(FGSM(), Linf(0.1))):
        loss = objective(zero, *batch, progress=0.5, generator=generator)
        assert loss.shape == ()
        assert loss.item() == pytest.approx(math.log(3), abs=1e-6)


def test_label_smoothing_spreads_the_target(model, batch, generator):
    x, y = batch
    loss = Standard(label_smoothing=0.3)(model, x, y, progress=0.0, generator=generator)
    target = 0.7 * one_hot(y) + 0.3 / 3
    expected = -(target * model(x).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_smoothing_outside_its_range(smoothing):
    with pytest.raises(UsageError, match=r"label_smoothing is .*Expected 0 <= label_smoothing < 1"):
        Standard(label_smoothing=smoothing)


@pytest.mark.parametrize(("mix", "num"), [(0.0, 0), (0.25, 2), (0.5, 5), (0.66, 7), (1.0, 10)])
def test_mix_is_the_share_of_attacked_images(model, batch, generator, mix, num):
    x, y = batch
    images = Adversarial(FGSM(), Linf(0.1), mix=mix).images(model, x, y, generator=generator)
    moved = (images != x).flatten(1).any(1)
    assert moved.tolist() == [True] * num + [False] * (10 - num)
    residual = (model(x).softmax(1) - one_hot(y)).detach()
    by_hand = x + 0.1 * (residual @ model[1].weight).sign().view_as(x)
    torch.testing.assert_close(images[:num], by_hand[:num].detach())


def test_every_image_is_attacked_also_one_that_is_wrong_already(model, batch, generator):
    x, _ = batch
    wrong = model(x).argmin(1)
    images = Adversarial(FGSM(), L2(0.2)).images(model, x, wrong, generator=generator)
    distance = (images - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(distance, torch.full((10,), 0.2))


def test_loss_is_that_of_the_mixed_batch(model, batch, generator):
    x, y = batch
    objective = Adversarial(FGSM(), Linf(0.1), mix=0.5)
    loss = objective(model, x, y, progress=0.0, generator=generator)
    images = objective.images(model, x, y, generator=generator)
    expected = -(one_hot(y) * model(images).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    residual = model(images).softmax(1).detach() - one_hot(y)
    torch.testing.assert_close(model[1].weight.grad, residual.T @ images.flatten(1) / len(x))


def test_adversarial_loss_is_above_the_clean_one(model, batch, generator):
    x, y = batch
    losses = [
        objective(model, x, y, progress=0.0, generator=generator).item()
        for objective in (Standard(), Adversarial(PGD(steps=5), Linf(0.05)), Adversarial(PGD(steps=5), Linf(0.2)))
    ]
    assert losses == sorted(losses)
    assert losses[0] < losses[2]


def test_the_model_stays_in_its_mode_and_learns_through_all_parameters(batch, generator):
    x, y = batch
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    Adversarial(PGD(steps=2), Linf(0.1))(model, x, y, progress=0.0, generator=generator).backward()
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert int(model[2].num_batches_tracked) == 1  # the attack's own passes leave BatchNorm alone


def test_random_choices_come_from_the_generator(model, batch):
    x, y = batch
    objective = Adversarial(PGD(steps=1, random_start=True), Linf(0.3))
    before = torch.get_rng_state()
    first, again, other = (
        objective.images(model, x, y, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mix", [-0.01, 1.01, math.nan])
def test_mix_outside_its_range(mix):
    with pytest.raises(UsageError, match=r"mix is .*0 <= mix <= 1"):
        Adversarial(FGSM(), Linf(0.1), mix=mix)


def test_a_threat_that_is_no_ball():
    with pytest.raises(UsageError, match=r"Expected a ball such as Linf\(0.3\)"):
        Adversarial(FGSM(), Threat())


def test_objectives_are_found_and_their_names_parse():
    assert {"Standard", "Adversarial"} <= set(catalogue("objective"))
    for objective in (Standard(), Standard(label_smoothing=0.1), Adversarial(PGD(steps=7), L2(1.5), mix=0.5)):
        assert parse(repr(objective)) == objective
