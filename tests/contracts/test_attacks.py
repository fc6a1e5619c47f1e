"""What every attack must do, whatever it searches for: a new attack is tested by being there."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from steelman import engine
from steelman.attacks import Attack, Nearest, reliable
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.fgsm import FGSM
from steelman.attacks.found import Found, join
from steelman.attacks.noise import Noise
from steelman.attacks.pgd import PGD
from steelman.attacks.reliable import Reliable
from steelman.attacks.strongest import Strongest
from steelman.errors import UsageError
from steelman.losses import LOSSES
from steelman.spec import catalogue, parse
from steelman.threats import L0, L1, L2, Ball, Linf
from tests.contracts.small import SMALL
from tests.nets import SHAPE, net, seeded, task

N = 12
BALLS: dict[str, type[Ball]] = {"Linf": Linf, "L2": L2, "L1": L1, "L0": L0}
STRENGTH = {"Linf": 1.0, "L2": 4.0, "L1": 6.0, "L0": 15.0}  # the radius of each norm about as strong as 1 in L-inf
STEADY = {"FGSM", "PGD", "Noise", "BIM", "MIFGSM"}  # these evaluate every image that holds equally often
# these draw random numbers whatever their parameters, others for a random start
RANDOM = {"AutoAttack", "Bisect", "Boundary", "DIFGSM", "HopSkipJump", "Noise", "Reliable", "SPSA", "Square", "VMIFGSM"}


def near(attack: Attack, eps: float, norm: str | None = None) -> Ball:
    """A threat about as strong as eps in L-inf, in the attack's first norm unless told otherwise."""
    norm = norm or attack.norms[0]
    return BALLS[norm](float(math.ceil(STRENGTH[norm] * eps)) if norm == "L0" else STRENGTH[norm] * eps)


def example(cls: type[Attack]) -> Attack:
    """A value of the class with few steps; attacks made of attacks get two."""
    names = {field.name for field in dataclasses.fields(cls)}
    given = {"members": (PGD(steps=2), PGD(steps=4, loss="margin"))} if "members" in names else {}
    return cls(**given, **SMALL.get(cls.__name__, {}))


@pytest.fixture(autouse=True)
def short_ensemble(monkeypatch):
    """What Reliable calls on after an alarm, with few steps."""
    monkeypatch.setattr(reliable, "FULL", AutoAttack(steps=4, queries=50))


def draws(attack: Attack) -> bool:
    """Whether the attack draws random numbers."""
    if type(attack).__name__ in RANDOM or getattr(attack, "random_start", False):
        return True
    return any(draws(member) for member in getattr(attack, "members", ()))


def shortest(attack: Attack) -> Attack:
    """The attack with no more than two of all that it can be told to repeat."""
    repeats = {
        "steps",
        "start_steps",
        "searches",
        "restarts",
        "rounds",
        "polish",
        "queries",
        "samples",
        "tries",
        "removals",
    }
    given = {name: getattr(attack, name) for name in repeats & {field.name for field in dataclasses.fields(attack)}}
    return dataclasses.replace(attack, **{name: min(value, 2) for name, value in given.items()})


ATTACKS = [example(cls) for name, cls in catalogue("attack").items() if name != "Foreign"]
EVERY = pytest.mark.parametrize("attack", ATTACKS, ids=repr)
GRADIENT = pytest.mark.parametrize("attack", [a for a in ATTACKS if a.needs == "gradients"], ids=repr)
CASES = [(attack, near(attack, 0.06, norm)) for attack in ATTACKS for norm in attack.norms]
EVERY_NORM = pytest.mark.parametrize(("attack", "threat"), CASES, ids=lambda value: repr(value))
# without random choices, as far as that is possible
STILL = [
    dataclasses.replace(attack, random_start=False) if hasattr(attack, "random_start") else attack
    for attack in [*ATTACKS, FGSM(loss="margin"), PGD(steps=5, loss="dlr", restarts=2)]
]
STILL.append(Strongest((PGD(steps=2, random_start=False), PGD(steps=4, random_start=False, loss="margin"))))
STILL = [attack for attack in STILL if not draws(attack)]
DETERMINISTIC = pytest.mark.parametrize("attack", STILL, ids=repr)
DETERMINISTIC_NORM = pytest.mark.parametrize(
    ("attack", "threat"), [(a, near(a, 0.06, norm)) for a in STILL for norm in a.norms], ids=lambda value: repr(value)
)


