"""PDPGD: its proximal operators against their optimality conditions, and closed-form distances."""

import math

import pytest
import torch

from steelman.attacks.pdpgd import PDPGD, shrunk
from steelman.errors import UsageError
from steelman.threats import L1, L2, Linf
from tests.oracles.test_hyperplane import distances, grey, linear


def objective(z: torch.Tensor, r: torch.Tensor, h: torch.Tensor, w: torch.Tensor, order: float) -> torch.Tensor:
    norm = torch.linalg.vector_norm(z.flatten(1), ord=order, dim=1)
    return (h * (z - r).square()).flatten(1).sum(1) / 2 + w * norm


@pytest.mark.parametrize(("threat", "order"), [(L1(math.inf), 1), (L2(math.inf), 2), (Linf(math.inf), math.inf)])
@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0, 30.0])
def test_no_nearby_point_has_a_lower_proximal_objective(threat, order, weight, generator):
    """The objective is convex: a point that no small change improves is the minimum."""
    r = torch.randn((3, 1, 4, 4), generator=generator)
    h = torch.rand((3, 1, 4, 4), generator=generator) + 0.1
    w = torch.full((3,), weight)
    z = shrunk(threat, r, h, w)
    least = objective(z.double(), r.double(), h.double(), w.double(), order)
    for _ in range(200):
        other = z + 0.02 * torch.randn(z.shape, generator=generator)
        assert (objective(other.double(), r.double(), h.double(), w.double(), order) >= least - 1e-4).all()
    for scale in (0.99, 1.01, 0.0):
        assert (objective(scale * z.double(), r.double(), h.double(), w.double(), order) >= least - 1e-4).all()


def test_a_large_weight_shrinks_everything_to_zero_and_none_changes_nothing():
    r = torch.randn((2, 1, 3, 3), generator=torch.Generator().manual_seed(0))
    h = torch.ones_like(r)
    for threat in (L1(1.0), L2(1.0), Linf(1.0)):
        assert shrunk(threat, r, h, torch.tensor([100.0, 100.0])).abs().max() < 1e-5
        torch.testing.assert_close(shrunk(threat, r, h, torch.zeros(2)), r)
        assert not shrunk(threat, torch.zeros_like(r), h, torch.ones(2)).any()


@pytest.mark.parametrize(("norm", "dual"), [(Linf, 1), (L2, 2), (L1, math.inf)])
def test_between_two_classes_the_distance_is_the_margin_over_the_dual_norm(norm, dual):
    model, x = linear(2, 1), grey(8, 1)
    y, distance = distances(model, x, dual)
    found = PDPGD(steps=60).run(model, x, torch.tensor(y), norm(math.inf, clip=False), closest=True)
    ratio = found.distance.double() / torch.tensor(distance.min(1))
    assert found.success.all()
    assert ratio.min() > 1 - 1e-4
    assert ratio.median() < 1.05


@pytest.mark.parametrize("norm", [Linf, L2, L1])
def test_from_the_image_itself_it_works_too(norm):
    model, x = linear(3, 2, scale=0.3), grey(8, 2)
    y = torch.tensor(distances(model, x, 2)[0])
    found = PDPGD(steps=60, start_steps=0).run(model, x, y, norm(math.inf), closest=True)
    assert found.success.all()


def test_what_it_costs_is_what_it_says():
    attack = PDPGD(steps=5, start_steps=4, halvings=3)
    assert attack.cost() == "9 gradients, 5 forwards"
    model, x = linear(2, 0), grey(4, 0)
    found = attack.run(model, x, torch.tensor(distances(model, x, 2)[0]), L1(math.inf), closest=True)
    assert (found.backwards == 9).all()
    assert (found.forwards <= 14).all()


@pytest.mark.parametrize("fields", [{"steps": 0}, {"halvings": -1}, {"start_steps": -1}])
def test_counts_out_of_range_are_named(fields):
    with pytest.raises(UsageError, match="expected at least one step, and start_steps and halvings of 0 or more"):
        PDPGD(**fields)


@pytest.mark.parametrize("fields", [{"step_size": 0.0}, {"ratio": 0.0}, {"dual_rate": 0.0}, {"smoothing": 1.0}])
def test_sizes_out_of_range_are_named(fields):
    with pytest.raises(
        UsageError, match=r"expected step_size, ratio .or None. and dual_rate > 0, and 0 <= smoothing < 1"
    ):
        PDPGD(**fields)
