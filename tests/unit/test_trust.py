"""Each trust check: quiet on an honest model, loud on the one model that it is there for."""

import dataclasses
import itertools
import math
import re

import pytest
import torch
from torch import Tensor, nn

from steelman import probes
from steelman.attacks.fgsm import FGSM
from steelman.attacks.fmn import FMN
from steelman.attacks.noise import Noise
from steelman.attacks.pgd import PGD
from steelman.attacks.sigma_zero import SigmaZero
from steelman.attacks.square import Square
from steelman.attacks.strongest import Strongest
from steelman.data import Data
from steelman.errors import UsageError
from steelman.evaluate import strike
from steelman.page import Check, Trust
from steelman.probes import probe
from steelman.threats import L0, L1, L2, Linf
from steelman.trust import examine, read

N, SIDE = 90, 5
PIXELS = SIDE * SIDE
CLASSES = ("a", "b", "c")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_data(n: int = N, noise: float = 45, black: int = 0) -> Data:
    """Three grey patterns with noise; `black` columns are 0 everywhere."""
    generator = seeded(1)
    patterns = torch.randint(60, 196, (3, 1, SIDE, SIDE), generator=generator).float()
    labels = torch.arange(n) % 3
    images = patterns[labels] + noise * torch.randn((n, 1, SIDE, SIDE), generator=generator)
    images = images.round().clamp(0, 255).to(torch.uint8)
    images[..., :black] = 0
    return Data(images, labels, CLASSES)


def fit(data: Data, hidden: int = 16, steps: int = 40) -> nn.Sequential:
    """A plain two-layer net, trained for a moment."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, hidden), nn.Softplus(), nn.Linear(hidden, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(data.pixels()), data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


class Wrapped(nn.Module):
    """A model with something before or behind it."""

    def __init__(self, model: nn.Module, before: object = None, after: object = None) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x if self.before is None else self.before(x))
        return logits if self.after is None else self.after(logits)


@pytest.fixture(scope="module")
def data() -> Data:
    return make_data()


@pytest.fixture(scope="module")
def honest(data: Data) -> nn.Sequential:
    return fit(data)


def checks(model: nn.Module, data: Data, attack: object = None, threat: object = None) -> dict[str, Check]:
    outcome = strike(model, data, attack or PGD(steps=20), threat or Linf(0.12), generator=seeded())
    return {check.name: check for check in examine(model, data, outcome).checks}


@pytest.fixture
def short(monkeypatch):
    """Probes of fewer steps, where the model is too plain or too broken for the number to matter."""
    monkeypatch.setattr(probes, "SHORT", PGD(steps=10))
    monkeypatch.setattr(probes, "LONG", PGD(steps=15, loss="margin"))
    monkeypatch.setattr(probes, "SCORES", Square(queries=60, rescale=True))


QUICK = pytest.mark.usefixtures("short")
EVERY = [
    "gradient NaN", "gradient zero", "softmax saturated", "pixels moved", "8-bit survival", "eps and range", "logits",
    "deterministic", "one by one", "attack strength", "FGSM against PGD", "more steps", "unlimited eps", "random noise",
    "gradients against scores", "label leaking",
]  # fmt: skip


# ---- an honest model


@pytest.mark.parametrize(
    ("attack", "threat"),
    [(PGD(steps=20), Linf(0.12)), (PGD(steps=20), L2(0.5)), (FGSM(), L1(2.5))],
    ids=repr,
)
def test_every_check_is_ok_on_an_honest_model(honest, data, attack, threat):
    found = checks(honest, data, attack, threat)
    assert list(found) == EVERY
    assert {name: check.verdict for name, check in found.items()} == dict.fromkeys(EVERY, "ok")
    assert all(check.words and not check.remedy for check in found.values())


def test_where_there_is_no_one_step_and_no_square_attack_those_probes_are_left_out(honest, data):
    """No FGSM and no Square search in L0."""
    found = checks(honest, data, SigmaZero(), L0(3.0))
    left = ["FGSM against PGD", "gradients against scores", "label leaking"]
    assert [name for name in found if name != "candidates allowed"] == [name for name in EVERY if name not in left]
    assert {check.verdict for check in found.values()} == {"ok"}


def test_gradient_descent_in_l0_is_told_as_weak(honest, data):
    """Runs of it differ by images: the panel's own break what this one left."""
    assert checks(honest, data, PGD(steps=20), L0(3.0))["attack strength"].verdict == "warn"


