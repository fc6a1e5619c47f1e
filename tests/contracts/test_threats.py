"""What every ball must do, against references that know nothing of its code."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from steelman.errors import UsageError
from steelman.spec import catalogue, parse
from steelman.threats import Ball

# L0 is no convex set: tests/unit/test_l0.py
BALLS = [cls for name, cls in catalogue("threat").items() if issubclass(cls, Ball) and name != "L0"]
ORDERS = {"Linf": np.inf, "L2": 2, "L1": 1}
EVERY = pytest.mark.parametrize("ball", BALLS, ids=lambda cls: cls.__name__)
NORMED = pytest.mark.parametrize("ball", [cls for cls in BALLS if cls.__name__ in ORDERS], ids=lambda cls: cls.__name__)
CLIP = pytest.mark.parametrize("clip", [True, False], ids=["clip", "free"])
QUICK = settings(max_examples=10, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31)
EPS = st.floats(0.01, 3)


def images(seed: int, n: int = 3, shape: tuple[int, ...] = (2, 3, 3), black: float = 0.4) -> torch.Tensor:
    """Pixels in [0, 1] of which a share is exactly 0 and some are exactly 1, as in MNIST."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((n, *shape), generator=generator)
    x[torch.rand(x.shape, generator=generator) < black] = 0
    x[torch.rand(x.shape, generator=generator) < 0.1] = 1
    return x


def candidates(x: torch.Tensor, seed: int, scale: float = 1.0) -> torch.Tensor:
    return x + scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1))


def norm(change: torch.Tensor, order: float) -> np.ndarray:
    return np.linalg.norm(change.flatten(1).double().numpy(), ord=order, axis=1)


def nearest(a: torch.Tensor, x: torch.Tensor, eps: float, order: float, clip: bool) -> np.ndarray:
    """The Euclidean projection in float64: interval arithmetic for L-inf, bisection on the multiplier for L2 and L1."""
    a64, x64 = a.flatten(1).double().numpy(), x.flatten(1).double().numpy()
    low, high = (0.0, 1.0) if clip else (-np.inf, np.inf)
    if order == np.inf:
        return np.clip(a64, np.maximum(x64 - eps, low), np.minimum(x64 + eps, high))
    points = []
    for point, centre in zip(a64, x64, strict=True):

        def at(multiplier: float, point: np.ndarray = point, centre: np.ndarray = centre) -> np.ndarray:
            if order == 1:
                change = point - centre
                change = np.sign(change) * np.maximum(np.abs(change) - multiplier, 0)
                return np.clip(centre + change, low, high)
            return np.clip((point + multiplier * centre) / (1 + multiplier), low, high)

        least, most = 0.0, 1e9
        if np.linalg.norm(at(0.0) - centre, ord=order) > eps:
            for _ in range(200):
                middle = (least + most) / 2
                inside = np.linalg.norm(at(middle) - centre, ord=order) <= eps
                least, most = (least, middle) if inside else (middle, most)
            points.append(at(most))
        else:
            points.append(at(0.0))
    return np.stack(points)


# ---- projection


