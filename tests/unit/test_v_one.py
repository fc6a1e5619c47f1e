"""VOne: the filter bank against a plain float64 convolution, the cells, the noise, and both derivatives."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from steelman.attacks.fgsm import FGSM
from steelman.chance import fixed_noise, generators_of, is_random
from steelman.data.digits import Digits
from steelman.errors import UsageError
from steelman.evaluate import accuracy, strike
from steelman.fitting import fit
from steelman.models import _gabor
from steelman.models._cells import GAIN, Noise, complex_cells
from steelman.models._filter_bank import FilterBank
from steelman.models.linear import Linear1
from steelman.models.v_one import VOne, differentiated
from steelman.recipe import Recipe
from steelman.spec import parse
from steelman.threats import Linf
from steelman.trust import read

SHAPE = (1, 28, 28)
SMALL = VOne(backend=Linear1(width=8), simple=6, complex=6, image_size=224, noise=None, bottleneck=4)


def _built(spec: VOne, shape=SHAPE):
    return spec(shape, 10, torch.Generator().manual_seed(0))


@pytest.fixture
def spots(generator):
    """Images that are black but for a bright patch in a corner, so that filters far from it see exactly nothing."""
    x = torch.zeros(8, 1, 28, 28)
    x[:, :, 2:8, 2:8] = torch.rand(8, 1, 6, 6, generator=generator)
    return x


def _plainly(spec: VOne, x: torch.Tensor) -> torch.Tensor:
    """The responses of the paper's formula in float64: every filter a convolution, q0 and q1 of every cell."""
    density = (spec.image_size or x.shape[3]) / spec.visual_degrees
    cells = spec.simple + spec.complex
    g = _gabor.draw(cells, pixels_per_degree=density, sf_max=spec.sf_max, seed=spec.seed)
    reach = torch.arange(spec.ksize, dtype=torch.float64) - spec.ksize // 2
    v, u = torch.meshgrid(reach, reach, indexing="ij")
    quadrature = []
    for turn in (0.0, math.pi / 2):
        kernels = []
        for f, angle, phase, across, along in zip(*vars(g).values(), strict=True):
            right, down = u * angle.cos() + v * angle.sin(), -u * angle.sin() + v * angle.cos()
            bell = torch.exp(-0.5 * (right**2 / across**2 + down**2 / along**2)) / (2 * math.pi * across * along)
            kernels.append(bell * torch.cos(2 * math.pi * f * right + phase + turn))
        weight = torch.stack(kernels)[:, None]
        quadrature.append(F.conv2d(x.double(), weight, stride=spec.stride, padding=spec.ksize // 2))
    q0, q1 = quadrature
    simple = q0[:, : spec.simple].relu()
    pairs = (q0[:, spec.simple :] ** 2 + q1[:, spec.simple :] ** 2).sqrt() / math.sqrt(2)
    return GAIN * torch.cat((simple, pairs), dim=1)


class TestFilters:
    @pytest.mark.parametrize(("stride", "image_size"), [(1, 224), (2, None)])
    def test_responses_are_those_of_a_plain_float64_convolution(self, stride, image_size, generator):
        spec = dataclasses.replace(SMALL, simple=20, complex=20, stride=stride, image_size=image_size)
        front = _built(spec).front
        x = torch.rand(3, *SHAPE, generator=generator)
        expected = _plainly(spec, x)
        for way in (front.filters.bank(x), front.filters.convolution(x)):
            found = front.cells(*way(x), "smooth").transpose(0, 1)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), expected, atol=1e-5 * float(expected.max()), rtol=0)

    @pytest.mark.parametrize("kind", ["gabor", "learned", "random"])
    def test_on_colour_both_ways_agree_in_value_and_gradient(self, kind, generator):
        filters = _built(dataclasses.replace(SMALL, filters=kind), (3, 11, 14)).front.filters.double()
        assert len(set(filters.channels.tolist())) == 3
        x = torch.rand(2, 3, 11, 14, generator=generator, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(12, 2, 11, 14, generator=generator, dtype=torch.float64)
        sums = [
            (filters_maps[0] * weight[:6]).sum() + sum((maps * weight[6:]).sum() for maps in filters_maps[1:])
            for filters_maps in (filters.bank(x)(x), filters.convolution(x)(x))
        ]
        torch.testing.assert_close(*(torch.autograd.grad(one, x)[0] for one in sums), atol=1e-9, rtol=1e-6)

    def test_pairs_of_even_and_odd_filters_cost_half(self):
        kernels = _built(SMALL).front.filters.kernels()
        channels = torch.zeros(12, dtype=torch.int64)
        bank = FilterBank(*kernels, channels, width=28, stride=1, dtype=torch.float32)
        assert bank.single.shape[2] == 2 * bank.even.shape[2] == 2 * bank.odd.shape[2] == 50

    def test_geometry_is_the_published_one_or_the_images_own(self):
        published, own = (_gabor.draw(2000, pixels_per_degree=size / 8, sf_max=6.0, seed=0) for size in (224, 28))
        # measured of the reference implementation at 28 pixels per degree
        assert published.frequency.min() == pytest.approx(0.018, abs=0.001)
        assert 0.2 < published.frequency.max() <= 6 / 28
        assert published.across.median() == pytest.approx(4.0, abs=0.4)
        assert published.along.median() == pytest.approx(4.8, abs=0.6)
        assert own.frequency.max() <= 0.5  # what pixels carry

    def test_the_measured_histograms_come_out(self):
        g = _gabor.draw(20_000, pixels_per_degree=28.0, sf_max=8.0, seed=1)
        degrees = torch.rad2deg(g.angle)
        shares = torch.histogram(degrees, torch.tensor(_gabor.ORIENTATION_EDGES).double()).hist / 20_000
        torch.testing.assert_close(shares, torch.tensor([66, 49, 77, 54]).double() / 246, atol=0.015, rtol=0)
        cycles = g.frequency * 28
        shares = torch.histogram(cycles, torch.tensor(_gabor.FREQUENCY_EDGES).double()).hist / 20_000
        torch.testing.assert_close(
            shares, torch.tensor([4, 4, 8, 25, 32, 26, 28, 12]).double() / 139, atol=0.015, rtol=0
        )
        widths = torch.stack((g.frequency.log(), (g.across * g.frequency).log()))
        assert torch.corrcoef(widths)[0, 1] == pytest.approx(0.75, abs=0.05)

    def test_random_filters_have_the_energies_of_the_gabors(self):
        gabor, random = (_built(dataclasses.replace(SMALL, filters=kind)).front.filters for kind in ("gabor", "random"))
        for drawn, control in zip(gabor.kernels(), random.kernels(), strict=True):
            torch.testing.assert_close(drawn.flatten(1).norm(dim=1), control.flatten(1).norm(dim=1))
        even, odd = random.kernels()[1:]
        torch.testing.assert_close(even, even.flip(1, 2))
        torch.testing.assert_close(odd, -odd.flip(1, 2))

    def test_learned_filters_start_as_the_gabors_and_learn(self, generator):
        model = _built(dataclasses.replace(SMALL, filters="learned"))
        x = torch.rand(2, *SHAPE, generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(model(x), _built(SMALL)(x), atol=1e-4, rtol=1e-3)
        model(x).logsumexp(1).sum().backward()
        for name in ("frequency", "angle", "across", "along"):
            grad = model.front.filters.get_parameter(name).grad
            assert grad.isfinite().all()
            assert grad.abs().sum() > 0


class TestDerivatives:
    def test_smooth_is_finite_and_published_is_nan_around_black(self, spots):
        model = _built(dataclasses.replace(SMALL, derivative="published"))
        grads = {}
        for derivative in ("published", "smooth"):
            x = spots.clone().requires_grad_()
            with differentiated(model, derivative):
                logits = model(x)
                (grads[derivative],) = torch.autograd.grad(logits.logsumexp(1).sum(), x)
            with torch.no_grad():
                torch.testing.assert_close(logits, model(spots), atol=1e-4, rtol=1e-4)
        assert grads["smooth"].isfinite().all()
        # windows centred from pixel 20 on see columns from 8 on, which are black, and so do not stop there
        assert grads["published"][:, :, 8:, 8:].isnan().all()
        finite = grads["published"].isfinite()
        torch.testing.assert_close(grads["published"][finite], grads["smooth"][finite], atol=1e-3, rtol=1e-2)

    def test_fgsm_leaves_nan_pixels_alone_and_the_trust_checks_say_so(self, spots):
        model = _built(SMALL)
        with torch.no_grad():
            y = model(spots).argmax(1)
        verdicts = {}
        for derivative in ("published", "smooth"):
            with differentiated(model, derivative):
                outcome = strike(model, (spots, y), FGSM(), Linf(0.01, clip=False))
                x_adv = FGSM().perturb(model, spots, y, Linf(0.01, clip=False))
            verdicts[derivative] = {check.name: check.verdict for check in read(outcome)}
            share = (x_adv != spots).float().mean()
            assert share == 1 if derivative == "smooth" else share < 0.5
        assert verdicts["published"]["gradient NaN"] == "fail"
        assert verdicts["smooth"]["gradient NaN"] == verdicts["smooth"]["pixels moved"] == "ok"

    def test_far_from_zero_both_are_the_same(self, generator):
        even, odd = (torch.rand(5, generator=generator).add(0.5).requires_grad_() for _ in range(2))
        ways = [
            torch.autograd.grad(complex_cells(even, odd, way).sum(), (even, odd)) for way in ("smooth", "published")
        ]
        torch.testing.assert_close(ways[0], ways[1])

    def test_near_zero_the_smooth_one_is_that_of_a_lifted_root(self):
        even, odd = torch.tensor([0.0, 1e-6, 1e-4, -0.01, 0.3]), torch.tensor([0.0, -1e-6, 0.0, 0.02, 0.1])
        exact = [part.double().requires_grad_() for part in (even, odd)]
        lifted = ((exact[0] ** 2 + exact[1] ** 2 + 1e-8) / 2).sqrt()
        expected = torch.autograd.grad(lifted.sum(), exact)
        even, odd = even.requires_grad_(), odd.requires_grad_()
        found = torch.autograd.grad(complex_cells(even, odd, "smooth").sum(), (even, odd))
        torch.testing.assert_close([part.double() for part in found], list(expected), atol=1e-7, rtol=1e-5)


class TestNoise:
    def test_neuronal_noise_has_the_variance_of_its_rate(self):
        noise = Noise("neuronal", scale=0.35, level=0.07, seed=0)
        responses = torch.full((1, 1, 300, 300), 40.0)
        drawn = noise(responses)
        rate = 0.35 * 40 + 0.07
        assert drawn.mean() == pytest.approx(40, rel=0.01)
        assert drawn.std() == pytest.approx(math.sqrt(rate) / 0.35, rel=0.02)
        assert Noise("gaussian", 0.35, 0.07, 0)(responses).std() == pytest.approx(0.35, rel=0.02)
        assert noise(torch.zeros(1, 1, 20, 20)).min() == 0  # rectified again

    def test_the_gradient_is_that_of_the_formula(self):
        noise = Noise("neuronal", 0.35, 0.07, 0)
        r = torch.linspace(0, 9, 50, dtype=torch.float64).view(1, 1, 5, 10).requires_grad_()
        state = noise.get_extra_state()

        def same(responses: torch.Tensor) -> torch.Tensor:
            noise.set_extra_state(state)
            return noise(responses)

        assert torch.autograd.gradcheck(same, (r,), atol=1e-6)
        noise.set_extra_state(state)
        normal = torch.empty_like(r).normal_(generator=noise.source)
        rate = 0.35 * r + 0.07
        torch.testing.assert_close(same(r), ((rate + normal * (rate + 1e-4).sqrt() - 0.07) / 0.35).relu())

    def test_it_is_drawn_from_its_own_generator_and_goes_on_where_it_was_saved(self, spots):
        model = _built(dataclasses.replace(SMALL, noise="neuronal"))
        before = torch.get_rng_state()
        assert len(generators_of(model)) == 1
        assert is_random(model, spots)
        with torch.no_grad():
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            first, second = model(spots), model(spots)
            assert not torch.equal(first, second)
            twin = copy.deepcopy(model)
            twin.load_state_dict(weights)
            assert torch.equal(twin(spots), first)
            assert torch.equal(twin(spots), second)
            with fixed_noise(model):
                assert torch.equal(model(spots), model(spots))
        assert torch.equal(torch.get_rng_state(), before)


def test_measuring_takes_no_noise_from_training():
    data = Digits().splits()
    splits = data._replace(train=data.train.first(16), val=data.val.first(8))
    recipe = Recipe(epochs=2, batch_size=8, eval_mode=True, keep="last")
    spec = dataclasses.replace(SMALL, noise="neuronal")

    def trained(on_epoch):
        model = _built(spec)
        fit(model, splits, recipe, generator=torch.Generator().manual_seed(0), on_epoch=on_epoch)
        return model.state_dict()

    bare, measured = trained(None), trained(lambda _, model: {"natural": float(accuracy(model, splits.val).sum())})
    assert bare.keys() == measured.keys()
    assert all(torch.equal(bare[name], measured[name]) for name in bare)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"simple": 0}, "simple is 0"),
        ({"ksize": 24}, "ksize is 24"),
        ({"image_size": 0}, "image_size is 0"),
        ({"visual_degrees": 0.0}, "visual_degrees is 0"),
        ({"noise_scale": 0.0}, "noise_scale is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_built_is_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        VOne(**fields)


def test_pixels_too_coarse_for_any_filter_are_refused():
    with pytest.raises(UsageError, match=r"frequencies up to 0\.4"):
        _built(dataclasses.replace(SMALL, sf_max=0.4))
    with pytest.raises(UsageError, match="half of which"):
        _built(dataclasses.replace(SMALL, image_size=8))


def test_its_repr_is_its_name_with_any_back_end():
    assert parse(repr(SMALL), "architecture") == SMALL
    convnet = parse("VOne(backend=ConvNet(), noise=None)", "architecture").backend
    assert convnet == parse("ConvNet()", "architecture")
