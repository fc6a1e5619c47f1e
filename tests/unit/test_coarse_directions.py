"""Directions in bfloat16: where they are used, and that float32 decides what is broken."""

import pytest
import torch
from torch import Tensor, nn

from steelman import engine
from steelman.attacks import Problem
from steelman.attacks.apgd import APGD
from steelman.attacks.pgd import PGD
from steelman.engine import coarse_pays, forward, guarded, precise, predict
from steelman.models import Normalize
from steelman.models.fast_cnn import FastCNN
from steelman.models.mobilenet import MobileNetV2
from steelman.models.small_cnn import SmallCNN
from steelman.models.v_one import VOne
from steelman.surrogates import Repaired
from steelman.threats import L2, Linf

HAS_BFLOAT16 = engine.multiplies_bfloat16()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_cnn() -> nn.Module:
    return SmallCNN()((1, 28, 28), 10, seeded())


class Line(nn.Module):
    """Two logits, each a multiple of the first pixel."""

    def __init__(self, *slopes: float) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2, bias=False)
        self.linear.weight.data = torch.tensor(slopes).view(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[:, 0, 0])


def problem(model: nn.Module, x: Tensor, **options: object) -> Problem:
    y = torch.zeros(len(x), dtype=torch.int64)
    return Problem(model, x, y, Linf(0.3), generator=seeded(), batch=64, **options)


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarse directions for every model, whatever the processor."""
    monkeypatch.setattr("steelman.attacks.problem.coarse_pays", lambda model, x: True)


# ---- float32 decides


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(("slopes", "is_broken"), [((256.0, 256.4), True), ((256.4, 256.0), False)])
def test_logits_that_bfloat16_cannot_tell_apart_are_told_apart_in_float32(slopes: tuple[float, float], is_broken: bool):
    model, x = Line(*slopes), torch.ones(3, 1, 1, 1)
    coarse = forward(model, x, coarse=True)
    assert torch.equal(coarse[:, 0], coarse[:, 1])  # eight binary digits: 256.4 is 256
    search = problem(model, x)
    search.value_and_grad(x, "margin", coarse=True)
    assert search.success.tolist() == 3 * [is_broken]
    torch.testing.assert_close(search.margin, torch.full((3,), slopes[1] - slopes[0]))


@pytest.mark.usefixtures("everywhere")
def test_asking_again_is_counted_and_only_what_is_near_is_asked():
    model, x = Line(1.0, 0.0), torch.tensor([0.0, 1.0, 0.5]).view(-1, 1, 1, 1)
    model.linear.bias = nn.Parameter(torch.tensor([0.0, 0.01]))
    search = problem(model, x)
    search.value_and_grad(x, "margin", coarse=True)
    assert search.success.tolist() == [True, False, False]
    assert search.forwards.tolist() == [2, 1, 1]
    assert search.backwards.tolist() == [1, 1, 1]


@pytest.mark.usefixtures("everywhere")
def test_a_mean_over_several_passes_is_not_coarse():
    model, x = Line(256.4, 256.0), torch.ones(2, 1, 1, 1)
    value, _ = problem(model, x).value_and_grad(x, "margin", samples=2, coarse=True)
    torch.testing.assert_close(value, torch.full((2,), -0.4), atol=1e-4, rtol=0)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not multiply bfloat16")
@pytest.mark.parametrize("attack", [PGD(steps=6, random_start=False), APGD(steps=6, random_start=False)])
@pytest.mark.parametrize("threat", [Linf(0.1), L2(1.0)])
def test_an_image_gets_the_same_alone_as_among_others(attack, threat):
    model, x = small_cnn().eval(), torch.rand(20, 1, 28, 28, generator=seeded())
    y = model(x).argmax(1)
    together = attack(model, x, y, threat)
    torch.testing.assert_close(attack(model, x[7:8], y[7:8], threat), together[7:8], atol=1e-5, rtol=0)
    torch.testing.assert_close(attack(model, x.flip(0), y.flip(0), threat).flip(0), together, atol=1e-5, rtol=0)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not multiply bfloat16")
def test_every_success_is_one_in_float32_and_the_gradient_is_near_its_own():
    model, x = small_cnn(), torch.rand(40, 1, 28, 28, generator=seeded())
    with guarded(model):
        y = predict(model, x).argmax(1)
        search, exact = problem(model, x), problem(model, x)
        search.y = exact.y = y
        _, grad = search.value_and_grad(x, "cross_entropy", coarse=True)
        _, expected = exact.value_and_grad(x, "cross_entropy")
    assert not torch.equal(grad, expected)
    cosine = torch.cosine_similarity(grad.flatten(1), expected.flatten(1))
    assert float(cosine.min()) > 0.95
    found = PGD(steps=10).run(model, x, y, Linf(0.3), generator=seeded())
    assert found.success.any()
    assert torch.equal(predict(model.eval(), found.x_adv).argmax(1) != y, found.success)


# ---- where it is used


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies bfloat16."""
    monkeypatch.setattr(engine, "multiplies_bfloat16", lambda: True)


@pytest.mark.usefixtures("able")
def test_it_pays_for_nets_with_much_to_multiply_made_of_known_layers():
    x = torch.rand(2, 1, 28, 28)
    assert coarse_pays(small_cnn(), x)
    assert coarse_pays(Repaired(small_cnn()), x)
    assert coarse_pays(nn.Sequential(Normalize((0.1307,), (0.3081,)), small_cnn()), x)
    assert coarse_pays(FastCNN(filters=32, hidden=400, threshold="fixed")(tuple(x.shape[1:]), 10, seeded()), x)
    assert not coarse_pays(FastCNN()(tuple(x.shape[1:]), 10, seeded()), x)  # too little
    assert not coarse_pays(MobileNetV2()((3, 64, 64), 10, seeded()), torch.rand(1, 3, 64, 64))  # memory
    assert not coarse_pays(VOne()((1, 28, 28), 10, seeded()), x)  # its own layers draw noise and take roots


@pytest.mark.usefixtures("able")
def test_it_is_not_used_where_float32_is_asked_for_or_something_else_is_computed():
    x, model = torch.rand(2, 1, 28, 28), small_cnn()
    with precise():
        assert not coarse_pays(model, x)
        with precise():
            pass
        assert not coarse_pays(model, x)
    assert coarse_pays(model, x)
    assert not coarse_pays(model, x.double())
    assert not coarse_pays(model, x[:0])
    assert not coarse_pays(model.double(), x)


def test_it_is_not_used_on_a_processor_that_would_have_to_imitate_it(monkeypatch):
    monkeypatch.setattr(engine, "multiplies_bfloat16", lambda: False)
    assert not coarse_pays(small_cnn(), torch.rand(2, 1, 28, 28))
