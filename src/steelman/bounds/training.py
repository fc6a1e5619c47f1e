"""Interval bounds to train on: differentiable, in one pass with the clean images, without slack for rounding.

Gowal et al. 2018 (arXiv:1810.12715). Each interval is a centre and a radius, which cost one product each. Batch
normalisation takes the statistics of the clean batch (Shi et al. 2021, arXiv:2103.11341, section 3.2) and is folded
into the layer before it.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.bounds.box import FEW_CLASSES, Unknown, of_label
from steelman.bounds.fold import fold
from steelman.bounds.gradients import middle, rectified, statistics
from steelman.bounds.graph import (
    Clamp,
    Dropout,
    Graph,
    Kind,
    MaxPool,
    Mean,
    Norm,
    Product,
    Scale,
    Sum,
    trace,
)
from steelman.bounds.linear import Back, Ends, Relaxed, back, scale_of
from steelman.types import Images, Labels, Logits


@dataclass(frozen=True, eq=False)
class Flow:
    """A step's values of the clean images, and centre and radius of their intervals."""

    x: Tensor
    centre: Tensor
    radius: Tensor


@dataclass(frozen=True, eq=False)
class Passed:
    """What a network makes of images and boxes: step by step, step 0 the image itself."""

    graph: Graph
    flows: tuple[Flow, ...]
    weights: dict[int, Callable[[], tuple[Tensor, Tensor | None]]]  # of each product, its batch normalisation folded in

    @property
    def logits(self) -> Logits:
        """Of the clean images."""
        return self.flows[-1].x

    def before_activations(self) -> list[Flow]:
        """The inputs of each ReLU or other clamp whose values depend on weights."""
        found: list[Flow] = []
        product_seen = False
        for step in self.graph.steps:
            product_seen |= isinstance(step.kind, Product)
            if isinstance(step.kind, Clamp) and product_seen:
                found.append(self.flows[step.inputs[0]])
        return found

    def worst_logits(self, y: Labels) -> Logits:
        """Upper bounds of each logit minus the label's, that of the label being 0.

        A last linear layer is taken together with the difference (arXiv:1810.12715, section 3).
        """
        last, flow = self.graph.steps[-1], self.flows[-1]
        if not (isinstance(last.kind, Product) and isinstance(last.kind.module, nn.Linear)):
            own = (flow.centre - flow.radius).gather(1, y[:, None])
            return (flow.centre + flow.radius - own).scatter(1, y[:, None], 0.0)
        before = self.flows[last.inputs[0]]
        weight, bias = self.weights[len(self.graph.steps)]()
        centre = last.kind.apply(before.centre, weight, bias)
        reach = _reach(before.radius.flatten(1), weight.flatten(1), y)
        return centre - centre.gather(1, y[:, None]) + reach


def _reach(radius: Tensor, weight: Tensor, y: Labels) -> Logits:
    """By how much each logit can rise against the label's while the last layer's inputs move by up to `radius`."""
    if len(weight) > FEW_CLASSES:
        apart = (weight[None] - weight[y][:, None]).abs()
        return torch.matmul(apart, radius[:, :, None]).squeeze(2)
    apart = (weight[None] - weight[:, None]).abs().flatten(0, 1)  # of every pair: one product, where it is small
    return of_label(F.linear(radius, apart), y)


def worst_logits_by_lines(passed: Passed, y: Labels) -> Logits:
    """As `Passed.worst_logits`, by linear bounds about the same intervals, back to the image: CROWN-IBP.

    Zhang et al. 2020 (arXiv:1906.06316). Costs about as many passes as there are classes.

    Raises:
        Unknown: a step has no linear bounds.
    """
    ends = [Ends(flow.centre - flow.radius, flow.centre + flow.radius) for flow in passed.flows]
    backs: dict[int, Back] = {}
    for place, step in enumerate(passed.graph.steps, 1):
        inputs = [ends[one] for one in step.inputs]
        weights = passed.weights[place]() if place in passed.weights else _scale_of(step.kind, inputs[0].low.ndim)
        backs[place] = back(step.kind, inputs, weights)
    relaxed = Relaxed(passed.graph.steps, backs, {}, ends[0])
    unit = torch.eye(passed.logits.shape[1], dtype=passed.logits.dtype, device=passed.logits.device)
    return -relaxed.lower(len(backs), unit[y][:, None] - unit)


def clean_and_intervals(model: nn.Module, x: Images, low: Images, high: Images) -> Passed:
    """The network on images and on the boxes from low to high, in the mode in which it is, in one pass.

    Where it trains, its BatchNorm layers take statistics of x and remember them, dropout drops the same of both.

    Raises:
        Unknown: the network has a layer without a rule.
    """
    graph = _graph_of(model)
    flows = [Flow(x, *middle(low, high))]
    weights: dict[int, Callable[[], tuple[Tensor, Tensor | None]]] = {}
    for place, step in enumerate(graph.steps, 1):
        inputs = [flows[one] for one in step.inputs]
        if isinstance(step.kind, Product):
            last = place == len(graph.steps) and isinstance(step.kind.module, nn.Linear)
            flow, weights[place] = _product(step.kind, inputs[0], clean_only=last)
        else:
            flow = _flow(step.kind, *inputs)
        flows.append(flow)
    return Passed(graph, tuple(flows), weights)


