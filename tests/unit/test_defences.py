"""Objectives against hand calculations."""

import math

import pytest
import torch
from torch import nn

from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.defences import Objective
from steelman.defences._minmax import MinMax
from steelman.defences.adversarial import Adversarial
from steelman.defences.fgsmrs import FGSMRS
from steelman.defences.nfgsm import NFGSM
from steelman.defences.standard import Standard
from steelman.errors import UsageError
from steelman.spec import catalogue, parse
from steelman.threats import L0, L1, L2, Linf, Threat


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


@pytest.mark.parametrize("kind", [lambda threat: Adversarial(FGSM(), threat), NFGSM, FGSMRS])
def test_a_threat_that_is_no_ball(kind):
    with pytest.raises(UsageError, match=r"Expected a ball such as Linf\(0.3\)"):
        kind(Threat())


# ---- a radius that grows


@pytest.mark.parametrize(
    "objective",
    [Adversarial(FGSM(), Linf(0.2), ramp=0.4), NFGSM(Linf(0.2), noise=0.0, ramp=0.4), FGSMRS(Linf(0.2), ramp=0.4)],
)
def test_the_radius_grows_over_the_ramp_and_stays(model, batch, generator, objective):
    x, y = batch
    for progress, eps in ((0.0, 0.0), (0.1, 0.05), (0.3, 0.15), (0.4, 0.2), (0.99, 0.2)):
        images = objective.images(model, x, y, generator=generator, progress=progress)
        assert objective.ball(progress).eps == pytest.approx(eps)
        torch.testing.assert_close((images - x).flatten(1).abs().amax(1), torch.full((10,), eps))
    assert objective.ball() == Linf(0.2)


@pytest.mark.parametrize("ramp", [-0.1, 1.01, math.nan])
def test_a_radius_that_would_never_be_reached(ramp):
    for kind in (lambda ramp: Adversarial(FGSM(), Linf(0.3), ramp=ramp), lambda ramp: NFGSM(Linf(0.3), ramp=ramp)):
        with pytest.raises(UsageError, match=r"ramp is .* would never train at eps 0.3.* 0 <= ramp <= 1"):
            kind(ramp)


def test_a_radius_cannot_grow_without_limit():
    assert Adversarial(FGSM(), Linf(math.inf)).ball(0.5).eps == math.inf
    with pytest.raises(UsageError, match=r"a ramp of 0\.5 leads up to Linf\(inf\)\. Expected a finite eps, or ramp=0"):
        Adversarial(FGSM(), Linf(math.inf), ramp=0.5)


# ---- single steps from noise


def test_fgsm_rs_by_hand(model, batch):
    """Algorithm 3 of Wong et al.: uniform noise, one step of 1.25 eps, back into the ball."""
    x, y = batch
    images = Adversarial(FGSM(random_start=True, step_size=1.25), Linf(0.1)).images(
        model, x, y, generator=torch.Generator().manual_seed(3)
    )
    noise = 0.1 * torch.empty_like(x).uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
    residual = (model(x + noise).softmax(1) - one_hot(y)).detach()
    step = 0.125 * (residual @ model[1].weight).sign().view_as(x)
    torch.testing.assert_close(images, (x + (noise + step).clamp(-0.1, 0.1)).detach())


def test_n_fgsm_by_hand(model, batch):
    """Algorithm 1 of de Jorge et al.: noise of 2 eps, one step of eps, nothing cut but the pixel range."""
    x, y = batch
    eps = 0.2
    images = NFGSM(Linf(eps)).images(model, x, y, generator=torch.Generator().manual_seed(3))
    noise = 2 * eps * torch.empty_like(x).uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
    noisy = (x + noise).clamp(0, 1)
    residual = (model(noisy).softmax(1) - one_hot(y)).detach()
    expected = noisy + eps * (residual @ model[1].weight).sign().view_as(x)
    torch.testing.assert_close(images, expected.clamp(0, 1).detach())
    assert (images - x).abs().max() > 1.5 * eps


