"""Robust accuracy over eps: from exact distances, from attacks that miss, and at what cost."""

import itertools
import json
import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from steelman import curves
from steelman.attacks.fmn import FMN
from steelman.attacks.noise import Noise
from steelman.attacks.pgd import PGD
from steelman.curves import CHEAP, NEAR, Curve, ascending, curve, default_nearest
from steelman.errors import UsageError
from steelman.evaluate import strike
from steelman.spec import parse
from steelman.strict_json import json_text
from steelman.threats import L0, L1, L2, Linf

N, SHAPE = 40, (1, 4, 4)
FREE = Linf(1.0, clip=False)
CHECK = PGD(steps=10, loss="margin")
RADII = (0.02, 0.05, 0.1, 0.2)


class Plane(nn.Module):
    """Two classes and a plane between them: the distance of each image is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(16, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        rise = (x.flatten(1) - 0.5) @ self.weight
        return torch.stack((-rise / 2, rise / 2), 1)

    def distance(self, x: Tensor, norm: int) -> Tensor:
        """|w x| over the dual norm of w, in float64."""
        dual = {0: 1.0, 1: 2.0}.get(norm)
        weight = self.weight.detach().double()
        rise = ((x.flatten(1).double() - 0.5) @ weight).abs()
        return rise / (weight.abs().sum() if dual == 1.0 else torch.linalg.vector_norm(weight))


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
def images(plane) -> tuple[Tensor, Tensor]:
    x = torch.rand((N, *SHAPE), generator=torch.Generator().manual_seed(2))
    y = plane(x).argmax(1)
    y[-4:] = 1 - y[-4:]  # four are wrong from the start
    return x, y


def exact(factor: float = 1.0):
    """A search that goes `factor` times the exact distance along the exact direction, in L-inf."""

    def search(self, problem):
        weight = problem.model.weight.detach()
        rise = (problem.x.flatten(1) - 0.5) @ weight
        size = factor * 1.0001 * rise.abs() / weight.abs().sum()
        step = -(rise.sign() * size)[:, None] * weight.sign()
        problem.show(problem.x + step.view_as(problem.x))

    return search


def blind(self, problem):
    """A search that finds nothing."""
    problem.show(problem.x)


def separate(model, images, threat, check, radii=RADII):
    return [strike(model, images, check, threat.at(eps)) for eps in radii]


# ---- what it says


def test_with_exact_distances_the_curve_is_exact(plane, images, monkeypatch):
    monkeypatch.setattr(FMN, "search", exact())
    found = curve(plane, images, FREE, RADII, nearest=FMN(), check=CHECK)
    distance, right = plane.distance(images[0], 0), torch.arange(N) < N - 4
    assert torch.equal(found.right, right)
    torch.testing.assert_close(found.distance[right].double(), distance[right], rtol=3e-4, atol=1e-6)
    assert found.distance[~right].isnan().all()
    for eps in RADII:
        hits = int((right & (distance > eps)).sum())
        share = found.robust(eps)
        interval = stats.binomtest(hits, N).proportion_ci(0.95, "exact")
        assert (share.value, share.n) == (hits / N, N)
        assert (share.low, share.high) == pytest.approx((interval.low, interval.high))
    assert found.robust(0.0).value == found.robust(1e-9).value == (N - 4) / N


def test_quantiles_are_of_the_right_images(plane, images, monkeypatch):
    monkeypatch.setattr(FMN, "search", exact())
    found = curve(plane, images, FREE, (0.001,), nearest=FMN(), check=CHECK)
    radii = plane.distance(images[0], 0)[: N - 4].sort().values
    for share, rank in ((0.25, 9), (0.5, 18), (1.0, 36), (1 / 36, 1)):
        assert found.quantile(share) == pytest.approx(float(radii[rank - 1]), rel=1e-3)
        within = int((radii * 1.0001 <= found.quantile(share) * 1.0001).sum())
        assert within >= rank - 1


def test_a_nearest_attack_that_goes_too_far_is_corrected(plane, images, monkeypatch):
    """Three times the true distance, as in a search that masked gradients mislead."""
    monkeypatch.setattr(FMN, "search", exact(3.0))
    alone = Curve.of(strike(plane, images, FMN(), FREE.at(math.inf), closest=True))
    found = curve(plane, images, FREE, RADII, nearest=FMN(), check=CHECK)
    distance, right = plane.distance(images[0], 0), torch.arange(N) < N - 4
    for eps in RADII:
        assert found.robust(eps).value == int((right & (distance > eps)).sum()) / N
    assert any(found.robust(eps).value < alone.robust(eps).value for eps in RADII)


def test_where_nothing_is_found_every_image_gets_the_full_check(plane, images, monkeypatch):
    monkeypatch.setattr(FMN, "search", blind)
    found = curve(plane, images, FREE, RADII[:3], nearest=FMN(), check=CHECK)
    for eps, outcome in zip(RADII[:3], separate(plane, images, FREE, CHECK, RADII[:3]), strict=True):
        assert found.robust(eps).value == outcome.robust.value
    assert found.separate == 3 * (N - 4) * CHECK.steps
    assert found.distance[found.right].isinf().any()
    assert found.quantile(1.0) == math.inf
    assert found.to_json()["quantiles"]["0.9"] is None


@pytest.mark.parametrize("threat", [Linf(0.3), L2(1.5), L1(4.0), L0(6.0)], ids=repr)
def test_robust_accuracy_never_rises_with_eps(plane, images, threat):
    radii = [threat.eps * step / 4 for step in range(1, 5)]
    found = curve(plane, images, threat, radii, nearest=FMN(steps=8), check=PGD(steps=3))
    values = [found.robust(eps).value for eps in torch.linspace(0, threat.eps, 30).tolist()]
    assert all(before >= after for before, after in itertools.pairwise(values))
    assert values[0] == (N - 4) / N
    nearest = Curve.of(strike(plane, images, FMN(steps=8), threat.at(math.inf), closest=True))
    assert all(found.robust(eps).value <= nearest.robust(eps).value for eps in radii)


def test_the_radii_of_the_right_images_fall_into_ranges(plane, images, monkeypatch):
    monkeypatch.setattr(FMN, "search", exact())
    found = curve(plane, images, FREE, RADII, nearest=FMN(), check=CHECK)
    radii = plane.distance(images[0], 0)[: N - 4]
    edges = [0.0, *RADII, math.inf]
    counts = [int(((radii > low) & (radii <= high)).sum()) for low, high in itertools.pairwise(edges)]
    assert [round(share.value * 36) for share in found.between()] == counts
    assert all(share.n == 36 for share in found.between())


def test_a_target_is_what_counts_as_broken(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        nn.init.normal_(model[1].weight)
    x = images[0]
    with torch.no_grad():
        y = model(x).argmax(1)
    target = (y + 1) % 3
    aimed = curve(model, (x, y), Linf(0.3), RADII, nearest=FMN(steps=20), check=CHECK, target=target)
    free = curve(model, (x, y), Linf(0.3), RADII, nearest=FMN(steps=20), check=CHECK)
    assert [aimed.robust(eps).value >= free.robust(eps).value for eps in RADII] == [True] * 4
    assert aimed.robust(0.1).value > free.robust(0.1).value
    with torch.no_grad():
        logits = model(x)
    lead = logits.gather(1, y[:, None]) - logits.gather(1, target[:, None])
    weight = model[1].weight.detach()
    least = lead.squeeze(1) / (weight[y] - weight[target]).abs().sum(1)  # to that class alone, without clipping
    assert (aimed.distance >= least - 1e-5).all()


# ---- what it costs


def test_far_images_get_the_cheap_check_and_broken_ones_none(plane, images, monkeypatch):
    monkeypatch.setattr(FMN, "search", exact())
    distance = plane.distance(images[0], 0)[: N - 4]
    radii = (0.001, 0.005, 0.02, 0.05)
    found = curve(plane, images, FREE, radii, nearest=FMN(), check=CHECK)
    spent = 0
    for eps in radii:
        far, near = (distance * 1.0001 > NEAR * eps).sum(), distance * 1.0001 > eps
        spent += int(far) * CHEAP.steps + int(near.sum() - far) * CHECK.steps
    assert found.gradients == spent
    apart = sum(int(outcome.backwards.sum()) for outcome in separate(plane, images, FREE, CHECK, radii))
    assert found.gradients < apart / 2
    assert found.separate is None or found.separate >= apart


def test_a_success_beyond_eps_is_first_brought_to_eps(plane, images, monkeypatch):
    """Found at 1.2 times the least distance, along the right direction: no gradient is needed to see that."""
    monkeypatch.setattr(FMN, "search", exact(1.2))
    monkeypatch.setattr(curves, "CHEAP", Noise(tries=1))
    distance = plane.distance(images[0], 0)[: N - 4]
    eps = float(distance.median()) * 1.05
    found = curve(plane, images, FREE, (eps,), nearest=FMN(), check=Noise(tries=1))
    assert found.gradients == 0
    assert found.robust(eps).value == int((distance > eps).sum()) / N


def test_a_try_that_failed_is_stretched_to_the_next_eps(plane, images, monkeypatch):
    """The first check finds the direction; at twice the radius it takes one forward and no gradient."""
    monkeypatch.setattr(FMN, "search", blind)
    eps = float(plane.distance(images[0], 0)[: N - 4].min()) * 0.9
    once = curve(plane, images, FREE, (eps,), nearest=FMN(), check=CHECK)
    twice = curve(plane, images, FREE, (eps, 1000 * eps), nearest=FMN(), check=CHECK)
    assert once.robust(eps).value == (N - 4) / N
    assert twice.robust(1000 * eps).value == 0
    assert twice.gradients == once.gradients


def test_a_known_outcome_counts_and_is_not_computed_again(plane, images, monkeypatch):
    monkeypatch.setattr(FMN, "search", blind)
    known = strike(plane, images, CHECK, FREE.at(0.05))
    found = curve(plane, images, FREE, (0.05,), nearest=FMN(), check=CHECK, known=(known,))
    assert found.gradients == 0
    assert found.robust(0.05) == known.robust
    other = curve(plane, images, FREE, (0.05,), nearest=FMN(), check=PGD(steps=5), known=(known,))
    assert other.gradients == 5 * int((known.right & ~known.broken).sum())


def test_what_the_curve_breaks_within_the_eps_of_a_weak_attack_is_said(plane, images):
    """Noise breaks next to nothing; the plane's distances say how many images are within reach."""
    distance = plane.distance(images[0], 0)[: N - 4]
    eps = float(distance.median()) * 1.02
    weak, strong = (strike(plane, images, one, FREE.at(eps)) for one in (Noise(tries=1), CHECK))
    found = curve(plane, images, FREE, (eps,), nearest=FMN(), check=Noise(tries=1), known=(weak,))
    within = int((distance < eps).sum())
    assert within >= 18
    said = found.check(weak)
    assert (said.name, said.verdict, said.value) == ("curve", "fail", str(within - int(weak.broken.sum())))
    assert f"of {N - 4 - int(weak.broken.sum())} images that held against Noise(tries=1): in all" in said.words
    assert str(found.robust(eps)) in said.words
    assert said.remedy
    said = found.check(strong)
    assert (said.verdict, said.value, said.remedy) == ("ok", "0", "")


