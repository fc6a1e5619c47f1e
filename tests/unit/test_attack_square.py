"""Square: positions drawn image by image, the schedule of sizes, the budget, and no gradients."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steelman.attacks import Problem
from steelman.attacks.square import _WALKS, Square, _bump, _Walk
from steelman.errors import UsageError
from steelman.threats import L0, L1, L2, Ball, Linf
from tests.oracles.test_hyperplane import distances, grey, linear

THREATS = pytest.mark.parametrize("threat", [Linf(0.1), L2(1.0), L1(4.0)], ids=repr)

WEAK = [Linf(0.02), L2(0.1), L1(0.4)]  # some images break, not all


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Flat(nn.Module):
    """Two classes whose logits no pixel moves; refuses images that a gradient is wanted of."""

    def forward(self, x: Tensor) -> Tensor:
        assert not x.requires_grad
        assert not torch.is_grad_enabled()
        return torch.tensor([1.0, 0]).expand(len(x), 2) + 0 * x.flatten(1)[:, :1]


@pytest.fixture
def all_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals that change nothing are evaluated like any other."""
    value = Problem.value
    monkeypatch.setattr(Problem, "value", lambda *args, among, **options: value(*args, **options))


def walk(threat: Ball, n: int = 200, shape: tuple[int, int, int] = (2, 10, 10)) -> _Walk:
    x = 0.4 + 0.2 * torch.rand((n, *shape), generator=seeded())
    problem = Problem(Flat(), x, torch.zeros(n, dtype=torch.int64), threat, generator=seeded(), batch=n)
    one = _WALKS[type(threat)](problem, torch.arange(n), n)
    one.start()
    one.settle(torch.zeros(n))
    return one


# ---- queries


@THREATS
@pytest.mark.usefixtures("all_looked_at")
def test_gradients_are_never_asked_for_and_every_query_counts(threat):
    x = grey(3, 0)
    found = Square(queries=30, restarts=2).run(Flat(), x, torch.zeros(3, dtype=torch.int64), threat)
    assert found.forwards.tolist() == [60] * 3
    assert found.backwards.tolist() == [0] * 3
    assert not found.rejected.any()


@pytest.mark.parametrize("threat", WEAK, ids=repr)
@pytest.mark.usefixtures("all_looked_at")
def test_an_image_stops_at_its_first_success(threat):
    model, x = linear(2, 0), grey(40, 0)
    y = model(x).argmax(1)
    found = Square(queries=60).run(model, x, y, threat, generator=seeded())
    assert found.success.any()
    assert not found.success.all()
    assert (found.forwards[~found.success] == 60).all()
    assert len(found.forwards[found.success].unique()) > 1


def test_a_proposal_that_changes_nothing_is_not_looked_at_again():
    x = grey(200, 0)[:, :, :1, :1]  # a single pixel of two channels: a quarter of the proposals are where it is already
    found = Square(queries=41).run(Flat(), x, torch.zeros(200, dtype=torch.int64), Linf(0.1), generator=seeded())
    assert 29.4 < float(found.forwards.double().mean()) - 1 < 30.6  # of 40; standard error .19


def test_what_is_found_is_the_same_with_every_proposal_looked_at(request):
    model, x = linear(5, 0), grey(20, 0)
    y = model(x).argmax(1)
    attack = Square(queries=80)
    few = attack.run(model, x, y, Linf(0.03), generator=seeded())
    request.getfixturevalue("all_looked_at")
    every = attack.run(model, x, y, Linf(0.03), generator=seeded())
    assert torch.equal(few.x_adv, every.x_adv)
    assert torch.equal(few.success, every.success)
    assert int(few.forwards.sum()) < int(every.forwards.sum())


@pytest.mark.parametrize("threat", WEAK, ids=repr)
def test_when_one_image_breaks_does_not_change_the_search_of_the_others(threat):
    """Images leave the search one by one; the rest goes on as if none had."""
    model, x = linear(2, 0), grey(40, 0)
    y = model(x).argmax(1)
    first = Square(queries=60).run(model, x, y, threat, generator=seeded())
    all_along = Square(queries=60).run(model, x, y, threat, closest=True, generator=seeded())
    assert torch.equal(first.success, all_along.success)
    torch.testing.assert_close(first.score[~first.success], all_along.score[~first.success])


