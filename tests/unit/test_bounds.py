"""Interval bounds: never above what any allowed image reaches, equal to closed forms where these exist."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.attacks.pgd import PGD
from steelman.bounds import interval_margins
from steelman.engine import guarded, predict
from steelman.models import Normalize
from steelman.models.cnn import CNN
from steelman.models.small_cnn import SmallCNN
from steelman.threats import L0, L1, L2, TOLERANCE, Ball, Linf

THREATS = [
    Linf(0.02),
    Linf(0.05, clip=False),
    L2(0.1),
    L2(0.2, clip=False),
    L1(0.3),
    L1(0.5, clip=False),
]
DUAL = {Linf: 1, L2: 2, L1: math.inf}  # the order of the norm that the weights are measured in


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with random weights and statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif (tensor.is_floating_point() and not name.endswith(("mean", "std"))) or name.endswith("running_mean"):
                tensor.normal_(generator=generator).div_(max(1, tensor[0].numel() if tensor.ndim > 1 else 4) ** 0.5)
    return model.eval()


def images(number: int, channels: int = 2, side: int = 8, seed: int = 0) -> Tensor:
    x = torch.rand(number, channels, side, side, generator=torch.Generator().manual_seed(seed))
    x[0, :, :2] = 0  # pixels at the ends of their range
    x[-1, :, :2] = 1
    return x


class Residual(nn.Module):
    """Two branches, one with in-place functions, and functional forms of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.inner, self.down = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(2 * (1 - x) - 0.5 + x.mean((2, 3)).view(len(x), 2, 1, 1))), inplace=True)
        out = torch.tanh(self.inner(x)).mul(0.5)
        out += self.down(x) - F.leaky_relu(x, 0.1)
        out = F.max_pool2d(F.relu(out / 2), 2).sigmoid()
        out = F.dropout(F.adaptive_avg_pool2d(out, 2), 0.5, self.training)
        return self.head(out.reshape(out.shape[0], -1)).clamp(-5, 5)


NETS: dict[str, nn.Module] = {
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(128, 5)),
    "normalised": nn.Sequential(Normalize((0.4, 0.5), (0.2, 0.3)), nn.Flatten(), nn.Linear(128, 5)),
    "dense": nn.Sequential(
        nn.Flatten(), nn.Linear(128, 20), nn.BatchNorm1d(20), nn.LeakyReLU(0.1), nn.Linear(20, 3, bias=False)
    ),
    "convolutions": nn.Sequential(
        Normalize((0.4, 0.5), (0.2, 0.3)),
        nn.Sequential(nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Conv2d(6, 6, (3, 1), padding="same", groups=3, bias=False),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Identity(), nn.Flatten(), nn.Dropout(), nn.Linear(24, 4)),
    ),
    "groups": nn.Sequential(
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 4, 3, dilation=2, groups=2),
        nn.ReLU6(inplace=True),
        nn.AvgPool2d(3, 2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ),
    "smooth": nn.Sequential(
        nn.AvgPool2d(2), nn.Conv2d(2, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(20, 9), nn.Sigmoid(), nn.Linear(9, 3)
    ),
    "sums": nn.Sequential(nn.ReLU(), nn.Dropout2d(), nn.Flatten(1), nn.Linear(128, 3), nn.Tanh()),
    "residual": Residual(),
    "padded": nn.Sequential(
        nn.ZeroPad2d((-1, 2, -2, 0)),
        nn.Conv2d(2, 4, 3, stride=2),
        nn.ConstantPad2d(1, -0.5),
        nn.ReLU(),
        nn.ReflectionPad2d((1, 0, 0, 1)),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(60, 4),
    ),
}
NETS = {name: drawn(net, seed) for seed, (name, net) in enumerate(NETS.items(), 5)}


def bounds(model: nn.Module, x: Tensor, y: Tensor, threat: Ball) -> Tensor:
    found = interval_margins(model, x, y, threat)
    assert found is not None
    assert found.shape == (len(x),)
    return found