def test_n_fgsm_loses_what_is_lost_there(batch, generator):
    x, y = batch
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    objective = NFGSM(L2(0.5), noise=1.0, step=0.5)
    images = objective.images(model, x, y, generator=torch.Generator().manual_seed(0))
    loss = objective(model, x, y, progress=0.2, generator=generator)
    assert int(model[2].num_batches_tracked) == 1
    assert all(module.training for module in model.modules())
    expected = -(one_hot(y) * model(images).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("kind", [NFGSM, FGSMRS])
@pytest.mark.parametrize(("field", "value"), [("noise", -1.0), ("noise", math.inf), ("step", 0.0), ("step", math.nan)])
def test_single_steps_refuse(kind, field, value):
    with pytest.raises(UsageError, match=r"noise is .*, step is .* Expected fractions of eps"):
        kind(Linf(0.1), **{field: value})
    with pytest.raises(UsageError, match=r"FGSM\(\) does not search in L0"):
        kind(L0(5.0))


def test_no_way_of_less_than_nought():
    with pytest.raises(UsageError, match=r"towards is -0.5.*Expected fractions of eps"):
        FGSMRS(Linf(0.1), towards=-0.5)


def test_fgsm_rs_on_mnist_starts_beyond_the_pixel_range(model, batch):
    """As algorithm 3, where the images are black: the noise is not cut before the step, the result is."""
    x, y = torch.zeros_like(batch[0]), batch[1]
    images = FGSMRS(Linf(0.1)).images(model, x, y, generator=torch.Generator().manual_seed(3))
    noise = 0.1 * torch.empty_like(x).uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
    residual = (model(noise).softmax(1) - one_hot(y)).detach()
    step = 0.125 * (residual @ model[1].weight).sign().view_as(x)
    torch.testing.assert_close(images, (noise + step).clamp(-0.1, 0.1).clamp(0, 1).detach())
    assert (noise < 0).any()


def test_from_a_corner_a_step_of_two_ends_in_the_gradients_corner(batch, generator):
    """RAND+FGSM's start; of a linear net the gradient's sign is that of the weights, wherever it starts."""
    x, y = 0.3 + 0.4 * batch[0], batch[1]
    weight = torch.tensor([[1.0, -2, 3, -1, 2, -3]])
    linear = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    with torch.no_grad():
        linear[1].weight.copy_(torch.cat((weight, -weight)))
    up = torch.where(y[:, None] == 0, -1.0, 1.0) * weight.sign()
    objective = FGSMRS(Linf(0.1), start="corner", step=2.0)
    y = y.clamp_max(1)
    images = objective.images(linear, x, y, generator=generator)
    torch.testing.assert_close(images, x + 0.1 * up.view_as(x))
    start = FGSMRS(Linf(0.1), start="corner", step=1e-9).images(linear, x, y, generator=generator)
    torch.testing.assert_close((start - x).abs(), torch.full_like(x, 0.1))
    assert 0.3 < ((start - x) > 0).float().mean() < 0.7


def test_corners_are_for_boxes():
    with pytest.raises(UsageError, match=r"L2\(1\.0\) has no corners\. Expected Linf\(\.\.\.\)"):
        FGSMRS(L2(1.0), start="corner")


def test_surrogates_see_through_a_threshold(batch, generator):
    """Black pixels below a threshold have no gradient of their own; through surrogates they rise."""
    y = torch.zeros(len(batch[1]), dtype=torch.int64)
    x = torch.full_like(batch[0], 0.1)
    linear = nn.Linear(6, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 6))
    model = nn.Sequential(nn.Flatten(), nn.Hardtanh(0.3, 0.7), linear)
    plain, seen = (
        FGSMRS(Linf(0.15), noise=0.0, step=1.0, surrogates=value).images(model, x, y, generator=generator)
        for value in (False, True)
    )
    torch.testing.assert_close(plain, x)
    torch.testing.assert_close(seen, x + 0.15)


def test_the_way_to_another_image_of_the_batch(batch, generator):
    """Of a constant net nothing is left but the start: each image lies on the way to another one, cut to the ball."""
    x, y = batch
    constant = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    nn.init.zeros_(constant[1].weight)
    for eps in (10.0, 0.05):
        images = FGSMRS(Linf(eps), noise=0.0, towards=1.0).images(constant, x, y, generator=generator)
        moves, ways = images - x, x[None] - x[:, None]  # ways[i, j] leads from image i to image j
        share = (moves[:, None] / ways).flatten(2)
        if eps == 10.0:
            straight = (share.amax(2) - share.amin(2) < 1e-4) & (share.amin(2) >= -1e-6) & (share.amax(2) <= 1)
            still = moves.flatten(1).abs().amax(1) == 0
            assert (straight.any(1) | still).all()
            assert still.sum() < 5
        assert moves.abs().max() <= eps + 1e-6
        assert ((images >= x.amin(0)) & (images <= x.amax(0))).all()


@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.5), L1(1.0)])
def test_fgsm_rs_stays_in_the_ball(model, batch, generator, threat):
    x, y = batch
    images = FGSMRS(threat, towards=0.5).images(model, x, y, generator=generator)
    assert threat.contains(images, x).all()
    assert threat.distance(images, x).mean() > 0.6 * threat.eps


def test_the_halves_of_the_base_are_for_others_to_define(model, batch, generator):
    with pytest.raises(NotImplementedError):
        MinMax().images(model, *batch, generator=generator)
    with pytest.raises(NotImplementedError):
        MinMax().loss(model, batch[0], *batch)
    with pytest.raises(NotImplementedError):
        MinMax().ball()


def test_objectives_are_found_and_their_names_parse():
    assert {"Standard", "Adversarial", "FGSMRS", "NFGSM", "TRADES", "MART", "AWP", "Guarded"} <= set(
        catalogue("objective")
    )
    assert "MinMax" not in catalogue("objective")
    for objective in (
        Standard(),
        Standard(label_smoothing=0.1),
        Adversarial(PGD(steps=7), L2(1.5), mix=0.5, ramp=0.25),
        NFGSM(Linf(0.3), noise=0.5, ramp=0.5),
        FGSMRS(Linf(0.3), noise=0.5, step=1.0, towards=1.0),
    ):
        assert parse(repr(objective)) == objective
