"""The bracket: certified <= true <= attacked, on classifiers for which the truth is known."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from steelman.attacks.pgd import PGD
from steelman.bracket import bracketed
from steelman.certify import Certifier
from steelman.certify.branch_and_bound import BranchAndBound
from steelman.certify.crown import CROWN
from steelman.certify.interval import Interval
from steelman.data import Data
from steelman.errors import UsageError
from steelman.evaluate import strike
from steelman.measurement import Measurement
from steelman.spec import parse
from steelman.threats import Linf
from tests.oracles.test_hyperplane import linear

EPS = 0.04


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(13, 243, (40, 1, 4, 8), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        labels = MODEL(images.float() / 255).argmax(1)
    labels[:5] = 1 - labels[:5]  # wrong from the start
    return Data(images, labels, ("a", "b"), "toy")


MODEL = linear(2, 0)


def truth(data: Data, eps: float) -> torch.Tensor:
    """A linear classifier holds exactly where its margin exceeds eps times the L1 norm of the weights' difference."""
    weight, bias = MODEL[1].weight.detach().double(), MODEL[1].bias.detach().double()
    logits = data.pixels().flatten(1).double() @ weight.T + bias
    margin = logits.gather(1, data.labels[:, None]) - logits.gather(1, 1 - data.labels[:, None])
    return margin.squeeze(1) > eps * (weight[1] - weight[0]).abs().sum()


def test_on_a_linear_classifier_certified_true_and_attacked_are_one(data):
    outcome, bracket = bracketed(MODEL, data, Interval(), PGD(steps=10), Linf(EPS), radii=(0.01, EPS))
    held = outcome.right & ~outcome.broken
    assert 5 < int(held.sum()) < 35
    assert torch.equal(bracket.certified, truth(data, EPS))
    assert torch.equal(held, truth(data, EPS))
    shares = [float(truth(data, eps).double().mean()) for eps in (0.01, EPS)]
    assert [share.value for _, share in bracket.over_eps] == shares
    assert bracket.check().verdict == "ok"


def test_what_is_proven_costs_no_query(data):
    outcome, bracket = bracketed(MODEL, data, Interval(), PGD(steps=10), Linf(EPS))
    assert not outcome.forwards[bracket.certified].any()
    assert torch.equal(outcome.proven, bracket.certified)
    plain = strike(MODEL, data, PGD(steps=10), Linf(EPS))
    assert torch.equal(plain.broken, outcome.broken)
    assert plain.forwards[bracket.certified].all()


class Watched(Certifier):
    """Intervals, slow in name; it remembers how many images it was asked about, and half of it is quick."""

    asked: ClassVar[list[tuple[float, int]]] = []

    @property
    def quick(self):
        return Half()

    def __call__(self, model, x, y, threat, **_):
        self.asked.append((threat.eps, len(x)))
        return Interval()(model, x, y, threat)


class Half(Certifier):
    """Proves every second image of those that intervals prove."""

    def __call__(self, model, x, y, threat, **_):
        return Interval()(model, x, y, threat) & (torch.arange(len(x)) % 2 == 0)


def test_a_slow_certifier_looks_at_what_holds_alone(data):
    Watched.asked.clear()
    outcome, bracket = bracketed(MODEL, data, Watched(), PGD(steps=10), Linf(EPS), radii=(0.1, 0.01, EPS))
    quick = truth(data, EPS) & (torch.arange(len(data)) % 2 == 0)
    assert torch.equal(outcome.proven, quick)
    assert torch.equal(bracket.certified, truth(data, EPS))
    fallen = outcome.broken & (outcome.distance <= 0.01)
    expected = {
        EPS: int((outcome.right & ~outcome.broken & ~quick).sum()),
        0.01: int((outcome.right & ~fallen & ~bracket.certified).sum()),
        0.1: int(bracket.certified.sum()),
    }
    assert {eps: sum(n for at, n in Watched.asked if at == eps) for eps in expected} == expected
    assert min(expected.values()) > 0
    shares = [float(truth(data, eps).double().mean()) for eps in (0.1, 0.01, EPS)]
    assert [share.value for _, share in bracket.over_eps] == shares


def test_what_is_fast_is_its_own_quick_proof():
    assert Interval().quick == Interval()
    assert CROWN().quick == CROWN()
    assert CROWN("linear").quick == CROWN()
    assert BranchAndBound().quick == CROWN()


def test_proving_is_not_taken_for_the_whole(data):
    """Half of the progress is proving, the other half the attack."""
    told: list[tuple[float, str]] = []
    options = {"progress": lambda done, total, words: told.append((done / total, words.split(":")[0]))}
    bracketed(MODEL, data, Interval(), PGD(steps=2), Linf(EPS), **options)
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert max(share for share, words in told if words == "proving") == 0.5
    assert told[-1] == (1.0, "attacking the rest")


def test_a_proof_that_an_attack_breaks_rings_the_alarm(data):
    class Credulous(Certifier):
        def __call__(self, model, x, y, threat, **_):
            return torch.ones(len(x), dtype=torch.bool)

    _, bracket = bracketed(MODEL, data, Credulous(), PGD(steps=10), Linf(EPS))
    check = bracket.check()
    assert check.verdict == "fail"
    assert bracket.violated == int((~truth(data, EPS))[5:].sum())
    assert "one of the two is wrong" in check.words


def test_a_net_of_which_nothing_is_proven_says_so(data):
    _, bracket = bracketed(MODEL, data, Interval(), PGD(steps=2), Linf(0.5))
    assert bracket.tried == 0
    assert bracket.check().verdict == "info"


@pytest.mark.parametrize(
    ("certifier", "shield", "words"),
    [
        ("Interval()", "BitDepth()", "both Interval.* and BitDepth.* leave out one of the two"),
        ("Smoothing(0.5)", None, "certifies a smoothed model, not the one that is attacked"),
    ],
)
def test_what_cannot_stand_together_is_refused(certifier, shield, words):
    parts = {"certifier": parse(certifier, "certifier"), "shield": shield and parse(shield, "shield")}
    with pytest.raises(UsageError, match=words):
        Measurement(PGD(), Linf(0.1), model="SmallCNN", **parts)


def test_a_layer_that_the_certifier_does_not_know_is_named(data):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).real

    model = nn.Sequential(Odd(), *MODEL)
    with pytest.raises(UsageError, match=r"Interval.* has no rule for .*Odd"):
        bracketed(model.eval(), data, Interval(), PGD(steps=2), Linf(0.1))
