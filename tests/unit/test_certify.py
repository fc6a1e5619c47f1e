"""Certifiers by bounds: no proven image is ever broken, layers without a rule are named, certificates are kept."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from steelman.attacks import Attack
from steelman.attacks.apgd import APGD
from steelman.attacks.fgsm import FGSM
from steelman.attacks.fmn import FMN
from steelman.attacks.pgd import PGD
from steelman.attacks.square import Square
from steelman.certify import Certifier, certify
from steelman.certify._bounded import Bounded
from steelman.certify.branch_and_bound import BranchAndBound
from steelman.certify.crown import CROWN
from steelman.certify.interval import Interval
from steelman.data import Data
from steelman.errors import SpecError, UsageError
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.spec import parse
from steelman.threats import L0, L1, L2, Ball, Linf
from steelman.types import Images, Labels, Mask

CERTIFIERS: list[Bounded] = [Interval(), CROWN(), CROWN(intermediate="linear"), BranchAndBound(branches=9)]
ATTACKS: list[Attack] = [FGSM(), PGD(steps=5, loss="margin"), APGD(steps=6), FMN(steps=10), Square(queries=20)]
RADII: dict[type[Ball], tuple[float, ...]] = {Linf: (0.002, 0.01, 0.03), L2: (0.01, 0.05, 0.2), L1: (0.03, 0.1, 0.5)}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = [nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        net = nn.Sequential(*layers, nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        for layer in (net[0], net[5], net[7]):
            nn.init.normal_(layer.weight)
        with torch.no_grad():  # every class is predicted somewhere
            net[7].bias -= net.eval()(torch.rand(200, 1, 6, 6)).mean(0)
    return net.eval()


@pytest.fixture(scope="module")
def images(model) -> tuple[Images, Labels]:
    x = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return x, model(x).argmax(1)


@pytest.mark.parametrize("norm", RADII)
def test_certified_and_broken_is_impossible(norm, model, images):
    """Attacks of every sort at radii where some are proven; 10,000 random images of each proven image's set."""
    x, y = images
    proven = {eps: [certifier(model, x, y, norm(eps)) for certifier in CERTIFIERS] for eps in RADII[norm]}
    for shares in zip(*([float(mask.float().mean()) for mask in masks] for masks in proven.values()), strict=True):
        assert shares[0] > 0
        assert shares[-1] < 1
        assert list(shares) == sorted(shares, reverse=True)
    for eps in RADII[norm][1:]:
        for attack in ATTACKS:
            if norm.__name__ in attack.norms:
                found = attack.run(model, x, y, norm(eps), generator=torch.Generator().manual_seed(0))
                assert not any((found.success & mask).any() for mask in proven[eps]), attack
    threat, rows = norm(RADII[norm][1]), proven[RADII[norm][1]][-1].nonzero().squeeze(1)[:2]
    tried = threat.sample(x[rows].repeat_interleave(10_000, 0), torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (model(tried).argmax(1) == y[rows].repeat_interleave(10_000)).all()


def test_linear_bounds_prove_what_intervals_prove_and_more(model, images):
    x, y = images
    interval, crown, full, branched = (certifier.margins(model, x, y, Linf(0.1)) for certifier in CERTIFIERS)
    assert (crown >= interval).all()
    assert (full >= interval).all()
    assert crown.mean() > interval.mean() + 0.1
    assert full.mean() > crown.mean()
    assert (branched >= crown).all()
    assert (branched > 0).sum() >= (full > 0).sum()


def test_a_wrong_image_is_never_certified(model, images):
    x, y = images
    for certifier in CERTIFIERS:
        assert not certifier(model, x, (y + 1) % 3, Linf(0.0)).any()
        assert certifier(model, x, y, Linf(1e-6)).float().mean() > 0.5
        assert certifier(model, x[:0], y[:0], Linf(0.1)).shape == (0,)


def test_a_model_in_train_mode_is_certified_in_eval_mode_and_given_back(model, images):
    x, y = images
    expected = Interval()(model, x, y, Linf(0.01))
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    told: list[int] = []
    found = Interval()(model, x, y, Linf(0.01), progress=lambda done, total, words: told.append(done))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()
    assert torch.equal(found, expected)
    assert told[-1] == 12


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 1)


