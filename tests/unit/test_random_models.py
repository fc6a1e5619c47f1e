"""Models that draw random numbers: asked as often as said, held still, and judged with intervals of their own."""

import math
import random

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from steelman.attacks.apgd import APGD
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.fgsm import FGSM
from steelman.attacks.hop_skip_jump import HopSkipJump
from steelman.attacks.pgd import PGD
from steelman.attacks.spsa import SPSA
from steelman.attacks.strongest import Strongest
from steelman.attacks.vmi_fgsm import VMIFGSM
from steelman.bounds import interval_margins
from steelman.chance import fixed_noise, generators_of, is_random, states
from steelman.data import Data
from steelman.errors import UsageError
from steelman.evaluate import strike
from steelman.losses import margin
from steelman.random_models import fractional, random_accuracies, random_accuracy
from steelman.spec import catalogue, parse
from steelman.stats import clopper_pearson
from steelman.threats import Linf
from tests.contracts.small import SMALL
from tests.contracts.test_attacks import near
from tests.nets import net, seeded, task


class Noisy(nn.Module):
    """A model with noise on its logits, from a generator of its own, that counts what it is asked."""

    def __init__(self, model: nn.Module, size: float = 0.5) -> None:
        super().__init__()
        self.model, self.size, self.generator, self.asked = model, size, seeded(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        clean = self.model(x)
        return clean + self.size * torch.randn(clean.shape, generator=self.generator)


def test_the_same_strike_gives_the_same_rows_and_leaves_the_generators():
    """Of a model with noise of its own, and of one that draws from the global generator."""

    class Global(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x) + 0.5 * torch.randn(len(x), 4)

    x, y = task(net(), n=40)
    for model in (Noisy(net()), Global()):
        states = [torch.get_rng_state(), *(one.get_state() for one in generators_of(model))]
        first, again = (strike(model, (x, y), PGD(steps=3), Linf(0.1), generator=seeded(seed)) for seed in (1, 1))
        other = strike(model, (x, y), PGD(steps=3), Linf(0.1), generator=seeded(2))
        assert torch.equal(first.x_adv, again.x_adv)
        assert torch.equal(first.right, again.right)
        assert not torch.equal(first.margin, other.margin)
        after = [torch.get_rng_state(), *(one.get_state() for one in generators_of(model))]
        assert all(torch.equal(one, two) for one, two in zip(states, after, strict=True))


class Calm(Noisy):
    """The same without the noise."""

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.model(x)


class Coin(nn.Module):
    """Class 1 with the probability that the first pixel says, else class 0; independent draws."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = seeded(5)

    def forward(self, x: Tensor) -> Tensor:
        rise = x[:, 0, 0, 0] - torch.rand(len(x), generator=self.generator)
        return torch.stack((torch.zeros_like(rise), rise), 1)


class Foreign(nn.Module):
    """Noise from the global generator, as other libraries draw it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + torch.randn(x.flatten(1).shape)


# ---- told from others, and held still


@pytest.mark.parametrize("model", [Noisy(net()), Foreign()], ids=["own", "global"])
def test_random_models_are_known_and_held_still(model):
    x, _ = task(net())
    before, states = torch.random.get_rng_state(), [one.get_state() for one in generators_of(model)]
    assert is_random(model, x)
    with fixed_noise(model, 3):
        first, again = model(x), model(x)
        assert torch.equal(first, again)
        assert not is_random(model, x)
    with fixed_noise(model, 4):
        assert not torch.equal(model(x), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one.get_state(), state) for one, state in zip(generators_of(model), states, strict=True))
    assert not torch.equal(model(x), model(x))
    torch.random.set_rng_state(before)


def test_outputs_that_are_no_numbers_are_not_random():
    x, _ = task(net())
    assert not is_random(nn.Sequential(net(), nn.Threshold(torch.inf, torch.nan)), x)


def test_a_vote_that_agrees_by_chance_is_random_all_the_same():
    model = Noisy(net(), size=0.0)
    x, _ = task(model.model)
    assert torch.equal(model(x), model(x))
    assert is_random(model, x)
    with fixed_noise(model):
        assert not is_random(model, x)


def test_the_noise_is_let_go_after_an_error_too():
    model = Noisy(net())
    state = model.generator.get_state()
    with pytest.raises(RuntimeError, match=r"shape|size|channels"), fixed_noise(model):
        model(torch.zeros(1, 7, 2, 2))
    assert torch.equal(model.generator.get_state(), state)
    assert not is_random(net(), task(net())[0])


def test_attacks_on_held_noise_are_the_same_every_time():
    model = Noisy(net())
    x, y = task(model.model)
    with fixed_noise(model):
        first, again = (PGD(steps=3)(model, x, y, Linf(0.05), generator=seeded()) for _ in range(2))
    assert torch.equal(first, again)


