"""The momentum family: what each member is when its own idea is switched off, and the ideas by themselves."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.attacks._momentum import normalised
from steelman.attacks.bim import BIM
from steelman.attacks.di_fgsm import DIFGSM, shrunk
from steelman.attacks.fgsm import FGSM
from steelman.attacks.mi_fgsm import MIFGSM
from steelman.attacks.ni_fgsm import NIFGSM
from steelman.attacks.ti_fgsm import TIFGSM, smoothed
from steelman.attacks.vmi_fgsm import VMIFGSM
from steelman.errors import UsageError
from steelman.spec import catalogue
from steelman.threats import L2, Linf

SHAPE = (2, 6, 5)
VALUES = 60
THREATS = pytest.mark.parametrize("threat", [Linf(0.08), L2(0.5)], ids=repr)


def net(seed: int = 0) -> nn.Sequential:
    """Smooth and curved, so that gradients change from step to step."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(VALUES, 16), nn.Tanh(), nn.Linear(16, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return model


def task(n: int = 6) -> tuple[nn.Sequential, Tensor, Tensor]:
    model, x = net(), torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


def last(attack, threat) -> Tensor:
    """The last candidate, success or not."""
    return attack.perturb(*task(), threat, generator=torch.Generator().manual_seed(0))


# ---- with its own idea switched off, each is the one before it


@THREATS
@pytest.mark.parametrize(
    ("attack", "same"),
    [
        (BIM(steps=1), FGSM()),
        (MIFGSM(steps=1), FGSM()),
        (MIFGSM(steps=6, decay=0.0), BIM(steps=6)),
        (NIFGSM(steps=6, decay=0.0), BIM(steps=6)),
        (TIFGSM(steps=6, kernel_size=1), MIFGSM(steps=6)),
        (TIFGSM(steps=6, kernel="linear", kernel_size=1), MIFGSM(steps=6)),
        (DIFGSM(steps=6, probability=0.0), MIFGSM(steps=6)),
        (VMIFGSM(steps=6, beta=0.0, samples=2), MIFGSM(steps=6)),
    ],
    ids=repr,
)
def test_with_its_idea_switched_off_an_attack_is_the_one_it_builds_on(threat, attack, same):
    torch.testing.assert_close(last(attack, threat), last(same, threat), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "attack",
    [
        MIFGSM(steps=6),
        NIFGSM(steps=6),
        NIFGSM(steps=6, scales=3),
        TIFGSM(steps=6, kernel_size=3),
        DIFGSM(steps=6, probability=1.0),
        VMIFGSM(steps=6),
    ],
    ids=repr,
)
def test_each_idea_makes_a_difference(attack):
    base = BIM(steps=6) if isinstance(attack, MIFGSM) else MIFGSM(steps=6)
    assert (last(attack, Linf(0.08)) - last(base, Linf(0.08))).abs().amax() > 0.01


def test_only_finished_attacks_are_in_the_catalogue():
    assert "Momentum" not in catalogue("attack")
    assert {"BIM", "MIFGSM", "NIFGSM", "DIFGSM", "TIFGSM", "VMIFGSM"} <= set(catalogue("attack"))


# ---- against float64, by hand


def gradient(model: nn.Sequential, x: np.ndarray, y: int) -> np.ndarray:
    """Of the cross-entropy of one image, by the chain rule."""
    first, second = model[1], model[3]
    w, b, v, c = (p.detach().double().numpy() for p in (first.weight, first.bias, second.weight, second.bias))
    hidden = np.tanh(w @ x + b)
    logits = v @ hidden + c
    share = np.exp(logits - logits.max())
    share /= share.sum()
    share[y] -= 1
    return w.T @ ((1 - hidden**2) * (v.T @ share))


def by_hand(model, x: Tensor, y: Tensor, decay: float, norm: str, ahead: float = 0.0) -> Tensor:
    """Two steps of half the radius, .08 or .5, each; `ahead` is how far the look-ahead goes per unit of momentum."""
    rows = []
    for clean, label in zip(x.flatten(1).double().numpy(), y.tolist(), strict=True):
        point, momentum = clean.copy(), np.zeros(VALUES)
        for _ in range(2):
            grad = gradient(model, point + ahead * momentum, label)
            momentum = decay * momentum + grad / np.abs(grad).sum()
            move = 0.04 * np.sign(momentum) if norm == "Linf" else 0.25 * momentum / np.linalg.norm(momentum)
            point = point + move  # two halves never leave the ball
            point = np.clip(point, 0, 1) if norm == "Linf" else point
        rows.append(point)
    return torch.tensor(np.array(rows)).view(x.shape).float()


