"""HopSkipJump: from decisions alone to the boundary of nets whose distance is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from steelman.attacks import Problem
from steelman.attacks.boundary import approach, find_start, wrong
from steelman.attacks.hop_skip_jump import HopSkipJump, estimate
from steelman.errors import UsageError
from steelman.threats import L2, Ball, Linf

SHAPE = (1, 2, 2)
VALUES = 4
THREATS = pytest.mark.parametrize("norm", [L2, Linf])


def linear(classes: int = 2, seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(VALUES, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, VALUES, generator=torch.Generator().manual_seed(seed)))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model


def images(n: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return 0.35 + 0.3 * torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def problem(model: nn.Module, x: Tensor, y: Tensor, threat: Ball, **options: object) -> Problem:
    options = {"generator": torch.Generator().manual_seed(3), "batch": 64, "closest": True, **options}
    return Problem(model, x, y, threat, **options)


def distances(model: nn.Sequential, x: Tensor, norm: type[Ball]) -> Tensor:
    """Margin over dual norm, in float64."""
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()
    way = weight[0] - weight[1]
    margin = (x.flatten(1).double() @ way + bias[0] - bias[1]).abs()
    return (margin / torch.linalg.vector_norm(way, ord=1 if norm is Linf else 2)).float()


@pytest.mark.parametrize(("norm", "steps", "samples"), [(L2, 5, 20), (Linf, 8, 20)])
def test_it_comes_within_a_tenth_of_the_distance_to_the_hyperplane(norm, steps, samples):
    """In L-inf the sign of the estimate must be right in every value, which takes more steps."""
    model, x = linear(), images(8)
    y, exact = model(x).argmax(1), distances(model, x, norm)
    found = HopSkipJump(steps=steps, samples=samples, tries=20).run(model, x, y, norm(math.inf), closest=True)
    assert found.success.all()
    assert (found.distance >= exact * (1 - 1e-3)).all()
    assert (found.distance <= exact * 1.1).all()


def test_the_estimated_normal_is_that_of_the_hyperplane():
    """On the boundary half the decisions go either way; with k of them in d dimensions the cosine is
    about sqrt(2 k / (pi d + 2 k)): each tells the sign of a projection."""
    model, x = linear(), images(20)
    y = model(x).argmax(1)
    weight = model[1].weight.detach()
    normal = (weight[1 - y] - weight[y]).view(-1, *SHAPE)
    unit = normal / normal.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    on_it = x + (distances(model, x, L2) + 1e-4).view(-1, 1, 1, 1) * unit
    search = problem(model, x, y, L2(math.inf))
    guess = estimate(search, on_it, torch.full((20,), 0.1), 200)
    expected = math.sqrt(400 / (math.pi * VALUES + 400))
    cosine = nn.functional.cosine_similarity(guess.flatten(1), normal.flatten(1))
    assert abs(float(cosine.mean()) - expected) < 0.03


@THREATS
def test_bisection_ends_just_beyond_the_boundary(norm):
    model, x = linear(), images(10)
    y = model(x).argmax(1)
    search = problem(model, x, y, norm(math.inf))
    start, found = find_start(search, 40)
    assert found.all()
    near = approach(search, start, 18)
    assert wrong(search, near).all()
    shorter = norm(math.inf).project(near, x, radius=norm(math.inf).distance(near, x) * 0.999)
    assert not wrong(search, shorter).any()


# ---- the start


class Contrast(nn.Module):
    """Class 1 where the values scatter a lot, class 2 where they are all black, class 0 otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        spread = flat.std(1)
        return torch.stack((torch.full_like(spread, 0.35), spread, 0.5 - 100 * flat.mean(1)), 1)


def test_a_target_that_noise_reaches_only_with_contrast_is_started_from():
    """Uniform noise has a standard deviation of .29; class 1 starts at .35."""
    x, y = images(4, shape=(1, 6, 6)), torch.zeros(4, dtype=torch.int64)
    found = HopSkipJump(steps=1, samples=10).run(
        Contrast(), x, y, L2(math.inf), target=torch.ones(4, dtype=torch.int64), closest=True
    )
    assert found.success.all()
    assert (Contrast()(found.x_adv).argmax(1) == 1).all()


def test_a_target_that_no_noise_reaches_is_a_failure_and_no_fake_success():
    x, y = images(4, shape=(1, 6, 6)), torch.zeros(4, dtype=torch.int64)
    target = torch.tensor([2, 1, 2, 1])
    found = HopSkipJump(steps=1, samples=10).run(Contrast(), x, y, L2(math.inf), target=target, closest=True)
    assert found.success.tolist() == [False, True, False, True]
    assert torch.equal(found.x_adv[::2], x[::2])
    assert found.distance[::2].isnan().all()
    assert found.forwards[::2].tolist() == [50, 50]  # the tries, and nothing after them


def test_images_with_a_start_ask_no_more_for_one():
    model, x = linear(), images(6)
    search = problem(model, x, model(x).argmax(1), L2(math.inf))
    find_start(search, 30)
    assert (search.forwards < 30).all()
    assert (search.forwards >= 1).all()


def test_a_decision_is_asked_for_where_it_is_wanted_and_open():
    model, x = linear(), images(3)
    y = model(x).argmax(1)
    search = problem(model, x, y, Linf(1.0), closest=False)
    white = torch.where((model[1].weight[1 - y] > model[1].weight[y]).view(x.shape), 1.0, 0.0)
    assert wrong(search, white, torch.tensor([True, False, False])).tolist() == [True, False, False]
    assert wrong(search, white).tolist() == [False, True, True]  # the first is finished
    assert search.forwards.tolist() == [1, 1, 1]


def test_with_a_radius_images_stop_at_their_first_success_inside():
    model, x = linear(), images(8)
    y, exact = model(x).argmax(1), distances(model, x, L2)
    eps = float(exact.median()) * 1.3
    attack = HopSkipJump(steps=5, samples=20, tries=20)
    found = attack.run(model, x, y, L2(eps))
    assert not found.success[exact > eps].any()
    assert found.success[exact < eps / 1.15].all()
    assert found.forwards[found.success].max() < found.forwards[~found.success].min()


@pytest.mark.parametrize("field", ["steps", "samples", "most_samples", "tries", "gamma"])
def test_hyperparameters_that_make_no_search_are_refused(field):
    zero = 0.0 if field == "gamma" else 0
    with pytest.raises(
        UsageError, match=rf"HopSkipJump\({field}=0(\.0)?\): expected at least one step, sample and try"
    ):
        HopSkipJump(**{field: zero})
