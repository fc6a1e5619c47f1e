"""APGD: its checkpoints, its steps, its targets, and the optimum on linear models."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steelman.attacks import Problem
from steelman.attacks.apgd import APGD, _Climb, _SparseClimb, checkpoints
from steelman.errors import UsageError
from steelman.threats import L0, L1, L2, Ball, Linf
from tests.oracles.test_hyperplane import SHAPE, distances, grey, linear

DUAL = {Linf: 1, L2: 2, L1: np.inf}
NORMS = pytest.mark.parametrize("norm", [Linf, L2, L1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- checkpoints


def test_the_checkpoints_of_a_hundred_steps_are_the_papers():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("steps", [1, 5, 20, 50, 100, 1000])
def test_the_checkpoints_follow_the_papers_recursion(steps):
    """p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06); w_j = ceil(p_j steps)."""
    shares = [Fraction(0), Fraction(22, 100)]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - Fraction(3, 100), Fraction(6, 100)))
    expected = {math.ceil(share * steps) for share in shares[1:] if share < 1}
    assert checkpoints(steps) == sorted(expected)


# ---- one ascent


def climb(values: list[list[float]], cls: type[_Climb] = _Climb) -> _Climb:
    """An ascent of two images that sees the given losses, one list a step."""
    clean = torch.full((2, 1, 2, 2), 0.5)
    grad = torch.tensor([1.0, 2, 3, 4]).view(1, 1, 2, 2).expand(2, -1, -1, -1)
    options = {} if cls is _Climb else {"drawn": False}
    one = cls(Linf(0.1) if cls is _Climb else L1(0.1), clean, clean, torch.tensor(values[0]), grad, **options)
    for value in values[1:]:
        one.move()
        one.see(torch.tensor(value), grad)
    return one


def test_the_best_loss_never_falls_and_the_best_point_is_where_it_was_seen():
    generator = seeded()
    clean = torch.rand((6, 1, 3, 3), generator=generator)
    one = _Climb(Linf(0.2), clean, clean, torch.zeros(6), torch.randn(clean.shape, generator=generator))
    seen, points = [torch.zeros(6)], [clean]
    for step in range(1, 30):
        points.append(one.move().clone())
        seen.append(torch.randn(6, generator=generator))
        before = one.best_value
        one.see(seen[-1], torch.randn(clean.shape, generator=generator))
        assert (one.best_value >= before).all()
        best = torch.stack(seen).max(0)
        assert torch.equal(one.best_value, best.values)
        assert torch.equal(one.best, torch.stack(points)[best.indices, torch.arange(6)])
        if step % 7 == 0:
            one.check()


def test_the_step_begins_at_twice_the_radius_and_halves_where_the_loss_stops_to_rise():
    one = climb([[0.0, 0.0], [1.0, 1.0], [2.0, 0.5], [3.0, 0.2], [4.0, 0.1]])
    torch.testing.assert_close(one.size, torch.tensor([0.2, 0.2]))
    one.check()
    torch.testing.assert_close(one.size, torch.tensor([0.2, 0.1]))
    assert torch.equal(one.x[1], one.best[1])


def test_the_step_halves_where_neither_step_nor_best_loss_changed_since_the_last_checkpoint():
    """Condition 2 of the paper: losses that rise from step to step, yet never above the best one."""
    one = climb([[0.0, 0.0], [5.0, 5.0], [6.0, 6.0], [7.0, 7.0], [8.0, 8.0]])
    one.check()
    torch.testing.assert_close(one.size, torch.tensor([0.2, 0.2]))
    one.value = torch.zeros(2)
    for value in ([1.0, 8.5], [2.0, 8.6], [3.0, 8.7], [4.0, 8.8]):
        one.move()
        one.see(torch.tensor(value), one.grad)
    one.check()
    torch.testing.assert_close(one.size, torch.tensor([0.1, 0.2]))


def test_the_first_move_has_no_momentum_and_the_later_ones_a_quarter():
    clean = torch.full((1, 1, 1, 2), 0.5)
    grad = torch.tensor([1.0, -1]).view(1, 1, 1, 2)
    one = _Climb(Linf(0.1), clean, clean, torch.zeros(1), grad)
    torch.testing.assert_close(one.move(), torch.tensor([0.6, 0.4]).view(1, 1, 1, 2))
    one.see(torch.ones(1), -grad)
    # 0.6 + 0.75 (0.4 - 0.6) + 0.25 (0.6 - 0.5)
    torch.testing.assert_close(one.move(), torch.tensor([0.475, 0.525]).view(1, 1, 1, 2))


def test_in_l1_a_step_goes_to_equal_parts_to_the_pixels_of_largest_gradient():
    clean = torch.full((1, 1, 2, 5), 0.5)
    grad = torch.arange(1.0, 11).view(1, 1, 2, 5)
    one = _SparseClimb(L1(0.2), clean, clean, torch.zeros(1), grad, drawn=False)
    expected = clean.clone().view(-1)
    expected[-2:] += 0.1  # a fifth of ten pixels
    torch.testing.assert_close(one.move().view(-1), expected)


def test_in_l1_the_step_shrinks_unless_the_best_point_became_sparser():
    one = climb([[0.0, 0.0], [1.0, 1.0]], _SparseClimb)
    one.check()  # of four pixels one or two have changed: sparser than all
    torch.testing.assert_close(one.size, torch.tensor([0.1, 0.1]))
    one.check()
    torch.testing.assert_close(one.size, torch.tensor([0.1, 0.1]) / 1.5)
    for _ in range(10):
        one.check()
    torch.testing.assert_close(one.size, torch.tensor([0.01, 0.01]))


# ---- linear models, far from the pixel range


@NORMS
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
@pytest.mark.parametrize("random_start", [True, False])
def test_two_classes_are_told_apart_up_to_the_margin_over_the_dual_norm(norm, loss, random_start):
    model, x = linear(2, 0), grey(20, 0)
    y, distance = distances(model, x, DUAL[norm])
    distance = distance.min(1)
    for eps in np.quantile(distance, [0.25, 0.75]):
        attack = APGD(steps=30, loss=loss, random_start=random_start)
        success = attack.run(model, x, torch.tensor(y), norm(float(eps), clip=False)).success.numpy()
        assert not success[distance > eps * 1.0001].any()
        assert success[distance < eps * 0.97].all()


@NORMS
@pytest.mark.parametrize("order", ["logits", "malt"])
def test_many_classes_with_all_as_targets_the_nearest_boundary_is_found(norm, order):
    model, x = linear(5, 1), grey(40, 1)
    y, distance = distances(model, x, DUAL[norm])
    distance = distance.min(1)
    eps = float(np.median(distance))
    attack = APGD(steps=30, loss="margin", targets=4, order=order)
    success = attack.run(model, x, torch.tensor(y), norm(eps, clip=False)).success.numpy()
    assert not success[distance > eps * 1.0001].any()
    assert success[distance < eps * 0.97].all()


# ---- targets


@pytest.mark.parametrize("classes", range(2, 12))
@pytest.mark.parametrize("loss", ["dlr", "cross_entropy"])
def test_there_are_nine_targets_or_as_many_as_other_classes(classes, loss):
    model, x = linear(classes, 0), grey(4, 0)
    y = model(x).argmax(1)
    found = APGD(steps=2, loss=loss, targets=9).run(model, x, y, Linf(1e-5))
    targets = min(9, classes - 1)
    assert not found.success.any()
    assert found.backwards.tolist() == [2 * targets] * 4
    assert found.forwards.tolist() == [3 * targets + 1] * 4
    assert found.score.isfinite().all()


def test_a_problem_with_a_target_is_searched_towards_it_alone():
    model, x = linear(5, 0), grey(4, 0)
    y = model(x).argmax(1)
    found = APGD(steps=2, loss="dlr", targets=4).run(model, x, y, Linf(1e-5), target=(y + 1) % 5)
    assert found.backwards.tolist() == [2] * 4


def test_the_order_of_malt_costs_a_gradient_for_every_other_class():
    model, x = linear(6, 0), grey(4, 0)
    y = model(x).argmax(1)
    found = APGD(steps=2, loss="dlr", targets=3, order="malt").run(model, x, y, Linf(1e-5))
    assert found.backwards.tolist() == [2 * 3 + 5] * 4


def test_images_that_break_are_not_searched_towards_further_targets():
    model, x = linear(5, 0), grey(20, 0)
    y, _ = distances(model, x, 1)
    found = APGD(steps=5, loss="margin", targets=4).run(model, x, torch.tensor(y), Linf(0.2, clip=False))
    assert found.success.all()
    assert (found.backwards <= 5).all()


# ---- random models, warm-up


class Noisy(nn.Module):
    """A linear model plus noise, drawn from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.generator = linear(3, 0), seeded()

    def forward(self, x: Tensor) -> Tensor:
        clean = self.model(x)
        return clean + 0.01 * torch.randn(clean.shape, generator=self.generator)


