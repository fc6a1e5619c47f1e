"""Interval bound propagation (Gowal et al. 2018, arXiv:1810.12715): images proven robust before any attack.

The model itself is run, on boxes instead of images: every torch function it calls on one is answered by the rule for
boxes, and one without a rule ends the attempt. What is proven holds for exact arithmetic and for float32 alike: each
layer's box is widened by a bound of its rounding error, whatever the order of its sums (Higham 2002, section 3.1).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.threats import L1, L2, TOLERANCE, Ball, Linf
from steelman.types import Images, Labels, PerExample

_Operation: TypeAlias = Callable[..., Any]
_TINY = 1e-15  # more than all that underflow can lose, also under a square root
_ROUNDINGS = 32.0  # an element's in a scaling, in tanh or in sigmoid, with room to spare
_TF32 = 2.0**-8  # of a product of two numbers cut to 10 bits, as CUDA devices do by default: theirs and ours
_COMPILED = ("torch.jit", "torch._dynamo")


def interval_margins(model: nn.Module, x: Images, y: Labels, threat: Ball) -> PerExample | None:
    """A lower bound of the label's logit minus the best other one over all images that the threat allows.

    Above 0 the image is proven robust. It costs about three forward passes, all images at once; an image's bound does
    not depend on the others. None for L0, for a model with any module in train mode, and where the model calls what
    has no rule here, random numbers or lower precision; the model is run as it is and not changed.
    """
    box = _around(x.detach(), threat)
    if box is None or any(m.training or type(m).__module__.startswith(_COMPILED) for m in model.modules()):
        return None
    if len(x) == 0:
        return x.new_zeros(0)
    with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
        before = _random_state(x)
        try:
            logits = model(box)
        except _Unknown:
            return None
        if not torch.equal(before, _random_state(x)):
            return None
        if not isinstance(logits, _Box) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
            return None
        margins = _margins(logits, y.long())
    return torch.where(margins.isnan(), -math.inf, margins)


class _Unknown(Exception):
    """The model does something for which there is no rule."""


@dataclass(frozen=True)
class _Round:
    """The values centre + e + radii * d with |d| <= 1 in the threat's norm and |e| <= error, element by element.

    All images have the same radii.
    """

    centre: Tensor
    error: Tensor
    radii: Tensor
    norm: type[Ball]

    def reshaped(self, operation: Callable[[Tensor], Tensor]) -> "_Round | None":
        """The same values in another shape; None where rows are no images any more."""
        centre, error, radii = (operation(part) for part in (self.centre, self.error, self.radii))
        return _Round(centre, error, radii, self.norm) if len(centre) == len(self.centre) else None


class _Box(Tensor):
    """All values between low and high, which stands in for a layer's output; at first also within a ball."""

    low: Tensor
    high: Tensor
    ball: _Round | None
    origin: tuple["_Box", Tensor, Tensor | None] | None  # input, weight and bias of the linear layer it comes from
    aliases: list[None]  # one entry for each box that shares these values, as views do

    @staticmethod
    def __new__(cls: type["_Box"], low: Tensor, high: Tensor, ball: _Round | None = None) -> "_Box":
        if low.dtype not in (torch.float32, torch.float64) or low.dtype != high.dtype:
            raise _Unknown
        made: Any = Tensor._make_wrapper_subclass(cls, low.shape, dtype=low.dtype, device=low.device)
        made.low, made.high, made.ball, made.origin, made.aliases = low, high, ball, None, [None]
        return made

    @classmethod
    def __torch_function__(
        cls, func: _Operation, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        rule = _RULES.get(func)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if rule is None or not tensors or torch.is_autocast_enabled(tensors[0].device.type):
            raise _Unknown
        try:
            return rule(*args, **(kwargs or {}))
        except TypeError:  # an option that the rule does not have
            raise _Unknown from None

    @classmethod
    def __torch_dispatch__(cls, func: object, types: object, args: object = (), kwargs: object = None) -> Any:
        raise _Unknown  # called from compiled code, around the rules

    @property
    def middle(self) -> tuple[Tensor, Tensor]:
        """Centre and radius of each interval."""
        centre = (self.low + self.high) / 2
        return centre, torch.maximum(self.high - centre, centre - self.low)


def _around(x: Images, threat: Ball) -> _Box | None:
    """Every image that `threat.contains`, its tolerance and the rounding of its distance included."""
    if type(threat) not in (Linf, L2, L1) or x.dtype not in (torch.float32, torch.float64):
        return None
    terms = 1 if isinstance(threat, Linf) else math.prod(x.shape[1:])
    eps = (threat.eps + TOLERANCE * max(1.0, threat.eps, threat.terms(x))) * (1 + 2 * _error_of_sum(terms, x))
    low, high = x - eps, x + eps
    if threat.clip:
        low, high = low.clamp_min(-TOLERANCE), high.clamp_max(1 + TOLERANCE)
    error = 2 * _unit(x) * torch.maximum(low.abs(), high.abs()) + _TINY
    if isinstance(threat, Linf) or math.isinf(eps):
        return _Box(low - error, high + error)
    return _Box(low - error, high + error, _Round(x, torch.full_like(x, _TINY), torch.full_like(x, eps), type(threat)))


def _margins(logits: _Box, y: Labels) -> PerExample:
    own, others = logits.low.gather(1, y[:, None]).squeeze(1), logits.high.scatter(1, y[:, None], -math.inf).amax(1)
    apart = own - others - 2 * _unit(own) * (own.abs() + others.abs()) - _TINY
    return apart if logits.origin is None else torch.maximum(apart, _elided(*logits.origin, y))


def _elided(x: _Box, weight: Tensor, bias: Tensor | None, y: Labels) -> PerExample:
    """The margin as one linear function of the last layer's input, which knows what logits share (ibid., section 3)."""
    offset = weight.new_zeros(len(weight)) if bias is None else bias
    bound = _apart(weight, offset, y, *x.middle, lambda rows: rows.new_zeros(len(rows)))
    if x.ball is not None:
        reach = partial(_linear_reach, ball=x.ball)
        bound = torch.maximum(bound, _apart(weight, offset, y, x.ball.centre, x.ball.error, reach))
    return bound.scatter(1, y[:, None], math.inf).amin(1)


def _apart(
    weight: Tensor, offset: Tensor, y: Labels, centre: Tensor, radius: Tensor, reach: Callable[[Tensor], Tensor]
) -> Tensor:
    """How far at least the label's logit is above each logit."""
    error = 2 * _error_of_product(weight)  # of both logits, of the difference of their weights, and of the bound
    slack = error * (F.linear(centre.abs() + radius, weight.abs(), offset.abs()) + reach(weight)) + _TINY
    bound = torch.empty_like(slack)
    for label in y.unique().tolist():
        rows = (y == label).nonzero().squeeze(1)
        apart = weight[label] - weight
        least = F.linear(centre[rows], apart, offset[label] - offset) - F.linear(radius[rows], apart.abs())
        bound[rows] = least - reach(apart) - slack[rows] - slack[rows, label, None]
    return bound


# ---- rules: what a torch function makes of boxes


def _affine(x: _Box, weight: Tensor, bias: Tensor | None, product: _Operation, reach: Tensor | None) -> _Box:
    """Centre and radius of the output, by the box and, where its `reach` is given, also by the ball.

    The radius takes in the rounding of the model's own sum and of the bound's, both below `error` times |W| |x| + |b|.
    """
    error, size = _error_of_product(weight), weight.abs()
    drift = None if bias is None else error * bias.abs()
    middle, radius = x.middle
    centre = product(middle, weight, bias)
    width = product(radius + error * (radius + middle.abs()), size, drift) * (1 + error) + _TINY
    low, high = centre - width, centre + width
    if x.ball is not None and reach is not None:
        centre = product(x.ball.centre, weight, bias)
        width = product(x.ball.error + error * (x.ball.error + x.ball.centre.abs()), size, drift)
        width = (width + reach * (1 + error)) * (1 + error) + _TINY
        low, high = torch.maximum(low, centre - width), torch.minimum(high, centre + width)
    return _Box(low, high)


def _linear(x: Any, weight: Tensor, bias: Tensor | None = None) -> _Box:
    _only_first_is_box(x, weight, bias)
    reach = _linear_reach(weight, x.ball) if x.ball is not None and x.ndim == 2 else None
    made = _affine(x, weight, bias, F.linear, reach)
    if x.ndim == 2:
        made.origin = _Box(x.low, x.high, x.ball), weight, bias
    return made


def _linear_reach(weight: Tensor, ball: _Round) -> Tensor:
    """How far the ball's radius moves each output: the dual norm of its weights."""
    scaled = weight.abs() * ball.radii[:1]
    return scaled.amax(1) if ball.norm is L1 else torch.linalg.vector_norm(scaled, dim=1)


def _conv2d(
    x: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Box:
    _only_first_is_box(x, weight, bias)
    product = partial(F.conv2d, stride=stride, padding=padding, dilation=dilation, groups=groups)
    reach = None
    if x.ball is not None and x.ball.norm is L1:
        largest = x.ball.radii[0].flatten(1).amax(1).view(groups, 1, -1, 1, 1)
        scaled = weight.abs().unflatten(0, (groups, -1)) * largest
        reach = scaled.flatten(0, 1).flatten(1).amax(1).view(-1, 1, 1)
    elif x.ball is not None:
        reach = product(x.ball.radii[:1].square(), weight.square()).sqrt()
    return _affine(x, weight, bias, product, reach)


def _scaled(x: _Box, scale: Tensor, shift: Tensor, size: Tensor) -> _Box:
    """The values scale * x + shift, where rounding counts in units of the values and of `size`."""
    unit = _ROUNDINGS * _unit(x.low)
    first, second = x.low * scale, x.high * scale
    slack = unit * (torch.maximum(first.abs(), second.abs()) + size) + _TINY
    low, high = torch.minimum(first, second) + shift - slack, torch.maximum(first, second) + shift + slack
    if x.ball is None or low.shape != x.shape:
        return _Box(low, high)
    centre, radii = x.ball.centre * scale, x.ball.radii * scale.abs() * (1 + unit)
    error = x.ball.error * scale.abs() * (1 + unit) + unit * (centre.abs() + radii + size) + _TINY
    return _Box(low, high, _Round(centre + shift, error, radii, x.ball.norm))


def _batch_norm(
    x: Any,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001
    eps: float = 1e-5,
) -> _Box:
    _only_first_is_box(x, mean, variance, weight, bias)
    if training or mean is None or variance is None:
        raise _Unknown
    scale = (1.0 if weight is None else weight) / (variance + eps).sqrt()
    offset = torch.zeros_like(mean) if bias is None else bias
    shape = (-1, *[1] * (x.ndim - 2))
    size = offset.abs() + (mean * scale).abs()
    return _scaled(x, scale.view(shape), (offset - mean * scale).view(shape), size.view(shape))


def _add(x: Any, other: Any, *, sign: float = 1.0) -> _Box:
    """The sum; two boxes are taken to vary apart."""
    if isinstance(x, _Box) and isinstance(other, _Box):
        first, second = (other.low, other.high) if sign > 0 else (-other.high, -other.low)
        return _widened(x.low + first, x.high + second, 2 * _unit(x.low))
    if isinstance(other, _Box):
        x, other, sign = (other if sign > 0 else _multiply(other, -1.0)), x, 1.0
    constant = _constant(other, x)
    return _scaled(x, torch.ones_like(constant), sign * constant, constant.abs())


def _multiply(x: Any, other: Any) -> _Box:
    x, other = (x, other) if isinstance(x, _Box) else (other, x)
    scale = _constant(other, x)
    return _scaled(x, scale, torch.zeros_like(scale), torch.zeros_like(scale))


def _divide(x: Any, other: Any) -> _Box:
    if not isinstance(x, _Box):
        raise _Unknown
    return _multiply(x, 1 / _constant(other, x))


def _monotone(function: _Operation, roundings: float = 0.0, floor: float = 0.0) -> _Operation:
    """The rule of a function that never falls: it maps the ends, with so many roundings of max(|value|, floor)."""

    def rule(x: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> _Box:
        _only_first_is_box(x, *args, *kwargs.values())
        low, high = function(x.low, *args, **kwargs), function(x.high, *args, **kwargs)
        if not isinstance(low, Tensor):
            raise _Unknown
        made = _widened(low, high, roundings * _unit(x.low), floor) if roundings else _Box(low, high)
        return _written(x, made) if inplace else made

    return rule


def _leaky_relu(x: Any, negative_slope: float = 0.01, inplace: bool = False) -> _Box:
    if negative_slope < 0:
        raise _Unknown
    return _monotone(F.leaky_relu, roundings=2.0)(x, negative_slope, inplace=inplace)


def _average(function: _Operation, terms: Callable[..., int]) -> _Operation:
    """The rule of means of at most `terms(shape before, shape after, ...)` values each."""

    def rule(x: Any, *args: Any, **kwargs: Any) -> _Box:
        _only_first_is_box(x, *args, *kwargs.values())
        if (args[5:] or [kwargs.get("divisor_override")])[0] is not None:
            raise _Unknown
        low, high, size = (
            function(part, *args, **kwargs) for part in (x.low, x.high, x.low.abs().maximum(x.high.abs()))
        )
        slack = _error_of_sum(terms(x.shape, low.shape, *args, **kwargs), x.low) * size + _TINY
        return _Box(low - slack, high + slack)

    return rule


def _reshape(function: _Operation) -> _Operation:
    """The rule of another shape for the same values, which may be a view of them."""

    def rule(x: Any, *args: Any, **kwargs: Any) -> _Box:
        operation = lambda part: function(part, *args, **kwargs)  # noqa: E731
        made = _Box(operation(x.low), operation(x.high), x.ball and x.ball.reshaped(operation))
        x.aliases.append(None)
        made.aliases = x.aliases
        return made

    return rule


def _dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> _Box:  # noqa: ARG001
    if training:
        raise _Unknown
    return x


def _in_place(rule: _Operation) -> _Operation:
    return lambda x, *args, **kwargs: _written(x, rule(x, *args, **kwargs))


def _written(x: _Box, made: _Box) -> _Box:
    """The box with new values, for all that hold it; views of x would have to change too."""
    if len(x.aliases) > 1 or made.shape != x.shape:
        raise _Unknown
    x.low, x.high, x.ball, x.origin = made.low, made.high, made.ball, made.origin
    return x


def _widened(low: Tensor, high: Tensor, share: float, floor: float = 0.0) -> _Box:
    """The interval with each end moved outwards by a share of its size, of `floor` at least."""
    return _Box(low - share * low.abs().clamp_min(floor) - _TINY, high + share * high.abs().clamp_min(floor) + _TINY)


def _only_first_is_box(x: object, *others: object) -> None:
    if not isinstance(x, _Box) or any(isinstance(other, _Box) for other in others):
        raise _Unknown


def _constant(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, _Box) or not isinstance(value, int | float | Tensor):
        raise _Unknown
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=like.dtype, device=like.device)


# ---- rounding


def _unit(like: Tensor) -> float:
    """The largest relative error of one rounding."""
    return torch.finfo(like.dtype).eps / 2


def _error_of_sum(terms: int, like: Tensor) -> float:
    """Twice gamma_(terms + 8): relative to the sum of absolute values, for the model's sum and another one."""
    error = (terms + 8) * _unit(like)
    return 2 * error / (1 - error) if error < 0.5 else math.inf


def _error_of_product(weight: Tensor) -> float:
    tf32 = _TF32 if weight.is_cuda and weight.dtype == torch.float32 else 0.0
    return _error_of_sum(weight[0].numel(), weight) + tf32


def _random_state(x: Tensor) -> Tensor:
    """The states of the generators a model on x's device may draw from."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state(x.device)] if x.is_cuda else [])
    return torch.cat(states)


# ---- which rule answers which function


def _window(before: torch.Size, after: torch.Size, kernel: Any, *_: Any, **__: Any) -> int:  # noqa: ARG001
    return kernel * kernel if isinstance(kernel, int) else math.prod(kernel) ** (2 // len(kernel))


_relu = _monotone(F.relu)
_tanh, _sigmoid = (_monotone(function, _ROUNDINGS, floor=1.0) for function in (torch.tanh, torch.sigmoid))
_clamp, _subtract = _monotone(torch.clamp), partial(_add, sign=-1.0)
_flatten, _shaped, _same = _reshape(torch.flatten), _reshape(Tensor.reshape), _reshape(lambda part: part)
_mean = _average(torch.mean, lambda before, after, *_, **__: before.numel() // max(1, after.numel()))

_PROPERTIES: tuple[Any, ...] = (Tensor.shape, Tensor.ndim, Tensor.dtype, Tensor.device, Tensor.is_cuda)
_FACTS: set[_Operation] = {Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__} | {p.__get__ for p in _PROPERTIES}
_RULES: dict[_Operation, _Operation] = {
    F.linear: _linear,
    F.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _relu),
    **dict.fromkeys((torch.relu_, Tensor.relu_), _in_place(_relu)),
    **dict.fromkeys((torch.tanh, Tensor.tanh), _tanh),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid), _sigmoid),
    **dict.fromkeys((torch.clamp, Tensor.clamp), _clamp),
    F.leaky_relu: _leaky_relu,
    F.hardtanh: _monotone(F.hardtanh),
    F.max_pool2d: _monotone(F.max_pool2d),
    F.avg_pool2d: _average(F.avg_pool2d, _window),
    F.adaptive_avg_pool2d: _average(F.adaptive_avg_pool2d, lambda before, *_, **__: before[2:].numel()),
    **dict.fromkeys((torch.mean, Tensor.mean), _mean),
    **dict.fromkeys((F.dropout, F.dropout2d), _dropout),
    **dict.fromkeys((torch.flatten, Tensor.flatten), _flatten),
    **dict.fromkeys((torch.reshape, Tensor.reshape, Tensor.view), _shaped),
    **dict.fromkeys((Tensor.contiguous, Tensor.detach), _same),
    **dict.fromkeys((torch.add, Tensor.add), _add),
    **dict.fromkeys((torch.sub, Tensor.sub), _subtract),
    **dict.fromkeys((torch.mul, Tensor.mul), _multiply),
    **dict.fromkeys((torch.div, Tensor.div), _divide),
    **dict.fromkeys((torch.neg, Tensor.neg), lambda x: _multiply(x, -1.0)),
    Tensor.__rsub__: lambda x, other: _add(other, x, sign=-1.0),
    Tensor.add_: _in_place(_add),
    Tensor.sub_: _in_place(_subtract),
    Tensor.mul_: _in_place(_multiply),
    Tensor.div_: _in_place(_divide),
}
