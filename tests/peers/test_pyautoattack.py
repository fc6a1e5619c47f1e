"""AutoAttack's members against the reference code (pyautoattack), on a small convolutional net of the digits."""

import logging
from collections.abc import Iterator

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from steelman.attacks import Attack
from steelman.attacks.apgd import APGD
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.fab import FAB
from steelman.attacks.fgsm import FGSM
from steelman.attacks.square import Square
from steelman.threats import L1, L2, Ball, Linf

pyautoattack = pytest.importorskip("pyautoattack", reason="pyautoattack, the reference, is not installed")

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

N = 60
STEPS, QUERIES = 30, 500
THREATS = [Linf(0.17), L2(0.8), L1(2.0)]


class Counted(nn.Module):
    """Counts the images that pass forwards and backwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, grad: Tensor) -> None:
        self.backwards += len(grad)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A net trained on FGSM examples of the digits, and images of the rest that it gets right."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(digits.target)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
        )
    optimizer, generator = torch.optim.Adam(model.parameters(), 2e-3), torch.Generator().manual_seed(0)
    for _ in range(12):
        for rows in torch.randperm(1200, generator=generator).split(100):
            attack = FGSM(random_start=True, step_size=1.25)
            x_adv = attack.perturb(model, x[rows], y[rows], Linf(0.2), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x_adv), y[rows]).backward()
            optimizer.step()
    model.eval().requires_grad_(False)
    right = (model(x).argmax(1) == y).nonzero().squeeze(1)
    rows = right[right >= 1200][:N]
    return model, x[rows], y[rows]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def reference(model: nn.Module, x: Tensor, y: Tensor, threat: Ball, member: str) -> tuple[int, Counted]:
    """How many images hold against the reference's member, and what it cost."""
    counted, norm = Counted(model), type(threat).__name__
    with torch.random.fork_rng(devices=[]):
        whole = pyautoattack.AutoAttack(counted, norm=norm, eps=threat.eps, seed=0, version="standard")
        whole.verbose = False
        for apgd in (whole.apgd, whole.apgd_targeted):
            apgd.n_iter = apgd.n_iter_orig = STEPS
            apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = int(0.22 * STEPS), int(0.06 * STEPS), int(0.03 * STEPS)
            apgd.seed = 0
        whole.apgd.loss = "ce"
        whole.fab.n_iter, whole.fab.targeted = STEPS, True
        whole.square.n_queries = QUERIES
        if member == "whole":
            x_adv = whole.run_standard_evaluation(x, y, batch_size=N)[0]
        else:
            parts = {"apgd-ce": whole.apgd, "apgd-t": whole.apgd_targeted, "fab-t": whole.fab, "square": whole.square}
            x_adv = parts[member].perturb(x.clone(), y.clone())
    broken = (model(x_adv).argmax(1) != y) & threat.contains(x_adv, x, tolerance=1e-5)
    return N - int(broken.sum()), counted


def ours(member: str, norm: str) -> Attack:
    """The member with the reference's parameters, in fewer steps."""
    whole = AutoAttack(steps=STEPS, queries=QUERIES)
    if member == "whole":
        return whole
    names = ("apgd-ce", "apgd-t", "fab-t", "square")
    return dict(zip(names, whole.members_in(norm), strict=True))[member]


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("member", ["apgd-ce", "apgd-t", "fab-t", "square", "whole"])
def test_no_member_leaves_more_images_than_the_references(trained, threat, member):
    """At most one image more, for random starts and positions differ."""
    model, x, y = trained
    attack = ours(member, type(threat).__name__)
    found = attack.run(model, x, y, threat, generator=torch.Generator().manual_seed(0))
    robust = N - int(found.success.sum())
    expected, counted = reference(model, x, y, threat, member)
    assert 0 < expected < N  # else the comparison says nothing
    assert robust <= expected + 1
    assert int(found.backwards.sum()) <= counted.backwards + N


@pytest.mark.parametrize("member", ["apgd-ce", "apgd-t", "fab-t"])
def test_images_that_hold_cost_fewer_passes_than_in_the_reference(trained, member):
    """In a radius in which nothing breaks; FAB's step takes one forward for the reference's two."""
    model, x, y = trained
    threat = Linf(1e-4)
    attack = ours(member, "Linf")
    found = attack.run(model, x, y, threat, generator=torch.Generator().manual_seed(0))
    expected, counted = reference(model, x, y, threat, member)
    assert expected == N - int(found.success.sum()) == N
    assert int(found.forwards.sum()) <= counted.forwards * (0.55 if member == "fab-t" else 1)
    assert int(found.backwards.sum()) <= counted.backwards


def test_the_classes_named_are_those_of_the_reference():
    assert [type(member) for member in AutoAttack().members] == [APGD, APGD, FAB, Square]