def test_an_honest_model_is_not_just_untouched(honest, data):
    outcome = strike(honest, data, PGD(steps=20), Linf(0.12), generator=seeded())
    assert outcome.natural.value > 0.95
    assert 0.1 < outcome.robust.value < 0.95


@pytest.mark.usefixtures("short")
def test_a_panel_names_what_was_measured_and_its_worst_verdict(honest, data):
    outcome = strike(honest, data, PGD(steps=20), Linf(0.12), generator=seeded())
    panel = examine(honest, data, outcome)
    assert panel.subject == "PGD(steps=20) within Linf(0.12)"
    assert panel.verdict == "ok"
    assert examine(honest, data, outcome, subject="mine").subject == "mine"
    worst = Trust(
        "", (*panel.checks, Check("x", "warn", "", ""), Check("y", "fail", "", ""), Check("z", "info", "", ""))
    )
    assert worst.verdict == "fail"


@pytest.mark.usefixtures("short")
def test_probes_look_at_the_first_images_only(honest, data):
    outcome = strike(honest, data, FGSM(), Linf(0.12))
    found = {check.name: check for check in examine(honest, data, outcome, sample=10).checks}
    assert found["FGSM against PGD"].words.startswith("On 10 images")
    left = int(re.fullmatch(r"0 of (\d+)", found["random noise"].value)[1])
    assert 0 < left <= int((outcome.right & ~outcome.broken)[:10].sum())  # those that the attack has not broken
    assert found["gradients against scores"].value == found["random noise"].value


@QUICK
def test_the_images_must_be_those_of_the_outcome(honest, data):
    """Other images, or the same in another order, would answer for what was not measured."""
    outcome = strike(honest, data, FGSM(), Linf(0.12))
    with pytest.raises(UsageError, match=r"the outcome is about 90 images, 40 were given\. Give those of the strike"):
        examine(honest, data.first(40), outcome)
    words = r"the first \d+ rows of the outcome are about other images than those given\. Give the images of the strike"
    other_labels = Data(data.images, (data.labels + 1) % 3, CLASSES)
    other_images = Data(255 - data.images, data.labels, CLASSES)
    for other in (other_labels, other_images, data.take(torch.arange(N - 1, -1, -1))):
        with pytest.raises(UsageError, match=words):
            examine(honest, other, outcome)
    with pytest.raises(UsageError, match=words):
        list(probe(honest, data.take(torch.arange(3, 20)), outcome, generator=seeded()))


@pytest.mark.usefixtures("short")
def test_probes_disturb_neither_model_nor_global_generator(honest, data):
    model = fit(data, steps=5).train()
    outcome = strike(model, data, FGSM(), Linf(0.06))
    before = [parameter.clone() for parameter in model.parameters()]
    state = torch.random.get_rng_state()
    assert examine(model, data, outcome) == examine(model, data, outcome)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# ---- models that hide from gradients


@QUICK
def test_a_quantised_input_has_no_gradient(honest, data):
    found = checks(Wrapped(honest, before=lambda x: (x * 15).round() / 15), data)
    assert found["gradient zero"].verdict == "fail"
    assert found["gradient zero"].value.startswith("90 of 90 images")
    assert re.search(r"\d+ of \d+ attacked images never had a usable gradient", found["gradient zero"].words)
    assert found["gradient zero"].remedy
    assert found["unlimited eps"].verdict == "fail"
    assert found["more steps"].verdict == "fail"
    still = checks(Wrapped(honest, before=lambda x: (x * 15).round() / 15), data, FGSM())
    assert still["pixels moved"].verdict == "fail"
    assert "never changed" in still["pixels moved"].words