@functools.cache
def usual(attack: Attack, threat: Ball) -> Found:
    """What an attack finds on the usual net and images; computed once for all tests that look at it."""
    return usual_and_draws(attack, threat)[0]


@functools.cache
def usual_and_draws(attack: Attack, threat: Ball) -> tuple[Found, bool]:
    """The same, and whether random numbers were drawn for it."""
    model, generator = net(), seeded()
    found = attack.run(model, *task(model, wrong=0), threat, generator=generator)
    return found, not torch.equal(generator.get_state(), seeded().get_state())


@functools.cache
def aimed(attack: Attack) -> Found:
    """What an attack towards the next class finds, on more images and at a large radius."""
    model = net()
    x, y = task(model, n=30, wrong=0)
    return attack.run(model, x, y, near(attack, 0.3), target=(y + 1) % 4, generator=seeded())


class Watched(nn.Module):
    """Counts what its model is asked, and fails when told to."""

    def __init__(self, model: nn.Module, fail_at: int | None = None) -> None:
        super().__init__()
        self.model, self.fail_at = model, fail_at
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(self.sizes) == self.fail_at:
            raise RuntimeError("the model broke")
        return self.model(x)


def snapshot(model: nn.Module) -> list[object]:
    """All of a model that a caller could miss afterwards."""
    facts: list[object] = [(name, module.training) for name, module in model.named_modules()]
    facts += [(name, sorted(module.__dict__), len(module._forward_hooks)) for name, module in model.named_modules()]
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        grad = None if value.grad is None else (value.grad.data_ptr(), value.grad.tolist())
        facts.append((name, id(value), value.data_ptr(), value.stride(), value.requires_grad, value.tolist(), grad))
    return facts


def lived_in() -> nn.Sequential:
    """In train mode but for one layer, one parameter frozen, and some gradients there."""
    model = net()
    x, y = task(model)
    nn.functional.cross_entropy(model(x), y).backward()
    model.train()
    model[1].eval()
    model[3].weight.requires_grad_(False)
    model[7].bias.grad = None
    return model


