"""The L0 ball is no convex set: its projection is checked against trying every choice of values."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steelman.errors import UsageError
from steelman.spec import parse
from steelman.threats import L0

QUICK = settings(max_examples=20, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31)


def images(seed: int, n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((n, 2, 2, 2), generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.3] = 0
    return x


def candidates(x: Tensor, seed: int) -> Tensor:
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1))


@QUICK
@given(seed=SEEDS, eps=st.integers(0, 8))
def test_the_projection_is_the_best_of_all_choices_of_values(seed, eps):
    x = images(seed)
    a = candidates(x, seed)
    p = L0(float(eps)).project(a, x)
    assert L0(float(eps)).contains(p, x).all()
    for centre, point, found in zip(x.flatten(1), a.flatten(1), p.flatten(1), strict=True):
        best = math.inf
        for kept in itertools.combinations(range(8), eps):
            trial = centre.clone()
            trial[list(kept)] = point[list(kept)].clamp(0, 1)
            best = min(best, float((trial - point).square().sum()))
        assert float((found - point).square().sum()) <= best + 1e-5


@QUICK
@given(seed=SEEDS)
def test_a_radius_an_image_projects_like_that_ball(seed):
    x = images(seed, n=4)
    a = candidates(x, seed)
    radius = torch.tensor([0.0, 1.0, 2.5, 7.0])
    each = torch.cat([L0(float(r)).project(a[i : i + 1], x[i : i + 1]) for i, r in enumerate(radius)])
    assert torch.equal(L0(math.inf).project(a, x, radius), each)


def test_distance_counts_changed_values_of_every_channel():
    x = torch.zeros(2, 3, 2, 2)
    a = x.clone()
    a[1, :, 0, 0] = 0.5
    assert L0(1.0).distance(a, x).tolist() == [0, 3]
    assert L0(3.0).contains(a, x).tolist() == [True, True]
    assert L0(2.0).contains(a, x).tolist() == [True, False]
    a[1, 0, 0, 0] = math.nan
    assert not L0(3.0).contains(a, x)[1]


@QUICK
@given(seed=SEEDS, eps=st.one_of(st.floats(0, 9), st.just(math.inf)))
def test_random_points_are_allowed_and_use_all_values_they_may(seed, eps):
    x = images(seed)
    sample = L0(eps).sample(x, torch.Generator().manual_seed(seed))
    assert L0(eps).contains(sample, x).all()
    assert (L0(eps).distance(sample, x) == min(8, math.floor(min(eps, 8)))).all()


def test_a_step_and_its_projection_change_the_values_of_largest_gradient():
    grad = torch.tensor([[0.1, -3.0, 0.2, 2.0]]).view(1, 1, 2, 2)
    x = torch.full((1, 1, 2, 2), 0.5)
    moved = L0(2.0).project(L0(2.0).ascend(x, grad, 2.0), x)
    assert torch.equal(moved.flatten(), torch.tensor([0.5, 0.0, 0.5, 1.0]))
    assert L0(2.0).steepest(grad).flatten().tolist() == [0, -1, 0, 0]
    assert float(L0(2.0).dual(grad)) == 3


def test_the_name_is_the_value():
    assert parse("L0(12)", "threat") == L0(12.0)
    assert repr(L0(12.0)) == "L0(12.0)"


def test_without_a_pixel_range_the_question_is_empty():
    with pytest.raises(UsageError, match=r"L0\(5, clip=False\): without a pixel range one value can grow"):
        L0(5.0, clip=False)
