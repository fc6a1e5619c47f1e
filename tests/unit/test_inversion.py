"""Inversion: closed-form optima, the published rule, what is stored, what is refused."""

import math
from functools import partial
from statistics import NormalDist

import pytest
import torch
from scipy import stats
from torch import nn

from steelman.attacks.pgd import PGD
from steelman.data import Data, Splits
from steelman.data.arrays import Arrays
from steelman.errors import UsageError
from steelman.features.distances import nearest, of_pairs, shared_bins, shares, to_originals
from steelman.features.inversion import invert, mean_gram, random_starts
from steelman.features.layers import activations, layer_names
from steelman.features.mean_gauss_newton import MeanGaussNewton
from steelman.features.normalised_gradient import NormalisedGradient
from steelman.features.sets import CHUNK, as_data, mislabelled, reconstruct, write_by_class, write_set
from steelman.features.statistics import STATISTICS, auc, high_frequencies, pieces
from steelman.features.synthesis import alone, ascend, spectrum
from steelman.models.blind_cnn import BlindCNN
from steelman.models.layers import network
from steelman.runs import Run
from steelman.spec import catalogue, parse
from steelman.threats import L2

METHODS = [cls() for cls in catalogue("inversion").values()]
EVERY = pytest.mark.parametrize("method", METHODS, ids=repr)
SHAPE = (1, 12, 12)


def images(num: int, seed: int = 0) -> torch.Tensor:
    return torch.rand((num, *SHAPE), generator=torch.Generator().manual_seed(seed))


def linear(units: int = 6, *, relu: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(144, units), *([nn.ReLU()] if relu else [])]
    return nn.Sequential(*layers, nn.Linear(units, 3)).eval()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return BlindCNN()(SHAPE, 3, torch.Generator().manual_seed(1))