@contextmanager
def as_it_was(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[nn.Module]:
    """Train mode left on, BatchNorm statistics, gradients, weights in memory, the global generator moved."""
    before, kept, labels, state = snapshot(model), x.detach().clone(), y.clone(), torch.random.get_rng_state()
    yield model
    assert snapshot(model) == before
    assert torch.equal(x, kept)
    assert torch.equal(y, labels)
    assert torch.equal(torch.random.get_rng_state(), state)


# ---- names


@EVERY
def test_the_name_of_an_attack_is_its_value(attack):
    assert parse(repr(attack), "attack") == attack
    assert hash(parse(repr(attack), "attack")) == hash(attack)


@EVERY
def test_every_attack_says_what_it_needs_and_costs(attack):
    assert set(attack.norms) <= {"Linf", "L2", "L1", "L0"}
    assert attack.needs in ("gradients", "scores", "decisions")
    assert attack.cost()


# ---- results


@EVERY_NORM
@pytest.mark.parametrize("clip", [True, False], ids=["clip", "free"])
def test_what_comes_back_is_allowed_and_judged_again(attack, threat, clip):
    """Success is what the model says of the returned pixels, and only where the threat allows them."""
    if isinstance(threat, L0) and not clip:
        return  # L0 has no sense without a pixel range
    threat = dataclasses.replace(threat, clip=clip)
    model = net()
    x, y = task(model, wrong=0 if clip else 2)
    found = usual(attack, threat) if clip else attack.run(model, x, y, threat, generator=seeded())
    assert threat.contains(found.x_adv, x).all()
    assert not clip or (found.x_adv.min() >= 0 and found.x_adv.max() <= 1)
    with torch.no_grad():
        assert torch.equal(found.success, model(found.x_adv).argmax(1) != y)
    assert torch.equal(found.distance.isnan(), ~found.success)  # a failure is no success of distance 0, nor all black
    torch.testing.assert_close(found.distance[found.success], threat.distance(found.x_adv, x)[found.success])
    assert attack.strays(threat) or not found.rejected.any()


@EVERY_NORM
def test_the_score_is_the_margin_of_the_image_that_comes_back(attack, threat):
    """A result that is not the best one seen: restarts or steps that keep the last."""
    model = net()
    _, y = task(model, wrong=0)
    found = usual(attack, threat)
    with torch.no_grad():
        logits = model(found.x_adv)
    own = logits.gather(1, y[:, None]).squeeze(1)
    margin = logits.scatter(1, y[:, None], -math.inf).amax(1) - own
    seen = found.score > -math.inf  # an attack may look only outside
    assert seen.all() or isinstance(attack, Nearest)
    torch.testing.assert_close(found.score[seen], margin[seen], rtol=1e-4, atol=1e-5)
    assert torch.equal(found.score > 0, found.success)


@EVERY
def test_images_that_are_wrong_already_come_back_as_they_are(attack):
    model = net()
    x, y = task(model, wrong=5)
    x_adv = attack(model, x, y, near(attack, 0.2), generator=seeded())
    assert torch.equal(x_adv[-5:], x[-5:])
    assert not torch.equal(x_adv[:-5], x[:-5])


@EVERY_NORM
@pytest.mark.watched
def test_the_call_gives_what_the_run_found_and_the_same_seed_the_same_bits(attack, threat):
    """Without a generator the seed is 0; neither train mode nor the caller's `no_grad` matters."""
    x, y = task(net(), wrong=0)
    with as_it_was(lived_in().train(), x, y) as model, torch.no_grad():
        assert torch.equal(attack(model, x, y, threat), usual(attack, threat).x_adv)


@EVERY
def test_labels_of_any_whole_number_type_mean_the_same_also_to_the_run(attack):
    x, y = task(net(), wrong=0)
    with as_it_was(lived_in(), x, y.int()) as model:
        found = attack.run(model, x, y.int(), near(attack, 0.06), generator=seeded())
    assert torch.equal(found.x_adv, usual(attack, near(attack, 0.06)).x_adv)


@pytest.mark.parametrize("attack", [*ATTACKS, *(attack for attack in STILL if attack not in ATTACKS)], ids=repr)
def test_random_numbers_are_drawn_where_that_is_known(attack):
    """All attacks that draw none are compared below, image by image."""
    threats = [near(attack, 0.06, norm) for norm in attack.norms]
    assert any(usual_and_draws(attack, threat)[1] for threat in threats) == draws(attack)


@EVERY
@pytest.mark.parametrize("closest", [True, False])
def test_a_target_is_reached_or_not(attack, closest):
    """With a target success means that class and no other; `y` keeps its meaning."""
    model = net()
    x, y = task(model, wrong=0) if closest else task(model, n=30, wrong=0)
    target, threat = (y + 1) % 4, near(attack, 0.3)
    found = (
        attack.run(model, x, y, threat, target=target, closest=True, generator=seeded()) if closest else aimed(attack)
    )
    with torch.no_grad():
        guess = model(found.x_adv).argmax(1)
    assert torch.equal(found.success, guess == target)
    assert torch.equal(found.x_adv[~found.success], x[~found.success]) or not closest
    reached = attack(model, x, y, threat, target=y, closest=closest, generator=seeded())
    assert torch.equal(reached, x)  # the target already


@GRADIENT
def test_attacks_towards_a_target_reach_it_more_often_than_chance(attack):
    model = net()
    x, y = task(model, n=30, wrong=0)
    noise = Noise().run(model, x, y, near(attack, 0.3), target=(y + 1) % 4, generator=seeded())
    assert int(aimed(attack).success.sum()) > int(noise.success.sum()) + 3


@EVERY_NORM
def test_the_closest_success_is_no_further_than_the_first(attack, threat):
    model = net()
    x, y = task(model, wrong=0)
    first = usual(attack, threat)
    nearest = attack.run(model, x, y, threat, closest=True, generator=seeded())
    assert (nearest.success | ~first.success).all()
    both = first.success & nearest.success
    assert (nearest.distance[both] <= first.distance[both] + 1e-6).all()
    assert torch.equal(nearest.x_adv[~nearest.success], x[~nearest.success])


@EVERY
def test_a_radius_of_zero_changes_nothing(attack):
    model = net()
    x, y = task(model, wrong=0)
    found = attack.run(model, x, y, near(attack, 0.0), generator=seeded())
    assert torch.equal(found.x_adv, x)
    assert not found.success.any()


@pytest.mark.parametrize(
    ("attack", "norm"), [(a, norm) for a in ATTACKS if a.needs == "gradients" for norm in a.norms], ids=str
)
@pytest.mark.parametrize("clip", [True, False], ids=["clip", "free"])
def test_a_radius_without_limit_breaks_everything(attack, norm, clip):
    """inf times a gradient of 0 is NaN: an attack must not get lost in it. Here every other pixel has no gradient."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 1, 0], [-1, 0, -1, 0]]))
        model[1].bias.copy_(torch.tensor([-1.0, 1]))
    x = torch.tensor([[0.9, 0.5, 0.8, 0.1], [0.1, 0.5, 0.2, 0.9]]).view(2, 1, 2, 2)
    found = attack.run(model, x, torch.tensor([0, 1]), BALLS[norm](math.inf, clip or norm == "L0"), generator=seeded())
    assert found.success.all()


@GRADIENT
def test_pixels_of_exactly_zero_and_one_move(attack):
    """A change of variables that is infinite at the range's ends leaves black and white pixels where they are."""
    model = net()
    x, y = task(model, wrong=0)
    if attack.norms[0] in ("L1", "L0"):
        x = x.round()  # one or two pixels are enough and need not lie in the edge: now all are black or white
        x_adv = attack(model, x, model(x).argmax(1), near(attack, 0.3), generator=seeded())
        assert (x_adv != x).flatten(1).any(1).float().mean() > 0.8
        assert (x_adv[x == 0] > 0).any()
        assert (x_adv[x == 1] < 1).any()
        return
    x_adv = attack(model, x, y, near(attack, 0.05), generator=seeded())
    assert (x_adv[:, :, 0] > 0).float().mean() > 0.2
    assert (x_adv[:, :, 1] < 1).float().mean() > 0.2


@EVERY
@pytest.mark.parametrize(("classes", "losses"), [(2, tuple(sorted(LOSSES))), (3, ("dlr",)), (11, (None,))])
def test_any_number_of_classes_from_two_will_do(attack, classes, losses):
    """Crashes with fewer than ten classes; DLR looks at the third."""
    model = net(classes)
    x, y = task(model, n=3, wrong=0)
    for loss in losses if hasattr(attack, "loss") else [None]:
        one = dataclasses.replace(shortest(attack), **({"loss": loss} if loss else {}))
        for target in (None, (y + 1) % classes):
            assert one.run(model, x, y, near(attack, 0.1), target=target, generator=seeded()).x_adv.isfinite().all()


@DETERMINISTIC
def test_log_probabilities_are_attacked_as_well_as_logits(attack):
    """Negative outputs that give an attack no gradient: success 0 on a log-softmax model."""
    logs = net(last=nn.LogSoftmax(1))
    x, y = task(net(), wrong=0)
    a, b = usual(attack, near(attack, 0.06)), attack.run(logs, x, y, near(attack, 0.06))
    assert a.success.any()
    assert torch.equal(a.success, b.success)


@EVERY
def test_an_output_that_is_not_a_number_is_no_success(attack):
    class Undefined(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] * math.nan

    x, y = torch.rand((4, *SHAPE), generator=seeded()), torch.zeros(4, dtype=torch.int64)
    found = attack.run(Undefined(), x, y, near(attack, 0.1), generator=seeded())
    assert not found.success.any()
    assert torch.equal(found.x_adv, x)
    assert (found.score == -math.inf).all()


@EVERY
def test_no_images_give_no_images(attack):
    model = Watched(net())
    x, y = torch.zeros(0, *SHAPE), torch.zeros(0, dtype=torch.int64)
    assert attack(model, x, y, near(attack, 0.1)).shape == x.shape
    assert attack.run(model, x, y, near(attack, 0.1)).success.shape == (0,)
    assert not model.sizes


@EVERY
def test_a_model_that_returns_no_logits_is_named(attack):
    x, y = torch.rand((2, *SHAPE), generator=seeded()), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(
        UsageError, match=r"returned shape \((\d+), 1, 6, 6\) for \1 images\. Expected .* \(images, classes\)"
    ):
        attack(nn.Identity(), x, y, near(attack, 0.1))
    with pytest.raises(UsageError, match=r"returned shape .* Expected .* \(images, classes\), two classes or more"):
        attack.run(nn.Sequential(nn.Flatten(), nn.Linear(36, 1)), x, y, near(attack, 0.1))


# ---- independence of batch-mates


@DETERMINISTIC_NORM
def test_an_image_fares_alike_alone_in_a_batch_and_in_any_order(attack, threat):
    """The result of an image that depends on its batch-mates."""
    model = net()
    x, y = task(model, wrong=0)
    together = usual(attack, threat)
    assert together.success.any()
    assert isinstance(threat, L0) or not together.success.all()
    some = sorted(
        {int(together.success.byte().argmax()), int(together.success.byte().argmin())}
    )  # a success, a failure
    alone = [attack.run(model, x[i : i + 1], y[i : i + 1], threat) for i in some]
    order = torch.randperm(N, generator=seeded(1))
    mixed = attack.run(model, x[order], y[order], threat)
    for name in ("x_adv", "success", "score", "forwards", "backwards", "distance"):
        expected = getattr(together, name)
        assert_same(torch.cat([getattr(one, name) for one in alone]), expected[some])
        assert_same(getattr(mixed, name), expected[order])


@pytest.mark.parametrize("attack", [*STILL, *(attack for attack in ATTACKS if attack not in STILL)], ids=repr)
def test_chunks_and_micro_batches_change_nothing_and_are_told(attack, monkeypatch, capfd):
    """The last chunk are images that are wrong already, about which there is nothing to do."""
    monkeypatch.setattr(engine, "LARGEST_CHUNK", 4)
    monkeypatch.setattr(engine, "LARGEST_BATCH", 2)
    model, told = net(), []
    x, y = task(model, wrong=0)
    x, y = torch.cat([x, x[:2]]), torch.cat([y, (y[:2] + 1) % 4])
    pieces = attack.run(model, x, y, near(attack, 0.06), progress=lambda *words: told.append(words), generator=seeded())
    shares = [done / total for done, total, _ in told]
    assert shares == sorted(shares)
    assert told[-1] == (N + 2, N + 2, repr(attack))
    assert len([words for _, _, words in told if words == repr(attack)]) >= 4  # at the end of each chunk
    assert capfd.readouterr() == ("", "")
    assert pieces.success[N:].all()
    if draws(attack):
        return
    parts = [usual(attack, near(attack, 0.06)), attack.run(model, x[N:], y[N:], near(attack, 0.06))]
    whole = join(parts, N + 2)
    for name in ("x_adv", "success", "score", "forwards", "backwards", "distance", "rejected"):
        assert_same(getattr(pieces, name), getattr(whole, name))
    for field in dataclasses.fields(whole.health):
        assert_same(getattr(pieces.health, field.name), getattr(whole.health, field.name))


def assert_same(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5, equal_nan=True)


# ---- randomness


@pytest.mark.parametrize("attack", [Noise(), PGD(steps=2), FGSM(random_start=True)], ids=repr)
def test_another_seed_gives_other_random_choices(attack):
    model = net()
    x, y = task(model, wrong=0)
    assert not torch.equal(*(attack(model, x, y, Linf(0.01), generator=seeded(seed)) for seed in (1, 2)))


# ---- the caller's world


@EVERY
@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_the_callers_model_is_as_it_was_after_an_error_too(attack, fail_at):
    model = lived_in()
    x, y = task(net(), wrong=0)
    watched = Watched(model, fail_at).train()
    model[1].eval()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="the model broke"):
        attack.run(watched, x, y, near(attack, 0.001), generator=seeded())
    assert snapshot(model) == before
    assert watched.training


