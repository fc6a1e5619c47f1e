"""Reliable: as strong as far dearer attacks where gradients tell the truth, and not fooled where they do not."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from steelman.attacks.apgd import APGD
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.bim import BIM
from steelman.attacks.bisect import Bisect
from steelman.attacks.boundary import Boundary
from steelman.attacks.carlini_wagner import CarliniWagner
from steelman.attacks.climb import climb, step_sizes
from steelman.attacks.fab import FAB
from steelman.attacks.found import improved
from steelman.attacks.gda import GDA
from steelman.attacks.mi_fgsm import MIFGSM
from steelman.attacks.multi_targeted import MultiTargeted
from steelman.attacks.pgd import PGD
from steelman.attacks.problem import Problem
from steelman.attacks.reliable import Reliable, likeliest
from steelman.attacks.square import Square
from steelman.errors import UsageError
from steelman.evaluate import strike
from steelman.stats import most_left
from steelman.threats import L2, Linf
from steelman.trust import read
from tests.nets import net, seeded, task


@pytest.fixture(autouse=True)
def short_ensemble(monkeypatch):
    """The full ensemble with few steps."""
    monkeypatch.setattr("steelman.attacks.reliable.FULL", AutoAttack(steps=5, queries=50))


def linear(seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """A linear net of two classes, images far from black and white, labels and exact L-inf distances."""
    generator = seeded(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 16, generator=generator))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    x = 0.4 + 0.2 * torch.rand((60, 1, 4, 4), generator=generator)
    with torch.no_grad():
        logits = model(x)
    gap = (logits[:, 0] - logits[:, 1]).abs()
    return model, x, logits.argmax(1), gap / (model[1].weight[0] - model[1].weight[1]).abs().sum().detach()


def test_a_linear_net_breaks_exactly_up_to_the_margin_over_the_dual_norm():
    model, x, y, distance = linear()
    eps = float(distance.median())
    found = Reliable(polish=50, audit=0, queries=0).run(model, x, y, Linf(eps), generator=seeded())
    clear = (distance / eps - 1).abs() > 1e-3
    assert torch.equal(found.success[clear], (distance < eps)[clear])


@pytest.mark.parametrize("threat", [Linf(0.03), L2(0.12)], ids=repr)
def test_it_breaks_all_that_long_attacks_break(threat):
    model = net()
    x, y = task(model, n=40, wrong=0)
    mine = Reliable(polish=200, audit=0).run(model, x, y, threat, generator=seeded())
    for other in (PGD(steps=100, loss="margin", restarts=2), AutoAttack(steps=20, queries=100)):
        theirs = other.run(model, x, y, threat, generator=seeded())
        assert int(mine.success.sum()) >= int(theirs.success.sum()) - 1
        assert 0 < int(theirs.success.sum()) < 40
    assert float(mine.backwards.float().mean()) < 150


class Quantised(nn.Module):
    """Sees images in four grey levels: no gradient reaches the pixels."""

    def __init__(self, model: nn.Module, *, by_rounding: bool) -> None:
        super().__init__()
        self.model, self.by_rounding = model, by_rounding

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.arange(0.125, 1, 0.25)
        return self.model((x * 4).round() / 4 if self.by_rounding else torch.bucketize(x, levels) / 4)


def test_masked_gradients_call_the_full_ensemble(monkeypatch):
    """A look-up in a table leaves nothing that surrogates could put back."""
    monkeypatch.setattr("steelman.attacks.reliable.FULL", AutoAttack(steps=5, queries=150))
    model = Quantised(net(), by_rounding=False)
    x, y = task(model, n=20, wrong=0)
    found, blind = (
        Reliable(rounds=0, polish=0, audit=0, queries=queries).run(model, x, y, Linf(0.05), generator=seeded())
        for queries in (50, 0)
    )
    assert int(found.success.sum()) > int(blind.success.sum())  # nothing but random search can
    held = ~found.success
    assert held.any()
    assert (found.forwards[held] > blind.forwards.max() + 100).all()  # the whole ensemble, on all that hold


def test_gradients_that_rounding_masks_are_put_back():
    """Rounding has a surrogate: the search through it breaks what the ensemble would, give or take one."""
    model = Quantised(net(), by_rounding=True)
    x, y = task(model, n=20, wrong=0)
    plain = PGD(steps=100, loss="margin").run(model, x, y, Linf(0.05), generator=seeded())
    full = AutoAttack(steps=5, queries=100).run(model, x, y, Linf(0.05), generator=seeded())
    found = Reliable(polish=100, audit=0, queries=0).run(model, x, y, Linf(0.05), generator=seeded())
    assert int(found.success.sum()) >= int(full.success.sum()) - 1 > 2 * int(plain.success.sum())
    with torch.no_grad():
        assert torch.equal(model(found.x_adv).argmax(1) != y, found.success)


def test_the_audit_attacks_a_sample_in_full_and_says_what_it_missed():
    model = net()
    x, y = task(model, n=30, wrong=0)
    outcome = strike(
        model, (x, y), Reliable(steps=3, rounds=1, polish=0, queries=0, audit=5), Linf(0.005), generator=seeded()
    )
    assert int(outcome.audited.sum()) == 5
    assert not (outcome.audited & outcome.broken).any()
    (check,) = [check for check in read(outcome) if check.name == "missed breaks"]
    assert check.value == "0 of 5"
    others = int((~outcome.broken & ~outcome.proven & ~outcome.audited).sum())
    assert f"Of the {others} others that hold it would break at most {most_left(0, 5, others)} (95 %" in check.words


def test_misses_among_all_images_send_all_through_the_full_ensemble(monkeypatch):
    """Here the climbs do nothing at all, so that the audit must find what they missed."""
    monkeypatch.setattr("steelman.attacks.reliable.climb", lambda problem, steps, width=1.0: None)
    model = net()
    x, y = task(model, n=16, wrong=0)
    found = Reliable(rounds=0, polish=0, queries=0, audit=4).run(model, x, y, Linf(0.05), generator=seeded())
    assert found.audited.all()
    full = AutoAttack(steps=5, queries=50).run(model, x, y, Linf(0.05), generator=seeded())
    assert torch.equal(found.success, full.success)
    assert found.success.any()


def test_after_a_miss_only_the_last_random_sample_speaks_for_the_rest():
    model = net()
    x, y = task(model, n=100, wrong=0)
    outcome = strike(model, (x, y), Reliable(steps=1, rounds=0, polish=0, queries=0, audit=0), Linf(0.001))
    outcome.broken.zero_(), outcome.proven.zero_()
    outcome.audited[:50] = outcome.sampled[40:50] = outcome.broken[:3] = True
    (check,) = [check for check in read(outcome) if check.name == "missed breaks"]
    assert check.value == "3 of 50"
    assert "Of the last 10 of these, drawn at random, it broke none." in check.words
    assert "Of the 50 others that hold it would break at most 14 (95 %" in check.words  # C(46, 10) / C(60, 10) > 0.05
    outcome.broken[45] = True  # of a random model, when it is judged again
    (check,) = [check for check in read(outcome) if check.name == "missed breaks"]
    assert "Of the last 10 of these, drawn at random, it broke 1." in check.words
    assert f"break at most {most_left(1, 10, 50)} (95 %" in check.words


def test_after_a_miss_it_stops_where_groups_and_a_fresh_sample_hold(monkeypatch):
    """Margins tell who breaks: what the ensemble breaks of 400 images are those nearest to the boundary."""
    monkeypatch.setattr("steelman.attacks.reliable.climb", lambda problem, steps, width=1.0: problem.show(problem.x))
    model = net()
    x, y = task(model, n=400, wrong=0)
    told: list[tuple[int, int, str]] = []
    found = Reliable(rounds=0, polish=0, queries=0, audit=20).run(
        model, x, y, Linf(0.02), generator=seeded(), progress=lambda *words: told.append(words)
    )
    full = AutoAttack(steps=5, queries=50).run(model, x, y, Linf(0.02), generator=seeded())
    assert found.success.sum() > 0.9 * full.success.sum() > 0
    assert not found.audited.all()
    assert not (found.sampled & found.success).any()
    shares = [done / total for done, total, _ in told]
    assert shares == sorted(shares)
    assert [share for share in shares if share == 1] == [1]


def test_an_audit_of_all_leaves_no_bound_to_state():
    model = net()
    x, y = task(model, n=6, wrong=0)
    outcome = strike(
        model, (x, y), Reliable(steps=2, rounds=1, polish=0, queries=0, audit=6), Linf(0.001), generator=seeded()
    )
    (check,) = [check for check in read(outcome) if check.name == "missed breaks"]
    assert check.verdict == "ok"
    assert "No image that holds was spared it" in check.words


def test_improved_adds_up_counts_and_keeps_successes():
    model = net()
    x, y = task(model, n=12, wrong=0)
    weak = PGD(steps=1).run(model, x, y, Linf(0.02), generator=seeded())
    rows = (~weak.success).nonzero().squeeze(1)
    strong = PGD(steps=30).run(model, x[rows], y[rows], Linf(0.06), generator=seeded())
    both = improved(weak, rows, strong)
    assert torch.equal(both.success[rows], strong.success)
    assert torch.equal(both.forwards[rows], weak.forwards[rows] + strong.forwards)
    assert torch.equal(both.health.steps[rows], weak.health.steps[rows] + strong.health.steps)
    assert torch.equal(both.x_adv[weak.success], weak.x_adv[weak.success])
    assert not weak.audited.any()  # its argument is left alone


def test_the_likeliest_are_those_that_hold_by_the_smallest_margins():
    model = net()
    x, y = task(model, n=100, wrong=0)
    problem = Problem(model, x, y, Linf(1e-4), generator=seeded(), batch=100)
    climb(problem, 2)
    problem.score = -torch.arange(100.0).flip(0)
    assert likeliest(problem, 0.1).tolist() == list(range(99, 89, -1))
    assert likeliest(problem, 0.01).tolist() == [99, 98]  # never fewer than two
    problem.success[99] = True
    assert likeliest(problem, 0.1).tolist() == list(range(98, 88, -1))


def test_steps_fall_from_a_whole_radius_to_a_twentieth():
    sizes = step_sizes(100)
    assert sizes[0] == 1
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[50] == pytest.approx(0.525)
    assert sizes[-1] == pytest.approx(0.05, abs=0.001)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"rounds": -1}, {"polish": -1}, {"queries": -1}, {"audit": -1}])
def test_numbers_that_make_no_search_are_refused(wrong):
    with pytest.raises(UsageError, match=r"Reliable\(.*\): expected at least one step, and no negative"):
        dataclasses.replace(Reliable(), **wrong)


def test_images_that_bounds_prove_are_not_attacked():
    """On a linear net the bounds are exact: what cannot be broken costs no forward, and is never said to be missed."""
    model, x, y, distance = linear()
    eps = float(distance.median())
    outcome = strike(model, (x, y), Reliable(polish=50, queries=0, audit=3), Linf(eps), generator=seeded())
    clear = distance > 1.01 * eps
    assert outcome.proven[clear].all()
    assert not (outcome.proven & outcome.broken).any()
    assert not outcome.forwards[outcome.proven].any()
    assert torch.equal(outcome.x_adv[outcome.proven], x[outcome.proven])
    checks = {check.name: check for check in read(outcome)}
    assert checks["proven"].value == str(int(outcome.proven.sum()))
    assert checks["pixels moved"].verdict == "ok"  # those left in peace are no failure of the attack


def test_a_net_without_bounds_is_attacked_all_the_same():
    class Sine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sin()

    model, x, y, _ = linear()
    model = nn.Sequential(Sine(), *model)
    y = model(x).argmax(1)
    outcome = strike(model, (x, y), Reliable(polish=50, queries=0, audit=0), Linf(0.05), generator=seeded())
    assert not outcome.proven.any()
    assert (outcome.forwards > 0).all()


def test_a_random_search_goes_on_from_the_best_images_of_the_likeliest():
    """The same search before it; of an eighth of what held most come nearer, the others are left alone."""
    model = net()
    x, y = task(model, n=200, wrong=0)
    short, whole = (
        Reliable(steps=2, rounds=0, polish=polish, queries=0, audit=0).run(model, x, y, Linf(0.02), generator=seeded())
        for polish in (0, 300)
    )
    searched = whole.forwards > short.forwards
    assert not (searched & short.success).any()
    assert int(searched.sum()) == -(-int((~short.success).sum()) // 8)
    assert torch.equal(whole.score[~searched], short.score[~searched])
    assert (whole.score[searched] >= short.score[searched]).all()
    assert (whole.score[searched] > short.score[searched]).float().mean() > 0.5


LONG = (
    Reliable(polish=200),
    AutoAttack(steps=20, queries=100),
    APGD(steps=30),
    FAB(steps=20, targets=3),
    Square(queries=40, restarts=2),
    MultiTargeted(steps=10, targets=3),
    PGD(steps=20),
    Bisect(),
    Boundary(steps=30),
    CarliniWagner(),
    BIM(steps=20),
    MIFGSM(steps=20),
    GDA(steps=20),
)


@pytest.mark.parametrize("attack", LONG, ids=repr)
def test_progress_of_a_single_chunk_is_told_all_along_and_never_goes_back(attack):
    model = net()
    x, y = task(model, n=40, wrong=0)
    told: list[tuple[int, int, str]] = []
    threat = L2(0.1) if "L2" in attack.norms else Linf(0.03)
    attack.run(model, x, y, threat, generator=seeded(), progress=lambda *words: told.append(words))
    shares = [done / total for done, total, _ in told]
    assert shares == sorted(shares)
    assert told[-1] == (40, 40, repr(attack))
    assert len(set(shares)) > 8
    assert all(words.startswith(repr(attack)) for _, _, words in told)


def test_the_health_of_surrogate_gradients_is_not_taken_for_the_models():
    class Levels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 20).round() / 20

    model = nn.Sequential(Levels(), net())
    x, y = task(model, n=40)
    found = strike(model, (x, y), Reliable(audit=0, queries=0), Linf(0.01), generator=seeded())
    asked = found.right & (found.health.steps > 0)
    assert asked.sum() > 20
    assert (found.health.dead == found.health.steps)[asked].all()