@EVERY
@CLIP
@QUICK
@given(seed=SEEDS, eps=EPS)
def test_projecting_an_inside_point_changes_nothing(ball, clip, seed, eps):
    x = images(seed)
    inside = ball(eps, clip).sample(x, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(ball(eps, clip).project(inside, x), inside, rtol=0, atol=2e-7)


@NORMED
def test_projecting_a_boundary_point_changes_nothing(ball):
    x = torch.full((1, 1, 2, 2), 0.5)
    change = torch.tensor([0.2, -0.2, 0.2, 0.2]).view(1, 1, 2, 2)
    eps = float(norm(change, ORDERS[ball.__name__])[0])
    torch.testing.assert_close(ball(eps).project(x + change, x), x + change, rtol=0, atol=1e-7)
    assert bool(ball(eps).contains(x + change, x))


@NORMED
@QUICK
@given(seed=SEEDS, eps=st.floats(0.01, 0.9))
def test_an_outside_point_lands_on_the_sphere_when_no_range_cuts_it(ball, seed, eps):
    x = images(seed)
    away = torch.sign(candidates(x, seed) - x) * (eps + 1)  # outside in every norm
    distance = norm(ball(eps, clip=False).project(x + away, x) - x, ORDERS[ball.__name__])
    np.testing.assert_allclose(distance, eps, rtol=1e-5, atol=1e-6)


@NORMED
@CLIP
@QUICK
@given(seed=SEEDS, eps=EPS)
def test_projection_is_the_nearest_allowed_point(ball, clip, seed, eps):
    """Scaling first and clipping afterwards, or always scaling onto the sphere, is not the nearest point."""
    x = images(seed, n=4)
    a = x + torch.tensor([0.01, 0.1, 1, 5]).view(-1, 1, 1, 1) * (candidates(x, seed) - x)  # some inside, some outside
    expected = nearest(a, x, eps, ORDERS[ball.__name__], clip)
    np.testing.assert_allclose(ball(eps, clip).project(a, x).flatten(1).numpy(), expected, atol=3e-5)


@EVERY
@CLIP
@QUICK
@given(seed=SEEDS, eps=EPS)
def test_no_allowed_point_lies_on_the_candidates_side_of_the_projection(ball, clip, seed, eps):
    """The variational inequality <a - p, z - p> <= 0, which only the projection onto a convex set fulfils."""
    x, threat = images(seed, n=1), ball(eps, clip)
    a = candidates(x, seed)
    p = threat.project(a, x)
    many = x.expand(200, -1, -1, -1)
    for z in (threat.sample(many, torch.Generator().manual_seed(seed)), threat.project(candidates(many, seed), many)):
        assert ((a - p).double() * (z - p).double()).flatten(1).sum(1).max() <= 1e-4


@EVERY
@CLIP
@QUICK
@given(seed=SEEDS, eps=EPS)
def test_projections_are_allowed_and_stay_put(ball, clip, seed, eps):
    x, threat = images(seed), ball(eps, clip)
    p = threat.project(candidates(x, seed, 2.0), x)
    assert threat.contains(p, x).all()
    assert not clip or (p.min() >= 0 and p.max() <= 1)
    torch.testing.assert_close(threat.project(p, x), p, rtol=0, atol=1e-6)


@EVERY
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 96, 96)], ids=str)
@pytest.mark.parametrize("eps", [10.0, 30.0])
def test_rounding_of_a_large_radius_does_not_put_a_projection_outside(ball, shape, eps):
    """Beyond a radius of 8 one step of float32 is larger than 1e-6."""
    x = images(0, n=4, shape=shape)
    p = ball(eps, clip=False).project(candidates(x, 0, 100.0), x)
    assert ball(eps, clip=False).contains(p, x).all()


@EVERY
def test_an_infinite_radius_leaves_only_the_pixel_range(ball):
    x = images(0)
    a = candidates(x, 0, 5.0)
    torch.testing.assert_close(ball(math.inf).project(a, x), a.clamp(0, 1))
    torch.testing.assert_close(ball(math.inf, clip=False).project(a, x), a)


@EVERY
def test_a_radius_of_zero_leaves_only_the_image(ball):
    x = images(0)
    torch.testing.assert_close(ball(0.0).project(candidates(x, 0), x), x, rtol=0, atol=0)


@EVERY
def test_projection_leaves_its_arguments_alone(ball):
    x = images(0)
    a = candidates(x, 0)
    kept = x.clone(), a.clone()
    ball(0.1).project(a, x)
    assert torch.equal(x, kept[0])
    assert torch.equal(a, kept[1])


# ---- metamorphic laws


@EVERY
@QUICK
@given(seed=SEEDS, eps=EPS, factor=st.floats(0.1, 10))
def test_scaling_radius_and_change_scales_the_projection(ball, seed, eps, factor):
    x = images(seed)
    change = candidates(x, seed) - x
    small = ball(eps, clip=False).project(x + change, x) - x
    large = ball(factor * eps, clip=False).project(x + factor * change, x) - x
    torch.testing.assert_close(large, factor * small, rtol=1e-4, atol=1e-5)


@EVERY
@CLIP
@QUICK
@given(seed=SEEDS, eps=EPS)
def test_negatives_and_shuffled_pixels_project_alike(ball, clip, seed, eps):
    x, threat = images(seed), ball(eps, clip)
    a = candidates(x, seed)
    p = threat.project(a, x)
    torch.testing.assert_close(threat.project(1 - a, 1 - x), 1 - p, rtol=0, atol=2e-5)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(threat.project(a[..., order], x[..., order]), p[..., order], rtol=0, atol=2e-6)


@EVERY
def test_images_of_a_batch_project_as_if_alone(ball):
    x = images(0, n=40)
    a = candidates(x, 0)
    alone = torch.cat([ball(0.3).project(a[i : i + 1], x[i : i + 1]) for i in range(40)])
    torch.testing.assert_close(ball(0.3).project(a, x), alone, rtol=0, atol=1e-7)