# ---- cost


@EVERY
def test_queries_are_counted_and_finished_images_cost_no_more(attack, monkeypatch):
    monkeypatch.setattr(engine, "ROWS", 1)  # copies that fill up a batch are no queries
    model = Watched(net())
    x, y = task(model.model, wrong=4)
    found = attack.run(model, x, y, near(attack, 0.06), generator=seeded())
    if isinstance(attack, Reliable):  # its certificates run the model on boxes, which are no queries
        return
    assert sum(model.sizes) - int(found.forwards.sum()) in (1, 2)  # one image measures a micro-batch, one the classes
    assert (found.health.steps <= found.backwards).all()
    if type(attack).__name__ not in STEADY:
        return
    assert (found.backwards <= found.forwards).all()
    unbroken = attack.run(
        net(), x[:8], y[:8], near(attack, 0.0), generator=seeded()
    ).forwards  # nothing ends this search
    assert (found.forwards <= unbroken.max()).all()
    assert (found.forwards[~found.success] == unbroken[0]).all()


@pytest.mark.parametrize("attack", [a for a in STILL if type(a).__name__ in STEADY], ids=repr)
def test_an_image_that_is_wrong_at_the_start_costs_one_look(attack):
    model = net()
    x, y = task(model, wrong=N)
    assert (attack.run(model, x, y, near(attack, 0.1)).forwards == 1).all()


