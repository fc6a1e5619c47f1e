"""FAB: projections onto hyperplanes against scipy, distances on linear models, and what a step costs."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from steelman.attacks.fab import FAB, onto_hyperplane
from steelman.errors import UsageError
from steelman.threats import L0, L1, L2, Ball, Linf
from tests.oracles.test_hyperplane import distances, grey, linear

DUAL = {Linf: 1, L2: 2, L1: np.inf}
NORMS = pytest.mark.parametrize("norm", [Linf, L2, L1])
PIXELS = 8


def smallest(norm: type[Ball], x: np.ndarray, normal: np.ndarray, gap: float) -> float:
    """The least norm of d with gap + normal . d = 0 and x + d in [0, 1], by general solvers."""
    bounds = list(zip(-x, 1 - x, strict=True))
    if norm is L2:
        solution = minimize(
            lambda d: d @ d,
            np.zeros(len(x)),
            jac=lambda d: 2 * d,
            bounds=bounds,
            constraints={"type": "eq", "fun": lambda d: gap + normal @ d, "jac": lambda d: normal},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert solution.success
        return math.sqrt(solution.fun)
    eye = np.eye(len(x))
    limits = np.block([[eye, -np.ones((len(x), 1))], [-eye, -np.ones((len(x), 1))]])
    if norm is L1:
        limits = np.block([[eye, -eye], [-eye, -eye]])
    extra = limits.shape[1] - len(x)
    solution = linprog(
        np.r_[np.zeros(len(x)), np.ones(extra)],
        A_ub=limits,
        b_ub=np.zeros(2 * len(x)),
        A_eq=[np.r_[normal, np.zeros(extra)]],
        b_eq=[-gap],
        bounds=bounds + [(0, None)] * extra,
    )
    assert solution.success
    return float(solution.fun)


def hyperplanes(n: int, reach: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images with black and white pixels, normals with zeros among them, and gaps of `reach` of what can be reached."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((n, 1, 2, 4), generator=generator, dtype=torch.float64)
    x = torch.where(x < 0.3, 0, torch.where(x > 0.8, 1, x))
    normal = torch.randn((n, 1, 2, 4), generator=generator, dtype=torch.float64) ** 3
    normal = torch.where(torch.rand(normal.shape, generator=generator) < 0.2, 0, normal)
    sign = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0).double()
    room = torch.where((normal * sign.view(-1, 1, 1, 1)) < 0, 1 - x, x)
    return x, normal, sign * reach * (normal.abs() * room).flatten(1).sum(1)


@NORMS
@pytest.mark.parametrize("reach", [0.05, 0.5, 0.95])
def test_the_change_onto_a_hyperplane_is_the_smallest_there_is(norm, reach):
    x, normal, gap = hyperplanes(25, reach)
    change = onto_hyperplane(norm(1.0), x, normal, gap)
    assert (x + change).min() >= -1e-9
    assert (x + change).max() <= 1 + 1e-9
    torch.testing.assert_close(gap + (normal * change).flatten(1).sum(1), torch.zeros_like(gap), atol=1e-6, rtol=0)
    length = norm(1.0).distance(change, torch.zeros_like(change))
    expected = [smallest(norm, *(v.flatten().numpy() for v in row)) for row in zip(x, normal, gap, strict=True)]
    np.testing.assert_allclose(length.numpy(), expected, rtol=1e-4, atol=1e-6)


@NORMS
def test_a_hyperplane_out_of_reach_is_approached_as_far_as_the_range_allows(norm):
    x, normal, gap = hyperplanes(10, 2.0)
    change = onto_hyperplane(norm(1.0), x, normal, gap)
    rest = gap + (normal * change).flatten(1).sum(1)
    torch.testing.assert_close(rest, gap / 2)
    assert (change[normal == 0] == 0).all()


@NORMS
def test_without_a_range_the_change_is_the_gap_over_the_dual_norm(norm):
    x, normal, gap = hyperplanes(10, 2.0)
    threat = norm(1.0, clip=False)
    change = onto_hyperplane(threat, x, normal, gap)
    torch.testing.assert_close(threat.distance(change, torch.zeros_like(x)), gap.abs() / threat.dual(normal))
    torch.testing.assert_close((normal * change).flatten(1).sum(1), -gap)


@NORMS
@pytest.mark.parametrize("clip", [True, False])
def test_a_normal_of_zero_gives_no_change_whatever_the_gap(norm, clip):
    x, normal, gap = (value.float() for value in hyperplanes(5, 0.5))
    normal[2] = 0
    change = onto_hyperplane(norm(1.0, clip), x, normal, torch.full_like(gap, -3.0))
    assert change.isfinite().all()
    assert not change[2].any()
    assert change[:2].any()


@NORMS
@pytest.mark.parametrize("clip", [True, False])
def test_several_points_of_one_normal_are_each_projected_as_on_their_own(norm, clip):
    x, normal, gap = hyperplanes(8, 0.5)
    points, gaps = torch.stack((x, x.flip(0))), torch.stack((gap, -0.3 * gap))
    together = onto_hyperplane(norm(1.0, clip), points, normal, gaps)
    for point, own, change in zip(points, gaps, together, strict=True):
        torch.testing.assert_close(change, onto_hyperplane(norm(1.0, clip), point, normal, own))


@NORMS
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30, math.nan])
def test_normals_of_any_size_give_finite_changes(norm, clip, scale):
    x, normal, gap = (value.float() for value in hyperplanes(5, 0.5))
    change = onto_hyperplane(norm(1.0, clip), x, normal * scale, gap * scale)
    assert change.isfinite().all()
    if scale in (0.0, math.nan):
        assert not change.any()
    else:
        expected = onto_hyperplane(norm(1.0, clip), x, normal, gap)
        torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-4)


@NORMS
def test_a_rows_change_does_not_depend_on_the_others(norm):
    x, normal, gap = (value.float() for value in hyperplanes(20, 0.6))
    together = onto_hyperplane(norm(1.0), x, normal, gap)
    alone = [onto_hyperplane(norm(1.0), x[i : i + 1], normal[i : i + 1], gap[i : i + 1]) for i in range(20)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)


# ---- linear models


@NORMS
@pytest.mark.parametrize("attack", [FAB(steps=10), FAB(steps=10, targets=0), FAB(steps=10, restarts=2)], ids=repr)
def test_the_nearest_success_is_at_the_margin_over_the_dual_norm(norm, attack):
    model, x = linear(4, 0), grey(30, 0)
    y, distance = distances(model, x, DUAL[norm])
    found = attack.run(model, x, torch.tensor(y), norm(math.inf, clip=False), closest=True)
    assert found.success.all()
    ratio = found.distance.numpy() / distance.min(1)
    assert ratio.min() >= 1 - 1e-4
    assert ratio.max() <= 1.01  # the line search takes back the overshoot of 5 %


@NORMS
def test_within_a_radius_success_depends_on_the_margin_alone(norm):
    model, x = linear(4, 0), grey(30, 0)
    y, distance = distances(model, x, DUAL[norm])
    distance = distance.min(1)
    eps = float(np.median(distance))
    success = FAB(steps=10).run(model, x, torch.tensor(y), norm(eps, clip=False)).success.numpy()
    assert not success[distance > eps * 1.0001].any()
    assert success[distance < eps / 1.01].all()


@NORMS
def test_with_a_target_the_nearest_image_of_that_class_is_found(norm):
    model, x = linear(2, 0), grey(30, 0)
    y, distance = distances(model, x, DUAL[norm])
    target = 1 - torch.tensor(y)
    found = FAB(steps=10).run(model, x, torch.tensor(y), norm(math.inf, clip=False), target=target, closest=True)
    assert found.success.all()
    np.testing.assert_allclose(found.distance.numpy(), distance.min(1), rtol=0.01)


def test_the_line_search_takes_back_the_overshoot():
    model, x = linear(3, 0), grey(30, 0)
    y = model(x).argmax(1)
    runs = [FAB(steps=1, line_search=k).run(model, x, y, L2(math.inf), closest=True) for k in (0, 3)]
    without, with_search = (run.distance for run in runs)
    assert (with_search < without).all()


# ---- cost


def test_a_step_costs_one_forward_and_one_backward():
    """The evaluation that judges a point gives the next boundary; only a run's last point is judged without."""
    model, x = linear(5, 0), grey(4, 0)
    y = model(x).argmax(1)
    found = FAB(steps=7, targets=3, line_search=0).run(model, x, y, Linf(1e-6))
    assert found.backwards.tolist() == [7 * 3] * 4
    assert found.forwards.tolist() == [1 + 8 * 3] * 4