@QUICK
def test_a_model_that_cuts_its_graph_is_told_as_one_without_a_gradient(honest, data):
    found = checks(Wrapped(honest, before=lambda x: x.detach()), data)
    assert found["gradient zero"].verdict == "fail"
    assert found["unlimited eps"].verdict == "fail"


@QUICK
def test_some_images_without_a_gradient_are_a_warning(honest, data):
    def partly(x: Tensor) -> Tensor:
        chosen = (x[:, 0, 0, 0] * 255).round() == (data.pixels()[4, 0, 0, 0] * 255).round()
        return torch.where(chosen.view(-1, 1, 1, 1), x.detach(), x)

    found = checks(Wrapped(honest, before=partly), data, FGSM())
    assert found["gradient zero"].verdict == "warn"


@QUICK
def test_a_saturated_softmax_has_no_cross_entropy_gradient(honest, data):
    found = checks(Wrapped(honest, after=lambda logits: 1e4 * logits), data, FGSM())
    assert found["softmax saturated"].verdict == "warn"
    assert "exactly 1.0 in float32" in found["softmax saturated"].words
    assert "margin" in found["softmax saturated"].remedy
    assert found["gradient zero"].verdict == "fail"
    margin = checks(Wrapped(honest, after=lambda logits: 1e4 * logits), data, FGSM(loss="margin"))
    assert margin["gradient zero"].verdict == "ok"  # the remedy works


@QUICK
def test_a_square_root_at_zero_has_nan_gradients():
    """The sign of NaN is 0: images that are not attacked at all are reported as robust."""
    data = make_data(black=2)

    def energy(x: Tensor) -> Tensor:  # a complex cell: the root of a sum of squares
        return (x**2 + torch.roll(x, 1, dims=2) ** 2).sqrt()

    found = checks(Wrapped(fit(make_data(black=2)), before=energy), data, FGSM())
    assert found["gradient NaN"].verdict == "fail"
    assert found["gradient NaN"].value == "40.0 % of entries, 100.0 % of images"
    assert "not attacked at all" in found["gradient NaN"].words
    everywhere = checks(Wrapped(fit(data), before=lambda x: x + 0 * (x - x.detach()).sqrt()), data, FGSM())
    assert everywhere["gradient NaN"].value == "100.0 % of entries, 100.0 % of images"
    assert everywhere["gradient zero"].verdict == "fail"
    assert everywhere["pixels moved"].verdict == "fail"


@QUICK
def test_a_shelter_from_gradients_is_found_by_noise_and_by_an_unlimited_radius(data, honest):
    """The gradient points the wrong way, so that random images do better than the attack."""
    found = checks(Wrapped(honest, before=lambda x: 2 * x.detach() - x), data, PGD(steps=20), L2(0.9))
    assert found["unlimited eps"].verdict == "fail"
    assert found["random noise"].verdict == "fail"
    assert found["random noise"].remedy
    assert found["more steps"].verdict == "fail"


@QUICK
@pytest.mark.parametrize("threat", [Linf(0.12), L2(0.5)], ids=repr)
def test_a_model_quantised_to_four_levels_is_broken_without_gradients(honest, data, threat):
    """Its gradient is zero wherever an image lies, so that no gradient attack finds what random search does."""
    model = Wrapped(honest, before=lambda x: (x * 3).round() / 3)
    found = checks(model, data, FGSM(), threat)
    assert found["gradients against scores"].verdict == "fail"
    assert "masks its gradients" in found["gradients against scores"].words
    assert found["gradients against scores"].remedy
    assert found["gradient zero"].verdict == "fail"
    missed, held = map(int, found["gradients against scores"].value.split(" of "))
    assert 0 < missed <= held <= N
    printed, left = (float(share.removesuffix(" %")) for share in found["attack strength"].value.split(" / "))
    assert left <= 100 * (held - missed) / N + 0.1 < printed  # what scores break counts against the attack
    assert found["attack strength"].verdict == "fail"