def test_noise_of_a_models_own_generator_is_not_taken_for_part_of_the_model():
    """Interval bounds of one draw prove nothing about the next."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.generator = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), seeded()

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x + torch.rand(1, generator=self.generator))

    x, y = torch.rand(2, 1, 6, 6, generator=seeded()), torch.tensor([0, 1])
    assert interval_margins(Shifted().eval(), x, y, Linf(0.01)) is None


# ---- expectation over transformation


FEW = {
    name: {**given, **({"steps": min(int(given["steps"]), 3)} if "steps" in given else {})}
    for name, given in SMALL.items()
}
ATTACKS = [
    cls(**FEW.get(name, {}), samples=3)
    for name, cls in catalogue("attack").items()
    if cls.needs == "gradients" and name not in ("Strongest", "Foreign", "Reliable", "AutoAttack", "VMIFGSM")
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_every_gradient_attack_averages_over_draws_and_counts_them(attack):
    model = Noisy(net(), size=0.01)
    x, y = task(model.model, n=3, wrong=0)
    found = attack.run(model, x, y, near(attack, 1e-4), generator=seeded())
    assert (found.forwards >= 3).all()
    assert (found.forwards % 3 == 0).all()
    assert attack.passes() == 3
    assert parse(repr(attack), "attack") == attack
    assert repr(attack).endswith("samples=3)")


def test_a_deterministic_model_does_not_pay():
    model = Calm(net())
    x, y = task(model.model, n=10, wrong=0)
    results = []
    for samples in (1, 50):
        model.asked = 0
        results.append(PGD(steps=3, samples=samples).run(model, x, y, Linf(1e-4), generator=seeded()))
        results.append(model.asked)
    assert torch.equal(results[0].forwards, results[2].forwards)
    assert results[3] - results[1] == 16  # eight images, asked twice
    assert torch.equal(results[0].x_adv, results[2].x_adv)


def test_the_mean_over_draws_is_the_gradient_without_noise():
    """Noise on the image of a linear model: the sign of its gradient is what the mean of many draws shows."""
    weights = torch.randn(2, 36, generator=seeded(3))

    class Multiplied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = seeded()

        def forward(self, x: Tensor) -> Tensor:
            noise = torch.randn((len(x), 1, *x.shape[1:]), generator=self.generator).flatten(2)
            return ((x.flatten(1)[:, None] - 0.5) * (weights + 2 * noise)).sum(2)

    x, y = torch.full((20, 1, 6, 6), 0.5), torch.zeros(20, dtype=torch.int64)
    way = (weights[1] - weights[0]).sign()
    agree = []
    for samples in (1, 100):
        attack = FGSM(loss="margin", samples=samples)
        moved = attack.perturb(Multiplied(), x, y, Linf(0.1)) - x
        agree.append(float((moved.flatten(1).sign() == way).float().mean()))
    assert agree[1] == 1.0  # noise on both classes is the same: it cancels in the mean, not in the product
    assert agree[0] == 1.0 or agree[0] < agree[1]


def test_members_keep_their_own_samples():
    model = Noisy(net(), size=0.01)
    x, y = task(model.model, n=4, wrong=0)
    mixed = Strongest((FGSM(), FGSM(samples=4))).run(model, x, y, Linf(1e-5), generator=seeded())
    assert mixed.forwards.tolist() == [2 + 2 * 4] * 4
    whole = Strongest((FGSM(), FGSM(samples=4)), samples=6).run(model, x, y, Linf(1e-5), generator=seeded())
    assert whole.forwards.tolist() == [2 * 6 + 2 * 6] * 4
    assert parse("Strongest((FGSM(), PGD(samples=2)), samples=6)", "attack") == Strongest(
        (FGSM(), PGD(samples=2)), samples=6
    )
    rand = AutoAttack(version="rand", steps=2).run(model, x, y, Linf(1e-5), generator=seeded())
    assert (rand.forwards % 20 == 0).all()
    assert [attack.passes() for attack in (SPSA(), HopSkipJump(), VMIFGSM())] == [1, 1, 1]


class NoisyPixels(nn.Module):
    """A linear model of noisy pixels: the noise moves the difference of its two logits by `sd` at each draw."""

    def __init__(self, sd: float) -> None:
        super().__init__()
        self.sd, self.generator = sd, seeded(5)
        self.weight = torch.randn(36, generator=seeded(6))

    def forward(self, x: Tensor) -> Tensor:
        rise = (x - 0.5).flatten(1) @ self.weight
        rise = rise + self.sd * torch.randn(len(x), generator=self.generator)
        return torch.stack((-rise / 2, rise / 2), 1)


@pytest.mark.parametrize(
    "attack", [PGD(steps=10, samples=8), APGD(steps=10, samples=8)], ids=lambda a: type(a).__name__
)
def test_a_random_model_is_not_left_on_its_boundary(attack):
    """Its mean margin falls by eps |w|_1: four noise deviations beyond 0 no draw in 10,000 is right.

    An attack that stopped at the first candidate whose mean is wrong would leave half of them.
    """
    model = NoisyPixels(0.5)
    reach = float(model.weight.abs().sum())
    x = 0.5 + 0.02 * torch.randn((40, 1, 6, 6), generator=seeded()).clamp(-3, 3)
    y = ((x - 0.5).flatten(1) @ model.weight > 0).long()
    eps = (float(((x - 0.5).flatten(1) @ model.weight).abs().max()) + 4 * model.sd) / reach
    outcome = strike(model, (x, y), attack, Linf(eps), generator=seeded())
    assert int(outcome.right.sum()) > 10
    assert outcome.robust.value == 0.0
    assert (outcome.margin[outcome.right] > 2 * model.sd).all()


@pytest.mark.parametrize("make", [FGSM, PGD, APGD])
def test_no_sample_is_refused(make):
    with pytest.raises(UsageError, match=rf"{make.__name__}\(samples=0\): expected at least one sample"):
        make(samples=0)
    with pytest.raises(UsageError, match="takes at most"):
        parse("FGSM('margin', True, 1.0, 5)", "attack")  # by name only


# ---- accuracy over draws


def test_the_accuracy_of_a_coin_is_its_bias_and_the_majority_is_sure():
    n, draws = 400, 21
    x = torch.full((n, 1, 2, 2), 0.7)
    found = random_accuracy(Coin(), (x, torch.ones(n, dtype=torch.int64)), draws=draws)
    assert abs(found.expected.value - 0.7) < 4 * math.sqrt(0.21 / (n * draws))
    assert found.expected.low < 0.7 < found.expected.high
    assert found.vote.low < 1 - stats.binom.cdf(draws // 2, draws, 0.7) < found.vote.high
    assert abs(found.sd - math.sqrt(0.21 / n)) < 0.4 * math.sqrt(0.21 / n)
    assert set(found.to_json()) == {"vote", "expected", "sd", "draws"}
    assert random_accuracy(Coin(), (x[:2], torch.ones(2, dtype=torch.int64)), draws=1).sd == 0


def test_whole_numbers_have_the_interval_of_clopper_and_pearson():
    for hits in (0, 3, 10):
        share = fractional(torch.arange(10).lt(hits).float())
        assert (share.low, share.high) == pytest.approx(clopper_pearson(hits, 10))
    assert fractional(torch.full((10,), 0.5)).value == 0.5


def test_natural_and_robust_accuracy_over_draws():
    model = Noisy(net(), size=0.2)
    x, y = task(model.model, n=120, wrong=0)
    data = Data(x.mul(255).round().byte(), y, ("a", "b", "c", "d"))
    outcome = strike(model, data, PGD(steps=3, samples=3), Linf(0.1), generator=seeded())
    assert (~outcome.right).any()  # by chance: they are attacked for this
    facts = random_accuracies(model, data, outcome, draws=7, generator=seeded())
    assert facts["draws"] == 7
    for way in ("vote", "expected"):
        assert facts["robust"][way]["value"] < facts["natural"][way]["value"] - 0.1
    assert random_accuracies(net(), data, outcome) is None


def test_one_pass_a_step_goes_on_beyond_the_first_lucky_draw():
    """What the attack breaks by far without noise it breaks with noise, though it asks once a step."""
    model = net()
    x, y = task(model, n=60)
    attack = PGD(steps=20, loss="margin")
    ends = attack.perturb(model, x, y, Linf(0.3), generator=seeded())
    with torch.no_grad():
        lead = margin(model(ends), y)
    size = float(lead.median()) / 10
    sure = lead > 8 * size  # nearly six deviations of a difference
    noisy = strike(Noisy(model, size), (x, y), attack, Linf(0.3), generator=seeded())
    assert sure.sum() > 20
    assert (noisy.broken | ~noisy.right)[sure].all()


def test_against_a_target_what_is_not_the_target_holds():
    model = net()
    x, y = task(model, n=40)
    aim = (y + 1) % 4
    with torch.no_grad():
        said = model(x).argmax(1)
    found = random_accuracy(model, (x, y), draws=3, target=aim)
    assert found.vote.value == found.expected.value == pytest.approx(float((said != aim).float().mean()))


class Drawing(nn.Module):
    """Noise from what is given: a function of no argument."""

    def __init__(self, draw, source: object = None) -> None:
        super().__init__()
        self.model, self.draw, self.source = net(), draw, source

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + torch.tensor([0.5 * self.draw() for _ in range(4)])


def test_models_that_draw_from_numpy_and_python_are_held_still_as_well():
    own = np.random.default_rng(0)
    for model in (Drawing(np.random.randn), Drawing(lambda: random.gauss(0, 1)), Drawing(own.standard_normal, own)):
        x, y = task(model.model, n=40)
        before = states(model, x.device)
        assert is_random(model, x)
        first, again, other = (
            strike(model, (x, y), PGD(steps=3), Linf(0.1), generator=seeded(seed)) for seed in (1, 1, 2)
        )
        assert torch.equal(first.x_adv, again.x_adv)
        assert torch.equal(first.broken, again.broken)
        assert not torch.equal(first.x_adv, other.x_adv)
        assert states(model, x.device) == before
