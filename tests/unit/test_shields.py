"""Shields against the closed form, another implementation of the same filter, or hand calculation."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import nn

from steelman import shielded
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.attacks.reliable import Reliable
from steelman.data import Data
from steelman.defences import Shield
from steelman.defences._filter import Filter, straight_through
from steelman.defences.bit_depth import BitDepth
from steelman.defences.gaussian_filter import GaussianFilter
from steelman.defences.jpeg import JPEG
from steelman.defences.median_filter import MedianFilter
from steelman.defences.randomised_smoothing import RandomisedSmoothing
from steelman.defences.soft_threshold import SoftThreshold
from steelman.defences.total_variation import TotalVariation
from steelman.errors import UsageError
from steelman.evaluate import accuracy, strike
from steelman.shielded import strike_shielded
from steelman.threats import Linf
from tests.nets import net, seeded, task


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 2, 9, 8, generator=seeded())


def seen_gradient(filter_: Filter, x):
    """The derivative of the sum of what a model sees."""
    leaf = x.clone().requires_grad_()
    filter_(nn.Identity()).filtered(leaf).sum().backward()
    return leaf.grad


# ---- filters


def test_bit_depth_rounds_to_the_nearest_level():
    x = torch.tensor([0.0, 0.2, 0.49, 0.51, 1.0]).view(1, 1, 1, 5)
    assert BitDepth(bits=1).exact(x).flatten().tolist() == [0, 0, 0, 1, 1]
    expected = torch.tensor([0, 1 / 3, 1 / 3, 2 / 3, 1]).view(x.shape)
    torch.testing.assert_close(BitDepth(bits=2).exact(x), expected)
    assert torch.equal(seen_gradient(BitDepth(bits=1), x), torch.ones_like(x))  # straight through


def test_the_median_is_that_of_scipy_and_its_attack_takes_the_mean(images):
    for size in (3, 5):
        expected = ndimage.median_filter(images.numpy(), (1, 1, size, size), mode="mirror")
        np.testing.assert_array_equal(MedianFilter(size).exact(images).numpy(), expected)
    inner = seen_gradient(MedianFilter(3), images)[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.ones_like(inner))  # nine shares of 1/9


def test_the_gaussian_filter_is_that_of_scipy_and_its_derivative_its_own(images):
    for sigma in (0.5, 1.0, 2.0):
        options = {"mode": "mirror", "radius": (0, 0, math.ceil(3 * sigma), math.ceil(3 * sigma))}
        expected = ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), **options)
        np.testing.assert_allclose(GaussianFilter(sigma).exact(images).numpy(), expected, atol=1e-6)
    x = images[:1, :1].double().requires_grad_()
    assert torch.autograd.gradcheck(GaussianFilter(1.0)(nn.Identity()).filtered, (x,))


@pytest.mark.parametrize("weight", [0.1, 0.8])
def test_total_variation_brings_two_halves_together_by_the_closed_form(weight):
    """A half of area A behind an edge of length L moves by weight L / A (Strong & Chan 2003, theorem 1)."""
    x = torch.zeros(1, 1, 4, 8)
    x[..., 4:] = 1
    found = TotalVariation(weight, steps=400).exact(x)
    shift = weight * 4 / 16
    torch.testing.assert_close(found[..., :4], torch.full((1, 1, 4, 4), shift), atol=2e-3, rtol=0)
    torch.testing.assert_close(found[..., 4:], torch.full((1, 1, 4, 4), 1 - shift), atol=2e-3, rtol=0)


def test_total_variation_minimises_what_it_says(images):
    def objective(u):
        down, right = np.zeros(u.shape), np.zeros(u.shape)
        down[:, :, :-1], right[..., :-1] = np.diff(u, axis=2), np.diff(u, axis=3)
        return 0.5 * ((u - x) ** 2).sum() + 0.2 * np.hypot(down, right).sum()

    x = images.double().numpy()
    best = TotalVariation(0.2, steps=300).exact(images.double()).numpy()
    assert objective(best) < objective(x)
    random = np.random.default_rng(0)
    for size in (1e-2, 1e-1):
        assert all(objective(best) < objective(best + size * random.standard_normal(x.shape)) for _ in range(10))
    assert torch.equal(TotalVariation(0.0).exact(images), images)


def test_the_soft_threshold_is_monotone_between_fixed_ends_and_attacked_where_it_is_flat():
    x = torch.linspace(0, 1, 101).view(1, 1, 1, -1)
    seen = SoftThreshold(0.5, slope=200.0).exact(x).flatten()
    assert seen[0] == 0
    assert seen[-1] == 1
    torch.testing.assert_close(seen[50], torch.tensor(0.5))
    assert (seen.diff() >= 0).all()
    assert seen[45] < 1e-4  # as good as binary
    own = x.clone().requires_grad_()
    SoftThreshold(0.5, slope=200.0).exact(own).sum().backward()
    assert own.grad[..., 0] == 0  # its own derivative is gone: nothing to attack with
    sigmoid = torch.sigmoid(4 * (x - 0.5))
    expected = 4 * sigmoid * (1 - sigmoid) / (math.tanh(1))  # of the sigmoid of slope 4, from sigmoid(-2) to sigmoid(2)
    torch.testing.assert_close(seen_gradient(SoftThreshold(0.5, slope=200.0), x), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_the_codec_makes_of_eight_bits(channels):
    x = torch.rand(2, channels, 16, 24, generator=seeded(1))
    for quality in (5, 90):
        seen = JPEG(quality).exact(x)
        for image, found in zip(x, seen, strict=True):
            levels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
            file = io.BytesIO()
            Image.fromarray(levels[..., 0] if channels == 1 else levels).save(file, "JPEG", quality=quality)
            decoded = np.asarray(Image.open(file)).reshape(levels.shape)
            assert np.array_equal(found.permute(1, 2, 0).mul(255).round().byte().numpy(), decoded)


def test_jpeg_keeps_flat_images_and_loses_less_at_a_higher_quality():
    flat = torch.full((1, 3, 16, 16), 120 / 255)
    torch.testing.assert_close(JPEG(50).exact(flat), flat, atol=1.01 / 255, rtol=0)
    smooth = torch.linspace(0, 1, 32).view(1, 1, 1, 32) * torch.linspace(0, 1, 32).view(1, 1, 32, 1)
    errors = [float((JPEG(quality).exact(smooth) - smooth).square().mean()) for quality in (5, 25, 75, 95)]
    assert errors == sorted(errors, reverse=True)
    assert JPEG().exact(flat[:0]).shape == (0, 3, 16, 16)


# ---- the vote


def test_the_vote_follows_the_probability_under_noise():
    """A linear classifier's logit of class 1 is above 0 with probability Phi(margin / (sigma |w|))."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        linear[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0], [1, 1, 1, 1]]))
    x = torch.full((1, 1, 2, 2), 0.05)
    voted = RandomisedSmoothing(sigma=0.5, votes=4000)(linear)(x).detach()
    counts = voted.exp() - 0.5
    torch.testing.assert_close(counts.sum(), torch.tensor(4000.0), atol=0.1, rtol=0)
    probability = 0.5 * (1 + math.erf(0.2 / (0.5 * 2) / math.sqrt(2)))
    assert abs(float(counts[0, 1]) / 4000 - probability) < 4 * math.sqrt(0.25 / 4000)