@QUICK
def test_probabilities_of_steep_logits_are_named_from_several_sides(honest, data):
    """The softmax of scaled logits: confidence 1, gradient 0, and taken for logits."""
    model = Wrapped(honest, after=lambda logits: (1000 * logits).softmax(1))
    outcome = strike(model, data, PGD(steps=20), Linf(0.12), generator=seeded())
    panel = examine(model, data, outcome)
    failed = [check.name for check in panel.checks if check.verdict == "fail"]
    assert panel.verdict == "fail"
    assert {"gradient zero", "logits", "unlimited eps"} <= set(failed)
    assert outcome.robust.value > strike(honest, data, PGD(steps=20), Linf(0.12)).robust.value + 0.2


@QUICK
def test_a_root_at_zero_fails_the_whole_panel():
    data = make_data(black=2)
    model = Wrapped(fit(data), before=lambda x: (x**2).sqrt())
    panel = examine(model, data, strike(model, data, PGD(steps=20), Linf(0.12), generator=seeded()))
    assert panel.verdict == "fail"
    assert "gradient NaN" in [check.name for check in panel.checks if check.verdict == "fail"]


@QUICK
def test_noise_drawn_at_every_call_fails_unless_the_attack_averages(honest, data):
    generator = seeded(4)
    noisy = Wrapped(honest, before=lambda x: x + 0.5 * torch.randn(x.shape, generator=generator))
    found = []
    for attack in (PGD(steps=2), PGD(steps=2, samples=2), Strongest((FGSM(), PGD(steps=2, samples=2)))):
        outcome = strike(noisy, data, attack, Linf(0.12))
        found.append(
            {check.name: check for check in itertools.islice(probe(noisy, data, outcome, generator=seeded()), 2)}
        )
    assert [checks["deterministic"].verdict for checks in found] == ["fail", "warn", "warn"]
    check = found[0]["deterministic"]
    assert re.match(r"random, \d+\.\d % of predictions differ", check.value)
    assert "expectation over transformation" in check.remedy


def test_an_honest_random_model_fails_no_probe_when_the_attack_averages():
    """A linear model plus noise has exact gradients: what single draws do by chance is not held against them."""
    generator, weight = seeded(4), torch.randn(64, generator=seeded(5))

    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rise = (x - 0.5).flatten(1) @ weight + 0.5 * torch.randn(len(x), generator=generator)
            return torch.stack((-rise, rise), 1)

    images = torch.randint(0, 256, (96, 1, 8, 8), generator=seeded(6), dtype=torch.uint8)
    labels = ((images / 255 - 0.5).flatten(1) @ weight > 0).long()
    data = Data(images, labels, ("a", "b"), "toy")
    outcome = strike(Noisy(), data, Strongest((FGSM(), PGD(steps=10, samples=10))), Linf(0.02), generator=seeded())
    found = {check.name: check for check in probe(Noisy(), data, outcome, generator=seeded())}
    assert {name for name, check in found.items() if check.verdict == "fail"} == set()
    assert found["deterministic"].verdict == "warn"
    assert {"unlimited eps", "more steps", "random noise", "gradients against scores"} <= set(found)


# ---- an attack that is weaker than the probes


