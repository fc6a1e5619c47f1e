"""AutoAttack: the reference's members with their parameters, any number of classes, and the worst case of all."""

import pytest
import torch

from steelman.attacks.apgd import APGD
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.fab import FAB
from steelman.attacks.square import Square
from steelman.errors import UsageError
from steelman.threats import L0, L1, L2, Linf
from tests.oracles.test_hyperplane import grey, linear

QUICK = {"steps": 4, "queries": 20}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_members_of_the_standard_version_are_the_references():
    expected = (
        APGD(steps=100, restarts=1, loss="cross_entropy", warm_up=False),
        APGD(steps=100, restarts=1, loss="dlr", targets=9, warm_up=False),
        FAB(steps=100, restarts=1, targets=9, alpha_max=0.1, eta=1.05, beta=0.9),
        Square(queries=5000, p_init=0.8, restarts=1, rescale=False),
    )
    assert AutoAttack().members == AutoAttack().members_in("Linf") == AutoAttack().members_in("L2") == expected


def test_in_l1_the_standard_version_has_more_restarts_fewer_targets_and_a_warm_up():
    expected = (
        APGD(steps=100, restarts=5, warm_up=True),
        APGD(steps=100, loss="dlr", targets=5, warm_up=True),
        FAB(steps=100, targets=9),
        Square(queries=5000),
    )
    assert AutoAttack().members_in("L1") == expected


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_members_of_the_plus_version_are_the_references(norm):
    expected = (
        APGD(steps=100, restarts=5, warm_up=False),
        APGD(steps=100, restarts=5, loss="dlr", warm_up=False),
        FAB(steps=100, restarts=5, targets=0),
        Square(queries=5000),
        APGD(steps=100, loss="dlr", targets=9, warm_up=False),
        FAB(steps=100, targets=9),
    )
    assert AutoAttack("plus").members_in(norm) == expected


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_members_of_the_random_version_are_the_references(norm):
    expected = (
        APGD(steps=100, samples=20, warm_up=False),
        APGD(steps=100, samples=20, loss="dlr", warm_up=False),
    )
    assert AutoAttack("rand").members_in(norm) == expected


def test_steps_and_queries_reach_the_members():
    for version in ("standard", "plus", "rand"):
        for member in AutoAttack(version, **QUICK).members:
            assert getattr(member, "steps", 4) == 4
            assert getattr(member, "queries", 20) == 20


@pytest.mark.parametrize(
    ("version", "classes"), [*(("standard", k) for k in (2, 3, 4, 10, 11)), *(("plus", k) for k in (2, 3, 11))]
)
def test_any_number_of_classes_from_two_will_do(version, classes):
    model, x = linear(classes, 0), grey(4, 0)
    y = model(x).argmax(1)
    found = AutoAttack(version, **QUICK).run(model, x, y, Linf(1e-4), generator=seeded())
    assert found.score.isfinite().all()
    targets = min(9, classes - 1)
    expected = {"standard": 4 + 2 * 4 * targets, "plus": 40 + 5 * 4 * (classes - 1) + 2 * 4 * targets}
    assert found.backwards.tolist() == [expected[version]] * 4


def test_a_thousand_classes_will_do():
    model, x = linear(1000, 0), grey(2, 0)
    found = AutoAttack(**QUICK).run(model, x, model(x).argmax(1), L2(1e-5), generator=seeded())
    assert (found.backwards <= 4 + 2 * 4 * 9).all()
    assert found.score.isfinite().all()


@pytest.mark.parametrize("threat", [Linf(0.02), L2(0.08), L1(0.1)], ids=repr)
def test_it_is_no_weaker_than_its_first_member_and_members_see_what_is_left(threat):
    model, x = linear(4, 1), grey(30, 1)
    y = model(x).argmax(1)
    attack = AutoAttack(steps=10, queries=50)
    found = attack.run(model, x, y, threat, generator=seeded())
    first = attack.members_in(type(threat).__name__)[0].run(model, x, y, threat, generator=seeded())
    assert found.success[first.success].all()
    assert first.success.any()
    assert not found.success.all()
    assert torch.equal(found.forwards[first.success], first.forwards[first.success])
    assert threat.contains(found.x_adv, x).all()


def test_with_a_target_that_class_is_reached():
    model, x = linear(4, 0), grey(10, 0)
    y = model(x).argmax(1)
    target = (y + 1) % 4
    found = AutoAttack(**QUICK).run(model, x, y, Linf(0.3), target=target, generator=seeded())
    assert found.success.all()
    assert torch.equal(model(found.x_adv).argmax(1), target)


def test_l0_is_refused():
    with pytest.raises(UsageError, match=r"AutoAttack\(\) does not search in L0, only in Linf, L2, L1"):
        AutoAttack()(linear(2, 0), grey(1, 0), torch.tensor([0]), L0(3.0))


@pytest.mark.parametrize("field", ["steps", "queries"])
def test_hyperparameters_that_make_no_search_are_refused(field):
    with pytest.raises(UsageError, match=rf"AutoAttack\({field}=0\): expected at least one step and one query"):
        AutoAttack(**{field: 0})


def test_the_cost_is_said():
    words = "100 gradients, 1 forward; 900 gradients, 10 forwards; 900 gradients, 13 forwards; 5000 forwards"
    assert AutoAttack().cost() == words