@EVERY
@QUICK
@given(seed=SEEDS, eps=EPS)
def test_what_a_radius_allows_every_larger_one_allows(ball, seed, eps):
    x = images(seed)
    p = ball(eps).project(candidates(x, seed), x)
    assert ball(1.5 * eps).contains(p, x).all()
    assert ball(eps).at(1.5 * eps) == ball(1.5 * eps)


# ---- random points


@EVERY
@CLIP
@QUICK
@given(seed=SEEDS, eps=st.one_of(EPS, st.just(math.inf)))
def test_random_points_are_allowed(ball, clip, seed, eps):
    """A random start that is not clipped leaves the pixel range."""
    x, threat = images(seed), ball(eps, clip)
    sample = threat.sample(x, torch.Generator().manual_seed(seed))
    assert threat.contains(sample, x, tolerance=1e-6).all()
    assert not clip or (sample.min() >= 0 and sample.max() <= 1)


@pytest.mark.parametrize("eps", [0.3, 2.5])
def test_random_points_of_linf_are_uniform_in_each_pixel(eps):
    x = torch.full((500, 1, 2, 3), 0.5)
    change = parse(f"Linf({eps}, clip=False)", "threat").sample(x, torch.Generator().manual_seed(1)) - x
    for pixel in change.flatten(1).T:
        assert stats.kstest(pixel.numpy(), stats.uniform(-eps, 2 * eps).cdf).pvalue > 1e-3


@pytest.mark.parametrize("eps", [0.3, 4.0])
def test_random_points_of_l2_are_uniform_in_the_ball(eps):
    """In d dimensions the radius to the power of d is uniform, and so is the direction: no sign, no pixel preferred."""
    x = torch.full((2000, 1, 1, 3), 0.5)
    change = (parse(f"L2({eps}, clip=False)", "threat").sample(x, torch.Generator().manual_seed(1)) - x).flatten(1)
    radius = change.norm(dim=1).double() / eps
    assert stats.kstest((radius**3).numpy(), stats.uniform.cdf).pvalue > 1e-3
    direction = (change / change.norm(dim=1, keepdim=True)).numpy()
    for pixel in direction.T:  # Archimedes: each coordinate of the unit sphere in three dimensions is uniform
        assert stats.kstest(pixel, stats.uniform(-1, 2).cdf).pvalue > 1e-3