@pytest.mark.parametrize(("steps", "restarts"), [(1, 3), (7, 1), (30, 2)])
def test_pgd_takes_as_many_steps_as_it_was_asked_for(steps, restarts):
    """Fewer steps done than asked for."""
    model = net()
    x, y = task(model, n=3, wrong=0)
    found = PGD(steps=steps, restarts=restarts).run(model, x, y, Linf(1e-4))
    assert not found.success.any()
    assert (found.backwards == steps * restarts).all()
    assert (found.forwards == (steps + 1) * restarts).all()


# ---- the worst of several

NORM = pytest.mark.parametrize("threat", [Linf(0.06), L2(0.25), L1(0.7)], ids=repr)


@NORM
@pytest.mark.parametrize("seed", range(2))
def test_more_members_are_never_weaker(threat, seed):
    model = net(seed=seed)
    x, y = task(model, n=20, wrong=0)
    members: tuple[Attack, ...] = (FGSM(), Noise(3), PGD(steps=3), PGD(steps=3, loss="margin"))
    before = None
    for count in range(1, len(members) + 1):
        found = Strongest(members[:count]).run(model, x, y, threat, generator=seeded(seed))
        if before is not None:
            assert (found.success | ~before.success).all()
            assert ((found.score >= before.score) | before.success).all()
        before = found
    single = [member.run(model, x, y, threat, generator=seeded(seed)).success for member in members[:1]]
    assert (found.success | ~single[0]).all()


