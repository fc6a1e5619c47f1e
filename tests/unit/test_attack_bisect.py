"""Bisect: brackets, restarts below, and distances known in closed form."""

import pytest

from steelman.attacks.bisect import Bisect
from steelman.attacks.fmn import FMN
from steelman.errors import UsageError
from steelman.threats import L2, Linf
from tests.nets import net, seeded, task
from tests.unit.test_attack_reliable import linear


def test_a_linear_net_is_left_at_its_exact_distance():
    model, x, y, distance = linear()
    found = Bisect(start=20, steps=6, rounds=8).run(model, x, y, Linf(float("inf")), closest=True, generator=seeded())
    assert found.success.all()
    assert (found.distance / distance - 1).abs().max() < 0.02
    assert (found.distance >= distance * (1 - 1e-4)).all()


@pytest.mark.parametrize("norm", [Linf, L2])
def test_it_is_never_further_than_the_search_it_starts_from(norm):
    model = net()
    x, y = task(model, n=30, wrong=0)
    start = FMN(steps=15, halvings=0).run(model, x, y, norm(float("inf")), closest=True, generator=seeded())
    mine = Bisect(start=15, steps=6, rounds=8).run(model, x, y, norm(float("inf")), closest=True, generator=seeded())
    assert (mine.distance <= start.distance + 1e-6).all()
    assert float((mine.distance / start.distance).mean()) < 0.9995


def test_an_image_whose_start_failed_is_looked_for_at_the_full_radius(monkeypatch):
    monkeypatch.setattr(FMN, "approach", lambda self, problem, near: None)
    model = net()
    x, y = task(model, n=20, wrong=0)
    found = Bisect(rounds=6).run(model, x, y, Linf(0.3), closest=True, generator=seeded())
    assert found.success.float().mean() > 0.9
    assert float(found.distance.nanmedian()) < 0.2  # the brackets closed downwards


def test_images_that_break_wait_at_no_cost():
    model = net()
    x, y = task(model, n=20, wrong=0)
    attack = Bisect(start=10, steps=10, rounds=6)
    found = attack.run(model, x, y, Linf(float("inf")), closest=True, generator=seeded())
    most = 10 + 6 * 10 + 2
    assert (found.backwards <= most).all()
    assert found.backwards.float().mean() < 0.96 * most


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"rounds": 0}, {"start": 0}, {"halvings": -1}])
def test_numbers_that_make_no_search_are_refused(wrong):
    with pytest.raises(UsageError, match=r"Bisect\(.*\): expected at least one step and one round, and halvings"):
        Bisect(**wrong)
