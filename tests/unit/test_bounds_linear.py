"""Linear bounds: never above what an allowed image reaches, exact on a linear network, below the LP's optimum."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from torch import Tensor, nn

from steelman.attacks.pgd import PGD
from steelman.bounds import interval_margins
from steelman.bounds.box import Unknown
from steelman.bounds.crown import linear_margins
from steelman.bounds.fold import fold
from steelman.bounds.graph import Norm, Product, trace
from steelman.bounds.linear import lines
from steelman.models import Normalize
from steelman.models.layers import Threshold
from steelman.threats import L0, L1, L2, TOLERANCE, Ball, Linf

DUAL = {Linf: 1, L2: 2, L1: math.inf}


class Residual(nn.Module):
    """A stem in place, a branch and its shortcut, functional forms, and the number of images spelled out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.inner, self.down = nn.Conv2d(4, 4, 3, padding="same", groups=2), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(1 - 2 * (x - 0.5))), inplace=True)
        out = self.inner(x) / 2
        out = torch.relu_(out + self.down(x)) - x
        out = F.avg_pool2d(F.max_pool2d(out, 3, stride=2, padding=1), 2)
        return self.head(F.dropout(out, 0.5, self.training).reshape(out.size(0), -1))


class Repeated(nn.Module):
    """Sums and scalings that repeat values: a grey image as three colours, one channel for all, a mean for all."""

    colours: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("colours", torch.tensor([0.5, -1.0, 2.0]).view(1, 3, 1, 1))
        self.inner, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.head, self.all = nn.Linear(8 * 8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        grey = F.avg_pool2d(x, (2, 4)).mean(1, keepdim=True)
        out = F.relu(self.inner(grey.expand(-1, 3, -1, -1) + grey * self.colours)) + grey
        out = out - out.mean((1, 2, 3), keepdim=True)
        vectors = self.norm(out.flatten(2))
        return self.head(vectors.flatten(1)) + self.all(vectors.mean(2))


class Padded(nn.Module):
    """Zeros around, but for one side, which loses a column."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, -1, 1, 2), value=0.0)


def drawn(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point() and not name.startswith("0."):
            tensor.normal_(generator=generator).div_(max(2, tensor[0].numel() if tensor.ndim > 1 else 4) ** 0.5)
    return model.eval()


NETS: dict[str, nn.Module] = {
    "convolutions": nn.Sequential(
        Normalize((0.4, 0.5), (0.2, 0.3)),
        nn.Sequential(nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        nn.Conv2d(6, 6, (3, 2), dilation=(1, 2), bias=False),
        nn.MaxPool2d(2, stride=1),
        nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU6(), nn.Linear(10, 4)),
    ),
    "threshold": nn.Sequential(
        Threshold((0.3, 0.7)), nn.Conv2d(2, 4, 4, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ),
    "residual": Residual(),
    "repeated": Repeated(),
    "padded": nn.Sequential(
        nn.ZeroPad2d((-1, 1, -2, 0)), nn.Conv2d(2, 4, 3, stride=2), Padded(), nn.ReLU(), nn.Flatten(), nn.Linear(60, 3)
    ),
}
NETS = {name: drawn(net, seed) for seed, (name, net) in enumerate(NETS.items(), 3)}
THREATS = [Linf(0.03), L2(0.2), L1(0.5, clip=False)]


def images(number: int, seed: int = 0) -> Tensor:
    x = torch.rand(number, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    x[0, :, :2], x[-1, :, :2] = 0, 1
    return x


def margins(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        z = model(x)
    return z.gather(1, y[:, None]).squeeze(1) - z.scatter(1, y[:, None], -math.inf).amax(1)


def samples(x: Tensor, threat: Ball, number: int) -> Tensor:
    """Random allowed images, every other one a corner or on the sphere."""
    generator = torch.Generator().manual_seed(1)
    x = x.repeat_interleave(number, 0)
    signs = torch.empty_like(x).uniform_(-1, 1, generator=generator).sign()
    far = threat.project(x + threat.eps * signs, x)
    return torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) % 2 == 0, threat.sample(x, generator), far)


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("name", NETS)
def test_no_allowed_image_is_below_its_bound(name, threat):
    """10,000 images, a third of them about each original; then PGD. Both ways to bound what is between."""
    model, x = NETS[name], images(3)
    y = model(x).argmax(1)
    by_intervals, by_lines = (linear_margins(model, x, y, threat, refine=refine) for refine in (False, True))
    tried = samples(x, threat, 3334)
    lowest = margins(model, tried, y.repeat_interleave(3334)).view(3, -1).amin(1)
    found = PGD(steps=10, loss="margin").perturb(model, x, y, threat)
    lowest = lowest.minimum(margins(model, found, y))
    assert (by_intervals <= lowest).all()
    assert (by_lines <= lowest).all()
    boxes = interval_margins(model, x, y, threat)
    assert boxes is not None
    assert (by_intervals > boxes).all()  # here; in general neither need be
    assert by_lines.mean() > by_intervals.mean() - 1e-3


@pytest.mark.parametrize("name", NETS)
def test_float32_is_never_above_float64_and_close_to_it(name):
    model, x = NETS[name], images(4)
    y = model(x).argmax(1)
    low = linear_margins(model, x, y, Linf(0.02)).double()
    exact = linear_margins(copy.deepcopy(model).double(), x.double(), y, Linf(0.02))
    assert (low <= exact).all()
    torch.testing.assert_close(low, exact, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("norm", [Linf, L2, L1])
def test_without_activations_the_bound_is_the_margin_less_eps_times_the_dual_norm_of_its_gradient(norm):
    """Through a convolution, a normalisation, a mean and two linear layers; intervals lose much here."""
    layers = [nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(45, 7), nn.Linear(7, 3)]
    model = drawn(nn.Sequential(nn.Identity(), *layers), 1).double()
    x, threat = images(4).double(), norm(0.1, clip=False)
    y = model(x).argmax(1)
    reach = threat.eps + TOLERANCE * max(1.0, threat.eps, threat.terms(x))
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x).sum(0), x).transpose(0, 1).flatten(2)
    apart = jacobian.gather(1, y[:, None, None].expand(-1, 1, 128)) - jacobian
    z = model(x).detach()
    least = z.gather(1, y[:, None]) - z - reach * apart.norm(DUAL[norm], dim=2)
    expected = least.scatter(1, y[:, None], math.inf).amin(1)
    found = linear_margins(model, x, y, threat)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    boxes = interval_margins(model, x, y, threat)
    assert boxes is not None
    assert (boxes < found - 0.01).all()


def lowest_of_patterns(model: nn.Sequential, low: np.ndarray, high: np.ndarray, row: np.ndarray) -> float:
    """The exact least value of row times the logits over a box: one linear programme a pattern of active units."""
    (w, b), (v, c) = ([part.detach().double().numpy() for part in (m.weight, m.bias)] for m in (model[1], model[3]))
    found = math.inf
    for pattern in itertools.product((0.0, 1.0), repeat=len(b)):
        on = np.array(pattern)
        side = 1 - 2 * on
        result = linprog(
            (row @ v) @ (on[:, None] * w), side[:, None] * w, -side * b, bounds=list(zip(low, high, strict=True))
        )
        if result.status == 0:
            found = min(found, result.fun + (row @ v) @ (on * b) + row @ c)
    return found


def lowest_of_triangles(model: nn.Sequential, low: np.ndarray, high: np.ndarray, row: np.ndarray) -> float:
    """The same with each open unit anywhere in the triangle above ReLU: the best that two lines a unit can give."""
    (w, b), (v, c) = ([part.detach().double().numpy() for part in (m.weight, m.bias)] for m in (model[1], model[3]))
    middle, radius = w @ (low + high) / 2 + b, np.abs(w) @ (high - low) / 2
    least, most = middle - radius, middle + radius
    rows, right, ends = [], [], list(zip(low, high, strict=True))
    for j in range(len(b)):
        unit = np.eye(len(b))[j]
        slope = np.clip(most[j] / (most[j] - least[j]), 0, 1) if least[j] < 0 < most[j] else float(least[j] >= 0)
        offset = -slope * least[j] if least[j] < 0 < most[j] else 0.0
        rows += [np.concatenate((w[j], -unit)), np.concatenate((-slope * w[j], unit))]
        right += [-b[j], slope * b[j] + offset]
        ends.append((0, None))
    result = linprog(np.concatenate((np.zeros(len(low)), row @ v)), np.array(rows), np.array(right), bounds=ends)
    return result.fun + row @ c


@pytest.mark.parametrize("seed", range(3))
def test_one_hidden_layer_against_linear_programmes(seed):
    """CROWN <= best triangle relaxation <= exact, which is the least over all patterns of active units."""
    layers = [nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)]
    model = drawn(nn.Sequential(*layers), seed).double()
    x = torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(seed)).double()
    y = model(x).argmax(1)
    row = np.where(np.arange(2) == int(y), 1.0, -1.0)
    gaps = []
    for eps in (0.01, 0.2, 0.6):
        ends = [(x.flatten() + sign * (eps + TOLERANCE)).numpy() for sign in (-1, 1)]
        exact, best = (find(model, *ends, row) for find in (lowest_of_patterns, lowest_of_triangles))
        found = float(linear_margins(model, x, y, Linf(eps, clip=False)))
        assert found <= best + 1e-9
        assert best <= exact + 1e-9
        gaps.append(exact - found)
    assert gaps[0] < 1e-3
    assert gaps[-1] < 2.0


@pytest.mark.parametrize(("floor", "ceiling"), [(0.0, math.inf), (0.0, 1.0), (-math.inf, 0.5), (-1.0, 2.0)])
def test_the_two_lines_enclose_a_clamp_and_touch_it(floor, ceiling):
    generator = torch.Generator().manual_seed(0)
    low = torch.empty(500, dtype=torch.float64).uniform_(-3, 3, generator=generator)
    high = low + torch.empty_like(low).uniform_(0, 4, generator=generator) * (torch.arange(500) % 5 > 0)
    lower, below, upper, above = lines(low, high, floor, ceiling)
    x = torch.lerp(low, high, torch.linspace(0, 1, 301, dtype=torch.float64)[:, None])
    ends = torch.stack([low, high, *(low.clamp(max=high).clamp(min=v).minimum(high) for v in (floor, ceiling))])
    x = torch.cat((x, ends))
    value = x.clamp(floor, ceiling)
    under, over = value - (lower * x + below), lower * 0 + upper * x + above - value
    assert under.min() > -1e-12
    assert over.min() > -1e-12
    assert under.amin(0).max() < 1e-12
    assert over.amin(0).max() < 1e-12
    assert ((lower >= 0) & (lower <= 1) & (upper >= 0) & (upper <= 1)).all()


def test_relu_takes_the_adaptive_slope_of_the_paper():
    low, high = torch.tensor([-1.0, -2.0, 1.0, -3.0]), torch.tensor([2.0, 1.0, 2.0, -1.0])
    lower, below, upper, above = lines(low, high, 0.0, math.inf)
    assert lower.tolist() == [1, 0, 1, 0]
    assert below.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(upper, torch.tensor([2 / 3, 1 / 3, 1, 0]))
    torch.testing.assert_close(above, torch.tensor([2 / 3, 2 / 3, 0, 0]))


def test_steps_of_a_network_with_normalisations_and_flattening_folded():
    graph = fold(trace(NETS["convolutions"]))
    kinds = [step.kind for step in graph.steps]
    products = [kind for kind in kinds if isinstance(kind, Product)]
    assert sum(product.norm is not None for product in products) == 2
    assert not any(product.flat for product in products)  # dropout comes between
    assert not any(isinstance(kind, Norm) for kind in kinds)
    assert all(place > max(step.inputs) for place, step in enumerate(graph.steps, 1))
    layers = (nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    folded = [step.kind for step in fold(trace(nn.Sequential(*layers))).steps]
    assert folded[:2] == [Product(layers[0]), Product(layers[2], layers[3], flat=True)]
    assert len(folded) == 4
    parts = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(2), nn.Linear(4, 3))  # each channel on its own
    assert len(fold(trace(parts)).steps) == 3


class Lambda(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _shared(x: Tensor) -> Tensor:
    first = x * 2
    return (F.relu(first.flatten(1), inplace=True) + first.flatten(1))[:, :2]


def _reused(x: Tensor) -> Tensor:
    first = x * 2
    flat = first.flatten(1)
    return flat.relu_() + first.flatten(1)


def _hooked(pre: bool) -> nn.Module:
    layer = nn.Linear(128, 2)
    if pre:
        layer.register_forward_pre_hook(lambda module, inputs: -inputs[0])
    else:
        layer.register_forward_hook(lambda module, inputs, output: -output)
    return nn.Sequential(nn.Flatten(), layer)


def _replaced() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 2))
    layer, plain = model[1], model[1].forward
    layer.forward = lambda x: -plain(x)
    return model


class _Negated(nn.Linear):
    """Torch counts what calls itself one of its own modules among its layers."""

    __module__ = "torch.nn.modules.linear_negated"

    def forward(self, input: Tensor) -> Tensor:
        return -super().forward(input)


@pytest.mark.parametrize(
    "model",
    [_hooked(False), _hooked(True), _replaced(), nn.Sequential(nn.Flatten(), _Negated(128, 2))],
    ids=["hook", "pre-hook", "forward", "subclass"],
)
def test_a_layer_that_computes_something_else_than_its_weights_say_is_refused(model):
    """Each of these gives -1 times its layer: bounds of the weights alone would prove the wrong labels."""
    with pytest.raises(Unknown, match=r"layer 1 .*with hooks or a forward of its own"):
        linear_margins(model.eval(), images(2), torch.tensor([0, 1]), Linf(0.1))


def _hooked_threshold() -> nn.Module:
    model = nn.Sequential(Threshold((0.3, 0.7)), nn.Flatten(), nn.Linear(128, 2))
    model[0].register_forward_hook(lambda module, inputs, output: 1 - output)
    return model


def _replaced_threshold() -> nn.Module:
    model = nn.Sequential(Threshold((0.3, 0.7)), nn.Flatten(), nn.Linear(128, 2))
    plain = model[0].forward
    model[0].forward = lambda x: 1 - plain(x)
    return model


@pytest.mark.parametrize("model", [_hooked_threshold(), _replaced_threshold()], ids=["hook", "forward"])
def test_a_layer_of_ours_that_was_altered_is_refused_as_well(model):
    with pytest.raises(Unknown, match=r"Threshold, with hooks or a forward of its own"):
        linear_margins(model.eval(), images(2), torch.tensor([0, 1]), Linf(0.1))


@pytest.mark.parametrize(
    "normalised", [nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm], ids=["weight", "spectral"]
)
def test_weights_that_torch_normalises_are_bounded_as_they_are(normalised):
    """Just below the distance of the two logits; spectral norms that are small at the start make weights large."""
    model = nn.Sequential(nn.Flatten(), normalised(nn.Linear(128, 2))).eval()
    x = images(2)
    with torch.no_grad():
        logits, size = model(x), float(model[1].weight.abs().sum())
    margins, distance = linear_margins(model, x, logits.argmax(1), Linf(1e-6)), logits.amax(1) - logits.amin(1)
    assert (margins <= distance).all()
    assert (margins >= distance - 2e-5 * size).all()


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.LeakyReLU()), "layer 1 .LeakyReLU"),
        (nn.Sequential(nn.Flatten(), nn.Softmax(1)), "layer 1 .Softmax"),
        (Lambda(lambda x: x.flatten(1) * x.flatten(1)), "mul"),
        (Lambda(lambda x: torch.exp(x.flatten(1))), "exp"),
        (Lambda(lambda x: x.flatten(1) if x.sum() > 0 else -x.flatten(1)), "depends on the values"),
        (Lambda(_shared), "in place, on a value that is used again"),
        (Lambda(_reused), "in place, on a value that is used again"),
        (Lambda(lambda x: (x.flatten(1), x)), "output that is not the last layer's tensor"),
        (nn.Sequential(nn.Flatten(), nn.Linear(128, 1)), "one vector of logits an image, two or more"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.Flatten()), "ceil_mode"),
        (nn.Sequential(nn.Conv2d(2, 2, 2, padding="same"), nn.Flatten()), "more on one side"),
        (nn.Sequential(nn.Linear(8, 8), nn.Flatten()), "more than one vector an image"),
        (Lambda(lambda x: (x.mean((2, 3)) + x.transpose(0, 1).mean(3)).flatten(1)), "transpose"),
        (Lambda(lambda x: x.flatten(1)[:, :3]), "getitem"),
        (Lambda(lambda x: x.mT.flatten(1)), "getattr|mT"),
        (Lambda(lambda x: x.flatten(1) + x.size(1) * 2), "on what does not come from the image"),
        (Lambda(lambda x: nn.ReLU()(x.flatten(1))), "beyond torch.fx .NameError: module is not installed"),
        (Lambda(lambda x: x.mean((1, 2, 3)) + x.mean((2, 3))), "different numbers of dimensions"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten()), "layer 0 .Conv2d"),
        (nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Flatten()), "layer 0 .ConstantPad2d"),
        (Lambda(lambda x: F.pad(x, (1, 1), value=0.5).flatten(1)), "pad"),
        (Lambda(lambda x: F.pad(x, (1, 1), mode="reflect").flatten(1)), "pad"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_linear_bounds_is_named(model, words):
    with pytest.raises(Unknown, match=words):
        linear_margins(model.eval(), images(2), torch.tensor([0, 1]), Linf(0.1))


def test_no_bounds_in_train_mode_for_other_threats_or_in_low_precision():
    model, x, y = NETS["threshold"], images(2), torch.tensor([0, 1])
    with pytest.raises(Unknown, match="only for balls of Linf, L2 and L1"):
        linear_margins(model, x, y, L0(3.0))
    with pytest.raises(Unknown, match="bfloat16"):
        linear_margins(model, x.bfloat16(), y, Linf(0.1))
    with pytest.raises(Unknown, match="train mode"):
        linear_margins(copy.deepcopy(model).train(), x, y, Linf(0.1))
    assert linear_margins(model, x[:0], y[:0], Linf(0.1)).shape == (0,)


def test_numbers_in_a_float64_model_are_float64():
    """0.1 in float32 is off by 1.5e-9: here the difference of two logits is 5e-7 of 100."""
    inner, head = nn.Linear(1, 1, dtype=torch.float64), nn.Linear(1, 2, dtype=torch.float64)
    with torch.no_grad():
        inner.weight.fill_(1e-3), inner.bias.zero_()
        (
            head.weight.copy_(torch.tensor([[1.0], [0.0]])),
            head.bias.copy_(torch.tensor([0.0, 100.0 + 0.0001 + 5e-7], dtype=torch.float64)),
        )
    model = nn.Sequential(nn.Flatten(), inner, Lambda(lambda x: (x + 1000.0) * 0.1), head).eval()
    x, y = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.tensor([0])
    assert float(margins(model, x, y)) < 0
    assert float(linear_margins(model, x, y, Linf(1e-9))) < 0
