"""Branch and bound decides what linear programmes decide, proves no more, and gives up where a break is found."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from steelman.bounds import branching, interval_margins
from steelman.bounds.branching import branched_margins
from steelman.bounds.crown import linear_margins
from steelman.bounds.graph import after, trace
from steelman.certify.branch_and_bound import BranchAndBound
from steelman.certify.crown import CROWN
from steelman.errors import UsageError
from steelman.models.layers import Threshold
from steelman.threats import L2, TOLERANCE, Linf


def net(seed: int, *, sizes: tuple[int, ...] = (3, 4, 3, 2)) -> nn.Sequential:
    """Linear layers and ReLUs with normal weights, in float64."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for width, height in itertools.pairwise(sizes):
        linear = nn.Linear(width, height).double()
        with torch.no_grad():
            linear.weight.normal_(generator=generator)
            linear.bias.normal_(generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def exact(model: nn.Sequential, x: Tensor, label: int, eps: float) -> float:
    """The least margin over the box: one linear programme for each pattern of units that are on and off."""
    layers = [(part.weight.detach().numpy(), part.bias.detach().numpy()) for part in model[1::2]]
    hidden = layers[:-1]
    ends = [(value - eps - TOLERANCE, value + eps + TOLERANCE) for value in x.flatten().tolist()]
    row = np.eye(2)[label] - np.eye(2)[1 - label]
    least = math.inf
    for pattern in itertools.product((0.0, 1.0), repeat=sum(len(bias) for _, bias in hidden)):
        matrix, offset, sides, limits, start = np.eye(len(ends)), np.zeros(len(ends)), [], [], 0
        for weight, bias in hidden:
            on = np.array(pattern[start : start + len(bias)])
            start += len(bias)
            matrix, offset = weight @ matrix, weight @ offset + bias
            sides.append((1 - 2 * on)[:, None] * matrix)
            limits.append((2 * on - 1) * offset)
            matrix, offset = on[:, None] * matrix, on * offset
        weight, bias = layers[-1]
        found = linprog(row @ weight @ matrix, np.vstack(sides), np.hstack(limits), bounds=ends)
        if found.status == 0:
            least = min(least, found.fun + row @ (weight @ offset + bias))
    return least


@pytest.mark.parametrize("seed", range(3))
def test_it_decides_what_linear_programmes_decide(seed: int):
    """Seven units in two layers: never above the exact least margin, above 0 wherever that is by a little."""
    model = net(seed)
    x = torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(seed)).double()
    y = model(x).argmax(1)
    for eps in (0.1, 0.3):
        threat = Linf(eps, clip=False)
        truth = exact(model, x, int(y), eps)
        found = float(branched_margins(model, x, y, threat, branches=2000))
        assert found <= truth + 1e-9
        if truth > 1e-3:
            assert found > 0
            assert float(linear_margins(model, x, y, threat, refine=True)) <= truth
        else:
            assert found == -math.inf or truth > 0  # the search found the break


