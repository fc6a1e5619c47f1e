"""Derivatives put back where there are none: the values stay, and attacks that were none become some."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steelman.attacks.fgsm import FGSM
from steelman.data import Data
from steelman.evaluate import strike
from steelman.repair import repair
from steelman.surrogates import LEAK, SMOOTH, Repaired
from steelman.threats import Linf
from tests.nets import net, seeded, task


class Roots(nn.Module):
    """Lengths of pairs of filters, as complex cells have them: an infinite derivative on a black background."""

    def __init__(self) -> None:
        super().__init__()
        kernels = torch.randn(8, 1, 3, 3, generator=seeded(1))
        self.weight = nn.Parameter(kernels - kernels.mean((2, 3), keepdim=True))
        self.head = nn.Parameter(torch.randn(2, 4 * 36, generator=seeded(2)))

    def forward(self, x: Tensor) -> Tensor:
        even, odd = F.conv2d(x, self.weight, padding=1).chunk(2, 1)
        return (even**2 + odd**2).sqrt().flatten(1) @ self.head.t()


class Of(nn.Module):
    """The sum of a function over the pixels."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x).flatten(1)


@pytest.mark.parametrize(
    ("function", "at", "slope"),
    [
        (torch.sqrt, 0.0, 0.5 / SMOOTH**0.5),
        (Tensor.sqrt, 0.25, 0.5 / (0.25 + SMOOTH) ** 0.5),
        (lambda x: x**0.5, 0.0, 0.5 / SMOOTH**0.5),
        (lambda x: x**3.0, 0.5, 0.75),
        (torch.log, 0.0, 1 / SMOOTH),
        (torch.rsqrt, 0.0, -0.5 / SMOOTH**1.5),
        (torch.relu, -1.0, LEAK),
        (F.relu, 1.0, 1.0),
        (nn.ReLU(), -1.0, LEAK),
        (nn.ReLU6(), 7.0, LEAK),
        (lambda x: x.clamp(0, 1), 2.0, LEAK),
        (lambda x: torch.clamp(input=x, min=0, max=1), 2.0, LEAK),
        (lambda x: torch.sqrt(input=x), 0.0, 0.5 / SMOOTH**0.5),
        (torch.round, 0.3, 1.0),
        (lambda x: (8 * x).floor() / 8, 0.3, 1.0),
        (torch.sign, 0.3, 1.0),
        (torch.sigmoid, 0.0, 0.25),
        (nn.ReLU(inplace=True), -1.0, 0.0),  # in place: left alone
    ],
)
def test_values_stay_and_derivatives_are_finite(function, at, slope):
    x = torch.full((1, 1, 2, 2), at)
    leaf = x.clone().requires_grad_()
    out = Repaired(Of(lambda x: function(x + 0)))(leaf)
    assert torch.equal(out, function(x.clone()).flatten(1))
    assert torch.equal(Repaired(Of(function))(x.clone()), out)
    out.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.full_like(x, slope))


def test_an_ordinary_net_gives_the_same_outputs_to_the_last_bit():
    model = net()
    x, _ = task(model)
    assert torch.equal(Repaired(model)(x), model(x))
    assert torch.equal(Repaired(model)(x.clone().requires_grad_()), model(x))


def test_a_robustness_that_was_a_nan_is_found_out():
    """The sign of NaN is 0: FGSM leaves the black pixels alone, and the model seems to hold."""
    model = Roots()
    x = torch.zeros(60, 1, 6, 6)
    x[:, :, 2:4, 2:4] = 0.5 + 0.4 * torch.rand(60, 1, 2, 2, generator=seeded())
    with torch.no_grad():
        y = model(x).argmax(1)
    data = Data(x.mul(255).round().byte(), y, ("a", "b"))
    plain = strike(model, data, FGSM(loss="margin"), Linf(0.3))
    assert plain.health.nan.sum() > 0
    again = repair(model, data, plain, generator=seeded())
    assert again.repaired.health.nan.sum() == 0
    check, facts = again.check(), again.to_json()
    assert facts["repaired"]["value"] < facts["plain"]["value"] - 0.2
    assert facts["worst"]["value"] <= facts["repaired"]["value"]
    assert facts["p"] < 0.01
    assert check.verdict == "fail"
    assert "Report the number with repaired gradients" in check.remedy


def test_sound_gradients_need_no_repair():
    model = net()
    x, y = task(model, n=20, wrong=0)
    data = Data(x.mul(255).round().byte(), y, ("a", "b", "c", "d"))
    plain = strike(model, data, FGSM(), Linf(0.05))
    found = repair(model, data, plain, generator=seeded())
    assert found.check().verdict == "ok"
    assert not found.check().remedy
    assert int(found.held.sum()) <= int((plain.right & ~plain.broken).sum())
