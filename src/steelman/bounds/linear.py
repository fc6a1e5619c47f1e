"""Linear bounds, computed from the logits back to the image: CROWN (Zhang et al. 2018, arXiv:1811.00866).

Each function of the network is enclosed between two linear ones where its input is known to lie; what a row of
coefficients says of its output it then says of its input, and at last of the image. Residual sums: Xu et al. 2020
(arXiv:2002.12920). Everything here is differentiable and exact but for rounding, which callers account for.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from steelman.bounds.box import Round, Unknown
from steelman.bounds.graph import Clamp, Dropout, Kind, MaxPool, Mean, Product, Scale, Step, Sum
from steelman.threats import L1

Rows: TypeAlias = Float[Tensor, "b s ..."]  # coefficients of s linear functions for each of b images
Constants: TypeAlias = Float[Tensor, "b s"]
Back: TypeAlias = Callable[[Tensor], tuple[list[Tensor], Tensor]]  # rows of the output -> of each input, and the rest


@dataclass(frozen=True, eq=False)
class Ends:
    """Between which values each element lies."""

    low: Tensor
    high: Tensor


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A network about some images: each step's inputs and its linear bounds; `slack` is what rounding may add to it.

    `image` is where the walk back ends: the image's pixels at step 0, or what they become at a later `start` that every
    way through the network passes.
    """

    steps: Sequence[Step]
    backs: Mapping[int, Back]
    slack: Mapping[int, Tensor]
    image: Ends
    ball: Round | None = None
    start: int = 0

    def lower(self, place: int, rows: Tensor) -> Constants:
        """Lower bounds, over all allowed images, of linear functions of a step's output."""
        total = rows.new_zeros(rows.shape[:2])
        waiting = {place: rows}
        for current in range(place, -1, -1):
            if current not in waiting:
                continue
            rows = waiting.pop(current)
            if current in self.slack:
                total = total - _times(rows.abs(), self.slack[current])
            if current == self.start:
                return total + self._at_image(rows)
            parts, rest = self.backs[current](rows)
            total = total + rest
            inputs = self.steps[current - 1].inputs
            for one, part in zip((inputs[0], inputs[-1]) if len(parts) > 1 else inputs, parts, strict=True):
                waiting[one] = waiting[one] + part if one in waiting else part
        return total  # the image has no influence

    def _at_image(self, rows: Tensor) -> Tensor:
        lowest = _times(rows.clamp_min(0), self.image.low) + _times(rows.clamp_max(0), self.image.high)
        if self.ball is None:
            return lowest
        centre, error, radii = (part.to(rows) for part in (self.ball.centre, self.ball.error, self.ball.radii))
        scaled = (rows * radii[:, None]).flatten(2).abs()
        reach = scaled.amax(2) if self.ball.norm is L1 else scaled.square().sum(2).sqrt()
        return torch.maximum(lowest, _times(rows, centre) - _times(rows.abs(), error) - reach)


def back(kind: Kind, inputs: Sequence[Ends], weights: tuple[Tensor, Tensor | None] | None = None) -> Back:
    """How rows pass a step backwards, its inputs being within `inputs`.

    Args:
        kind: what the step computes.
        inputs: where each of them lies; the precision is that of the rows to come.
        weights: of a product, or scale and shift of a normalisation or scaling.

    Raises:
        Unknown: the step has no linear bounds.
    """
    ends = inputs[0]
    match kind:
        case Product():
            assert weights is not None
            return _product(kind, ends.low.shape[1:], *weights)
        case Clamp():
            return _clamp(kind, ends)
        case MaxPool():
            return _max_pool(kind, ends)
        case Mean():
            return _mean(kind.function, ends.low.shape[1:])
        case Sum():
            return _sum(kind.sign, inputs[0].low.shape[1:], inputs[-1].low.shape[1:])
        case Dropout():
            if kind.module.training:
                raise Unknown("dropout that is at work")
            return lambda rows: ([rows], rows.new_zeros(rows.shape[:2]))
        case _:
            assert weights is not None
            scale, shift = weights
            assert shift is not None
            return _scale(ends.low.shape[1:], scale, shift)


