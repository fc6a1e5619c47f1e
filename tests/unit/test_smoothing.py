"""Certificates by smoothing against the closed form of a linear classifier, whose smoothed probability is known."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from steelman.certify import smoothing
from steelman.certify.smoothing import ABSTAINS, Radii, Smoothing
from steelman.errors import RunError, UsageError
from steelman.threats import L0, L1, L2, Linf
from tests.nets import seeded

N, SIGMA = 60, 0.3
SHAPE = (1, 2, 3)


class Counting(nn.Module):
    """A linear classifier of two classes, decided by w x + b, that counts the images it is asked about."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, generator=seeded(seed)))
        self.bias = nn.Parameter(-self.weight.detach().sum() / 2)
        self.asked = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        rise = x.flatten(1) @ self.weight + self.bias
        return torch.stack((torch.zeros_like(rise), rise), 1)


@pytest.fixture(scope="module")
def certified():
    """Model, images, each image's signed distance from the boundary, and what was proven."""
    model, x = Counting(), torch.rand(N, *SHAPE, generator=seeded(1))
    with torch.no_grad():
        rise = model(x)[:, 1]
    distance = (rise / model.weight.detach().norm()).double()
    return model, x, distance, Smoothing(SIGMA, n=2000).certify(model, x, generator=seeded(2))


def test_no_radius_is_larger_than_the_distance_to_the_boundary(certified):
    """The smoothed classifier of a linear one has the same boundary: 60 statements, each wrong with chance .001."""
    _, _, distance, radii = certified
    sure = radii.label != ABSTAINS
    assert torch.equal(radii.label[sure], (distance > 0).long()[sure])
    assert (radii.radius <= distance.abs() + 1e-12).sum() >= N - 1
    assert torch.equal(radii.radius == 0, ~sure)


def test_the_radius_is_near_the_distance_and_the_hits_follow_the_true_probability(certified):
    _, _, distance, radii = certified
    probability = torch.from_numpy(stats.norm.cdf(distance.abs().numpy() / SIGMA))
    error = (radii.hits / 2000 - probability)[radii.label != ABSTAINS]
    assert error.abs().max() < 4.5 * math.sqrt(0.25 / 2000)
    middle = (distance.abs() > 0.3 * SIGMA) & (distance.abs() < 1.5 * SIGMA)
    assert (radii.radius[middle] > 0.6 * distance.abs()[middle]).all()


def test_it_abstains_where_the_classes_are_as_likely():
    model = Counting()
    x = torch.full((3, *SHAPE), 0.5)  # on the boundary
    certificate = Smoothing(SIGMA, n=500)
    assert certificate.certify(model, x).label.tolist() == [ABSTAINS] * 3
    assert certificate.predict(model, x).tolist() == [ABSTAINS] * 3
    step = 0.5 * model.weight.detach().view(SHAPE) / model.weight.detach().norm()
    assert certificate.predict(model, torch.stack((x[0] - step, x[0] + step))).tolist() == [0, 1]


def test_answers_that_are_nan_prove_nothing():
    """argmax of a row with NaN names a class; a root of noisy pixels below 0 is no answer."""

    class Root(Counting):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.sqrt())

    radii = Smoothing(SIGMA, n=200).certify(Root(), torch.full((3, *SHAPE), 0.1))
    assert radii.label.tolist() == [ABSTAINS] * 3
    assert (radii.hits < 100).all()


@pytest.mark.parametrize("n", [1000, 10_000, 100_000])
def test_the_largest_radius_has_a_closed_form(n):
    """With all hits the bound is alpha^(1/n); at n = 100,000 about 3.8 sigma (Cohen et al., section 3.2.2)."""
    largest = Smoothing(0.5, n=n).radius(n)
    assert largest == pytest.approx(0.5 * stats.norm.ppf(0.001 ** (1 / n)), rel=1e-7)
    if n == 100_000:
        assert round(largest / 0.5, 1) == 3.8


def test_the_bound_is_that_of_the_exact_binomial_test():
    certificate = Smoothing(1.0, n=400, alpha=0.01)
    low = stats.binomtest(380, 400).proportion_ci(confidence_level=0.98, method="exact").low  # one-sided 99 %
    assert certificate.radius(380) == pytest.approx(stats.norm.ppf(low), rel=1e-7)
    assert certificate.radius(380) < stats.norm.ppf(low)  # rounded down
    assert certificate.radius(0) == certificate.radius(200) == 0