def margins(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        z = model(x)
    return z.gather(1, y[:, None]).squeeze(1) - z.scatter(1, y[:, None], -math.inf).amax(1)


def samples(x: Tensor, threat: Ball, number: int) -> Tensor:
    """Random allowed images, many of them corners of the box, on the sphere, or with all change in one pixel."""
    generator = torch.Generator().manual_seed(1)
    x = x.repeat_interleave(number, 0)
    size = min(threat.eps, 1.0)
    signs = torch.empty_like(x).uniform_(-1, 1, generator=generator).sign()
    kinds = torch.arange(len(x)).view(-1, 1, 1, 1) % 3
    corner = threat.project(x + size * (signs if isinstance(threat, Linf) else 2 * signs), x)
    sparse = signs * (torch.rand(x.shape, generator=generator) < 0.03)
    return torch.where(
        kinds == 0, threat.sample(x, generator), torch.where(kinds == 1, corner, threat.project(x + size * sparse, x))
    )


@functools.cache
def allowed_images(threat: Ball) -> Tensor:
    """2,500 about each of four images, the same for every net."""
    x = images(4)
    tried = samples(x, threat, 2500)
    assert threat.contains(tried, x.repeat_interleave(2500, 0)).all()
    return tried


# ---- soundness


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("name", NETS)
def test_no_allowed_image_is_below_its_bound(name, threat):
    """10,000 images of each set, 2,500 about each original; then those that PGD finds, against every class."""
    model, x = NETS[name], images(4)
    y = model(x).argmax(1)
    low = bounds(model, x, y, threat)
    assert (low <= margins(model, x, y)).all()
    tried = allowed_images(threat)
    assert (margins(model, tried, y.repeat_interleave(2500)) >= low.repeat_interleave(2500)).all()
    attacked = PGD(steps=10, loss="margin").perturb(model, x, y, threat)
    assert (margins(model, attacked, y) >= low).all()


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("norm", [Linf, L2, L1])
@pytest.mark.parametrize("name", NETS)
def test_no_image_proven_robust_is_ever_broken(name, norm, clip):
    """At radii from where all are proven to where none is; the bound falls with the radius."""
    model, x = NETS[name], images(16, seed=2)
    y, proven, last = model(x).argmax(1), [], None
    for eps in (1e-5, 1e-3, 1e-2, 0.1, 10.0):
        low = bounds(model, x, y, norm(eps, clip=clip))
        assert last is None or (low <= last).all()
        safe = low > 0
        found = PGD(steps=5).run(model, x[safe], y[safe], norm(eps, clip=clip))
        assert not found.success.any()
        proven.append(int(safe.sum()))
        last = low
    assert proven[0] > 10
    assert proven[-1] < 16 or name == "residual"


def test_a_wrong_image_is_not_proven():
    model, x = NETS["convolutions"], images(20)
    wrong = (model(x).argmax(1) + 1) % 4
    assert (bounds(model, x, wrong, Linf(0.0)) < 0).all()


# ---- exactness, in float64, where the slack for rounding is below all that is compared


def double(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def radius(threat: Ball, x: Tensor) -> float:
    """What `contains` lets through."""
    return threat.eps + TOLERANCE * max(1.0, threat.eps, threat.terms(x))


def worst(apart: Tensor, y: Tensor) -> Tensor:
    """The least of the differences to the other classes."""
    return apart.scatter(1, y[:, None], math.inf).amin(1).detach()


@pytest.mark.parametrize("norm", [Linf, L2, L1])
@pytest.mark.parametrize("name", ["linear", "normalised"])
def test_on_one_affine_layer_the_bound_is_the_margin_less_eps_times_the_dual_norm(name, norm):
    model, x, y = double(NETS[name]), images(20).double(), torch.arange(20) % 5
    weight = model[-1].weight / (model[0].std.repeat_interleave(64, 1).view(1, -1) if name == "normalised" else 1)
    z = model(x)
    for eps in (0.0, 0.1, 3.0):
        threat = norm(eps, clip=False)
        reach = radius(threat, x) * (weight[y][:, None] - weight).norm(DUAL[norm], dim=2)
        expected = worst(z.gather(1, y[:, None]) - z - reach, y)
        torch.testing.assert_close(bounds(model, x, y, threat), expected, atol=1e-10, rtol=1e-10)


def test_a_box_cut_by_the_pixel_range_is_exact_too():
    """The worst image has each pixel at one end of what is left of its interval."""
    model, x, y, threat = double(NETS["linear"]), images(20).double(), torch.arange(20) % 5, Linf(0.3)
    apart, bias, eps = model[1].weight[y][:, None] - model[1].weight, model[1].bias, radius(threat, x)
    low = (x - eps).clamp_min(-TOLERANCE).flatten(1)[:, None]
    high = (x + eps).clamp_max(1 + TOLERANCE).flatten(1)[:, None]
    z = (apart.clamp_min(0) * low + apart.clamp_max(0) * high).sum(2) + bias[y][:, None] - bias
    torch.testing.assert_close(bounds(model, x, y, threat), worst(z, y), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("norm", [Linf, L2, L1])
@pytest.mark.parametrize("groups", [1, 2])
def test_each_output_of_a_first_convolution_moves_by_the_dual_norm_of_its_weights(norm, groups):
    """Logits by themselves, as no linear layer is last: the label's lowest minus the highest other one."""
    first = nn.Sequential(Normalize((0.4, 0.5), (0.2, 0.3)), nn.Conv2d(2, 4, 8, groups=groups), nn.Flatten())
    model, x, threat = double(drawn(first)), images(10).double(), norm(0.05, clip=False)
    y, weight = model(x).argmax(1), model[1].weight
    std = model[0].std.view(groups, 1, -1, 1, 1)
    reach = radius(threat, x) * (weight.unflatten(0, (groups, -1)) / std).view(4, -1).norm(DUAL[norm], dim=1)
    low, high = model(x) - reach, model(x) + reach
    expected = worst(low.gather(1, y[:, None]) - high, y)
    torch.testing.assert_close(bounds(model, x, y, threat), expected, atol=1e-10, rtol=1e-10)


def test_padding_counts_in_the_euclidean_reach():
    """At a corner of the image only 4 of the 9 weights see a pixel."""
    model = double(drawn(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten())))
    x, y, threat = torch.rand(1, 1, 2, 2).double(), torch.tensor([3]), L2(0.1, clip=False)
    reach = radius(threat, x) * torch.autograd.functional.jacobian(lambda x: model(x)[0], x).flatten(1).norm(dim=1)
    low, high = model(x) - reach, model(x) + reach
    expected = worst(low.gather(1, y[:, None]) - high, y)
    torch.testing.assert_close(bounds(model, x, y, threat), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("sign", [1, -1])
def test_with_all_hidden_units_stable_a_diagonal_first_layer_is_exact(sign):
    """Units that are on make the net one affine map; units that are off leave the biases."""
    model = drawn(nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))).double()
    scale = torch.linspace(0.5, 2, 8).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.diag(scale))
        model[1].bias.fill_(9.0 * sign)
    x, y, threat = images(10, 2, 2).double(), torch.arange(10) % 3, Linf(0.1, clip=False)
    z, weight = model(x), model[3].weight
    step = radius(threat, x) * scale * (sign > 0)
    apart = z.gather(1, y[:, None]) - z - ((weight[y][:, None] - weight).abs() * step).sum(2)
    torch.testing.assert_close(bounds(model, x, y, threat), worst(apart, y), atol=1e-10, rtol=1e-10)