def test_restarts_keep_the_worst_per_image():
    """Restarts of which only the last one counts."""
    model = net()
    x, y = task(model, n=20, wrong=0)
    for threat in (Linf(0.02), Linf(0.05)):
        one, many = (PGD(steps=2, restarts=k).run(model, x, y, threat, generator=seeded()) for k in (1, 8))
        assert (many.success | ~one.success).all()
        held = ~many.success
        assert (many.score[held] >= one.score[held]).all()
    assert int(many.success.sum()) > int(one.success.sum()) or (many.score > one.score + 1e-4).any()


# ---- the algorithms themselves, against ten plain lines


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    nn.functional.cross_entropy(model(x), y, reduction="sum").backward()
    return x.grad


def plain_step(x: Tensor, clean: Tensor, grad: Tensor, threat: Ball, step: float) -> Tensor:
    """One step and back into ball and range; exact only where no pixel reaches the range's end, or for L-inf."""
    if isinstance(threat, Linf):
        x = x + step * grad.sign()
        return torch.max(torch.min(x, clean + threat.eps), clean - threat.eps).clamp(0, 1)
    x = x + step * grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    change = x - clean
    length = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return clean + change * (threat.eps / length).clamp(max=1)


DENSE = pytest.mark.parametrize("threat", [Linf(0.06), L2(0.25)], ids=repr)