def test_every_point_of_a_random_model_is_looked_at_as_often_as_asked():
    model, x = Noisy(), grey(4, 0)
    y = model.model(x).argmax(1)
    found = APGD(steps=3, samples=5).run(model, x, y, Linf(1e-5))
    assert found.backwards.tolist() == found.forwards.tolist() == [20] * 4


def test_the_warm_up_searches_three_times_and_twice_the_radius_first():
    attack = APGD()
    phases = attack._phases(L1(2.0))
    assert [(ball.eps, steps) for ball, steps in phases] == [(6.0, 30), (4.0, 30), (2.0, 40)]
    assert sum(steps for _, steps in APGD(steps=7)._phases(L1(2.0))) == 7
    for threat, calm in ((L2(2.0), attack), (L1(2.0), APGD(warm_up=False)), (L1(2.0), APGD(steps=3))):
        assert calm._phases(threat) == [(threat, calm.steps)]


def test_points_of_the_warm_up_outside_the_radius_are_no_successes():
    model, x = linear(2, 0), grey(20, 0)
    y, distance = distances(model, x, np.inf)
    eps = float(distance.min()) / 2  # twice and three times as much would break some
    found = APGD(steps=20).run(model, x, torch.tensor(y), L1(eps, clip=False))
    assert not found.success.any()
    assert (found.rejected > 0).all()
    assert L1(eps, clip=False).contains(found.x_adv, x).all()