@pytest.mark.parametrize(("threat", "norm"), [(Linf(0.08), "Linf"), (L2(0.5, clip=False), "L2")])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_two_steps_of_momentum_are_those_worked_out_in_float64(threat, norm, decay):
    model, x, y = task()
    found = MIFGSM(steps=2, decay=decay).perturb(model, x, y, threat)
    torch.testing.assert_close(found, by_hand(model, x, y, decay, norm), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("threat", "norm", "ahead"), [(Linf(0.08), "Linf", 1.0), (L2(0.5, clip=False), "L2", 0.0)])
def test_two_steps_with_a_look_ahead_are_those_worked_out_in_float64(threat, norm, ahead):
    """In L-inf a step times decay for gradients of mean absolute value 1; in L2 shorter by sqrt of the values."""
    model, x, y = task()
    reach = 0.04 * 0.5 * VALUES if ahead else 0.25 * 0.5 * VALUES**0.5
    found = NIFGSM(steps=2, decay=0.5).perturb(model, x, y, threat)
    torch.testing.assert_close(found, by_hand(model, x, y, 0.5, norm, reach), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-42, 1e37])
def test_gradients_of_any_size_count_alike(scale):
    grad = torch.tensor([1.0, -2, 5, 0]).view(1, 1, 2, 2)
    rtol = 1e-2 if scale < 1e-40 else 1e-6  # a float that small has few digits
    expected = grad / 8 if scale > 1e-40 else grad * scale / torch.finfo(torch.float32).tiny
    torch.testing.assert_close(normalised(grad * scale), expected, rtol=rtol, atol=0)


def test_no_gradient_is_no_direction():
    assert not normalised(torch.zeros(1, 1, 2, 2)).any()
    undefined = torch.tensor([torch.nan, 1, 1, 0]).view(1, 1, 2, 2)
    torch.testing.assert_close(normalised(undefined), torch.tensor([0, 0.5, 0.5, 0]).view(1, 1, 2, 2))


# ---- scales