def test_what_nothing_breaks_holds_however_far(plane, images, monkeypatch):
    """Of a search without limit that finds nothing, all right images hold."""
    monkeypatch.setattr(FMN, "search", blind)
    endless = strike(plane, images, FMN(), L2(math.inf), closest=True)
    found = curve(plane, images, L2(math.inf), (1e-6,), nearest=FMN(), check=Noise(tries=1))
    assert found.robust(math.inf).value == (N - 4) / N
    assert found.check(endless).verdict == "ok"


def test_progress_never_goes_back_and_ends_at_the_whole(plane, images):
    told = []
    curve(
        plane,
        images,
        FREE,
        RADII,
        nearest=FMN(steps=5),
        check=CHECK,
        progress=lambda done, total, words: told.append((done, total, words)),
    )
    shares = [done / total for done, total, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert told[0][2].startswith("nearest: ")
    assert told[-1][2].startswith("eps 0.2: ")


def test_random_choices_come_from_the_generator(plane, images):
    state = torch.random.get_rng_state()
    found = [
        curve(plane, images, FREE, RADII, nearest=FMN(steps=5), check=CHECK, generator=torch.Generator().manual_seed(s))
        for s in (1, 1)
    ]
    torch.testing.assert_close(found[0].distance, found[1].distance, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), state)