class TestMethods:
    def test_gauss_newton_solves_a_linear_layer(self):
        """Grey targets near grey starts: no pixel meets its limits, the Gram matrix is exact, so error falls fast."""
        model, x = linear(), 0.5 + 0.1 * (images(9) - 0.5)
        exact = MeanGaussNewton(step_size=1.0, momentum=0.0, damping=1e-5, steps=3)
        found = invert(model, "1", x, torch.full_like(x, 0.5), exact)
        assert (found.relative < 1e-3).all()
        weight = model[1].weight.detach().double()
        gap = (x - 0.5).flatten(1).double()
        nearest_solution = 0.5 + gap @ weight.T @ torch.linalg.inv(weight @ weight.T) @ weight
        torch.testing.assert_close(found.x.flatten(1).double(), nearest_solution, atol=1e-3, rtol=0)

    def test_the_gram_matrix_of_a_linear_layer_is_that_of_its_weight(self):
        model = linear()
        with activations(model, "1", images(2)) as layer:
            gram = mean_gram(layer, images(2))
        weight = model[1].weight.detach()
        torch.testing.assert_close(gram, weight @ weight.T)

    def test_the_published_rule_step_by_step(self):
        """A float64 transcription of the protocol: unit steps times .996^k along the gradient of the distance."""
        model, x, start = linear(relu=True), images(3), images(3, seed=7)
        found = invert(model, "2", x, start, NormalisedGradient(steps=12, change=0.0))
        features = nn.Sequential(model[0], model[1], model[2]).double()
        for index in range(3):
            goal, z, best = (
                features(x[index : index + 1].double()).detach(),
                start[index : index + 1].double(),
                math.inf,
            )
            for step in range(13):
                z = z.detach().requires_grad_()
                distance = (features(z) - goal).norm()
                best = min(best, float(distance.detach()))
                (grad,) = torch.autograd.grad(distance, z)
                z = (z - 0.996**step * grad / grad.norm()).clamp(0, 1)
            assert float(found.residual[index]) == pytest.approx(best, rel=1e-3)

    @EVERY
    def test_residuals_are_those_of_the_returned_images(self, net, method):
        x, start = images(20), images(20, seed=1)
        found = invert(net, "features.8", x, start, method)
        with torch.no_grad():
            target, matched = net.features(x), net.features(found.x)
        torch.testing.assert_close(found.residual, (matched - target).norm(dim=1), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.relative, found.residual / target.norm(dim=1), atol=1e-4, rtol=1e-3)
        assert found.x.min() >= 0
        assert found.x.max() <= 1
        with torch.no_grad():
            before = (net.features(start) - target).norm(dim=1)
        assert (found.residual <= before + 1e-6).all()
        assert (found.gradients <= method.most).all()

    def test_the_fast_method_beats_the_published_one_on_fewer_gradients(self, net):
        x, start = images(40), images(40, seed=1)
        fast = invert(net, "features.8", x, start, MeanGaussNewton())
        slow = invert(net, "features.8", x, start, NormalisedGradient())
        assert (fast.residual < slow.residual).float().mean() >= 0.95
        assert fast.gradients.sum() < slow.gradients.sum()

    @EVERY
    def test_an_image_does_not_depend_on_its_batch_mates(self, net, method):
        x, start = images(12), images(12, seed=1)
        whole = invert(net, "features.8", x, start, method, sample=x)
        few = invert(net, "features.8", x[:3], start[:3], method, sample=x)
        torch.testing.assert_close(few.relative, whole.relative[:3], atol=2e-3, rtol=0.02)

    def test_what_has_converged_leaves(self, net):
        x = images(10)
        found = invert(net, "features.8", x, x, MeanGaussNewton())
        assert (found.residual < 1e-4).all()
        tolerant = invert(net, "features.8", x, images(10, seed=1), MeanGaussNewton(), tolerance=0.3)
        strict = invert(net, "features.8", x, images(10, seed=1), MeanGaussNewton())
        assert (tolerant.relative <= 0.3).all()
        assert tolerant.gradients.sum() < strict.gradients.sum()

    def test_images_beyond_a_batch_take_free_places(self, net, monkeypatch):
        x, start = images(50), images(50, seed=1)
        monkeypatch.setattr("steelman.features.inversion.micro_batch", lambda model, x: 16)
        told = []
        found = invert(
            net, "features.8", x, start, MeanGaussNewton(), tolerance=0.05, progress=lambda *a: told.append(a)
        )
        assert (found.relative <= 0.05).float().mean() > 0.9
        assert (found.gradients < MeanGaussNewton().most).float().mean() > 0.9
        assert told[-1][:2] == (50, 50)

    @EVERY
    def test_constant_activations_are_no_division_by_zero(self, method):
        model = linear(relu=True)
        with torch.no_grad():
            model[1].weight.zero_()
            model[1].bias.fill_(-1)  # every unit dead, everywhere
        found = invert(model, "2", images(3), images(3, seed=1), method)
        assert torch.equal(found.x, images(3, seed=1))
        assert (found.residual == 0).all()
        assert (found.relative == 0).all()

    def test_a_target_of_zero_that_is_not_met_is_infinitely_far(self):
        model = linear(units=2)
        with torch.no_grad():
            model[1].weight.fill_(1.0)
            model[1].bias.zero_()
        found = invert(model, "1", torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE), NormalisedGradient(steps=1))
        assert found.relative.isinf().all()

    def test_models_are_left_as_they_were(self, net):
        before = [parameter.clone() for parameter in net.parameters()]
        net.train()
        invert(net, "features.8", images(2), images(2, seed=1), MeanGaussNewton(steps=2))
        assert net.training
        net.eval()
        assert all(parameter.requires_grad for parameter in net.parameters())
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())

    @EVERY
    def test_its_repr_is_its_name(self, method):
        assert parse(repr(method), "inversion") == method


class TestRefused:
    @pytest.mark.parametrize(
        ("layer", "words"),
        [
            ("features.99", "unknown layer 'features.99'.*Possible: features, features.0.*head"),
            ("", "unknown layer ''"),
            ("flatten", "the layer 'flatten' comes before any parameter"),
            ("unused", "does not reach the layer 'unused'"),
            ("pair", "no tensor with one row an image"),
        ],
    )
    def test_layers(self, layer, words):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.flatten, self.unused, self.pair = nn.Flatten(), nn.Linear(2, 2), Pair()
                self.features, self.head = nn.Sequential(*[nn.Identity()] * 9), nn.Linear(144, 3)

            def forward(self, x):
                return self.head(self.pair(self.features(self.flatten(x)))[0])

        with pytest.raises(UsageError, match=words):
            invert(Odd(), layer, images(2), images(2), MeanGaussNewton())

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda net: invert(net, "features.8", images(3), images(2), MeanGaussNewton()), "the starts have shape"),
            (
                lambda net: invert(net, "features.8", images(3), images(3), MeanGaussNewton(), tolerance=-1.0),
                "tolerance is -1.0",
            ),
            (lambda net: NormalisedGradient(steps=0), "one step or more"),
            (lambda net: MeanGaussNewton(momentum=1.0), "momentum < 1"),
            (lambda net: to_originals(images(2), images(3)), r"originals of \(3"),
            (lambda net: of_pairs(images(1), 3, torch.Generator()), "has no pair"),
            (lambda net: shared_bins([torch.tensor([math.inf])]), "no finite value"),
            (lambda net: auc(torch.empty(0), torch.empty(0)), "of 0 and 0 values"),
            (lambda net: auc(torch.ones(2), torch.ones(1)), "as many of both"),
            (lambda net: ascend(net, images(1), torch.tensor([0]), L2(1.0), steps=0), "0 steps"),
        ],
    )
    def test_use(self, net, make, words):
        with pytest.raises(UsageError, match=words):
            make(net)