# ---- the search


def test_positions_differ_from_image_to_image_and_reach_every_corner():
    one = walk(Linf(0.1))
    before = one.x.clone()
    one.propose(0.09)  # 3 by 3 of 10 by 10
    moved = (one.x != before).any(1)
    rows, columns = moved.any(2).float().argmax(1), moved.any(1).float().argmax(1)
    assert len(torch.unique(torch.stack((rows, columns)), dim=1)[0]) > 20
    windows = torch.cat([one._window(*one._corners(3), 3) for _ in range(20)]).squeeze(1)
    assert set(windows[:, 0].tolist()) == {10 * i + j for i in range(8) for j in range(8)}
    assert windows.max() == 99


def test_in_linf_the_search_starts_from_stripes_and_keeps_to_the_ends_of_the_ball():
    one = walk(Linf(0.1))
    change = one.x - one.clean
    torch.testing.assert_close(change.abs(), torch.full_like(change, 0.1))
    assert torch.equal(change.sign(), change.sign()[:, :, :1].expand_as(change))  # whole columns
    one.propose(0.25)
    change = one.x - one.clean
    torch.testing.assert_close(change.abs(), torch.full_like(change, 0.1))


@THREATS
def test_a_proposal_that_does_not_raise_the_margin_is_undone(threat):
    one = walk(threat)
    for step in range(20):
        before, value = one.x.clone(), one.value.clone()
        one.propose(0.2)
        proposed = one.x.clone()
        seen = torch.randn(len(before), generator=seeded(step))
        one.settle(seen)
        better = seen > value
        if isinstance(threat, Linf):
            better &= (proposed != before).flatten(1).any(1)  # else it was not looked at
        assert torch.equal(one.x, torch.where(better.view(-1, 1, 1, 1), proposed, before))
        assert torch.equal(one.value, torch.where(better, seen, value))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 13), (1, 2, 2), (2, 4, 3)])
@pytest.mark.parametrize("clip", [True, False])
@THREATS
def test_proposals_stay_in_the_ball_whatever_the_shape(threat, shape, clip):
    ball = type(threat)(threat.eps, clip)
    one = walk(ball, 10, shape)
    for query in range(60):
        one.propose(0.8 / (query + 1))
        assert ball.contains(one.x, one.clean).all()
        one.settle(torch.full((10,), float(query)))
    assert (ball.distance(one.x, one.clean) > 0.3 * ball.eps).all()


def test_in_l2_a_proposal_keeps_the_radius_and_changes_the_sign_within_a_window():
    one = walk(L2(0.5))
    for _ in range(5):
        one.propose(0.1)
        torch.testing.assert_close(one.threat.distance(one.x, one.clean), torch.full((200,), 0.5), rtol=1e-4, atol=0)
        one.settle(torch.full((200,), float(_ + 1)))