def test_the_random_start_is_inside_and_in_l1_near_the_edge():
    x = grey(5, 0)
    for threat in (Linf(0.1), L2(0.5), L1(2.0)):
        start = APGD(warm_up=False)._start(problem(x, threat))
        assert threat.contains(start, x).all()
        assert (threat.distance(start, x) > 0.8 * threat.eps).all()


def problem(x: Tensor, threat: Ball) -> Problem:
    return Problem(linear(2, 0), x, torch.zeros(len(x), dtype=torch.int64), threat, generator=seeded(), batch=8)


# ---- wrong use


@pytest.mark.parametrize("field", ["steps", "restarts"])
def test_hyperparameters_that_make_no_search_are_refused(field):
    with pytest.raises(UsageError, match=rf"APGD\({field}=0\): expected at least one step and one restart"):
        APGD(**{field: 0})


def test_a_negative_number_of_targets_is_refused():
    with pytest.raises(UsageError, match=r"APGD\(targets=-1\): expected .* and targets >= 0"):
        APGD(targets=-1)


def test_l0_is_refused():
    x = torch.rand((1, *SHAPE), generator=seeded())
    with pytest.raises(UsageError, match=r"APGD\(\) does not search in L0, only in Linf, L2, L1"):
        APGD()(linear(2, 0), x, torch.tensor([0]), L0(3.0))


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (APGD(), "100 gradients, 1 forward"),
        (APGD(targets=9), "900 gradients, 10 forwards"),
        (APGD(samples=20), "2020 gradients, 0 forwards"),
        (APGD(steps=10, targets=2, order="malt"), "20 gradients and, for the order, 1 of each of the likeliest 100"),
    ],
)
def test_the_cost_is_said(attack, words):
    assert attack.cost().startswith(words)