def linear(data: Data) -> nn.Sequential:
    """On a linear model one step to the corner is the optimum: what holds against it holds."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, PIXELS, generator=seeded(5)))
        model[1].weight.sub_(model[1].weight.mean(1, keepdim=True))  # grey is on the boundary
    return model


@QUICK
def test_a_weak_attack_is_named_beside_the_optimum():
    images = torch.randint(60, 196, (100, 1, SIDE, SIDE), generator=seeded(6)).to(torch.uint8)
    labels = torch.zeros(100, dtype=torch.int64)
    model = linear(Data(images, labels, ("a", "b")))
    data = Data(images, model(images / 255).argmax(1), ("a", "b"))
    apart = (model[1].weight[1] - model[1].weight[0]).detach()
    distances = ((images / 255).flatten(1) @ apart).abs() / apart.abs().sum()  # to the boundary, in L-inf
    eps = float(distances.median()) + 1e-4
    optimum = 100 * float((distances > eps).float().mean())
    weak = checks(model, data, Noise(tries=1), Linf(eps))["attack strength"]
    assert weak.verdict == "fail"
    robust = float(weak.value.split(" %")[0])
    assert weak.value == f"{robust:.1f} % / {optimum:.1f} %"
    assert robust > optimum + 20
    assert re.match(rf"On 100 images {robust:.1f} % \[.*\] hold against the attack; FGSM\(\), PGD", weak.words)
    assert f"break {robust - optimum:.0f} of these" in weak.words
    assert "Reliable()" in weak.remedy
    best = checks(model, data, FGSM(), Linf(eps))["attack strength"]
    assert (best.verdict, best.value) == ("ok", f"{optimum:.1f} % / {optimum:.1f} %")
    assert "break none of these" in best.words


@QUICK
def test_a_few_images_more_are_no_verdict_a_share_of_them_is(honest, data):
    """Of 90 images three may be chance, four are over 1 % with 95 % confidence, ten over 5 %."""
    whole = strike(honest, data, PGD(steps=20), Linf(0.12), generator=seeded())
    hits = whole.broken.nonzero().squeeze(1)
    for missed, verdict in ((0, "ok"), (3, "ok"), (4, "warn"), (9, "warn"), (10, "fail")):
        weaker = dataclasses.replace(whole, broken=whole.right.index_fill(0, hits[:missed], value=False))
        found = {check.name: check for check in probe(honest, data, weaker, generator=seeded())}
        assert found["attack strength"].verdict == verdict, missed


@QUICK
def test_an_attack_at_a_target_is_not_compared_with_probes_at_none(honest, data):
    outcome = strike(honest, data, Noise(tries=1), Linf(0.12), target="next", generator=seeded())
    found = {check.name: check for check in probe(honest, data, outcome, generator=seeded())}
    assert "attack strength" not in found
    assert found["target"].verdict == "info"
    assert re.search(r"more steps, unlimited eps, .* aim at none", found["target"].words)


class Fickle(nn.Module):
    """A model whose logits are negated, for each image and call with a probability: its gradients are honest."""

    def __init__(self, model: nn.Module, probability: float) -> None:
        super().__init__()
        self.model, self.probability, self.generator = model, probability, seeded(3)

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.rand(len(x), 1, generator=self.generator) >= self.probability
        return self.model(x) * torch.where(kept, 1.0, -1.0)


def test_what_chance_explains_of_a_random_model_is_a_share_of_what_held(honest, data):
    """Few images hold, and chance can break few of these: probes that break all of them are stronger."""
    fickle = Fickle(honest, 0.05)
    outcome = strike(fickle, data, PGD(steps=20, samples=5), Linf(0.2), generator=seeded())
    left = (outcome.right & ~outcome.broken).nonzero().squeeze(1)
    rows = outcome.broken.nonzero().squeeze(1)[:14]
    weaker = dataclasses.replace(outcome, broken=outcome.broken.index_fill(0, rows, value=False))
    assert len(left) < 10
    check = {check.name: check for check in probe(fickle, data, weaker, generator=seeded())}["attack strength"]
    assert check.verdict in ("warn", "fail")
    assert "may break by chance" in check.words


def test_a_model_that_changes_its_mind_now_and_then_is_not_said_to_mislead(honest, data):
    """Where as many images hold, or do not move, as the model answers otherwise by chance."""
    fickle = Fickle(honest, 0.04)
    outcome = strike(fickle, data, PGD(steps=20, samples=5), Linf(0.002), generator=seeded())
    found = {check.name: check for check in probe(fickle, data, outcome, generator=seeded())}
    assert found["unlimited eps"].verdict == "ok"
    assert "no more than by chance" in found["unlimited eps"].words
    assert found["more steps"].verdict != "fail"
    assert "PGD(steps=20, samples=5)" in found["more steps"].words
    assert "FGSM(samples=5)" in found["FGSM against PGD"].words


# ---- models that are something else than they look


@QUICK
def test_probabilities_are_not_logits(honest, data):
    """Softmax outputs taken for logits."""
    found = checks(Wrapped(honest, after=lambda logits: logits.softmax(1)), data)
    assert found["logits"].verdict == "fail"
    assert found["logits"].value == "probabilities"
    assert "softmax" in found["logits"].remedy
    logs = Wrapped(honest, after=lambda logits: logits.log_softmax(1))
    outcome = strike(logs, data, FGSM(), Linf(0.0))
    assert next(probe(logs, data, outcome, generator=seeded())).verdict == "ok"


@QUICK
def test_a_random_model_is_named(honest, data):
    generator = seeded(3)
    noisy = Wrapped(honest, after=lambda z: z + 1e-6 * torch.randn(z.shape, generator=generator))
    found = checks(noisy, data)
    assert found["deterministic"].verdict == "warn"
    assert found["deterministic"].value == "random, 0.0 % of predictions differ"
    assert "expectation over transformation" in found["deterministic"].remedy


class Leaking(nn.Module):
    """Guesses on clean images; after one signed step it reads the label off the step's pattern.

    Two classes. The step from the true label is the sign of w1 - w0 or its opposite; what lies between whole levels
    is that step alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(PIXELS, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(2, PIXELS, generator=seeded(5)))
            self.linear.bias.copy_(-self.linear.weight.sum(1) / 2)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        step = (flat * 255 - (flat * 255).round()).detach()
        weight = self.linear.weight.detach()
        seen = step @ (weight[1] - weight[0]).sign()
        return self.linear(flat) + 100 * torch.stack((seen, -seen), 1)