@DENSE
def test_fgsm_is_one_step_along_sign_or_unit_gradient(threat):
    model = net()
    x = 0.4 + 0.2 * torch.rand((N, *SHAPE), generator=seeded())
    y = model(x).argmax(1)
    expected = plain_step(x, x, gradient(model, x, y), threat, threat.eps)
    torch.testing.assert_close(FGSM().perturb(model, x, y, threat), expected, rtol=0, atol=1e-6)
    towards = plain_step(x, x, gradient(model, x, y), threat, -threat.eps)
    assert (FGSM().perturb(model, x, y, threat) - towards).abs().amax() > threat.eps / 50


@DENSE
@pytest.mark.parametrize("size", [None, 0.1])
def test_pgd_is_repeated_steps_and_projections(threat, size):
    model = net()
    x = 0.4 + 0.2 * torch.rand((N, *SHAPE), generator=seeded())
    y = model(x).argmax(1)
    step = threat.eps * (2.5 / 8 if size is None else size)
    expected = x
    for _ in range(8):
        expected = plain_step(expected, x, gradient(model, expected, y), threat, step)
    found = PGD(steps=8, step_size=size, random_start=False).perturb(model, x, y, threat)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2])
def test_steps_are_never_longer_than_the_radius(steps):
    """Madry's 2.5 / steps of the radius is more than all of it for fewer than three."""
    model = net()
    x, y = task(model, wrong=0)
    expected = Linf(0.1).sample(x, seeded(7))
    for _ in range(steps):
        expected = (expected + 0.1 * gradient(model, expected, y).sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    found = PGD(steps=steps).perturb(model, x, y, Linf(0.1), generator=seeded(7))
    torch.testing.assert_close(found, expected)


def test_a_random_start_is_where_the_step_leaves_from():
    model = net()
    x, y = task(model, wrong=0)
    start = Linf(0.1).sample(x, seeded(7))
    expected = (start + 0.125 * gradient(model, start, y).sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    attack = FGSM(random_start=True, step_size=1.25)
    torch.testing.assert_close(attack.perturb(model, x, y, Linf(0.1), generator=seeded(7)), expected)


@EVERY
def test_perturb_changes_every_image_right_or_wrong_and_nothing_else(attack):
    """Training needs the attack's own last step for all of a batch."""
    x, y = task(net(), wrong=6)
    threat = near(attack, 0.1)
    x.requires_grad_()
    with as_it_was(lived_in(), x, y) as model:
        changed = attack.perturb(model, x, y, threat, generator=seeded())
    assert not changed.requires_grad
    assert x.grad is None
    x = x.detach()
    assert threat.contains(changed, x).all()
    if isinstance(attack, Nearest):  # the nearest success: nothing to do where the image is wrong
        assert torch.equal(changed[-6:], x[-6:])
        assert (changed[:-6] != x[:-6]).any()
    else:
        moved = (changed != x).flatten(1).float().mean(1)
        assert (moved > (0.5 if attack.norms[0] in ("Linf", "L2") else 0)).all()


def test_one_step_of_training_costs_one_gradient(monkeypatch):
    monkeypatch.setattr(engine, "ROWS", 1)
    model = Watched(net())
    x, y = task(model.model)
    FGSM().perturb(model, x, y, Linf(0.1))
    assert model.sizes == [N]


# ---- wrong use


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PGD(steps=0), r"PGD\(steps=0\): expected at least one step and one restart"),
        (lambda: PGD(restarts=0), r"PGD\(restarts=0\): expected at least one step and one restart"),
        (lambda: Noise(tries=0), r"Noise\(tries=0\): expected at least one try"),
        (
            lambda: Strongest(()),
            r"Strongest has no members\. Expected attacks, such as Strongest\(\(FGSM\(\), PGD\(\)\)\)",
        ),
    ],
)
def test_hyperparameters_that_make_no_search_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


class Graphless(nn.Module):
    """A model that computes without a graph: derivatives do not exist, neither 0 nor any other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(x)


@EVERY
def test_a_model_without_a_graph_has_gradients_of_zero(attack):
    model = net()
    x, y = task(model)
    found = shortest(attack).run(Graphless(model), x, y, near(attack, 0.06), generator=seeded())
    assert (found.health.dead == found.health.steps).all()