def scale_of(kind: Kind, dims: int) -> tuple[Tensor, Tensor]:
    """Scale and shift of a scaling, or of a normalisation with its running statistics, of a tensor of `dims`."""
    if isinstance(kind, Scale):
        return kind.constants()
    assert not isinstance(kind, (Product, Clamp, MaxPool, Mean, Dropout, Sum))
    norm = kind.module
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    shape = (1, -1, *[1] * (dims - 2))
    return scale.view(shape), shift.view(shape)


def lines(low: Tensor, high: Tensor, floor: float, ceiling: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slope and offset of a line below clamp(x, floor, ceiling) for x from low to high, and of one above it.

    A chord where the clamp bends away from the line; else whichever of x and the flat end is nearer, as CROWN's
    adaptive slope for ReLU.
    """
    one, zero = torch.ones_like(low), torch.zeros_like(low)
    cut_low, cut_high = low < floor, high > ceiling
    bottom = zero + floor if math.isfinite(floor) else low
    top = zero + ceiling if math.isfinite(ceiling) else high
    under, over = high.clamp(max=ceiling), low.clamp(min=floor)
    rise = (under - bottom) / torch.where(under > low, under - low, one)
    fall = (top - over) / torch.where(high > over, high - over, one)
    flat_up, flat_down = (high - top) >= (top - low), (bottom - low) >= (high - bottom)
    upper = torch.where(cut_low, rise, torch.where(cut_high & flat_up, zero, one))
    above = torch.where(cut_low, bottom - rise * low, torch.where(cut_high & flat_up, top, zero))
    lower = torch.where(cut_high, fall, torch.where(cut_low & flat_down, zero, one))
    below = torch.where(cut_high, top - fall * high, torch.where(cut_low & flat_down, bottom, zero))
    off, full = high <= floor, low >= ceiling
    lower, upper = (torch.where(off | full, zero, slope) for slope in (lower, upper))
    below, above = (torch.where(off, bottom, torch.where(full, top, offset)) for offset in (below, above))
    return lower, below, upper, above


def _clamp(kind: Clamp, ends: Ends) -> Back:
    lower, below, upper, above = (part[:, None] for part in lines(ends.low, ends.high, kind.low, kind.high))

    def pass_back(rows: Tensor) -> tuple[list[Tensor], Tensor]:
        up, down = rows.clamp_min(0), rows.clamp_max(0)
        return [up * lower + down * upper], (up * below + down * above).flatten(2).sum(2)

    return pass_back


def _product(kind: Product, shape: Sequence[int], weight: Tensor, bias: Tensor | None) -> Back:
    module = kind.module
    if isinstance(module, nn.Linear) and len(shape) != 1 and not kind.flat:
        raise Unknown("a linear layer on more than one vector an image")

    def pass_back(rows: Tensor) -> tuple[list[Tensor], Tensor]:
        by_channel = rows.flatten(3).sum(3) if rows.ndim > 3 else rows
        rest = rows.new_zeros(rows.shape[:2]) if bias is None else by_channel @ bias
        if isinstance(module, nn.Linear):
            return [(rows @ weight.flatten(1)).unflatten(2, tuple(shape))], rest
        return [_transposed(module, rows.flatten(0, 1), weight, shape).unflatten(0, rows.shape[:2])], rest

    return pass_back


def _transposed(module: nn.Conv2d, rows: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """What a convolution's outputs, weighted by rows, are as weights of its inputs."""
    padding = _padding(module)
    missing = [
        size + 2 * around - dilation * (kernel - 1) - 1 - (out - 1) * stride
        for size, around, dilation, kernel, out, stride in zip(
            shape[1:], padding, module.dilation, module.kernel_size, rows.shape[2:], module.stride, strict=True
        )
    ]
    return F.conv_transpose2d(rows, weight, None, module.stride, padding, missing, module.groups, module.dilation)


def _padding(module: nn.Conv2d) -> tuple[int, int]:
    if not isinstance(module.padding, str):
        return module.padding[0], module.padding[1]
    reach = zip(module.dilation, module.kernel_size, strict=True)
    around = [dilation * (kernel - 1) if module.padding == "same" else 0 for dilation, kernel in reach]
    if any(total % 2 for total in around):
        raise Unknown("a convolution padded more on one side than on the other")
    return around[0] // 2, around[1] // 2


def _scale(shape: Sequence[int], scale: Tensor, shift: Tensor) -> Back:
    """Constants may repeat the values, as three colours' do a grey image's."""

    def pass_back(rows: Tensor) -> tuple[list[Tensor], Tensor]:
        factor, offset = (value.to(rows).expand(1, *rows.shape[2:]) for value in (scale, shift))
        return [_gathered(rows * factor[:, None], shape)], _times(rows, offset)

    return pass_back


def _sum(sign: float, *shapes: Sequence[int]) -> Back:
    def pass_back(rows: Tensor) -> tuple[list[Tensor], Tensor]:
        first, second = (_gathered(rows, shape) for shape in shapes)
        return [first, sign * second], rows.new_zeros(rows.shape[:2])

    return pass_back


def _gathered(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Rows of what values of this shape are repeated to, as rows of the values."""
    if rows.ndim != 2 + len(shape):
        raise Unknown("a sum of values with different numbers of dimensions")
    return rows.sum_to_size(*rows.shape[:2], *shape)


def _mean(function: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Back:
    def pass_back(rows: Tensor) -> tuple[list[Tensor], Tensor]:
        flat = rows.flatten(0, 1)
        with torch.enable_grad():
            point = flat.new_zeros(len(flat), *shape, requires_grad=True)
            (weights,) = torch.autograd.grad(function(point), point, flat, create_graph=rows.requires_grad)
        return [weights.unflatten(0, rows.shape[:2])], rows.new_zeros(rows.shape[:2])

    return pass_back


def _max_pool(kind: MaxPool, ends: Ends) -> Back:
    """Below: the input that is largest at least. Above: the same where no other can exceed it, else the largest end."""
    low, high = (_windows(kind, part) for part in (ends.low, ends.high))
    chosen = low.argmax(2, keepdim=True)
    others = high.scatter(2, chosen, -math.inf).amax(2)
    settled = (low.gather(2, chosen).squeeze(2) >= others)[:, None]
    largest = high.amax(2)[:, None]

    def pass_back(rows: Tensor) -> tuple[list[Tensor], Tensor]:
        flat = rows.flatten(3)
        up, down = flat.clamp_min(0), flat.clamp_max(0)
        weights = flat.new_zeros(*flat.shape[:3], low.shape[2], flat.shape[3])
        places = chosen[:, None].expand(-1, flat.shape[1], -1, -1, -1)
        weights = weights.scatter(3, places, (up + down * settled)[:, :, :, None])
        (top, left), options = _pooling(kind)
        height, width = ends.low.shape[2:]
        padded = F.fold(weights.flatten(0, 1).flatten(1, 2), (height + 2 * top, width + 2 * left), **options)
        inner = padded[:, :, top : top + height, left : left + width].unflatten(0, rows.shape[:2])
        return [inner], (down * torch.where(settled, 0.0, largest)).flatten(2).sum(2)

    return pass_back


def _windows(kind: MaxPool, values: Tensor) -> Tensor:
    """b, channels, places in a window, windows."""
    (top, left), options = _pooling(kind)
    padded = F.pad(values, (left, left, top, top), value=-math.inf)
    return F.unfold(padded, **options).unflatten(1, (values.shape[1], -1))


def _pooling(kind: MaxPool) -> tuple[tuple[int, int], dict[str, tuple[int, int]]]:
    given = kind.options
    if given.get("ceil_mode", False):
        raise Unknown("max pooling with ceil_mode")
    size = _pair(given["kernel_size"])
    stride = _pair(given.get("stride") or size)
    options = {"kernel_size": size, "stride": stride, "dilation": _pair(given.get("dilation", 1))}
    return _pair(given.get("padding", 0)), options


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _times(rows: Tensor, values: Tensor) -> Tensor:
    """The sums of products over all elements: rows b s ..., values b ... or 1 ... ."""
    return (rows * values[:, None]).flatten(2).sum(2)