def test_what_cannot_be_certified_is_named_with_what_can(images):
    x, y = images
    model = nn.Sequential(nn.Flatten(), nn.Sequential(Odd(), nn.Linear(36, 3)))
    with pytest.raises(
        UsageError, match=r"Interval\(\) has no rule for .*cumsum, in layer 1.0 \(Odd\). Possible: conv"
    ):
        Interval()(model, x, y, Linf(0.1))
    with pytest.raises(UsageError, match="Smoothing, which takes any"):
        CROWN()(model, x, y, Linf(0.1))
    tanh = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(36, 3))
    assert Interval()(tanh, x, tanh(x).argmax(1), Linf(0.0)).any()
    with pytest.raises(UsageError, match=r"CROWN\(\) has no rule for layer 1 \(Tanh\)"):
        CROWN()(tanh, x, (tanh(x).argmax(1) + 1) % 3, Linf(0.1))
    with pytest.raises(UsageError, match="only for balls of Linf, L2 and L1"):
        Interval()(tanh, x, y, L0(2.0))
    noisy = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    noisy.register_forward_hook(lambda module, given, out: (torch.rand(1), out)[1])
    with pytest.raises(UsageError, match="draws random numbers"):
        Interval()(noisy, x, y, Linf(0.1))
    with pytest.raises(UsageError, match="one vector of logits an image, two or more"):
        Interval()(nn.Sequential(nn.Conv2d(1, 3, 6)), x, y, Linf(0.1))


def test_the_way_to_intermediate_bounds_is_checked():
    with pytest.raises(SpecError, match="Expected one of 'interval', 'linear'"):
        parse("CROWN(intermediate='exact')", "certifier")


@dataclasses.dataclass(frozen=True, repr=False)
class Counting(Certifier):
    """Proves images whose first pixel is bright, and says what it was asked."""

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: Ball,
        *,
        generator: Generator | None = None,
        progress: Progress = silent,
    ) -> Mask:
        assert generator is not None
        progress(len(x), len(x), "counting")
        return x[:, 0, 0, 0] > 0.5


@dataclasses.dataclass(frozen=True, repr=False)
class Slow(Counting):
    """The same with another proof that is quick."""

    @property
    def quick(self) -> Certifier:
        return CROWN()


@pytest.fixture
def data() -> Data:
    pixels = torch.randint(256, (1200, 1, 6, 6), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    return Data(pixels, torch.zeros(1200, dtype=torch.int64), ("a", "b", "c"))


def test_certificates_are_kept_and_not_computed_again(model, data, tmp_path: Path, monkeypatch):
    """Stopped in the second of three parts; then done; then read; then with other weights."""
    monkeypatch.setattr("steelman.certify._SECONDS", 0.0)
    expected = data.pixels()[:, 0, 0, 0] > 0.5
    told: list[int] = []

    def stop(done: int, total: int, words: str) -> None:
        assert total == 1200
        told.append(done)
        if len(told) == 2:
            raise KeyboardInterrupt

    with Run.open(tmp_path / "run", "Test()") as run:
        with pytest.raises(KeyboardInterrupt):
            certify(model, data, Counting(), Linf(0.1), run=run, progress=stop)
        for _ in range(2):
            assert torch.equal(certify(model, data, Counting(), Linf(0.1), run=run, progress=stop), expected)
        assert told == [500, 1000, 1000, 1200]
        certify(model, data, Counting(), Linf(0.2), run=run, progress=stop)
        assert told[4:] == [500, 1000, 1200]
    assert torch.equal(certify(model, data, Counting(), Linf(0.1)), expected)


def test_a_slow_certifier_is_kept_by_few_images(model, data, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("steelman.certify._SECONDS", 0.0)
    told: list[int] = []

    def stop(done: int, total: int, words: str) -> None:
        told.append(done)
        if len(told) == 2:
            raise KeyboardInterrupt

    with Run.open(tmp_path / "run", "Test()") as run:
        with pytest.raises(KeyboardInterrupt):
            certify(model, data.first(50), Slow(), Linf(0.1), run=run, progress=stop)
        assert run.read_tensors("examples/certified.safetensors")["certified"].eq(-1).sum() == 30
        certify(model, data.first(50), Slow(), Linf(0.1), run=run, progress=stop)
    assert told == [20, 40, 40, 50]


def test_a_data_set_is_certified_as_its_images_are(model, data):
    few = data.first(20)
    y = model(few.pixels()).argmax(1)
    few = dataclasses.replace(few, labels=y)
    assert torch.equal(certify(model, few, CROWN(), Linf(0.01)), CROWN()(model, few.pixels(), y, Linf(0.01)))
