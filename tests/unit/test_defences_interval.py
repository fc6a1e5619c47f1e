"""Training on bounds: the loss and its gradient against the papers' formulas in float64, and what it wins."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.attacks.pgd import PGD
from steelman.bounds import interval_margins
from steelman.bounds.crown import linear_margins
from steelman.bounds.training import clean_and_intervals, worst_logits_by_lines
from steelman.certify.interval import Interval
from steelman.defences._bounded import looseness
from steelman.defences.crown_ibp import CrownIBP
from steelman.defences.interval import IBP
from steelman.defences.small_boxes import SABR
from steelman.errors import UsageError
from steelman.models.fast_cnn import FastCNN
from steelman.models.layers import Threshold, thresholds
from steelman.models.medium_cnn import MediumCNN
from steelman.models.small_cnn import SmallCNN
from steelman.threats import L2, Linf

OBJECTIVES = [IBP(Linf(0.1)), CrownIBP(Linf(0.1)), SABR(Linf(0.1), share_of_eps=0.9, attack=PGD(steps=2))]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A small net with everything: threshold, normalisations, convolutions."""
    architecture = FastCNN(batch_norm=True, threshold="learned", filters=3, hidden=8, weights="intervals")
    return architecture((1, 12, 12), 3, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def ends(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return (x - eps).clamp_min(0), (x + eps).clamp_max(1)


def reference(net: nn.Module, x: Tensor, y: Tensor, eps: float, kappa: float) -> Tensor:
    """kappa CE(clean) + (1 - kappa) CE(worst) by lower and upper ends, a layer at a time, in float64 autograd."""
    layers = [*net.features, net.flatten, *net.head]
    low, high = ends(x, eps)
    for layer in layers[:-1]:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            plus, minus = copy.copy(layer), copy.copy(layer)
            plus._parameters = {"weight": layer.weight.clamp_min(0), "bias": layer.bias}
            minus._parameters = {"weight": layer.weight.clamp_max(0), "bias": None}
            low, high = plus(low) + minus(high), plus(high) + minus(low)
            x = layer(x)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            axes = (0, 2, 3)[: x.ndim - 1 if x.ndim > 2 else 1]
            shape = (1, -1, 1, 1)[: x.ndim]
            mean, deviation = x.mean(axes), (x.var(axes, correction=0) + layer.eps).sqrt()
            scale = (layer.weight / deviation).view(shape)
            shift = layer.bias.view(shape) - mean.view(shape) * scale
            x, first, second = x * scale + shift, low * scale + shift, high * scale + shift
            low, high = torch.minimum(first, second), torch.maximum(first, second)
        else:
            x, low, high = layer(x), layer(low), layer(high)
    last = layers[-1]
    apart = last.weight[None] - last.weight[y][:, None]
    worst = (
        (apart.clamp_min(0) * high[:, None] + apart.clamp_max(0) * low[:, None]).sum(2)
        + last.bias
        - last.bias[y][:, None]
    )
    return kappa * F.cross_entropy(last(x), y) + (1 - kappa) * F.cross_entropy(worst, y)


@pytest.mark.parametrize(("progress", "threshold"), [(0.2, "learned"), (0.9, "learned"), (0.9, "fixed")])
def test_loss_and_gradient_are_the_papers(net, batch, progress, threshold):
    """In train mode: the intervals are normalised with the clean batch's statistics, which have a gradient, too."""
    net, (x, y) = copy.deepcopy(net).double().train(), batch
    net.features[0] = Threshold((0.3, 0.7), learned=threshold == "learned").double()
    objective = IBP(Linf(0.1), kappa=0.25, warmup=0.1, ramp=0.4, regularization=0.0)
    share = objective.share(progress)
    assert share == pytest.approx(min(1.0, (progress - 0.1) / 0.4))
    found = objective(net, x.double(), y, progress=progress, generator=torch.Generator())
    expected = reference(net, x.double(), y, 0.1 * share, 1 - 0.75 * share)
    parameters = list(net.parameters())
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    pairs = zip(torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)


def test_float32_rounds_and_no_more():
    """The step of the certified recipe, whose layers keep their values in channels-last order: within float32's reach.

    Biases before a normalisation are left out: their gradient is 0 but for rounding.
    """
    generator = torch.Generator().manual_seed(0)
    net = FastCNN(batch_norm=True, threshold="fixed", weights="intervals")((1, 28, 28), 10, generator).train()
    x, y = torch.rand(16, 1, 28, 28, generator=generator).round(decimals=1), torch.arange(16) % 10
    objective, exact = IBP(Linf(0.3), regularization=0.0), copy.deepcopy(net).double()
    found = objective(net, x, y, progress=0.2, generator=generator)
    expected = reference(exact, x.double(), y, 0.2, 1 - 0.7 * objective.share(0.2))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    names = [name for name, parameter in net.named_parameters() if parameter.ndim > 1]
    grads, exact_grads = (
        torch.autograd.grad(loss, [parameter for parameter in model.parameters() if parameter.ndim > 1])
        for loss, model in ((found, net), (expected, exact))
    )
    for name, one, other in zip(names, grads, exact_grads, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-4, name


@pytest.mark.parametrize("classes", [3, 40])
def test_the_bound_of_one_linear_layer_is_reached(classes):
    """Its worst logits are those at the corner of the box that is worst for each pair of classes."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(2 * 3 * 3, classes).double()
    model = nn.Sequential(nn.Flatten(), layer)
    x = torch.rand(5, 2, 3, 3, generator=generator, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    y = torch.arange(5) * 7 % classes
    worst = clean_and_intervals(model, x, *ends(x, 0.2)).worst_logits(y)
    apart = layer.weight[None] - layer.weight[y][:, None]
    low, high = (end.flatten(1)[:, None] for end in ends(x, 0.2))
    corner = torch.where(apart > 0, high, low)
    reached = torch.einsum("bkd,bkd->bk", apart, corner) + layer.bias - layer.bias[y][:, None]
    torch.testing.assert_close(worst, reached, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "architecture", [FastCNN(batch_norm=True), MediumCNN(filters=2, hidden=5), SmallCNN(dropout=0.0)]
)
def test_the_clean_half_is_the_model_and_moves_its_statistics_alike(architecture):
    model = architecture((1, 28, 28), 10, torch.Generator().manual_seed(0)).train()
    twin, x = copy.deepcopy(model), torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    passed = clean_and_intervals(model, x, x, x)
    torch.testing.assert_close(passed.logits, twin(x), atol=1e-4, rtol=1e-4)
    for (name, one), (_, other) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name, atol=1e-5, rtol=1e-4)
    y = torch.arange(4)
    apart = passed.logits - passed.logits.gather(1, y[:, None])
    torch.testing.assert_close(passed.worst_logits(y), apart, atol=1e-4, rtol=1e-4)


def test_in_eval_mode_the_bounds_are_those_of_the_certifiers(net, batch):
    (x, y), eps = batch, 0.02
    passed = clean_and_intervals(net, x, *ends(x, eps))
    own = torch.full((len(y), 1), -torch.inf)
    by_intervals, by_lines = (
        -worst.scatter(1, y[:, None], own).amax(1)
        for worst in (passed.worst_logits(y), worst_logits_by_lines(passed, y))
    )
    proven = interval_margins(net, x, y, Linf(eps))
    assert proven is not None
    torch.testing.assert_close(by_intervals, proven, atol=1e-3, rtol=1e-3)
    assert (by_intervals > proven).all()  # which allow for rounding
    torch.testing.assert_close(by_lines, linear_margins(net, x, y, Linf(eps)), atol=1e-3, rtol=1e-3)
    assert by_lines.mean() > by_intervals.mean()


def test_what_follows_a_last_layer_that_is_not_linear(batch):
    """Then the label's lowest and the others' highest logit are compared."""
    x, y = batch
    model = nn.Sequential(nn.AvgPool2d(6), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3), nn.Hardtanh()).train()
    passed = clean_and_intervals(model, x, *ends(x, 0.1))
    low, high = passed.flows[-1].centre - passed.flows[-1].radius, passed.flows[-1].centre + passed.flows[-1].radius
    expected = (high - low.gather(1, y[:, None])).scatter(1, y[:, None], 0.0)
    torch.testing.assert_close(passed.worst_logits(y), expected)
    assert (passed.logits <= high + 1e-6).all()
    assert (passed.logits >= low - 1e-6).all()  # dropout drops the same of images and boxes
    with pytest.raises(UsageError, match=r"CrownIBP has no bounds for dropout that is at work. Possible: convolutions"):
        CrownIBP(Linf(0.1))(model, x, y, progress=0.1, generator=torch.Generator())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_before_the_ramp_it_is_plain_cross_entropy_and_kappa_1_keeps_it(objective, net, batch):
    x, y = batch
    plain = F.cross_entropy(net(x), y)
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(objective(net, x, y, progress=0.0, generator=generator), plain)
    clean = type(objective)(objective.threat, kappa=1.0, regularization=0.0)
    torch.testing.assert_close(clean(net, x, y, progress=1.0, generator=generator), plain)


def test_the_weights_are_penalised(net, batch):
    net, x, y = copy.deepcopy(net).double(), batch[0].double(), batch[1]
    with_penalty, without = (
        IBP(Linf(0.1), l1=l1)(net, x, y, progress=1.0, generator=torch.Generator()) for l1 in (0.01, 0.0)
    )
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    expected = 0.01 * sum(float(layer.weight.detach().abs().sum()) for layer in layers)
    assert float((with_penalty - without).detach()) == pytest.approx(expected, rel=1e-9)


def test_the_regularisers_by_hand():
    """Inputs within .1 become 3 times as wide: relu(.5 - 1/3) / .5 = 1/3. Centres .6 on, -.2 off: balance 1/3, 1/9."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, -3.0]]))
    x = torch.tensor([[0.2, 0.2], [0.4, 0.4]]).view(2, 1, 1, 2)
    passed = clean_and_intervals(model, x, x - 0.01, x + 0.01)
    assert float(looseness(passed).detach()) == pytest.approx(1 / 3, abs=1e-6)  # on 1.8, off 1.8: in balance
    with torch.no_grad():
        model[1].weight[1, 1] = -1.0
    passed = clean_and_intervals(model, x, x - 0.01, x + 0.01)
    parts = [0.5 - 1 / 2, 0.5 - 1 / 3, 0.5 - 1 / 9]  # width 2 on average; sums 1.8 and .6; squares .18 and .02
    assert float(looseness(passed).detach()) == pytest.approx(sum(parts) / 0.5, abs=1e-6)
    start, end = (
        IBP(Linf(0.01), kappa=1.0)(model, x, torch.tensor([0, 1]), progress=progress, generator=torch.Generator())
        for progress in (1e-6, 1.0)
    )
    assert float((start - end).detach()) == pytest.approx(0.5 * sum(parts) / 0.5, abs=1e-3)


def test_a_network_without_activations_has_nothing_to_mend():
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (torch.rand(5, 1, 2, 2), torch.arange(5) % 3)
    mended, plain = (
        IBP(Linf(0.1), regularization=weight)(model, x, y, progress=0.1, generator=torch.Generator())
        for weight in (0.5, 0.0)
    )
    assert torch.equal(mended, plain)


def test_small_boxes_stay_in_the_threat_and_the_whole_box_is_interval_training(net, batch):
    x, y = batch
    generator, threat = torch.Generator().manual_seed(0), Linf(0.2)
    low, high = SABR(threat, share_of_eps=0.25).box(net, x, y, 1.0, generator)
    assert threat.contains(low, x).all()
    assert threat.contains(high, x).all()
    assert (high - low).amax() <= 2 * 0.25 * 0.2 + 1e-6
    assert (F.cross_entropy(net((low + high) / 2), y) > F.cross_entropy(net(x), y)).all()
    whole = SABR(threat, kappa=0.3, share_of_eps=1.0, attack=PGD(steps=1))
    given = {"progress": 1.0, "generator": generator}
    torch.testing.assert_close(whole(net, x, y, **given), IBP(threat)(net, x, y, **given))


def test_linear_bounds_leave_as_eps_grows(net, batch):
    (x, y), given = batch, {"generator": torch.Generator()}
    full = {"regularization": 0.0, "kappa": 0.0}
    at_end = CrownIBP(Linf(0.02), **full)(net, x, y, progress=1.0, **given)
    torch.testing.assert_close(at_end, IBP(Linf(0.02), **full)(net, x, y, progress=1.0, **given))
    kept = CrownIBP(Linf(0.02), final_share=1.0, **full)(net, x, y, progress=1.0, **given)
    assert float(kept.detach()) < float(at_end.detach())
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    assert all(float(grad.norm()) > 0 for grad in torch.autograd.grad(kept, weights))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_it_learns_to_be_certified(objective):
    """Bright pixels on the left or on the right, in noise: from nothing to nearly all proven at eps .3."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (96,), generator=generator)
    x = torch.rand(96, 1, 4, 4, generator=generator) * 0.2
    x[torch.arange(96), 0, :, y * 3] += 0.75
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)]
        model = nn.Sequential(Threshold((0.3, 0.7)), *layers)
        for layer in (layers[0], layers[4]):
            nn.init.normal_(layer.weight, std=0.3)
    before = Interval()(model, x, y, Linf(0.3)).float().mean()
    objective = dataclasses.replace(objective, threat=Linf(0.3), ramp=0.5, kappa=0.3)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    model.train()
    for step in range(40):
        optimizer.zero_grad()
        objective(model, x, y, progress=step / 40, generator=generator).backward()
        optimizer.step()
    assert before < 0.5
    assert Interval()(model, x, y, Linf(0.3)).float().mean() > 0.9


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IBP(L2(1.0)), r"the threat is L2\(1.0\). Expected an L-inf ball"),
        (lambda: IBP(Linf(0.1), kappa=1.5), "kappa is 1.5. Expected the clean share"),
        (lambda: IBP(Linf(0.1), warmup=0.6, ramp=0.6), "would never reach eps 0.1"),
        (lambda: IBP(Linf(0.1), ramp=-0.1), "would never reach eps 0.1"),
        (lambda: IBP(Linf(0.1), l1=-1.0), "l1 is -1.0. Expected weights of 0 or more"),
        (lambda: CrownIBP(Linf(0.1), final_share=2.0), "final_share is 2.0. Expected CROWN's last share"),
        (lambda: SABR(Linf(0.1), share_of_eps=0.0), "share_of_eps is 0.0. Expected the box's part"),
        (lambda: thresholds("soft", (0.3, 0.7)), "unknown threshold 'soft'"),
        (lambda: FastCNN(band=(0.7, 0.3))((1, 28, 28), 10, torch.Generator()), "Expected two pixel values"),
    ],
)
def test_wrong_values_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_a_layer_without_bounds_is_named(batch):
    x, y = batch
    model = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(144, 3))
    with pytest.raises(UsageError, match=r"IBP has no bounds for layer 1 \(Tanh\). Possible: convolutions"):
        IBP(Linf(0.1))(model, x, y, progress=0.5, generator=torch.Generator())
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(144), nn.Linear(144, 3)).train()
    with pytest.raises(UsageError, match="does not follow a convolution or a linear layer"):
        CrownIBP(Linf(0.1))(model, x, y, progress=0.1, generator=torch.Generator())
    model = nn.Sequential(nn.Linear(12, 12), nn.Flatten(1, 2), nn.BatchNorm1d(12), nn.Flatten(), nn.Linear(144, 3))
    assert IBP(Linf(0.1))(model, x, y, progress=0.5, generator=torch.Generator()).isfinite()
    model = nn.Sequential(nn.Flatten(1, 2), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(UsageError, match="behind a linear layer on more than one vector an image"):
        IBP(Linf(0.1))(model, x, y, progress=0.5, generator=torch.Generator())


class Part(nn.Module):
    """Looks at a part of what it computes: training bounds must not take it for the whole."""

    def forward(self, x: Tensor) -> Tensor:
        values = x.flatten(1)
        return values - values[:, torch.arange(143, -1, -1)]


def test_a_part_of_a_tensor_is_no_size(batch):
    x, y = batch
    with pytest.raises(UsageError, match="IBP has no bounds for getitem"):
        IBP(Linf(0.1))(nn.Sequential(Part(), nn.Linear(144, 3)), x, y, progress=0.5, generator=torch.Generator())


def test_a_threshold_knows_pixels_that_cannot_enter_its_band():
    layer = Threshold((0.3, 0.7))
    x = torch.tensor([0.0, 0.3, 0.5, 0.7, 1.0])
    torch.testing.assert_close(layer(x), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    assert not list(layer.parameters())
    learned = Threshold((0.2, 0.4), learned=True)
    learned(torch.tensor([0.3])).sum().backward()
    assert learned.low.grad is not None
    assert float(learned.low.grad) == pytest.approx(-5)


def test_weights_for_intervals_have_the_papers_spread():
    model = FastCNN(weights="intervals", hidden=300)((1, 28, 28), 10, torch.Generator().manual_seed(0))
    layer = model.head[0]
    assert float(layer.weight.detach().std()) == pytest.approx((2 * torch.pi) ** 0.5 / 1568, rel=0.01)
    assert not layer.bias.detach().any()
    medium = MediumCNN()((1, 28, 28), 10, torch.Generator().manual_seed(0))
    assert sum(parameter.numel() for parameter in medium.parameters()) == 895_850
