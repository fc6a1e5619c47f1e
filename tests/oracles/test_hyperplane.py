"""Linear classifiers with random weights: the distance to the boundary is the margin over the dual norm.

Weights of equal size could not tell the norms apart.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steelman.attacks.fgsm import FGSM
from steelman.attacks.noise import Noise
from steelman.attacks.pgd import PGD
from steelman.threats import L2, Linf

SHAPE = (2, 4, 4)
PIXELS = 32
NORMS = pytest.mark.parametrize("norm", [Linf, L2])
DUAL = {Linf: 1, L2: 2}


def linear(classes: int, seed: int, scale: float = 1.0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, PIXELS, generator=generator) ** 3 * scale)  # few large, many small
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)  # grey is on every boundary
    return model


def grey(n: int, seed: int) -> Tensor:
    """Images so far from black and white that the pixel range does not matter."""
    return 0.4 + 0.2 * torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(seed))


def distances(model: nn.Sequential, x: Tensor, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Each image's class, and its distance to the boundary with each other class (infinite for its own), in float64."""
    weight, bias = model[1].weight.detach().double().numpy(), model[1].bias.detach().double().numpy()
    logits = x.flatten(1).double().numpy() @ weight.T + bias
    y = logits.argmax(1)
    margins = logits[np.arange(len(x)), y][:, None] - logits
    duals = np.linalg.norm(weight[y][:, None, :] - weight[None], ord=order, axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return y, np.where(duals > 0, margins / duals, np.inf)


@NORMS
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "attack", [FGSM(), FGSM(loss="margin"), FGSM(loss="dlr"), PGD(9, random_start=False), PGD(25)], ids=repr
)
def test_two_classes_are_told_apart_exactly_up_to_the_margin_over_the_dual_norm(norm, seed, attack):
    model, x = linear(2, seed), grey(40, seed)
    y, distance = distances(model, x, DUAL[norm])
    distance = distance.min(1)
    for eps in np.quantile(distance, [0.25, 0.5, 0.75]) * 1.001:
        success = attack.run(model, x, torch.tensor(y), norm(float(eps))).success.numpy()
        clear = np.abs(distance / eps - 1) > (0.02 if attack.random_start else 1e-4)
        assert success.tolist() == np.where(clear, distance < eps, success).tolist()
        assert success.any()
        assert not success.all()


@NORMS
@pytest.mark.parametrize("seed", range(2))
def test_one_step_raises_the_margin_by_radius_times_dual_norm(norm, seed):
    model, x = linear(2, seed), grey(20, seed)
    y, distance = distances(model, x, DUAL[norm])
    distance = distance.min(1)
    eps = 0.5 * float(distance.min())
    found = FGSM().run(model, x, torch.tensor(y), norm(eps))
    weight = model[1].weight.detach().double().numpy()
    dual = np.linalg.norm(weight[0] - weight[1], ord=DUAL[norm])
    np.testing.assert_allclose(found.score.numpy(), (eps - distance) * dual, rtol=1e-3, atol=1e-5)


@NORMS
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("attack", [FGSM(), FGSM(loss="margin"), PGD(10), Noise(5)], ids=repr)
def test_many_classes_no_attack_breaks_what_no_attack_can(norm, seed, attack):
    model, x = linear(5, seed), grey(40, seed)
    y, distance = distances(model, x, DUAL[norm])
    eps = float(np.median(distance.min(1)))
    success = attack.run(model, x, torch.tensor(y), norm(eps)).success.numpy()
    assert not success[distance.min(1) > eps * 1.0001].any()


@NORMS
@pytest.mark.parametrize("seed", range(2))
def test_many_classes_a_targeted_search_reaches_the_nearest_boundary(norm, seed):
    """Towards the nearest class the problem is concave, so that ascent must find it with a little room to spare."""
    model, x = linear(5, seed), grey(40, seed)
    y, distance = distances(model, x, DUAL[norm])
    eps = float(np.median(distance.min(1)))
    target = torch.tensor(distance.argmin(1))
    attack = PGD(steps=40, loss="margin", random_start=False)
    success = attack.run(model, x, torch.tensor(y), norm(eps), target=target).success.numpy()
    assert success[distance.min(1) < eps / 1.1].all()
    assert not success[distance.min(1) > eps * 1.0001].any()


@NORMS
@pytest.mark.parametrize("seed", range(2))
def test_no_random_start_or_size_of_step_finds_more_than_there_is(norm, seed):
    model, x = linear(2, seed), grey(40, seed)
    y, distance = distances(model, x, DUAL[norm])
    distance = distance.min(1)
    eps = float(np.median(distance))
    for attack in (PGD(steps=3, step_size=0.9, restarts=3), FGSM(random_start=True, step_size=1.25)):
        success = attack.run(model, x, torch.tensor(y), norm(eps)).success.numpy()
        assert not success[distance > eps * 1.0001].any()


# ---- where the pixel range cuts the ball


def digits(n: int, seed: int) -> Tensor:
    """Mostly black, some white: as handwritten digits are."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((n, *SHAPE), generator=generator)
    return torch.where(x < 0.6, 0, torch.where(x > 0.8, 1, x))


def best_rise(weight: np.ndarray, x: np.ndarray, eps: float, norm: type) -> float:
    """The largest w (z - x) over allowed z: each pixel on its own for L-inf, by bisection on the multiplier for L2."""

    def move(scale: float) -> np.ndarray:
        return np.clip(x + scale * weight, 0, 1) - x

    if norm is Linf:
        return float(weight @ (np.clip(x + eps * np.sign(weight), 0, 1) - x))
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(move(middle)) <= eps else (low, middle)
    return float(weight @ move(low))


@NORMS
@pytest.mark.parametrize("seed", range(2))
def test_cut_by_the_pixel_range_the_search_still_reaches_the_optimum(norm, seed):
    """A projection that wastes radius on pixels at the range's end stops below it."""
    model, x = linear(2, seed, scale=0.2), digits(10, seed)  # no softmax saturates
    weight = model[1].weight.detach().double().numpy()
    y, _ = distances(model, x, DUAL[norm])
    margin = model(x).detach().double().numpy()
    margin = np.abs(margin[:, 0] - margin[:, 1])
    eps = {Linf: 0.05, L2: 0.4}[norm]
    direction = np.where(y[:, None] == 0, weight[1] - weight[0], weight[0] - weight[1])
    pairs = zip(direction, x.flatten(1).double().numpy(), strict=True)
    optimum = np.array([best_rise(w, point, eps, norm) for w, point in pairs])
    attack = FGSM() if norm is Linf else PGD(steps=60, step_size=0.3, random_start=False)
    found = attack.run(model, x, torch.tensor(y), norm(eps))
    clear = np.abs(optimum - margin) > 0.02 * margin
    assert found.success[clear].tolist() == (optimum > margin)[clear].tolist()
    held = ~found.success.numpy()
    assert held.sum() >= 3
    rise = found.score.numpy() + margin
    assert (rise[held] <= optimum[held] * 1.0001 + 1e-5).all()
    assert (rise[held] >= optimum[held] * 0.999 - 1e-5).all()


@NORMS
def test_the_share_that_breaks_grows_with_the_radius(norm):
    model, x = linear(2, 0), digits(60, 0)
    y = torch.tensor(distances(model, x, 2)[0])
    before = torch.zeros(60, dtype=torch.bool)
    for eps in (0.01, 0.03, 0.1, 0.3, 1.0):
        success = FGSM().run(model, x, y, norm(eps * (1 if norm is Linf else 4))).success
        assert (success | ~before).all()
        before = success
    assert before.any()