@QUICK
def test_a_model_that_reads_the_label_off_the_attack_is_named():
    generator = seeded(6)
    images = torch.randint(60, 196, (200, 1, SIDE, SIDE), generator=generator).to(torch.uint8)
    data = Data(images, torch.randint(2, (200,), generator=generator), ("a", "b"))
    found = checks(Leaking(), data, FGSM(), Linf(0.3 / 255))
    leak = found["label leaking"]
    assert leak.verdict == "fail"
    assert leak.value.startswith("100.0 % / ")
    assert "tells the model the label" in leak.words
    assert leak.remedy
    plain = nn.Sequential(nn.Flatten(), Leaking().linear)
    assert checks(plain, data, FGSM(), Linf(0.3 / 255))["label leaking"].verdict == "ok"


class OneStep(nn.Module):
    """Wrong only on the way: right at every image and a full step away from it, wrong between.

    What a net looks like after fine-tuning on FGSM images alone. The image is dark or light; the step goes to grey.
    """

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        rise = torch.where(mean < 0.5, 1 - ((mean - 0.27) / 0.03) ** 2, 1 - ((mean - 0.73) / 0.03) ** 2)
        away = torch.stack((torch.zeros_like(rise), rise), 1)
        return torch.where(mean[:, None] < 0.5, away, away.flip(1))