def test_the_votes_derivative_is_that_of_the_log_of_the_mean_probability():
    model, shield = net(), RandomisedSmoothing(sigma=0.2, votes=5)
    x, _ = task(model, n=4)
    leaf = x.clone().requires_grad_()
    wrapped = shield(model)
    noise = torch.randn(5, *x.shape, generator=seeded(0))
    wrapped(leaf)[:, 1].sum().backward()
    other = x.clone().requires_grad_()
    torch.stack([model(other + 0.2 * one).softmax(1) for one in noise]).mean(0).log()[:, 1].sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert not torch.equal(RandomisedSmoothing(seed=1)(model)(x), RandomisedSmoothing(seed=2)(model)(x))


# ---- straight through, static and adaptive


def test_a_value_with_another_derivative():
    x = torch.tensor([0.1, 0.7], requires_grad=True)
    value = straight_through(x.detach().round(), 3 * x)
    assert value.tolist() == [0, 1]
    value.sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_static_and_adaptive_are_reported_beside_each_other():
    """Gradients masked by rounding: the shield looks good against images made without it, and is not."""
    model = net()
    x, y = task(model, n=40, wrong=0)
    data = Data(x.mul(255).round().byte(), y, ("a", "b", "c", "d"))
    attack, shield = PGD(steps=6, loss="margin"), SoftThreshold(slope=50.0)
    found = strike_shielded(model, shield, data, attack, Linf(0.08), generator=seeded())
    facts = found.to_json()
    assert facts["adaptive"]["value"] < facts["static"]["value"] <= facts["natural"]["value"]
    assert facts["undefended"]["natural"]["value"] == 1.0
    assert facts["shield"] == "SoftThreshold(slope=50.0)"
    assert facts["attack"] == repr(attack)
    assert 0 <= facts["p"] <= 1
    assert torch.equal(found.adaptive.distance.isnan(), ~found.adaptive.broken)
    aimed = strike_shielded(model, shield, data, attack, Linf(0.3), target=(y + 1) % 4, generator=seeded())
    with torch.no_grad():
        reached = shield(model)(aimed.adaptive.x_adv).argmax(1) == (y + 1) % 4
    assert torch.equal(aimed.adaptive.broken, reached & aimed.adaptive.right)