def _product(kind: Product, flow: Flow, *, clean_only: bool) -> tuple[Flow, Callable[[], tuple[Tensor, Tensor | None]]]:
    """A convolution's intervals go through weights that the batch normalisation is folded into.

    A linear layer has more weights than it makes values: there these are scaled, and x and centre are one product.
    """
    weight, bias = kind.module.weight, kind.module.bias
    scaled = isinstance(kind.module, nn.Linear) and kind.norm is not None and not clean_only
    if kind.flat and flow.x.ndim == 4 and flow.x.is_contiguous(memory_format=torch.channels_last):
        weight = weight.unflatten(1, flow.x.shape[1:]).contiguous(memory_format=torch.channels_last)
    elif isinstance(kind.module, nn.Conv2d) and not flow.x.is_cuda:
        flow = Flow(_channels_last(flow.x), _channels_last(flow.centre), _channels_last(flow.radius))
    if scaled:
        assert kind.norm is not None
        x, centre = kind.apply(torch.cat((flow.x, flow.centre)), weight, bias).chunk(2)
        if x.ndim != 2:
            raise Unknown("batch normalisation behind a linear layer on more than one vector an image")
        x, scale, shift = _normalised(kind.norm, x)
        radius = kind.apply(flow.radius, weight.abs(), None) * scale.abs()
        return Flow(x, centre * scale + shift, radius), partial(_folded, weight, bias, scale, shift)
    x = kind.apply(flow.x, weight, bias)
    if kind.norm is not None:
        x, scale, shift = _normalised(kind.norm, x)
        weight, bias = _folded(weight, bias, scale, shift)
    if clean_only:
        return Flow(x, x, x), lambda: (weight, bias)
    centre = kind.apply(flow.centre, weight, bias)
    return Flow(x, centre, kind.apply(flow.radius, weight.abs(), None)), lambda: (weight, bias)


def _folded(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and bias that scale and shift are folded into, channel by channel."""
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), shift if bias is None else bias * scale + shift


def _channels_last(x: Tensor) -> Tensor:
    """The same values in the order of memory in which a processor convolves fastest, which all that follows keeps.

    One channel is in every order at once; torch takes it for channels-last only by its strides.
    """
    if x.shape[1] == 1 and not x.requires_grad:
        x = x.contiguous()
        return x.as_strided(x.shape, (x[0].numel(), 1, x.shape[3], 1))
    return x.contiguous(memory_format=torch.channels_last)


def _normalised(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The layer's output for the clean images, and the scale and shift that it amounts to, channel by channel."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    if norm.training:
        mean, variance = torch.zeros_like(mean), torch.ones_like(variance)
        out = F.batch_norm(x, mean, variance, norm.weight, norm.bias, training=True, momentum=1.0, eps=norm.eps)
        _remember(norm, mean, variance)
        num = x.numel() // x.shape[1]
        # remembered unbiased, used biased; constants here would cost tens of points of certified accuracy
        mean, variance = statistics(x, mean, variance * ((num - 1) / num))
    else:
        out = F.batch_norm(x, mean, variance, norm.weight, norm.bias, eps=norm.eps)
    scale = norm.weight / (variance + norm.eps).sqrt()
    return out, scale, norm.bias - mean * scale


def _remember(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Move the layer's running statistics towards those of a batch, as the layer itself does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    share = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        share = 1 / float(norm.num_batches_tracked) if share is None else share
    norm.running_mean.lerp_(mean, share if share is not None else 0.1)
    norm.running_var.lerp_(variance, share if share is not None else 0.1)


def _scale_of(kind: Kind, dims: int) -> tuple[Tensor, Tensor | None] | None:
    """Of a scaling; a normalisation on its own has statistics of the batch in training, unknown here."""
    if isinstance(kind, Norm) and kind.module.training:
        raise Unknown("batch normalisation in training that does not follow a convolution or a linear layer")
    return scale_of(kind, dims) if isinstance(kind, Norm | Scale) else None


def _flow(kind: Kind, *inputs: Flow) -> Flow:
    """The rules of all steps but products."""
    first = inputs[0]
    match kind:
        case Norm():
            x, scale, shift = _normalised(kind.module, first.x)
            shape = (-1, *[1] * (x.ndim - 2))
            scale, shift = scale.view(shape), shift.view(shape)
            return Flow(x, first.centre * scale + shift, first.radius * scale.abs())
        case Scale():
            scale, shift = (value.to(first.x) for value in kind.constants())
            x, centre = (torch.addcmul(shift, one, scale) for one in (first.x, first.centre))
            return Flow(x, centre, first.radius * scale.abs())
        case Clamp(0.0, torch.inf):
            return Flow(F.relu(first.x), *rectified(first.centre, first.radius))
        case Clamp() | MaxPool():
            low, high = kind(first.centre - first.radius), kind(first.centre + first.radius)
            return Flow(kind(first.x), *middle(low, high))
        case Mean():
            return Flow(kind.function(first.x), kind.function(first.centre), kind.function(first.radius))
        case Dropout():
            mask = kind.module(torch.ones_like(first.x))
            return Flow(first.x * mask, first.centre * mask, first.radius * mask)
        case Sum():
            other = inputs[-1]
            x, centre = first.x + kind.sign * other.x, first.centre + kind.sign * other.centre
            return Flow(x, centre, first.radius + other.radius)
        case Product():
            raise AssertionError


_GRAPHS: "weakref.WeakKeyDictionary[nn.Module, tuple[list[int], Graph]]" = weakref.WeakKeyDictionary()


def _graph_of(model: nn.Module) -> Graph:
    """The model's steps, traced once as long as it has the same layers in the same mode."""
    layers = [id(module) for module in model.modules()] + [int(model.training)]
    known = _GRAPHS.get(model)
    if known is None or known[0] != layers:
        known = layers, fold(trace(model))
        _GRAPHS[model] = known
    return known[1]