@QUICK
def test_a_model_that_learned_the_one_step_is_named():
    """Catastrophic overfitting that nobody notices: 100 % under FGSM, 0 % under PGD."""
    levels = torch.tensor([51, 204], dtype=torch.uint8).repeat(30)
    data = Data(
        levels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone(), torch.tensor([0, 1]).repeat(30), ("dark", "light")
    )
    outcome = strike(OneStep(), data, FGSM(), Linf(0.2))
    assert outcome.robust.value == 1
    for attack, verdict in ((FGSM(), "fail"), (PGD(steps=20), "warn")):
        check = checks(OneStep(), data, attack, Linf(0.2))["FGSM against PGD"]
        assert check.verdict == verdict
        assert check.value == "100.0 % / 0.0 %"
        assert "One step is too weak" in check.words
        assert "more than one step" in check.remedy


# ---- what an outcome tells by itself


@QUICK
def test_too_few_steps_are_named(honest, data, monkeypatch):
    """The short probe is made too short to converge."""
    monkeypatch.setattr(probes, "SHORT", PGD(steps=1, step_size=0.01, random_start=False))
    check = checks(honest, data)["more steps"]
    assert check.verdict == "warn"
    assert "more steps" in check.remedy


@QUICK
def test_what_8_bits_undo_is_named(data):
    class Fraction(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rise = (x * 255 - (x * 255).detach().round()).flatten(1).mean(1) - 0.1
            return torch.stack((torch.zeros_like(rise), rise), 1)

    dark = Data(data.images, torch.zeros(N, dtype=torch.int64), CLASSES[:2])
    outcome = strike(Fraction(), dark, FGSM(), Linf(0.3 / 255))
    check = {check.name: check for check in read(outcome)}["8-bit survival"]
    assert check.verdict == "warn"
    assert check.value == "0.0 %"
    assert "safetensors" in check.remedy
    assert "stops at its first success" in check.words
    for attack in (FMN(), Strongest((FMN(), FMN(steps=20)))):
        near = dataclasses.replace(outcome, attack=attack)
        words = {check.name: check for check in read(near)}["8-bit survival"].words
        assert "rounding undoes that by design" in words
    near = dataclasses.replace(outcome, attack=Strongest((FMN(), FGSM())))
    words = {check.name: check for check in read(near)}["8-bit survival"].words
    assert "rounding undoes that by design" not in words


@QUICK
def test_a_model_that_answers_nan_is_no_random_one(honest, data):
    silent = Wrapped(honest, after=lambda logits: logits * math.nan)
    outcome = strike(silent, data, PGD(steps=2), Linf(0.1))
    found = {check.name: check for check in probe(silent, data, outcome, generator=seeded())}
    assert found["outputs"].verdict == "fail"
    assert found["outputs"].value == "100.0 %"
    assert found["deterministic"].verdict == "ok"


@QUICK
def test_a_search_for_the_nearest_success_may_look_beyond_eps(honest, data):
    for attack in (FMN(steps=5), Strongest((PGD(steps=2), FMN(steps=5)))):
        found = {check.name: check for check in read(strike(honest, data, attack, Linf(0.01)))}
        check = found["candidates allowed"]
        assert check.verdict == "ok"
        assert "looks beyond eps by design" in check.words


@QUICK
def test_without_a_broken_image_there_is_none_to_store(honest, data):
    outcome = strike(honest, data, FGSM(), Linf(0.0))
    found = {check.name: check for check in read(outcome)}
    assert found["8-bit survival"].verdict == "info"
    assert "pixels moved" not in found  # nothing may move at a radius of 0
    names = [check.name for check in probe(honest, data, outcome, generator=seeded())]
    assert names == ["logits", "deterministic", "one by one"]


@pytest.mark.parametrize(
    ("threat", "verdict", "words"),
    [
        (Linf(0.3), "ok", "within the pixel range"),
        (Linf(0.5), "warn", "turn every image grey"),
        (Linf(1.0), "warn", "turn every image grey"),
        (Linf(8.0), "fail", "beyond the pixel range.*Was eps meant for 0 to 255"),
        (L2(2.4), "ok", "within the pixel range"),
        (L2(2.5), "warn", "turn every image grey"),
        (L2(5.1), "fail", "beyond the pixel range"),
        (L1(12.4), "ok", "within the pixel range"),
        (L1(12.5), "warn", "turn every image grey"),
        (L0(24.0), "ok", "within the pixel range"),
        (L0(25.0), "warn", "turn every image grey"),
        (L0(26.0), "fail", "beyond the pixel range"),
        (L2(math.inf), "ok", "no limit within the pixel range"),
        (Linf(0.3, clip=False), "warn", r"within the pixel range\. Pixels may leave \[0, 1\]"),
    ],
)
def test_a_radius_is_compared_with_the_pixel_range(honest, data, threat, verdict, words):
    outcome = strike(honest, data, Noise(1), threat)
    check = {check.name: check for check in read(outcome)}["eps and range"]
    assert check.verdict == verdict
    assert check.value == repr(threat)
    assert re.search(words, check.words)


@QUICK
def test_train_mode_and_rejected_candidates_are_told(data, monkeypatch):
    def stray(self: FGSM, problem: object) -> None:
        problem.value(problem.x + 0.5, "margin")
        problem.value(problem.x, "margin")

    monkeypatch.setattr(FGSM, "search", stray)
    model = fit(data, steps=5).train()
    found = {check.name: check for check in read(strike(model, data, FGSM(), Linf(0.1)))}
    assert found["train mode"].verdict == "info"
    assert "eval mode" in found["train mode"].words
    assert found["candidates allowed"].value == "50.0 %"


@QUICK
def test_an_attack_without_gradients_has_no_gradient_checks(honest, data):
    names = [check.name for check in read(strike(honest, data, Noise(2), Linf(0.1)))]
    assert names == ["pixels moved", "8-bit survival", "eps and range"]


@QUICK
def test_a_model_that_gets_nothing_right_is_not_probed(honest, data):
    wrong = Data(data.images, (data.labels + 1) % 3, CLASSES)
    outcome = strike(honest, wrong, FGSM(), Linf(0.1))
    names = [check.name for check in examine(honest, wrong, outcome).checks]
    assert not outcome.right.any()
    assert names == ["8-bit survival", "eps and range", "logits", "deterministic", "one by one", "right images"]


@QUICK
def test_an_unlimited_radius_can_be_the_question_itself(honest, data):
    found = checks(honest, data, PGD(steps=20), L2(math.inf))
    assert found["unlimited eps"].verdict == "ok"
    assert found["unlimited eps"].value == "0.0 %"


# ---- models that depend on their batch, know nothing, or draw


class BatchNormalised(nn.Module):
    """Statistics of the batch in eval mode too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return (logits - logits.mean(0)) / logits.std(0)


@pytest.mark.parametrize("wrap", [BatchNormalised, lambda model: nn.Sequential(model, nn.Softmax(dim=0))])
def test_an_output_that_depends_on_the_other_images_fails(honest, data, wrap):
    outcome = strike(honest, data, FGSM(), Linf(0.01), generator=seeded())
    found = {check.name: check for check in probe(wrap(honest), data, outcome, generator=seeded())}
    assert found["one by one"].verdict == "fail"
    assert "depends on the batch" in found["one by one"].words


def test_where_no_image_is_right_that_is_said(honest, data):
    wrong = dataclasses.replace(data, labels=(honest(data.pixels()).argmax(1) + 1) % 3)
    found = checks(honest, wrong)
    assert found["right images"].verdict == "warn"
    assert "attack strength" not in found


@QUICK
def test_of_a_random_model_the_panel_says_the_same_twice_and_leaves_the_generators(honest, data):
    noisy = Wrapped(honest, after=lambda z: z + 0.5 * torch.randn(z.shape))
    outcome, state = strike(noisy, data, PGD(steps=5), Linf(0.1), generator=seeded()), torch.get_rng_state()
    assert examine(noisy, data, outcome) == examine(noisy, data, outcome)
    assert torch.equal(torch.get_rng_state(), state)