def test_targets_are_chosen_once_for_both_searches():
    """A filter that changes nothing: the images made without it are those made through it."""
    model = net()
    x, y = task(model, n=40, wrong=0)
    data = Data(x.mul(255).round().byte(), y, ("a", "b", "c", "d"))
    for target in ("random", "least-likely", "next"):
        found = strike_shielded(
            model, TotalVariation(0.0), data, PGD(steps=4), Linf(0.3), target=target, generator=seeded()
        )
        assert torch.equal(found.adaptive.target, found.undefended.target)
        assert torch.equal(found.static_held, found.undefended.right & ~found.undefended.broken)


def test_both_searches_are_kept_and_not_made_again(tmp_path, monkeypatch):
    model = net()
    x, y = task(model, n=8, wrong=0)
    data = Data(x.mul(255).round().byte(), y, ("a", "b", "c", "d"))
    words = (model, RandomisedSmoothing(sigma=0.1, votes=4), data, PGD(steps=2), Linf(0.1))
    first = strike_shielded(*words, kept=tmp_path / "o", generator=seeded())
    monkeypatch.setattr("steelman.evaluate.strike", lambda *_, **__: pytest.fail("made again"))
    again = strike_shielded(*words, kept=tmp_path / "o", generator=seeded())
    assert again.to_json() == first.to_json()
    assert torch.equal(again.adaptive.x_adv, first.adaptive.x_adv)


def test_a_search_made_again_alone_gives_the_same_images(tmp_path):
    """Stopped between the two searches: what is drawn for the second does not depend on the first."""
    model = net()
    x, y = task(model, n=40, wrong=0)
    data = Data(x.mul(255).round().byte(), y, ("a", "b", "c", "d"))
    words = (model, BitDepth(3), data, PGD(steps=3), Linf(0.03))
    first = strike_shielded(*words, kept=tmp_path / "o", generator=seeded())
    for name in tmp_path.glob("o-search.*"):
        name.unlink()
    again = strike_shielded(*words, kept=tmp_path / "o", generator=seeded())
    assert torch.equal(again.adaptive.x_adv, first.adaptive.x_adv)


def test_progress_of_both_searches_is_one_and_never_goes_back():
    model = net()
    x, y = task(model, n=20, wrong=0)
    data = Data(x.mul(255).round().byte(), y, ("a", "b", "c", "d"))
    told: list[float] = []
    strike_shielded(
        model, BitDepth(3), data, PGD(steps=9), Linf(0.03), progress=lambda done, total, _: told.append(done / total)
    )
    assert told == sorted(told)
    assert told[-1] == 1
    assert len(set(told)) > 9


def test_breaks_by_images_of_the_undefended_model_are_not_the_audits(monkeypatch):
    monkeypatch.setattr("steelman.attacks.reliable.FULL", AutoAttack(steps=2, queries=5))
    model = net()
    x, y = task(model, n=30, wrong=0)
    data = Data(x.mul(255).round().byte(), y, ("a", "b", "c", "d"))
    weak = Reliable(steps=1, rounds=0, polish=0, queries=0, audit=30)
    adaptive = strike(model, data, weak, Linf(0.005), generator=seeded())
    strong = strike(model, data, PGD(steps=20, loss="margin"), Linf(0.3), generator=seeded())
    both = shielded._worse(adaptive, shielded._given(model, adaptive, strong, data))
    assert adaptive.audited.any()
    assert both.broken.any()
    assert not (both.audited & both.broken & ~adaptive.broken).any()
    assert (both.margin[both.broken] > 0).all()


def test_noisy_answers_that_are_nan_are_no_votes():
    class Root(nn.Module):
        def forward(self, x):
            return torch.stack((x.flatten(1).sum(1), x.flatten(1).sqrt().sum(1)), 1)

    x, y = torch.rand(6, 1, 4, 4, generator=seeded()), torch.zeros(6, dtype=torch.long)
    assert not accuracy(RandomisedSmoothing(0.5, votes=20)(Root()), (x, y)).any()  # argmax of NaN says 0


