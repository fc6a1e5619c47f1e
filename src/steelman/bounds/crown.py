"""CROWN (Zhang et al. 2018, arXiv:1811.00866) as a proof: linear bounds about boxes that are proven already.

The bound is computed in float64 and lowered by all that rounding may do to the model's own float32 (Higham 2002,
section 3.1): each step may be off by its share of the sizes that it adds, and the bound weighs these errors as it
weighs the step's output.
"""

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from steelman.bounds import box_around, check_still
from steelman.bounds.box import TINY, Box, Unknown, error_of_product, error_of_sum, unit_roundoff
from steelman.bounds.graph import Clamp, Graph, MaxPool, Mean, Norm, Product, Scale, Step, Sum, trace
from steelman.bounds.linear import Back, Ends, Relaxed, back, scale_of
from steelman.threats import Ball
from steelman.types import Images, Labels, PerExample

_ROUNDINGS = 32.0  # an element's in a scaling, with room to spare
_DOUBLE = 2.0**-30  # more than all float64 sums here can lose, relative to what they add
_ROW_FLOATS = 2**23  # of the coefficients that are held at a time


def linear_margins(model: nn.Module, x: Images, y: Labels, threat: Ball, *, refine: bool = False) -> PerExample:
    """A lower bound of the label's logit minus the best other one over all images that the threat allows.

    Above 0 the image is proven robust, in exact arithmetic and in float32 alike.

    Args:
        model: in eval mode; not changed.
        x: pixels in [0, 1].
        y: class indices.
        threat: a ball of Linf, L2 or L1.
        refine: bound the inputs of the activations by linear bounds, too, where their sign is open: far tighter and
            far dearer; images are then computed one by one.

    Raises:
        Unknown: the model or the threat has no linear bounds; says why not.
    """
    check_still(model)
    graph = trace(model)
    if not len(x):
        return x.new_zeros(0)
    parts = [slice(i, i + 1) for i in range(len(x))] if refine else [slice(None)]
    with torch.no_grad():
        return torch.cat([_margins(graph, x[part], y[part], threat, refine=refine) for part in parts])


def _margins(graph: Graph, x: Images, y: Labels, threat: Ball, *, refine: bool) -> PerExample:
    relaxed, _ = enclosed(graph, box_around(x.detach(), threat), refine=refine)
    last = relaxed.slack[len(graph.steps)]
    if last.ndim != 2 or last.shape[1] < 2:
        raise Unknown("an output that is not one vector of logits an image, two or more")
    unit = torch.eye(last.shape[1], dtype=torch.float64, device=x.device)
    rows = unit[y][:, None] - unit
    bound = relaxed.lower(len(graph.steps), rows).scatter(1, y[:, None], math.inf).amin(1)
    return rounded_down(torch.where(bound.isnan(), -math.inf, bound), x.dtype)