class Pair(nn.Module):
    def forward(self, x):
        return (x, x)


class TestSets:
    def test_an_interrupted_reconstruction_goes_on_and_computes_nothing_twice(self, net, tmp_path, monkeypatch):
        x, pool = images(10), images(20, seed=3)
        monkeypatch.setattr("steelman.features.sets.CHUNK", 4)
        calls = []
        plain = invert

        def counted(model, layer, part, *rest, **named):
            if len(calls) == 1 and not (tmp_path / "again").exists():
                (tmp_path / "again").touch()
                raise KeyboardInterrupt
            calls.append(len(part))
            return plain(model, layer, part, *rest, **named)

        monkeypatch.setattr("steelman.features.sets.invert", counted)
        arguments = ("robust", net, "features.8", x, pool, MeanGaussNewton(steps=5))
        with Run.open(tmp_path / "run", "Features()") as run:
            with pytest.raises(KeyboardInterrupt):
                reconstruct(run, *arguments)
            resumed = reconstruct(run, *arguments)
            again = reconstruct(run, *arguments)
        assert calls == [4, 4, 2]
        with Run.open(tmp_path / "other", "Features()") as run:
            through = reconstruct(run, *arguments)
        for name, values in resumed.tensors().items():
            assert torch.equal(values, through.tensors()[name])
            assert torch.equal(values, again.tensors()[name])
        assert CHUNK >= 1_000

    def test_sets_are_read_by_the_arrays_source(self, tmp_path):
        x, y = images(9), torch.arange(9) % 3
        data = as_data(x, y, ("a", "b", "c"), "set")
        val, test = data.first(3), data.first(4)
        for name in ("set.npz", "set.safetensors"):
            path = write_set(tmp_path / name, Splits(data, val, test))
            splits = Arrays(str(path)).splits()
            assert torch.equal(splits.train.images, data.images)
            assert (len(splits.val), len(splits.test), splits.train.classes) == (3, 4, ("a", "b", "c"))
        write_by_class(tmp_path / "plain", data)
        import numpy as np

        assert np.load(tmp_path / "plain" / "x_1.npy").shape == (3, 12, 12)
        assert np.load(tmp_path / "plain" / "y.npy").tolist() == y.tolist()
        with pytest.raises(UsageError, match="no array file"):
            write_set(tmp_path / "set.txt", Splits(data, val, test))

    def test_mislabelled_images_stay_near_and_get_the_class_they_go_to(self, net, generator):
        x, y = images(12), torch.arange(12) % 3
        for kind in ("random", "next"):
            made, labels = mislabelled(net, x, y, kind, PGD(steps=5), L2(1.0), classes=3, generator=generator)
            assert L2(1.0).contains(made, x).all()
            assert torch.equal(made[labels == y], x[labels == y])
        assert torch.equal(labels, (y + 1) % 3)
        with pytest.raises(UsageError, match="1 classes"):
            mislabelled(net, x, y, "next", PGD(), L2(1.0), classes=1, generator=generator)

    def test_starts_are_images_of_the_pool(self, generator):
        pool = images(5)
        starts = random_starts(pool, 20, generator)
        assert all(any(torch.equal(start, image) for image in pool) for start in starts)