@EVERY
def test_random_points_come_from_the_generator_alone(ball):
    x, state = images(0), torch.random.get_rng_state()
    first, again, other = (ball(0.3).sample(x, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


# ---- steepest direction


@NORMED
@QUICK
@given(seed=SEEDS, size=st.sampled_from([1e-42, 1e-38, 1e-30, 1.0, 1e30, 1e37]))
def test_the_steepest_direction_has_unit_norm_and_attains_the_dual_norm(ball, seed, size):
    """Gradients far below 1e-19 or above 1e19, whose squares a float32 cannot hold, included."""
    order = ORDERS[ball.__name__]
    grad = size * torch.randn((3, 1, 2, 3), generator=torch.Generator().manual_seed(seed))
    grad = grad.where(grad.abs() > 0.05 * size, 0.5 * size)
    direction = ball(0.3).steepest(grad)
    np.testing.assert_allclose(norm(direction, order), 1, rtol=1e-4)
    rise = (grad.double() * direction.double()).flatten(1).sum(1)
    partner = {np.inf: 1, 2: 2, 1: np.inf}[order]  # Hoelder
    rtol = 1e-4 if size > 1e-40 else 0.02  # denormal floats have few digits
    np.testing.assert_allclose(rise.numpy(), norm(grad, partner), rtol=rtol)
    if size > 1e-40:
        np.testing.assert_allclose(ball(0.3).dual(grad).double().numpy(), norm(grad, partner), rtol=rtol)


@EVERY
def test_gradients_of_zero_or_nan_have_no_direction(ball):
    grad = torch.zeros(3, 1, 2, 2)
    grad[1] = math.nan
    grad[2, 0, 0] = math.nan
    grad[2, 0, 1] = torch.tensor([3.0, -4.0])
    direction = ball(0.3).steepest(grad)
    assert (direction[:2] == 0).all()
    assert (direction[2, 0, 0] == 0).all()
    torch.testing.assert_close(direction[2:, :, 1:], ball(0.3).steepest(grad[2:, :, 1:]))
    signs = torch.tensor([0.0 if ball.__name__ == "L1" else 1.0, -1.0])  # in L1 one pixel alone
    assert torch.equal(direction[2, 0, 1].sign(), signs)


@NORMED
def test_infinite_gradients_point_where_they_are_infinite(ball):
    grad = torch.tensor([math.inf, 1e-3, -math.inf, 0.0]).view(1, 1, 2, 2)
    direction = ball(0.3).steepest(grad)
    np.testing.assert_allclose(norm(direction, ORDERS[ball.__name__]), 1, rtol=1e-5)
    assert direction[0, 0, 0, 0] > 0.7
    assert direction[0, 0, 1, 0] < -0.7 or ball.__name__ == "L1"  # one pixel alone, the first of equals
    assert direction[0, 0, 1, 1] == 0


# ---- membership


@NORMED
@QUICK
@given(seed=SEEDS)
def test_distance_is_the_norm_of_the_change(ball, seed):
    x = images(seed)
    a = candidates(x, seed)
    np.testing.assert_allclose(ball(1.0).distance(a, x).numpy(), norm(a - x, ORDERS[ball.__name__]), rtol=1e-5)


@EVERY
def test_contains_knows_edge_range_and_nan(ball):
    x = torch.full((5, 1, 1, 1), 0.9)
    change = torch.tensor([0.05, 0.0501, 0.11, math.nan, -0.0501]).view(-1, 1, 1, 1)
    assert ball(0.05).contains(x + change, x).tolist() == [True, False, False, False, False]
    assert ball(0.5).contains(x + change, x).tolist() == [True, True, False, False, True]
    assert ball(0.5, clip=False).contains(x + change, x).tolist() == [True, True, True, False, True]
    low = torch.full((1, 1, 1, 1), 0.05)
    assert not ball(0.5).contains(low - 0.06, low)


@EVERY
def test_rounding_just_below_zero_is_no_violation(ball):
    """A candidate rejected because its minimum is -2.98e-08."""
    x = torch.zeros(1, 1, 2, 2)
    assert ball(0.3).contains(x - 2.98e-08, x).all()
    assert not ball(0.3).contains(x - 1e-4, x).any()


@EVERY
def test_one_pixel_has_the_same_ball_in_every_norm_and_many_have_not(ball):
    """A radius of one norm silently used for another: only for one pixel do the norms agree."""
    x = torch.full((1, 1, 1, 1), 0.5)
    torch.testing.assert_close(ball(0.1).project(x + 0.3, x), x + 0.1)
    wide = torch.full((1, 1, 1, 100), 0.5)
    moved = ball(0.1).project(wide + 0.3, wide) - wide
    expected = {"Linf": 0.1, "L2": 0.01, "L1": 0.001}.get(ball.__name__)
    if expected is not None:
        torch.testing.assert_close(moved, torch.full_like(wide, expected))


# ---- sizes and words


@NORMED
def test_the_largest_radius_is_the_norm_of_the_whole_pixel_range(ball):
    black, white = torch.zeros(1, 3, 4, 5), torch.ones(1, 3, 4, 5)
    assert ball(1.0).largest((3, 4, 5)) == pytest.approx(float(norm(white - black, ORDERS[ball.__name__])[0]))
    assert ball(ball(1.0).largest((3, 4, 5))).contains(white, black).all()


@EVERY
def test_reach_is_cut_by_the_pixel_range_only_where_pixels_are_clipped(ball):
    x = torch.zeros(1, 1, 2, 2)
    largest = ball(1.0).largest((1, 2, 2))
    assert ball(0.25).reach(x) == 0.25
    assert ball(50.0).reach(x) == largest
    assert ball(50.0, clip=False).reach(x) == 50
    assert ball(math.inf).reach(x) == ball(math.inf, clip=False).reach(x) == largest


@EVERY
@pytest.mark.parametrize("eps", [-0.1, -math.inf, math.nan])
def test_a_radius_that_is_none_is_refused(ball, eps):
    with pytest.raises(UsageError, match=rf"{ball.__name__}: eps is .*Expected a radius >= 0 in pixel units .* 8/255"):
        ball(eps)


@EVERY
@pytest.mark.parametrize("eps", [0.3, 8 / 255, 1.5, math.inf, 0.0])
@CLIP
def test_the_name_of_a_threat_is_its_value(ball, eps, clip):
    assert parse(repr(ball(eps, clip)), "threat") == ball(eps, clip)
    assert parse(str(ball(eps, clip)), "threat") == ball(eps, clip)
