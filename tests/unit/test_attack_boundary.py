"""The boundary attack: steps that keep their distance, sizes that adapt, and an end near the hyperplane."""

import math

import pytest
import torch
from torch import Tensor, nn

from steelman.attacks.boundary import Boundary, _Size, sideways
from steelman.errors import UsageError
from steelman.threats import L2

SHAPE = (1, 2, 2)


def linear(seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 4, generator=torch.Generator().manual_seed(seed)))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model


def images(n: int, seed: int = 0) -> Tensor:
    return 0.35 + 0.3 * torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(seed))


def distances(model: nn.Sequential, x: Tensor) -> Tensor:
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()
    way = weight[0] - weight[1]
    return ((x.flatten(1).double() @ way + bias[0] - bias[1]).abs() / way.norm()).float()


def test_it_walks_to_the_hyperplane():
    model, x = linear(), images(6)
    y, exact = model(x).argmax(1), distances(model, x)
    found = Boundary(steps=150, tries=20, around=0.1, towards=0.1).run(model, x, y, L2(math.inf), closest=True)
    assert found.success.all()
    assert (found.distance >= exact * (1 - 1e-3)).all()
    assert (found.distance <= exact * 1.15).all()


def test_more_steps_end_nearer():
    model, x = linear(), images(6)
    y = model(x).argmax(1)
    few, many = (Boundary(steps=k, tries=20).run(model, x, y, L2(math.inf), closest=True) for k in (5, 100))
    assert (many.distance <= few.distance).all()
    assert many.distance.mean() < 0.95 * few.distance.mean()


def test_a_step_aside_keeps_the_distance_and_turns_by_the_size(generator):
    """The angle at the original is arctan(size)."""
    clean, x = images(5, 1), images(5, 2)
    size = torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0])
    moved = sideways(x, clean, size, torch.randn(x.shape, generator=generator))
    threat = L2(math.inf)
    torch.testing.assert_close(threat.distance(moved, clean), threat.distance(x, clean))
    cosine = nn.functional.cosine_similarity((moved - clean).flatten(1), (x - clean).flatten(1))
    torch.testing.assert_close(cosine, 1 / (1 + size**2).sqrt(), rtol=1e-4, atol=1e-5)


def test_a_step_size_grows_with_many_successes_and_shrinks_with_few_each_image_for_itself():
    sizes = _Size.of(0.1, images(4))
    everyone = torch.ones(4, dtype=torch.bool)
    for outcome in range(20):
        tried = torch.tensor([True, True, True, outcome < 19])
        sizes.count(tried, torch.tensor([True, False, outcome % 3 == 0, True]), (0.2, 0.5))
    torch.testing.assert_close(sizes.size, torch.tensor([0.15, 0.1 / 1.5, 0.1, 0.1]))  # 7 of 20 is in between
    assert sizes.tried.tolist() == [0, 0, 0, 19]
    sizes.count(everyone, everyone, (0.2, 0.5))
    torch.testing.assert_close(sizes.size[3], torch.tensor(0.15))


def test_a_target_that_is_never_found_is_a_failure():
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.flatten(1).sum(1)
            return torch.stack((total, total - 50, total - 100), 1)

    x, y = images(3), torch.zeros(3, dtype=torch.int64)
    found = Boundary(steps=5, tries=7).run(Never(), x, y, L2(math.inf), target=y + 1, closest=True)
    assert not found.success.any()
    assert torch.equal(found.x_adv, x)
    assert (found.forwards == 7).all()
    assert not Boundary(steps=5, tries=7).run(Never(), x, y, L2(math.inf), closest=True).success.any()


def test_with_a_radius_the_walk_ends_at_the_first_success_inside():
    model, x = linear(), images(6)
    y, exact = model(x).argmax(1), distances(model, x)
    eps = float(exact.max()) * 1.5
    found = Boundary(steps=60, tries=20, around=0.1, towards=0.1).run(model, x, y, L2(eps))
    whole = Boundary(steps=60, tries=20, around=0.1, towards=0.1).run(model, x, y, L2(eps), closest=True)
    assert found.success.all()
    assert (found.distance <= eps + 1e-5).all()
    assert (found.forwards < whole.forwards).all()


@pytest.mark.parametrize("field", ["steps", "tries", "around", "towards"])
def test_hyperparameters_that_make_no_search_are_refused(field):
    zero = 0 if field in ("steps", "tries") else 0.0
    with pytest.raises(UsageError, match=rf"Boundary\({field}=0(\.0)?\): expected at least one step and one try, and"):
        Boundary(**{field: zero})