# ---- from outcomes, and on paper


def test_outcomes_together_are_as_good_as_the_best_of_each_image(plane, images):
    first, second = (strike(plane, images, PGD(steps=5, loss="margin"), FREE.at(eps)) for eps in (0.05, 0.1))
    both = Curve.of(first, second)
    assert both.threat == FREE.at(0.1)
    assert both.epsilons == (0.05, 0.1)
    assert both.robust(0.05).value == first.robust.value
    assert both.robust(0.1).value <= second.robust.value
    assert both.gradients == int(first.backwards.sum() + second.backwards.sum())
    assert both.attacks == (first.attack, second.attack)


def test_json_is_strict_and_whole(plane, images):
    found = curve(plane, images, Linf(0.3), RADII, nearest=FMN(steps=10), check=CHECK)
    facts = json.loads(json_text(found.to_json()))
    assert [point["eps"] for point in facts["points"]] == list(RADII)
    assert facts["points"][1]["robust"] == json.loads(json.dumps(found.robust(0.05).to_json()))
    assert facts["attacks"] == ["FMN(steps=10)", "PGD(steps=10, loss='margin')", repr(CHEAP)]
    assert sum(share["value"] for share in facts["radii"]) == pytest.approx(1)
    assert set(facts["quantiles"]) == {"0.1", "0.25", "0.5", "0.75", "0.9"}


