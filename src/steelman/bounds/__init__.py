"""Interval bound propagation (Gowal et al. 2018, arXiv:1810.12715): images proven robust before any attack.

The model itself is run, on boxes instead of images: every torch function it calls on one is answered by the rule for
boxes, and one without a rule ends the attempt. What is proven holds for exact arithmetic and for float32 alike: each
layer's box is widened by a bound of its rounding error, whatever the order of its sums (Higham 2002, section 3.1).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.bounds.box import (
    FEW_CLASSES,
    TINY,
    Box,
    Round,
    Unknown,
    error_of_product,
    error_of_sum,
    of_label,
    unit_roundoff,
)
from steelman.bounds.rules import linear_reach
from steelman.chance import states
from steelman.threats import L1, L2, TOLERANCE, Ball, Linf
from steelman.types import Images, Labels, PerExample

_COMPILED = ("torch.jit", "torch._dynamo")


def interval_margins(model: nn.Module, x: Images, y: Labels, threat: Ball) -> PerExample | None:
    """A lower bound of the label's logit minus the best other one over all images that the threat allows.

    Above 0 the image is proven robust. It costs about three forward passes, all images at once; an image's bound does
    not depend on the others. None for L0, for a model with any module in train mode, and where the model calls what
    has no rule here, random numbers or lower precision; the model is run as it is and not changed.
    """
    try:
        return margins_of_boxes(model, x, y, threat)
    except Unknown:
        return None


def margins_of_boxes(model: nn.Module, x: Images, y: Labels, threat: Ball) -> PerExample:
    """As `interval_margins`, for callers that want to know what is missing.

    Raises:
        Unknown: the model or the threat has no bounds; says why not.
    """
    box = box_around(x.detach(), threat)
    check_still(model)
    if len(x) == 0:
        return x.new_zeros(0)
    with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
        before = states(model, x.device)
        logits = model(box)
        if before != states(model, x.device):
            raise Unknown("a forward that draws random numbers")
        if not isinstance(logits, Box) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
            raise Unknown("an output that is not one vector of logits an image, two or more")
        margins = _margins(logits, y.long())
    return torch.where(margins.isnan(), -math.inf, margins)


def check_still(model: nn.Module) -> None:
    """See that the model is in eval mode and not compiled.

    Raises:
        Unknown: it is not.
    """
    for name, module in model.named_modules():
        if module.training:
            raise Unknown(f"a module in train mode, {name or type(module).__name__}")
        if type(module).__module__.startswith(_COMPILED):
            raise Unknown(f"a compiled module, {name or type(module).__name__}")


def box_around(x: Images, threat: Ball) -> Box:
    """Every image that `threat.contains`, its tolerance and the rounding of its distance included.

    Raises:
        Unknown: another threat than Linf, L2 or L1, or pixels in a lower precision than float32.
    """
    if type(threat) not in (Linf, L2, L1):
        raise Unknown(f"{threat!r}, only for balls of Linf, L2 and L1")
    if x.dtype not in (torch.float32, torch.float64):
        raise Unknown(f"pixels in {x.dtype}")
    terms = 1 if isinstance(threat, Linf) else math.prod(x.shape[1:])
    eps = (threat.eps + TOLERANCE * max(1.0, threat.eps, threat.terms(x))) * (1 + 2 * error_of_sum(terms, x))
    low, high = x - eps, x + eps
    if threat.clip:
        low, high = low.clamp_min(-TOLERANCE), high.clamp_max(1 + TOLERANCE)
    error = 2 * unit_roundoff(x) * torch.maximum(low.abs(), high.abs()) + TINY
    if isinstance(threat, Linf) or math.isinf(eps):
        return Box(low - error, high + error)
    return Box(low - error, high + error, Round(x, torch.full_like(x, TINY), torch.full_like(x, eps), type(threat)))


def _margins(logits: Box, y: Labels) -> PerExample:
    own, others = logits.low.gather(1, y[:, None]).squeeze(1), logits.high.scatter(1, y[:, None], -math.inf).amax(1)
    apart = own - others - 2 * unit_roundoff(own) * (own.abs() + others.abs()) - TINY
    return apart if logits.origin is None else torch.maximum(apart, _elided(*logits.origin, y))


def _elided(x: Box, weight: Tensor, bias: Tensor | None, y: Labels) -> PerExample:
    """The margin as one linear function of the last layer's input, which knows what logits share (ibid., section 3)."""
    offset = weight.new_zeros(len(weight)) if bias is None else bias
    bound = _apart(weight, offset, y, *x.middle, lambda rows: rows.new_zeros(len(rows)))
    if x.ball is not None:
        reach = partial(linear_reach, ball=x.ball)
        bound = torch.maximum(bound, _apart(weight, offset, y, x.ball.centre, x.ball.error, reach))
    return bound.scatter(1, y[:, None], math.inf).amin(1)


def _apart(
    weight: Tensor, offset: Tensor, y: Labels, centre: Tensor, radius: Tensor, reach: Callable[[Tensor], Tensor]
) -> Tensor:
    """How far at least the label's logit is above each logit."""
    error = 2 * error_of_product(weight)  # of both logits, of the difference of their weights, and of the bound
    slack = error * (F.linear(centre.abs() + radius, weight.abs(), offset.abs()) + reach(weight)) + TINY
    if len(weight) <= FEW_CLASSES:
        apart = (weight[:, None] - weight).flatten(0, 1)  # of every pair: one product, where it is small
        least = F.linear(centre, apart, (offset[:, None] - offset).flatten()) - F.linear(radius, apart.abs())
        return of_label(least - reach(apart), y) - slack - slack.gather(1, y[:, None])
    bound = torch.empty_like(slack)
    for label in y.unique().tolist():
        rows = (y == label).nonzero().squeeze(1)
        apart = weight[label] - weight
        least = F.linear(centre[rows], apart, offset[label] - offset) - F.linear(radius[rows], apart.abs())
        bound[rows] = least - reach(apart) - slack[rows] - slack[rows, label, None]
    return bound