class Seen(nn.Module):
    """Keeps what it is shown; the margin is the sum of all values, times a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.images.append(x.detach()[:1].clone())
        total = x.flatten(1).sum(1)
        return torch.stack((total, -total), 1)


def test_the_scales_are_halves_quarters_and_so_on():
    model, x = Seen(), torch.full((8, 1, 2, 2), 0.8)
    NIFGSM(steps=1, scales=4).perturb(model, x, torch.zeros(8, dtype=torch.int64), Linf(0.1))
    torch.testing.assert_close(torch.stack(model.images).mean((1, 2, 3, 4)), torch.tensor([0.8, 0.4, 0.2, 0.1]))


# ---- diversity


def test_a_shrunk_image_is_torchs_resized_and_padded(generator):
    x = torch.rand((40, 2, 12, 9), generator=generator)
    changed = shrunk(x, 0.5, torch.ones(40, dtype=torch.bool), generator)
    places = set()
    for image, result in zip(x, changed, strict=True):
        filled = (result.sum(0) > 0).nonzero()
        (top, left), (bottom, right) = filled.amin(0).tolist(), filled.amax(0).tolist()
        size = (bottom - top + 1, right - left + 1)
        assert 6 <= size[0] < 12
        assert 4 <= size[1] < 9
        expected = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        padding = (left, 8 - right, top, 11 - bottom)
        torch.testing.assert_close(result, F.pad(expected, padding), rtol=0, atol=1e-5)
        places.add((top, left, *size))
    assert len(places) > 20  # each image has its own


def test_images_not_chosen_stay_as_they_are_bit_for_bit(generator):
    x = torch.rand((10, 3, 8, 8), generator=generator)
    chosen = torch.arange(10) % 2 == 0
    changed = shrunk(x, 0.6, chosen, generator)
    assert torch.equal(changed[~chosen], x[~chosen])
    assert (changed[chosen] != x[chosen]).flatten(1).any(1).all()


def test_the_probability_is_that_of_each_image():
    model, x = Seen(), torch.full((400, 1, 8, 8), 0.8)
    model.images = []
    shares = []
    original = model.forward
    model.forward = lambda seen: (shares.append(seen.flatten(1).sum(1) < 51), original(seen))[1]
    DIFGSM(steps=1, probability=0.3, smallest=0.5).perturb(model, x, torch.zeros(400, dtype=torch.int64), Linf(0.1))
    share = shares[0].float().mean()
    assert 0.2 < share < 0.4  # 0.3 within four standard deviations


# ---- smoothing


@pytest.mark.parametrize("kernel", ["gaussian", "linear", "uniform"])
def test_the_kernels_are_those_of_the_paper(kernel):
    """The smoothed unit impulse is the kernel: (1 - |i| / (k + 1)) each way, exp(-i^2 / 2 (k / 3)^2), or constant."""
    spot = torch.zeros(1, 2, 9, 9)
    spot[0, 0, 4, 4] = 1
    i = np.arange(-2, 3)
    side = {"gaussian": np.exp(-(i**2) / (2 * (2 / 3) ** 2)), "linear": 1 - abs(i) / 3, "uniform": np.ones(5)}[kernel]
    expected = np.zeros((9, 9))
    expected[2:7, 2:7] = np.outer(side, side) / side.sum() ** 2

    class Spot(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack((x[:, 0, 4, 4], -x[:, 0, 4, 4]), 1)

    attack = TIFGSM(steps=1, kernel=kernel, kernel_size=5, loss="margin")
    x = torch.full((8, 2, 9, 9), 0.5)
    found = attack.perturb(Spot(), x, torch.zeros(8, dtype=torch.int64), L2(0.1))
    change = (x - found)[0] / 0.1
    torch.testing.assert_close(change[0], torch.tensor(expected / np.linalg.norm(expected)).float())
    assert not change[1].any()  # channels apart
    torch.testing.assert_close(smoothed(spot, torch.tensor(side / side.sum()).float())[0, 0].double(),
                               torch.tensor(expected), rtol=0, atol=1e-6)  # fmt: skip


def test_a_gradient_that_is_nan_does_not_spread():
    grad = torch.ones(1, 1, 5, 5)
    grad[0, 0, 2, 2] = torch.nan
    assert smoothed(grad, torch.ones(3) / 3).isfinite().all()


# ---- variance


def test_neighbours_lie_within_beta_radii_and_the_mean_is_that_of_the_point_before():
    """On a linear model all gradients are alike, so that variance tuning changes nothing whatever beta."""
    model, x = Seen(), torch.full((8, 1, 2, 2), 0.5)
    y = torch.zeros(8, dtype=torch.int64)
    found = VMIFGSM(steps=3, samples=4, beta=2.0).perturb(model, x, y, Linf(0.1))
    torch.testing.assert_close(found, BIM(steps=3).perturb(model, x, y, Linf(0.1)))
    points, neighbours = [model.images[i] for i in (0, 5, 10)], model.images[1:5] + model.images[6:10]
    assert len(points) == 3
    for k, near in enumerate(neighbours):
        assert (near - points[k // 4]).abs().amax() <= 0.2 + 1e-6
    assert max(float((near - points[k // 4]).abs().amax()) for k, near in enumerate(neighbours)) > 0.12


# ---- cost and wrong use


@pytest.mark.parametrize(
    ("attack", "gradients"),
    [
        (BIM(steps=3), 3),
        (MIFGSM(steps=3), 3),
        (NIFGSM(steps=3, scales=2), 6),
        (DIFGSM(steps=3), 3),
        (TIFGSM(steps=3), 3),
        (VMIFGSM(steps=3, samples=4), 11),
    ],
    ids=repr,
)
def test_the_cost_is_what_it_says(attack, gradients):
    model, x, y = task()
    found = attack.run(model, x, y, Linf(0.0))
    assert (found.backwards == gradients).all()
    assert (found.forwards == gradients + 1).all()
    assert attack.cost() == f"{gradients} gradients, 1 forward"


@pytest.mark.parametrize("cls", [BIM, MIFGSM, NIFGSM, DIFGSM, TIFGSM, VMIFGSM])
@pytest.mark.parametrize("wrong", [{"steps": 0}, {"step_size": 0.0}, {"step_size": -0.1}, {"decay": -1.0}])
def test_steps_that_lead_nowhere_are_refused(cls, wrong):
    if set(wrong) <= {field.name for field in dataclasses.fields(cls)}:
        with pytest.raises(UsageError, match=rf"{cls.__name__}\(.*\): expected at least one step"):
            cls(**wrong)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NIFGSM(scales=0), r"NIFGSM\(scales=0\): expected at least one scale"),
        (lambda: DIFGSM(probability=1.5), r"DIFGSM\(probability=1.5\): expected a probability from 0 to 1"),
        (lambda: DIFGSM(smallest=0.0), r"DIFGSM\(smallest=0.0\): expected .* a smallest size above 0, at most 1"),
        (lambda: TIFGSM(kernel_size=4), r"TIFGSM\(kernel_size=4\): expected an odd kernel size"),
        (lambda: TIFGSM(kernel_size=-1), r"TIFGSM\(kernel_size=-1\): expected an odd kernel size"),
        (lambda: VMIFGSM(samples=0), r"VMIFGSM\(samples=0\): expected at least one sample and a beta of 0 or more"),
        (lambda: VMIFGSM(beta=-1.0), r"VMIFGSM\(beta=-1.0\): expected at least one sample and a beta of 0 or more"),
    ],
)
def test_hyperparameters_that_make_no_search_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()