class TestMeasures:
    def test_pairs_are_of_different_images(self, generator):
        x = torch.eye(4).view(4, 1, 2, 2)
        assert of_pairs(x, 200, generator) == pytest.approx(2**0.5)  # the diagonal would give 0

    def test_histograms_sum_to_one(self):
        samples = [torch.rand(50), torch.rand(30) + 2]
        edges = shared_bins(samples)
        assert all(sum(shares(sample, edges)) == pytest.approx(1) for sample in samples)
        assert nearest(images(3), images(5)[1:4])[1] == pytest.approx(0, abs=1e-3)

    def test_an_area_of_one_and_of_a_half(self):
        low, high = torch.linspace(0, 1, 50), torch.linspace(2, 3, 50)
        assert auc(high, low) == (1.0, pytest.approx(0.025 ** (1 / 25)), 1.0)  # 25 of 25 in order
        assert auc(low, high) == (0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 25)))
        assert auc(low, low)[0] == pytest.approx(0.5)
        assert auc(high[:1], low[:1]) == (1.0, 0.0, 1.0)  # no two images

    def test_an_area_is_that_of_mann_and_whitney(self, generator):
        first, second = (torch.randint(0, 9, (30,), generator=generator).double() for _ in range(2))
        u = stats.mannwhitneyu(first, second).statistic
        assert auc(first, second)[0] == pytest.approx(u / 900)

    @pytest.mark.parametrize(("images", "shift", "noise"), [(20, 0.5, 0.1), (40, 2.0, 0.1), (40, 0.5, 1.0)])
    def test_the_interval_of_an_area_covers_the_true_one(self, generator, images, shift, noise):
        normal = partial(torch.randn, 400, images, generator=generator)
        both = normal()  # what the two values of an image share
        firsts, seconds = both + shift + noise * normal(), both + noise * normal()
        intervals = [auc(*pair, confidence=0.9)[1:] for pair in zip(firsts, seconds, strict=True)]
        true = NormalDist().cdf(shift / (2 * (1 + noise**2)) ** 0.5)
        covered = sum(low <= true <= high for low, high in intervals) / len(intervals)
        assert 0.84 < covered < 0.96  # by bootstrap, sets apart: 1.0; images: .65 of (20, .5, .1)

    def test_statistics(self):
        x = torch.zeros(2, 1, 8, 8)
        x[0, 0, 1, 1] = x[0, 0, 5, 5] = 1.0
        x[1, 0] = torch.tensor([0.0, 1.0]).repeat(8, 4)
        assert pieces(x).tolist() == [2, 4]
        assert high_frequencies(x)[1] == pytest.approx(1)  # stripes of one pixel: the highest frequency there is
        assert all(len(statistic(x)) == 2 for statistic in STATISTICS.values())

    def test_the_spectrum_shows_where_classes_differ(self):
        y = torch.arange(20) % 2
        wave = torch.cos(2 * torch.pi * 2 * torch.arange(16) / 16)
        x = 0.5 + 0.2 * (2 * y - 1).view(-1, 1, 1, 1) * wave.view(1, 1, 16, 1)
        x = (x + 0.01 * torch.randn(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))).expand(-1, 1, -1, -1)
        information = spectrum(x, y, 2)
        assert divmod(int(information.argmax()), 16) in {(8 + 2, 8), (8 - 2, 8)}  # vertical frequency 2

    def test_climbing_raises_the_probability_and_stays_within_the_threat(self, net):
        x, labels = images(6), torch.tensor([0, 1, 2, 0, 1, 2])
        made = ascend(net, x, labels, L2(3.0), steps=10)
        assert L2(3.0).contains(made, x).all()
        with torch.no_grad():
            before, after = (net(part).log_softmax(1).gather(1, labels[:, None]).mean() for part in (x, made))
        assert after > before
        assert alone(made, x).flatten(1).amax(1) == pytest.approx(1)
        assert torch.equal(alone(x, x), torch.zeros_like(x))


def test_layer_names_are_those_of_the_modules():
    model = network("X", SHAPE, [nn.Conv2d(1, 2, 3)], lambda size: [nn.Linear(size, 3)])
    assert layer_names(model) == ("features", "features.0", "flatten", "head", "head.0")


def test_data_of_reconstructions_are_8_bit():
    data = as_data(torch.full((1, *SHAPE), 0.5), torch.zeros(1, dtype=torch.int64), ("a",), "x")
    assert isinstance(data, Data)
    assert data.images.dtype == torch.uint8
