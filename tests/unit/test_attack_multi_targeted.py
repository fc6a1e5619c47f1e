"""MultiTargeted, and the order in which the likeliest classes are tried."""

import numpy as np
import pytest
import torch

from steelman.attacks import Problem
from steelman.attacks.multi_targeted import MultiTargeted, likeliest
from steelman.errors import UsageError
from steelman.threats import L0, L1, L2, Ball, Linf
from tests.oracles.test_hyperplane import distances, grey, linear

DUAL = {Linf: 1, L2: 2, L1: np.inf}


def problem(classes: int, threat: Ball) -> tuple[Problem, np.ndarray, np.ndarray]:
    """A linear model's images, their logits and the distances to the boundary with each class."""
    model, x = linear(classes, 3), grey(15, 3)
    y, distance = distances(model, x, DUAL[type(threat)])
    generator = torch.Generator().manual_seed(0)
    logits = model(x).detach().numpy()
    return Problem(model, x, torch.tensor(y), threat, generator=generator, batch=4), logits, distance


@pytest.mark.parametrize(("classes", "count"), [(2, 9), (3, 9), (6, 2), (30, 9)])
def test_the_likeliest_classes_are_those_of_the_largest_other_logits(classes, count):
    one, logits, _ = problem(classes, Linf(0.1))
    expected = [[c for c in row.argsort()[::-1] if c != row.argmax()][:count] for row in logits]
    assert likeliest(one, count, "logits").t().tolist() == expected
    assert one.forwards.tolist() == [1] * 15


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.1), L1(0.1)], ids=repr)
@pytest.mark.parametrize(("classes", "count"), [(2, 1), (6, 3), (30, 9)])
def test_malt_orders_a_linear_models_classes_by_their_true_distance(threat, classes, count):
    one, logits, distance = problem(classes, threat)
    expected = distance.argsort(1)[:, :count]
    assert likeliest(one, count, "malt").t().tolist() == expected.tolist()
    assert one.backwards.tolist() == [classes - 1] * 15
    if classes == 30:
        assert (expected != np.array([row.argsort()[::-1][1 : count + 1] for row in logits])).any()


@pytest.mark.parametrize("norm", [Linf, L2, L1])
@pytest.mark.parametrize("order", ["logits", "malt"])
def test_with_all_classes_as_targets_the_nearest_boundary_of_a_linear_model_is_found(norm, order):
    model, x = linear(5, 1), grey(40, 1)
    y, distance = distances(model, x, DUAL[norm])
    distance = distance.min(1)
    eps = float(np.median(distance))
    attack = MultiTargeted(steps=20, step_size=0.2, targets=4, order=order, random_start=False)
    success = attack.run(model, x, torch.tensor(y), norm(eps, clip=False)).success.numpy()
    assert not success[distance > eps * 1.0001].any()
    assert success[distance < eps * 0.97].all()


def test_in_l0_the_values_of_largest_weight_are_changed():
    model, x = linear(3, 1), grey(20, 1)
    y = model(x).argmax(1)
    found = MultiTargeted(steps=10).run(model, x, y, L0(6.0))
    assert found.success.any()
    assert (L0(6.0).distance(found.x_adv, x) <= 6).all()


def test_more_targets_are_never_weaker_and_find_boundaries_that_the_likeliest_class_has_not():
    """Classes with small weights lead the logits, yet the boundary with another one is nearer."""
    model, x = linear(8, 5), grey(60, 5)
    y, distance = distances(model, x, 1)
    eps = 1.05 * float(np.median(distance.min(1)))
    one, all_targets = (
        MultiTargeted(steps=3, targets=count, random_start=False).run(model, x, torch.tensor(y), Linf(eps))
        for count in (1, 7)
    )
    nearest_is_likeliest = likeliest(
        Problem(model, x, torch.tensor(y), Linf(eps), generator=torch.Generator(), batch=60), 1, "logits"
    )[0].numpy() == distance.argmin(1)
    within = distance.min(1) < eps / 1.01
    assert all_targets.success.numpy()[within].all()
    assert not one.success.numpy()[within].all()
    assert (~nearest_is_likeliest).any()


@pytest.mark.parametrize("classes", [2, 3, 11])
def test_every_target_costs_its_steps_and_a_last_look(classes):
    model, x = linear(classes, 0), grey(4, 0)
    found = MultiTargeted(steps=3, restarts=2).run(model, x, model(x).argmax(1), Linf(1e-5))
    count = 2 * min(9, classes - 1)
    assert found.backwards.tolist() == [3 * count] * 4
    assert found.forwards.tolist() == [4 * count + 1] * 4


@pytest.mark.parametrize("loss", ["difference", "cross_entropy", "margin", "dlr"])
def test_a_problem_with_a_target_of_its_own_is_searched_towards_it_alone(loss):
    model, x = linear(4, 0), grey(20, 0)
    y = model(x).argmax(1)
    target = (y + 1) % 4
    found = MultiTargeted(steps=10, loss=loss).run(model, x, y, Linf(0.3), target=target)
    assert found.success.all()
    assert torch.equal(model(found.x_adv).argmax(1), target)
    assert (found.backwards <= 10).all()


@pytest.mark.parametrize("field", ["steps", "restarts", "targets"])
def test_hyperparameters_that_make_no_search_are_refused(field):
    with pytest.raises(UsageError, match=rf"MultiTargeted\({field}=0\): expected at least one step, one restart and"):
        MultiTargeted(**{field: 0})


def test_the_cost_is_said():
    assert MultiTargeted().cost() == "900 gradients, 10 forwards"
    assert "likeliest 100 classes" in MultiTargeted(order="malt").cost()