def reference(model: nn.Sequential, x: Tensor, y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Interval arithmetic in float64, a layer as its Jacobian matrix, without any slack or use of a ball."""
    for layer in list(model)[:-1]:
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, Normalize, nn.AvgPool2d)):
            one = low[:1]
            matrix = torch.autograd.functional.jacobian(lambda z, layer=layer: layer(z)[0], one)
            matrix = matrix.reshape(-1, one.numel())
            shape, start = layer(one).shape[1:], layer(torch.zeros_like(one)).flatten()
            least, most = low.flatten(1), high.flatten(1)
            plus, minus = matrix.clamp_min(0).T, matrix.clamp_max(0).T
            low = (least @ plus + most @ minus + start).view(-1, *shape)
            high = (most @ plus + least @ minus + start).view(-1, *shape)
        else:
            low, high = layer(low), layer(high)
    weight, bias = model[-1].weight, 0 if model[-1].bias is None else model[-1].bias
    apart, shift = weight[y][:, None] - weight, 0 if model[-1].bias is None else bias[y][:, None] - bias
    return worst((apart.clamp_min(0) * low[:, None] + apart.clamp_max(0) * high[:, None]).sum(2) + shift, y)


def flat(model: nn.Module) -> nn.Sequential:
    """Sequentials in sequentials as one."""
    parts = [flat(part) if isinstance(part, nn.Sequential) else [part] for part in model.children()]
    return nn.Sequential(*(layer for part in parts for layer in part))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("name", ["linear", "normalised", "dense", "convolutions", "groups", "smooth"])
def test_float32_agrees_with_float64_and_is_never_above_it(name, clip):
    model, x, eps = NETS[name], images(10), 0.02
    y = model(x).argmax(1)
    low = bounds(model, x, y, Linf(eps, clip=clip))
    model, x = double(model), x.double()
    reach = radius(Linf(eps), x)
    least, most = x - reach, x + reach
    if clip:
        least, most = least.clamp_min(-TOLERANCE), most.clamp_max(1 + TOLERANCE)
    expected, exact = reference(flat(model), x, y, least, most), bounds(model, x, y, Linf(eps, clip=clip))
    assert (low <= expected).all()
    assert (low <= exact).all()
    assert (exact <= expected + 1e-14).all()
    torch.testing.assert_close(low.double(), expected, atol=3e-3, rtol=1e-3)
    torch.testing.assert_close(exact, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("threat", [L2(0.1), L1(0.3), L2(0.1, clip=False)], ids=repr)
@pytest.mark.parametrize("name", NETS)
def test_a_ball_is_never_bounded_worse_than_its_box(name, threat):
    model, x = NETS[name], images(10)
    y = model(x).argmax(1)
    tight, box = bounds(model, x, y, threat), bounds(model, x, y, Linf(threat.eps, clip=threat.clip))
    assert (tight >= box - 1e-4 * (1 + box.abs())).all()
    if name in ("convolutions", "dense", "normalised", "groups"):
        assert (tight > box + 0.01).all()


def test_rounding_is_covered_where_sums_cancel():
    """In float32 the logit difference is lost in logits of 1e8: nothing may be proven."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[1].weight.fill_(1e8)
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    assert (bounds(model, torch.full((2, 1, 2, 2), 0.3), torch.tensor([0, 0]), Linf(0.0)) < 0).all()


# ---- which models and threats


class Calls(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.head = nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(x).flatten(1))


def overwritten_view(x: Tensor) -> Tensor:
    x = x + 0
    view = x.view(len(x), -1)
    view.relu_()
    return x


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()


UNKNOWN = {
    "sine": torch.sin,
    "round": torch.round,
    "silu": F.silu,
    "product": lambda x: x * x,
    "reciprocal": lambda x: 1 / (x + 1),
    "falling": lambda x: F.leaky_relu(x, -0.5),
    "noise": lambda x: x + torch.randn(1, 2, 8, 8),
    "noise like": lambda x: x + torch.randn_like(x),
    "dropout": lambda x: F.dropout(x, 0.5),
    "branch": lambda x: x if x.max() > 2 else x + 1,
    "number": lambda x: x - x.mean().item(),
    "numpy's noise": lambda x: x + float(np.random.rand()),
    "half": lambda x: x.half().float(),
    "autocast": lambda x: F.linear(x, torch.eye(8)),
    "overwritten view": overwritten_view,
    "indices": lambda x: F.max_pool2d(x, 1, return_indices=True)[0],
    "divisor": lambda x: F.avg_pool2d(x, 1, divisor_override=-1),
    "alpha": lambda x: torch.add(x, x, alpha=-2.0),
    "weights from the image": lambda x: F.linear(x, x[0, 0]),
    "part": lambda x: x[..., 1:-1],
    "numpy": lambda x: torch.from_numpy(x.numpy()),
    "batch statistics": lambda x: F.batch_norm(x, torch.zeros(2), torch.ones(2), training=True),
    "custom": Straight.apply,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_layer_that_is_not_known_gives_none(name):
    model, x = Calls(UNKNOWN[name]).eval(), images(3)
    with torch.autocast("cpu", enabled=name == "autocast"):
        assert interval_margins(model, x, torch.tensor([0, 1, 2]), Linf(0.01)) is None


def test_noise_of_a_generator_that_a_layer_holds_gives_none():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.source = np.random.default_rng(0)

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) + float(self.source.random())

    assert interval_margins(Noisy().eval(), images(3), torch.tensor([0, 1, 2]), Linf(0.01)) is None


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(2), nn.Dropout()])
def test_a_module_in_train_mode_gives_none_and_is_left_alone(layer):
    model, x = nn.Sequential(layer, nn.Flatten(), nn.Linear(128, 2)).eval(), images(3)
    layer.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert interval_margins(model, x, torch.tensor([0, 1, 1]), Linf(0.01)) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_batch_norm_without_statistics_gives_none():
    model = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(128, 2)).eval()
    assert interval_margins(model, images(3), torch.tensor([0, 1, 1]), Linf(0.01)) is None