def rounded_down(bound: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest number of that precision that is not above."""
    rounded = bound.to(dtype)
    return torch.where(rounded > bound, torch.nextafter(rounded, torch.full_like(rounded, -math.inf)), rounded)


def enclosed(graph: Graph, box: Box, *, refine: bool) -> tuple[Relaxed, dict[int, Ends]]:
    """The network about the box, step by step, each step's input within its interval, or closer bounds of its own.

    Second, where each step's values lie. In L-inf first steps that change every pixel by itself, such as a threshold,
    need no lines: what they make of the box is a box.
    """
    known = _Recorder(graph, box).ends
    backs: dict[int, Back] = {}
    start = _elementwise(graph) if box.ball is None else 0
    slack = {start: _DOUBLE * _size(known[start])}
    relaxed = Relaxed(graph.steps, backs, slack, known[start], box.ball, start)
    for place, step in enumerate(graph.steps, 1):
        first = step.inputs[0]
        if refine and first > start and isinstance(step.kind, Clamp | MaxPool):
            known[first] = _refined(relaxed, first, known[first], step.kind)
        weights = _weights(step, known[first].low.ndim)
        backs[place] = back(step.kind, [known[one] for one in step.inputs], weights)
        if place > start:
            slack[place] = _rounding(step, [known[one] for one in step.inputs], known[place], weights, box) + TINY
    return relaxed, known


def _elementwise(graph: Graph) -> int:
    """The last of the first steps that each change the values of the one before by themselves, and are alone to."""
    start = 0
    for place, step in enumerate(graph.steps, 1):
        alone = sum(place - 1 in other.inputs for other in graph.steps) == 1
        if step.inputs != (place - 1,) or not alone or not isinstance(step.kind, Clamp | Scale):
            break
        start = place
    return start


def _weights(step: Step, dims: int) -> tuple[Tensor, Tensor | None] | None:
    if isinstance(step.kind, Product):
        bias = step.kind.module.bias
        return step.kind.module.weight.double(), None if bias is None else bias.double()
    if isinstance(step.kind, Norm | Scale):
        scale, shift = scale_of(step.kind, dims)
        return scale.double(), shift.double()
    return None


def _rounding(
    step: Step, inputs: list[Ends], output: Ends, weights: tuple[Tensor, Tensor | None] | None, like: Tensor
) -> Tensor:
    """By how much the step's output may be off, element by element, in the model's precision and in float64."""
    size, unit = _size(inputs[0]), unit_roundoff(like)
    match step.kind:
        case Product():
            assert weights is not None
            weight, bias = weights
            total = step.kind.apply(size, weight.abs(), None if bias is None else bias.abs())
            return (error_of_product(step.kind.module.weight) + _DOUBLE) * total
        case Norm() | Scale():
            assert weights is not None
            scale, shift = weights
            assert shift is not None
            extra = 0.0
            if isinstance(step.kind, Norm):
                mean = step.kind.module.running_mean
                assert mean is not None
                extra = (mean.double().view(scale.shape) * scale).abs() * 2
            return (_ROUNDINGS * unit + _DOUBLE) * (size * scale.abs() + shift.abs() + extra)
        case Sum():
            return (2 * unit + _DOUBLE) * (size + _size(inputs[-1]))
        case Mean(rounds=True):
            return (error_of_sum(size[0].numel(), like) + _DOUBLE) * step.kind.function(size)
        case Mean():
            return _DOUBLE * _size(output)
        case MaxPool():
            return _DOUBLE * step.kind(size)
        case _:
            return _DOUBLE * (size + _size(output))


def _refined(relaxed: Relaxed, place: int, ends: Ends, kind: Clamp | MaxPool) -> Ends:
    """Closer ends of one image's values at a place, where they matter."""
    shape = ends.low.shape
    low, high = ends.low.flatten().clone(), ends.high.flatten().clone()
    if isinstance(kind, Clamp):
        open_ends = ((low < kind.low) & (high > kind.low)) | ((low < kind.high) & (high > kind.high))
    else:
        open_ends = high > low
    indices = open_ends.nonzero().squeeze(1)
    widest = max(part.numel() for part in relaxed.slack.values())
    for some in indices.split(max(1, _ROW_FLOATS // widest)):
        rows = torch.zeros(1, len(some), low.numel(), dtype=torch.float64, device=low.device)
        rows[0, torch.arange(len(some)), some] = 1.0
        rows = rows.view(1, len(some), *shape[1:])
        low[some] = low[some].maximum(relaxed.lower(place, rows)[0])
        high[some] = high[some].minimum(-relaxed.lower(place, -rows)[0])
    return Ends(low.view(shape), high.view(shape))


def _size(ends: Ends) -> Tensor:
    return torch.maximum(ends.low.abs(), ends.high.abs())


class _Recorder(fx.Interpreter):
    """Runs a traced network on a box and keeps the ends of every step's values, in float64, before they change."""

    def __init__(self, graph: Graph, box: Box) -> None:
        super().__init__(graph.module)
        self.places = {step.node: place for place, step in enumerate(graph.steps, 1)} | {graph.image: 0}
        self.ends: dict[int, Ends] = {}
        self.run(box)

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if n in self.places:
            if not isinstance(found, Box):
                raise Unknown("a step that does not depend on the image")
            self.ends[self.places[n]] = Ends(found.low.double(), found.high.double())
        return found