def test_when_nothing_is_right_there_is_nothing_to_tell(plane, images):
    found = curve(plane, (images[0], 1 - plane(images[0]).argmax(1)), FREE, (0.1,), nearest=FMN(steps=2), check=CHECK)
    assert found.robust(0.1).value == 0
    assert math.isnan(found.quantile(0.5))
    assert found.to_json()["quantiles"]["0.5"] is None
    assert found.separate is None


def test_every_norm_has_a_usual_nearest_attack():
    assert default_nearest(Linf(0.3)) == parse("FMN", "attack")
    assert default_nearest(L2(0.3)) == parse("DDN", "attack")
    for ball in (Linf, L2, L1, L0):
        default_nearest(ball(1.0)).check_norm(ball(1.0))


# ---- refusals


def test_without_an_attack_for_the_norm_one_must_be_named(monkeypatch):
    monkeypatch.setattr(curves, "catalogue", lambda kind: {})
    with pytest.raises(UsageError, match=r"no minimal-norm attack is known for Linf\. Name one, see steelman list"):
        default_nearest(Linf(0.1))


@pytest.mark.parametrize("radii", [(), (0.0, 0.1), (-0.1,), (math.inf,), (math.nan,)])
def test_radii_are_finite_and_above_0(radii):
    with pytest.raises(UsageError, match=r"the radii of a curve are .*Expected finite ones above 0"):
        ascending(radii)


def test_radii_are_sorted_and_each_is_taken_once():
    assert ascending([0.2, 0.1, 0.2]) == (0.1, 0.2)


def test_what_is_beyond_the_search_is_not_told(plane, images):
    found = Curve.of(strike(plane, images, PGD(steps=2), FREE.at(0.1)))
    with pytest.raises(UsageError, match=r"robust accuracy at eps 0\.2, but searched was up to 0\.1 only"):
        found.robust(0.2)
    for share in (0.0, 1.1):
        with pytest.raises(UsageError, match=r"the quantile .*Expected a share above 0, at most 1"):
            found.quantile(share)


def test_only_outcomes_that_belong_together_make_a_curve(plane, images):
    x, y = images
    first = strike(plane, images, PGD(steps=2), FREE)
    with pytest.raises(UsageError, match="a curve of no outcomes"):
        Curve.of()
    for other, words in (
        (strike(plane, images, PGD(steps=2), Linf(1.0)), "another norm or pixel range"),
        (strike(plane, images, PGD(steps=2), L2(1.0, clip=False)), "another norm or pixel range"),
        (strike(plane, (x.flip(0), y.flip(0)), PGD(steps=2), FREE), "other images"),
        (strike(plane, images, PGD(steps=2), FREE, target="next"), "another target"),
    ):
        with pytest.raises(UsageError, match=f"is about {words} than PGD"):
            Curve.of(first, other)
        with pytest.raises(UsageError, match=f"is about {words} than FMN"):
            curve(plane, images, FREE, (0.1,), nearest=FMN(steps=2), check=CHECK, known=(other,))


def test_a_random_model_has_a_curve_too(plane, images):
    """Which images are right may differ from one look to the next."""
    generator = torch.Generator().manual_seed(3)

    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return plane(x) + 0.5 * torch.randn((len(x), 2), generator=generator)

    known = strike(Noisy(), images, CHECK, FREE.at(0.1))
    found = curve(Noisy(), images, FREE, RADII, nearest=FMN(steps=5), check=CHECK, known=(known,))
    values = [found.robust(eps).value for eps in RADII]
    assert values == sorted(values, reverse=True)
    assert torch.equal(found.distance.isnan(), ~found.right)
    said = found.check(known, random=True)
    assert said.verdict == "warn"
    assert "below what a single answer holds" in said.words


@pytest.mark.parametrize("eps", [2.0, 12.0])
def test_a_curve_counts_what_a_strike_counts_as_broken(eps):
    """In L1 rounding adds up over the pixels: a success may be further out than eps in its last digits."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    with torch.no_grad():
        model[1].weight.normal_(generator=generator)
    x = torch.rand(60, 3, 32, 32, generator=generator)
    images = (x, model(x).argmax(1))
    check = PGD(steps=6, loss="margin")
    outcome = strike(model, images, check, L1(eps))
    assert (outcome.distance[outcome.broken] > eps).any()
    assert Curve.of(outcome).robust(eps) == outcome.robust
    if eps == 2.0:  # where noise finds nothing, and the check alone decides
        assert curve(model, images, L1(eps), [eps], nearest=Noise(tries=1), check=check).robust(eps) == outcome.robust