def test_l0_and_half_precision_give_none():
    model, x, y = NETS["linear"], images(3), torch.tensor([0, 1, 2])
    assert interval_margins(model, x, y, L0(3.0)) is None
    assert interval_margins(model, x.half(), y, Linf(0.1)) is None


@pytest.mark.parametrize("layers", [[], [nn.Flatten(), nn.Linear(128, 1)], [nn.Flatten(0, 1), nn.Flatten()]])
def test_what_are_no_logits_gives_none(layers):
    model = nn.Sequential(*layers).eval()
    assert interval_margins(model, images(3), torch.tensor([0, 0, 0]), Linf(0.1)) is None


def test_compiled_code_gives_none():
    class Compiled(nn.Module):
        __module__ = "torch._dynamo.eval_frame"

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    assert interval_margins(Compiled().eval(), images(2), torch.tensor([0, 0]), Linf(0.1)) is None


def test_a_value_overwritten_in_place_is_seen_by_whoever_holds_it():
    """As in a block that activates its input in place before it adds it to what it makes of it."""

    class Block(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x - 1
            out = F.relu(x, inplace=True)
            return (out + x).flatten(1)

    x = torch.tensor([0.0, 0.5]).view(1, 1, 1, 2)
    assert torch.equal(Block()(x.clone()), torch.zeros(1, 2))
    low = bounds(Block().eval(), x, torch.tensor([0]), Linf(0.1))
    torch.testing.assert_close(low, torch.zeros(1), atol=1e-5, rtol=0)  # and not -1 - .1


def test_infinite_weights_prove_nothing():
    model = drawn(nn.Sequential(nn.Flatten(), nn.Linear(128, 4), nn.ReLU(), nn.Linear(4, 3)))
    with torch.no_grad():
        model[1].weight[0, 0] = math.inf
    assert (bounds(model, images(3), torch.tensor([0, 1, 2]), Linf(0.1)) == -math.inf).all()
    assert (bounds(NETS["dense"], images(3), torch.tensor([0, 1, 2]), Linf(math.inf, clip=False)) == -math.inf).all()


# ---- the caller's world


@pytest.mark.parametrize("architecture", [CNN(), CNN(protection="batchnorm"), SmallCNN()], ids=repr)
def test_a_guarded_net_of_the_catalogue_gets_the_same_bounds(architecture, generator):
    model = nn.Sequential(Normalize((0.13,), (0.31,)), architecture((1, 20, 20), 10, generator)).eval()
    x = images(4, 1, 20)
    y = model(x).argmax(1)
    plain = bounds(model, x, y, L2(0.01))
    with guarded(model):
        inside = bounds(model, x, y, L2(0.01))
        assert (inside <= margins(model, x, y)).all()
        assert predict(model, x).shape == (4, 10)
    torch.testing.assert_close(inside, plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.1), L1(0.3, clip=False)], ids=repr)
@pytest.mark.parametrize("name", NETS)
def test_an_images_bound_does_not_depend_on_its_batch_mates(name, threat):
    model, x = NETS[name], images(9)
    y = torch.arange(9) % 3
    whole = bounds(model, x, y, threat)
    alone = torch.cat([bounds(model, x[i : i + 1], y[i : i + 1], threat) for i in range(9)])
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-5)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bounds(model, x[order], y[order], threat), whole[order], atol=1e-5, rtol=1e-5)


def test_no_images_have_no_bounds():
    found = interval_margins(NETS["dense"], images(3)[:0], torch.zeros(0, dtype=torch.int64), L2(0.1))
    assert found is not None
    assert found.shape == (0,)


def test_neither_the_model_nor_the_image_nor_the_global_generator_changes():
    model, x, y = NETS["residual"], images(3), torch.tensor([0, 1, 2])
    before, kept = {name: value.clone() for name, value in model.state_dict().items()}, x.clone()
    x.requires_grad_()
    noisy = Calls(UNKNOWN["noise"]).eval()
    state = torch.get_rng_state()
    bounds(model, x, y, Linf(0.1))
    interval_margins(noisy, x, y, Linf(0.1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x.detach(), kept)
    assert x.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
