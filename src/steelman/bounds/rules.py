"""The rules: what a torch function makes of boxes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from steelman.bounds.box import (
    RULES,
    TINY,
    Box,
    Operation,
    Round,
    Unknown,
    error_of_product,
    error_of_sum,
    unit_roundoff,
)
from steelman.threats import L1

_ROUNDINGS = 32.0  # an element's in a scaling, in tanh or in sigmoid, with room to spare


def _affine(x: Box, weight: Tensor, bias: Tensor | None, product: Operation, reach: Tensor | None) -> Box:
    """Centre and radius of the output, by the box and, where its `reach` is given, also by the ball.

    The radius takes in the rounding of the model's own sum and of the bound's, both below `error` times |W| |x| + |b|.
    Half of the time goes into memory: factors go into the weights, and what is not needed any more is written over.
    """
    error, size = error_of_product(weight), weight.abs()
    drift = weight.new_zeros(len(weight)) if bias is None else error * bias.abs()
    middle, inner = torch.lerp(x.low, x.high, 0.5), x.high - x.low
    centre = product(middle, weight, bias)
    inner.add_(middle.abs_(), alpha=2 * error)
    width = product(inner, size * (0.5 + error), drift * (1 + 2 * error) + TINY)
    if x.ball is None or reach is None:
        return Box.about(centre, width)
    low, high = centre - width, centre.add_(width)
    centre = product(x.ball.centre, weight, bias)
    width = product(x.ball.error + error * (x.ball.error + x.ball.centre.abs()), size, drift)
    width = (width + reach * (1 + error)) * (1 + error) + TINY
    return Box(torch.maximum(low, centre - width), torch.minimum(high, centre + width))


def _linear(x: Any, weight: Tensor, bias: Tensor | None = None) -> Box:
    _only_first_is_box(x, weight, bias)
    reach = linear_reach(weight, x.ball) if x.ball is not None and x.ndim == 2 else None
    made = _affine(x, weight, bias, F.linear, reach)
    if x.ndim == 2:
        made.origin = Box(x.low, x.high, x.ball), weight, bias
    return made


def linear_reach(weight: Tensor, ball: Round) -> Tensor:
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
) -> Box:
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


def _scaled(x: Box, scale: Tensor, shift: Tensor, size: Tensor) -> Box:
    """The values scale * x + shift, where rounding counts in units of the values and of `size`."""
    unit = _ROUNDINGS * unit_roundoff(x.low)
    first, second = x.low * scale, x.high * scale
    slack = unit * (torch.maximum(first.abs(), second.abs()) + size) + TINY
    low, high = torch.minimum(first, second) + shift - slack, torch.maximum(first, second) + shift + slack
    if x.ball is None or low.shape != x.shape:
        return Box(low, high)
    centre, radii = x.ball.centre * scale, x.ball.radii * scale.abs() * (1 + unit)
    error = x.ball.error * scale.abs() * (1 + unit) + unit * (centre.abs() + radii + size) + TINY
    return Box(low, high, Round(centre + shift, error, radii, x.ball.norm))


def _batch_norm(
    x: Any,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001
    eps: float = 1e-5,
) -> Box:
    _only_first_is_box(x, mean, variance, weight, bias)
    if training or mean is None or variance is None:
        raise Unknown
    scale = (1.0 if weight is None else weight) / (variance + eps).sqrt()
    offset = torch.zeros_like(mean) if bias is None else bias
    shape = (-1, *[1] * (x.ndim - 2))
    size = offset.abs() + (mean * scale).abs()
    return _scaled(x, scale.view(shape), (offset - mean * scale).view(shape), size.view(shape))


def _add(x: Any, other: Any, *, sign: float = 1.0) -> Box:
    """The sum; two boxes are taken to vary apart."""
    if isinstance(x, Box) and isinstance(other, Box):
        first, second = (other.low, other.high) if sign > 0 else (-other.high, -other.low)
        return _widened(x.low + first, x.high + second, 2 * unit_roundoff(x.low))
    if isinstance(other, Box):
        x, other, sign = (other if sign > 0 else _multiply(other, -1.0)), x, 1.0
    constant = _constant(other, x)
    return _scaled(x, torch.ones_like(constant), sign * constant, constant.abs())


def _multiply(x: Any, other: Any) -> Box:
    x, other = (x, other) if isinstance(x, Box) else (other, x)
    scale = _constant(other, x)
    return _scaled(x, scale, torch.zeros_like(scale), torch.zeros_like(scale))


def _divide(x: Any, other: Any) -> Box:
    if not isinstance(x, Box):
        raise Unknown
    return _multiply(x, 1 / _constant(other, x))


def _monotone(function: Operation, roundings: float = 0.0, floor: float = 0.0) -> Operation:
    """The rule of a function that never falls: it maps the ends, with so many roundings of max(|value|, floor)."""

    def rule(x: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Box:
        _only_first_is_box(x, *args, *kwargs.values())
        low, high = function(x.low, *args, **kwargs), function(x.high, *args, **kwargs)
        if not isinstance(low, Tensor):
            raise Unknown
        made = _widened(low, high, roundings * unit_roundoff(x.low), floor) if roundings else Box(low, high)
        return _written(x, made) if inplace else made

    return rule


def _relu(x: Any, inplace: bool = False) -> Box:
    """Behind a product at once with its ends, which are then written but once."""
    _only_first_is_box(x)
    if x.spread is None:
        return _monotone(F.relu)(x, inplace=inplace)
    centre, radius = x.spread
    made = Box((centre - radius).relu_(), (centre + radius).relu_())
    return _written(x, made) if inplace else made


def _leaky_relu(x: Any, negative_slope: float = 0.01, inplace: bool = False) -> Box:
    if negative_slope < 0:
        raise Unknown
    return _monotone(F.leaky_relu, roundings=2.0)(x, negative_slope, inplace=inplace)


def _average(function: Operation, terms: Callable[..., int]) -> Operation:
    """The rule of means of at most `terms(shape before, shape after, ...)` values each."""

    def rule(x: Any, *args: Any, **kwargs: Any) -> Box:
        _only_first_is_box(x, *args, *kwargs.values())
        if (args[5:] or [kwargs.get("divisor_override")])[0] is not None:
            raise Unknown
        low, high, size = (
            function(part, *args, **kwargs) for part in (x.low, x.high, x.low.abs().maximum(x.high.abs()))
        )
        slack = error_of_sum(terms(x.shape, low.shape, *args, **kwargs), x.low) * size + TINY
        return Box(low - slack, high + slack)

    return rule


def _reshape(function: Operation) -> Operation:
    """The rule of another shape for the same values, which may be a view of them."""

    def rule(x: Any, *args: Any, **kwargs: Any) -> Box:
        operation = lambda part: function(part, *args, **kwargs)  # noqa: E731
        made = Box(operation(x.low), operation(x.high), x.ball and x.ball.reshaped(operation))
        x.aliases.append(None)
        made.aliases = x.aliases
        return made

    return rule


def _expand(x: Any, *sizes: int) -> Box:
    """Repeated values are no ball any more: each would be taken to move by itself."""
    made = _reshape(Tensor.expand)(x, *sizes)
    made.ball = made.ball if made.shape == x.shape else None
    return made


def _pad(x: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Box:
    """Rows and columns more, or fewer where negative; in a ball what repeats values would move by itself."""
    made = _reshape(partial(F.pad, pad=pad, mode=mode, value=value))(x)
    made.ball = made.ball if mode == "constant" and not value else None
    return made


def _dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Box:  # noqa: ARG001
    if training:
        raise Unknown
    return x


def _in_place(rule: Operation) -> Operation:
    return lambda x, *args, **kwargs: _written(x, rule(x, *args, **kwargs))


def _written(x: Box, made: Box) -> Box:
    """The box with new values, for all that hold it; views of x would have to change too."""
    if len(x.aliases) > 1 or made.shape != x.shape:
        raise Unknown
    x.become(made)
    return x


def _widened(low: Tensor, high: Tensor, share: float, floor: float = 0.0) -> Box:
    """The interval with each end moved outwards by a share of its size, of `floor` at least."""
    return Box(low - share * low.abs().clamp_min(floor) - TINY, high + share * high.abs().clamp_min(floor) + TINY)


def _only_first_is_box(x: object, *others: object) -> None:
    if not isinstance(x, Box) or any(isinstance(other, Box) for other in others):
        raise Unknown


def _constant(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Box) or not isinstance(value, int | float | Tensor):
        raise Unknown
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=like.dtype, device=like.device)


def _window(before: torch.Size, after: torch.Size, kernel: Any, *_: Any, **__: Any) -> int:  # noqa: ARG001
    return kernel * kernel if isinstance(kernel, int) else math.prod(kernel) ** (2 // len(kernel))


def _subtract(x: Any, other: Any) -> Box:
    return _add(x, other, sign=-1.0)


_BOTH: dict[str, Operation] = {  # functions of torch and methods of tensors alike
    "relu": _relu,
    "relu_": _in_place(_relu),
    "tanh": _monotone(torch.tanh, _ROUNDINGS, floor=1.0),
    "sigmoid": _monotone(torch.sigmoid, _ROUNDINGS, floor=1.0),
    "clamp": _monotone(torch.clamp),
    "mean": _average(torch.mean, lambda before, after, *_, **__: before.numel() // max(1, after.numel())),
    "flatten": _reshape(torch.flatten),
    "reshape": _reshape(Tensor.reshape),
    "add": _add,
    "sub": _subtract,
    "mul": _multiply,
    "div": _divide,
    "neg": lambda x: _multiply(x, -1.0),
}
RULES.update(
    {
        **{getattr(owner, name): rule for name, rule in _BOTH.items() for owner in (torch, Tensor)},
        Tensor.view: _BOTH["reshape"],
        Tensor.expand: _expand,
        Tensor.contiguous: _reshape(lambda part: part),
        Tensor.__rsub__: lambda x, other: _subtract(other, x),
        Tensor.add_: _in_place(_add),
        Tensor.sub_: _in_place(_subtract),
        Tensor.mul_: _in_place(_multiply),
        Tensor.div_: _in_place(_divide),
        F.linear: _linear,
        F.conv2d: _conv2d,
        F.batch_norm: _batch_norm,
        F.relu: _BOTH["relu"],
        F.leaky_relu: _leaky_relu,
        F.hardtanh: _monotone(F.hardtanh),
        F.max_pool2d: _monotone(F.max_pool2d),
        F.avg_pool2d: _average(F.avg_pool2d, _window),
        F.adaptive_avg_pool2d: _average(F.adaptive_avg_pool2d, lambda before, *_, **__: before[2:].numel()),
        F.pad: _pad,
        F.dropout: _dropout,
        F.dropout2d: _dropout,
    }
)