def test_it_proves_what_lines_leave_open():
    """It decides every image as a fine grid does, and with more parts more."""
    x = torch.rand(14, 2, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    threat = Linf(0.2, clip=False)
    grid = torch.cartesian_prod(*[torch.linspace(-0.2, 0.2, 101, dtype=torch.float64)] * 2).view(-1, 2, 1, 1)
    model = net(1, sizes=(2, 16, 16, 16, 2))
    y = model(x).argmax(1)
    answers = torch.stack([model(one + grid) for one in x])
    own = answers.gather(2, y.view(-1, 1, 1).expand(-1, len(grid), 1))[..., 0]
    least = (2 * own - answers.sum(2)).amin(1)  # of two classes
    lines, one, bounds = (
        linear_margins(model, x, y, threat, refine=True) > 0,
        *(branched_margins(model, x, y, threat, branches=branches) for branches in (1, 300)),
    )
    assert (bounds <= least).all()
    one, many, held = one > 0, bounds > 0, least > 0
    assert torch.equal(many, held)
    assert not ((lines | one) & ~held).any()
    assert lines.sum() <= one.sum() < many.sum()


def test_every_sign_multiplier_and_slope_gives_a_true_bound():
    """Random signs, slopes and multipliers: no image for which the units have these signs is below the bound."""
    model = net(5, sizes=(3, 8, 8, 2))
    x, generator = torch.full((1, 3, 1, 1), 0.5).double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        search = branching._Branching(trace(model), branching.box_around(x, Linf(0.4)))
        tried = x + torch.empty(20_000, 3, 1, 1).double().uniform_(-0.4, 0.4, generator=generator)
        values = {2: model[:2](tried), 4: model[:4](tried)}
        values = {place + 1: value for place, value in values.items()}
        target = torch.tensor([1.0, -1.0]).double()
        margins = model(tried) @ target
        assert search.open.keys() == values.keys()
        for _ in range(50):
            some = torch.randint(20_000, (1,), generator=generator)
            signs = {p: torch.where(value[some] >= 0, 1.0, -1.0).double() for p, value in values.items()}
            for place, ends in search.open.items():
                known = torch.rand(signs[place].shape, generator=generator) < 0.3
                signs[place] *= known & (ends.low < 0) & (ends.high > 0)
            slopes = {p: torch.rand(v.shape, generator=generator).double() for p, v in signs.items()}
            multipliers = {p: torch.rand(v.shape, generator=generator).double() for p, v in signs.items()}
            bound = search._lower(target, branching._Parts(signs, slopes, multipliers, {}, search._whole().bound))
            inside = torch.stack([(signs[p] * value >= 0).all(1) for p, value in values.items()]).all(0)
            assert inside.any()
            assert float(margins[inside].min()) >= float(bound)


def test_behind_a_threshold_lines_begin_where_its_box_ends():
    """The threshold's output is a box; the linear layer behind it is exact on it."""
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]).double()
    last = nn.Linear(3, 2)
    model = nn.Sequential(Threshold((0.3, 0.7)), nn.Flatten(), last).double().eval()
    with torch.no_grad():
        last.weight.copy_(weight)
        last.bias.copy_(torch.tensor([3.0, 0.0]))
    x, eps = torch.tensor([0.1, 0.5, 0.62]).double().view(1, 1, 1, 3), 0.25
    low, high = (((x + sign * (eps + TOLERANCE)).clamp(0, 1) - 0.3) / 0.4 for sign in (-1, 1))
    low, high = (end.clamp(0, 1).flatten() for end in (low, high))
    expected = 3 + low[0] - 2 * high[1] + 0.5 * low[2]
    found = linear_margins(model, x, torch.tensor([0]), Linf(eps))
    assert float(found) == pytest.approx(float(expected), abs=1e-4)


def test_an_image_that_breaks_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch):
    """Also where a threshold hides the way from gradients at the image."""
    last = nn.Linear(4, 2)
    model = nn.Sequential(Threshold((0.3, 0.7)), nn.Flatten(), last).eval()
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[0.0] * 4, [1.0] * 4]))
        last.bias.copy_(torch.tensor([1.0, 0.0]))
    monkeypatch.setattr(branching, "_Branching", None)
    x, y = torch.full((1, 1, 2, 2), 0.05), torch.tensor([0])
    assert float(branched_margins(model, x, y, Linf(0.5), branches=10)) == -math.inf


def test_the_network_after_a_step_goes_on_as_the_whole_does():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
            self.pool, self.last = nn.MaxPool2d(2), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.first((x - 0.5) * 2).relu())
            return self.last(nn.functional.dropout(self.pool(x) - self.pool(x.clamp(0, 1)), 0.5, False).flatten(1))

    model, x = Mixed().eval(), torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    for place, value in ((0, x), (2, (x - 0.5) * 2)):
        rest = after(trace(model), place)
        assert rest is not None
        torch.testing.assert_close(rest(value), model(x))


def test_the_certifier_takes_the_best_of_all_bounds_and_tells_how_far_it_is():
    model = net(1, sizes=(9, 10, 8, 3)).float()
    x = torch.rand(12, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    y, told = model(x).argmax(1), []
    for threat in (Linf(0.2), L2(0.5)):
        margins = BranchAndBound().margins(model, x, y, threat, progress=lambda done, total, _: told.append(done))
        boxes = interval_margins(model, x, y, threat)
        assert boxes is not None
        assert (margins >= boxes).all()
        assert (margins >= CROWN().margins(model, x, y, threat)).all()
        assert told[-1] == len(x)
        assert (margins > 0).sum() > (CROWN().margins(model, x, y, threat) > 0).sum() >= 8
    assert BranchAndBound().margins(model, x[:0], y[:0], Linf(0.1)).shape == (0,)


def test_the_number_of_branches_is_checked_and_layers_are_named():
    with pytest.raises(UsageError, match=r"BranchAndBound\(branches=0\): expected at least one branch"):
        BranchAndBound(branches=0)
    tanh = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(4, 3)).eval()
    x = torch.full((1, 1, 2, 2), 0.5)
    with pytest.raises(UsageError, match=r"BranchAndBound\(\) has no rule for layer 1 \(Tanh\)"):
        BranchAndBound()(tanh, x, (tanh(x).argmax(1) + 1) % 3, Linf(0.1))