def test_the_untargeted_search_costs_one_forward_for_the_gradients_of_all_classes():
    model, x = linear(5, 0), grey(4, 0)
    y = model(x).argmax(1)
    found = FAB(steps=7, targets=0, line_search=0).run(model, x, y, Linf(1e-6))
    assert found.backwards.tolist() == [7 * 4] * 4
    assert found.forwards.tolist() == [1 + 8] * 4


@pytest.mark.parametrize("classes", range(2, 12))
def test_there_are_nine_targets_or_as_many_as_other_classes(classes):
    model, x = linear(classes, 0), grey(3, 0)
    found = FAB(steps=2).run(model, x, model(x).argmax(1), Linf(1e-6))
    assert found.backwards.tolist() == [2 * min(9, classes - 1)] * 3


def test_the_gradients_of_many_classes_are_held_for_few_images_at_a_time(monkeypatch):
    model, x = linear(4, 0), grey(9, 0)
    y = model(x).argmax(1)
    whole = FAB(steps=5, targets=0).run(model, x, y, L2(math.inf), closest=True)
    monkeypatch.setattr("steelman.attacks.fab.GRADIENT_FLOATS", 3 * 32 * 2)
    parts = FAB(steps=5, targets=0).run(model, x, y, L2(math.inf), closest=True)
    torch.testing.assert_close(parts.x_adv, whole.x_adv)
    assert torch.equal(parts.backwards, whole.backwards)


# ---- wrong use


@pytest.mark.parametrize("given", ["steps=0", "restarts=0", "targets=-1", "line_search=-1"])
def test_numbers_that_make_no_search_are_refused(given):
    name, value = given.split("=")
    with pytest.raises(UsageError, match=rf"FAB\({given}\): expected at least one step and restart, targets and line"):
        FAB(**{name: int(value)})


@pytest.mark.parametrize(("name", "value"), [("alpha_max", 1.5), ("alpha_max", -0.1), ("beta", 1.2), ("eta", 0.9)])
def test_weights_outside_their_range_are_refused(name, value):
    with pytest.raises(UsageError, match=rf"FAB\({name}={value}\): expected alpha_max and beta in \[0, 1\] and eta"):
        FAB(**{name: value})


def test_l0_is_refused():
    with pytest.raises(UsageError, match=r"FAB\(\) does not search in L0, only in Linf, L2, L1"):
        FAB()(linear(2, 0), grey(1, 0), torch.tensor([0]), L0(3.0))


def test_the_cost_is_said():
    assert FAB().cost() == "900 gradients, 13 forwards"
    assert FAB(restarts=5, targets=0).cost() == "500 gradients of each other class, 9 forwards"