def test_rounding_at_the_ends_of_the_range_takes_no_derivative_away():
    """Constants whose value at black or white lies a rounding error outside [0, 1]."""
    ends = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    for threshold in (0.3, 0.4, 0.5):
        for slope in (1.0, 2.0, 4.0, 8.0):
            shield = SoftThreshold(threshold, attacked_slope=slope)
            assert (seen_gradient(shield, ends) > 0).all()
            assert shield.exact(ends).flatten().tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
            assert 0 <= shield.exact(ends).min() <= shield.exact(ends).max() <= 1
    white = torch.ones(1, 1, 12, 12)
    for sigma in (0.5, 1.0, 2.0):
        assert (seen_gradient(GaussianFilter(sigma), white) > 0).all()
        assert GaussianFilter(sigma).exact(white).max() <= 1
    assert SoftThreshold(slope=2000.0).exact(ends).flatten().tolist() == [0.0, 1.0]


def test_a_random_shield_is_attacked_over_its_draws():
    model = net()
    x, y = task(model, n=8, wrong=0)
    data = Data(x.mul(255).round().byte(), y, ("a", "b", "c", "d"))
    shield = RandomisedSmoothing(sigma=0.1, votes=4)
    found = strike_shielded(model, shield, data, PGD(steps=2), Linf(0.1), generator=seeded())
    assert found.adaptive.attack == PGD(steps=2, samples=4)
    more = strike_shielded(model, shield, data, PGD(steps=2, samples=6), Linf(0.1), generator=seeded())
    assert more.adaptive.attack.samples == 6


# ---- wrong use


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BitDepth(bits=9), r"BitDepth: bits is 9. Expected 1 to 8"),
        (lambda: MedianFilter(size=4), r"MedianFilter: size is 4. Expected an odd number of pixels, 3 or more"),
        (lambda: GaussianFilter(sigma=0.0), r"GaussianFilter: sigma is 0.0. Expected a width in pixels above 0"),
        (lambda: JPEG(quality=96), r"JPEG: quality is 96. Expected 1 to 95"),
        (lambda: TotalVariation(weight=-1.0), r"TotalVariation: weight is -1.0. Expected 0 or more"),
        (lambda: TotalVariation(steps=0), r"TotalVariation: steps is 0. Expected 1 or more"),
        (lambda: SoftThreshold(threshold=1.0), r"threshold is 1.0. Expected a pixel value between 0 and 1"),
        (lambda: SoftThreshold(slope=0.0), r"SoftThreshold: slope is 0.0. Expected a number above 0"),
        (lambda: SoftThreshold(attacked_slope=0.0), r"attacked_slope is 0.0. Expected a number above 0"),
        (
            lambda: RandomisedSmoothing(votes=0),
            r"RandomisedSmoothing\(votes=0\): expected a sigma above 0, at least one",
        ),
        (lambda: MedianFilter(9).exact(torch.zeros(1, 1, 4, 9)), r"reaches 4 pixels is too wide for images of 4x9"),
        (lambda: JPEG().exact(torch.zeros(1, 2, 8, 8)), r"JPEG knows images of 1 or 3 channels, these have 2"),
    ],
)
def test_constants_out_of_range_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_the_bases_define_nothing():
    with pytest.raises(NotImplementedError):
        Shield()(nn.Identity())
    with pytest.raises(NotImplementedError):
        Filter().exact(torch.zeros(1, 1, 2, 2))


def test_the_paired_test_is_of_the_two_searches_and_neither_could_only_win():
    """With the static images among its candidates the adaptive attacker is never the weaker one."""
    model = net()
    x, y = task(model, n=80)
    data = Data((255 * x).round().to(torch.uint8), y, ("a", "b", "c", "d"))
    found = strike_shielded(model, TotalVariation(), data, FGSM(), Linf(0.05), generator=seeded())
    adaptive = found.adaptive.right & ~found.adaptive.broken
    assert (found.static_held & ~found.searched_held).any()
    assert (found.searched_held & ~found.static_held).any()
    assert torch.equal(adaptive, found.searched_held & found.static_held)
    told = found.to_json()
    apart = int((found.static_held ^ found.searched_held).sum())
    fewer = min(
        int((found.static_held & ~found.searched_held).sum()), int((found.searched_held & ~found.static_held).sum())
    )
    assert told["p"] == pytest.approx(stats.binomtest(fewer, apart).pvalue)
    assert told["search"]["value"] == pytest.approx(float(found.searched_held.double().mean()))