def test_the_mask_follows_the_radius_and_the_norm(certified):
    model, x, _, radii = certified
    x, radii = x[:8], Radii(radii.label[:8], radii.radius[:8], radii.hits[:8])
    y = radii.label.clamp_min(0)
    middle = float(radii.radius.median())
    proof = Smoothing(SIGMA, n=2000)

    def mask(threat, labels=y):
        return proof(model, x, labels, threat, generator=seeded(2))

    assert torch.equal(mask(L2(middle)), radii.radius > middle + 1e-6)
    assert torch.equal(mask(L1(middle)), mask(L2(middle)))
    assert torch.equal(mask(Linf(middle / math.sqrt(6))), radii.radius > middle + math.sqrt(6) * 1e-6)
    assert not mask(L2(0.0), 1 - y).any()  # another class is never certified
    assert torch.equal(radii.certified(y, middle), radii.radius >= middle)
    assert proof(model, x[:0], y[:0], L2(0.1)).shape == (0,)
    with pytest.raises(UsageError, match=r"proves nothing in L0\(3.0\). Possible: L2, and the L1 and Linf balls"):
        mask(L0(3.0))


def test_an_image_fares_alike_whatever_comes_after_it_and_the_global_generator_is_left_alone(certified):
    model, x, _, radii = certified
    before = torch.random.get_rng_state()
    few = Smoothing(SIGMA, n=2000).certify(model, x[:3], generator=seeded(2))
    assert torch.equal(few.hits, radii.hits[:3])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(Smoothing(SIGMA, n=2000).certify(model, x[:3], generator=seeded(3)).hits, few.hits)


def test_what_was_certified_before_a_stop_is_not_computed_again(certified, tmp_path):
    model, x, _, radii = certified
    log, proof, told = tmp_path / "new" / "log.jsonl", Smoothing(SIGMA, n=2000), []

    def stop(done, total, words):
        told.append((done, total, words))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        proof.certify(model, x[:6], generator=seeded(2), progress=stop, log=log)
    assert told == [(done, 6, repr(proof)) for done in (1, 2, 3)]
    with log.open("a") as file:
        file.write('{"label": 1, "ra')  # a kill in the middle of a line
    model.asked = 0
    found = proof.certify(model, x[:6], generator=seeded(2), log=log)
    assert 3 * 2100 <= model.asked < 3 * 2120  # the other three; a few to measure a micro-batch
    assert torch.equal(found.radius, radii.radius[:6])
    assert torch.equal(found.label, radii.label[:6])
    model.asked = 0
    proof.certify(model, x[:6], generator=seeded(2), log=log)
    assert model.asked == 0
    for others in (lambda: (Counting(1), x[:6], 2), lambda: (model, x[1:7], 2), lambda: (model, x[:6], 3)):
        other, images, seed = others()
        with pytest.raises(RunError, match="holds certificates of other images, weights, seed or constants"):
            proof.certify(other, images, generator=seeded(seed), log=log)


def test_logs_that_are_none_are_refused(certified, tmp_path):
    model, x, _, _ = certified
    proof = Smoothing(SIGMA, n=10, n0=10)
    for text in ("nonsense\n", '{"identity": 1, "x"\n', "[]\n"):
        (tmp_path / "log").write_text(text)
        with pytest.raises(RunError, match=r"log is damaged .*Delete it and certify again"):
            proof.certify(model, x[:1], log=tmp_path / "log")
    with pytest.raises(RunError, match=r"cannot write .* Give a file in a directory"):
        proof.certify(model, x[:1], log=tmp_path)
    (tmp_path / "log").write_text("")  # killed before the first line
    assert len(proof.certify(model, x[:1], log=tmp_path / "log").label) == 1


def test_batches_of_any_size_give_the_same_count_of_draws(certified, monkeypatch):
    model, x, _, _ = certified
    monkeypatch.setattr(smoothing, "micro_batch", lambda *_: 7)
    assert Smoothing(SIGMA, n=50, n0=20).certify(model, x[:2]).hits.max() <= 50


@pytest.mark.parametrize("given", [{"sigma": 0.0}, {"n": 0}, {"n0": 0}, {"alpha": 1.0}])
def test_constants_out_of_range_are_refused(given):
    with pytest.raises(UsageError, match="expected a sigma above 0, n0 and n of 1 or more, and 0 < alpha < 1"):
        Smoothing(**given)


def test_a_log_of_a_model_in_bfloat16(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).bfloat16()

    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x.bfloat16())

    x = torch.rand(2, 1, 2, 2, generator=seeded())
    found = Smoothing(n=20).certify(Rounded(), x, log=tmp_path / "log")
    assert torch.equal(found.radius, Smoothing(n=20).certify(Rounded(), x, log=tmp_path / "log").radius)