@pytest.mark.parametrize(("order", "power"), [(2, 2), (1, 4)])
def test_the_bump_is_the_references(order, power):
    """Rings of a half add 1 / (ring + 1)^2, in L1 1 / (ring + 1)^4; up above, down below, length 1."""
    for side in (1, 2, 3, 5, 8):
        halves = []
        for height in (side // 2, side - side // 2):
            half = np.zeros((height, side))
            for ring in range(max(height // 2 + 1, side // 2 + 1)):
                for i in range(height):
                    for j in range(side):
                        if max(abs(i - height // 2), abs(j - side // 2)) <= ring:
                            half[i, j] += 1 / (ring + 1) ** power
            halves.append(half / (np.abs(half) ** order).sum() ** (1 / order) if height else half)
        expected = np.concatenate((halves[0], -halves[1]))
        expected /= (np.abs(expected) ** order).sum() ** (1 / order)
        np.testing.assert_allclose(_bump(side, order).numpy(), expected, rtol=1e-5)


def test_the_windows_shrink_by_the_references_schedule():
    attack = Square(queries=10_000)
    first = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 201: 8, 501: 16, 1001: 32, 2001: 64, 4001: 128, 6001: 256, 8001: 512}
    for query, divisor in first.items():
        assert attack.share(query) == 0.8 / divisor
    assert Square(queries=100).share(99) == 0.8 / 4
    assert Square(queries=100, rescale=True).share(99) == 0.8 / 512


def test_on_a_linear_model_the_best_corner_of_the_box_is_found():
    model, x = linear(2, 0), grey(10, 0)
    y, distance = distances(model, x, 1)
    distance = distance.min(1)
    eps = float(np.median(distance))
    success = Square(queries=500).run(model, x, torch.tensor(y), Linf(eps), generator=seeded()).success.numpy()
    assert not success[distance > eps * 1.0001].any()
    assert success[distance < eps * 0.9].all()


@pytest.mark.parametrize(("norm", "order"), [(L2, 2), (L1, np.inf)])
def test_on_a_linear_model_nothing_beyond_the_radius_is_broken(norm, order):
    model, x = linear(2, 0), grey(40, 0)
    y, distance = distances(model, x, order)
    distance = distance.min(1)
    eps = float(np.median(distance)) * 2
    success = Square(queries=150).run(model, x, torch.tensor(y), norm(eps), generator=seeded()).success.numpy()
    assert not success[distance > eps * 1.0001].any()
    assert success.any()


@THREATS
def test_a_warm_search_begins_at_the_best_image_known_and_never_falls_below_it(threat):
    """On a linear model, from its steepest step: above what the same search finds cold."""
    model, x = linear(3, 0), grey(20, 0)
    y, scores = model(x).argmax(1), {}
    for warm in (False, True):
        problem = Problem(model, x, y, threat.at(threat.eps / 50), generator=seeded(), batch=20)
        best = problem.threat.project(problem.threat.ascend(x, problem.value_and_grad(x, "margin")[1], threat.eps), x)
        problem.value(best, "margin")
        before = problem.score.clone()
        if not warm:
            problem = Problem(model, x, y, problem.threat, generator=seeded(), batch=20)
        Square(queries=3, p_init=0.1, rescale=True, warm=warm).search(problem)
        scores[warm] = problem.score
        assert not warm or (problem.score >= before).all()
    assert (scores[True] > scores[False]).all()


def test_a_radius_without_limit_reaches_the_ends_of_the_range():
    one = walk(Linf(math.inf))
    assert set(one.x.unique().tolist()) == {0.0, 1.0}


# ---- wrong use


@pytest.mark.parametrize("threat", WEAK, ids=repr)
def test_how_images_lie_in_memory_does_not_matter(threat):
    x = grey(8, 1).expand(-1, 2, -1, -1).contiguous()
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * (x.shape[2] - 2) * (x.shape[3] - 2), 2))
    y, attack = model(x).argmax(1), Square(queries=30)
    plain = attack.run(model, x, y, threat)
    last = attack.run(model, x.contiguous(memory_format=torch.channels_last), y, threat)
    turned = attack.run(model, x.transpose(2, 3).contiguous().transpose(2, 3), y, threat)
    for other in (last, turned):
        assert torch.equal(other.success, plain.success)
        torch.testing.assert_close(other.x_adv, plain.x_adv)


@pytest.mark.parametrize("given", ["queries=0", "restarts=0", "p_init=0.0", "p_init=1.5"])
def test_hyperparameters_that_make_no_search_are_refused(given):
    name, value = given.split("=")
    with pytest.raises(
        UsageError, match=rf"Square\({given}\): expected at least one query and one restart, and p_init"
    ):
        Square(**{name: float(value) if name == "p_init" else int(value)})


def test_l0_is_refused():
    with pytest.raises(UsageError, match=r"Square\(\) does not search in L0, only in Linf, L2, L1"):
        Square()(linear(2, 0), grey(1, 0), torch.tensor([0]), L0(3.0))


def test_the_cost_is_said():
    assert Square(restarts=2).cost() == "10000 forwards"
