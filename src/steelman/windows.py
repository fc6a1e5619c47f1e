"""Logits of images of which one square window changed: the first layers are computed again only where it reaches.

A convolution sees a few pixels at a time, so that a small window changes a small part of what the first layers put
out. Random search by windows (Square, arXiv:1912.00049) asks thousands of times.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from steelman.bounds.box import Unknown
from steelman.bounds.graph import Clamp, MaxPool, Norm, Product, after, trace
from steelman.engine import fill
from steelman.types import Images, Logits, Mask

TYPICAL = 3  # pixels a side: the cuts are chosen for windows of this size
LEAST = 500_000  # multiplications that a cut must save for each image
MOVING = 32  # multiplications that take as long as moving a value
LARGEST = 0.6  # share of what the first layers see up to which a part alone is worth it
MEMORY = 2**28  # bytes of values that are kept


@dataclass(frozen=True, eq=False)
class Cut:
    """A network in two: first layers whose every value sees a square of pixels, without padding, and the rest.

    The value in row i sees `field` rows of pixels from `stride * i` on, and columns likewise. Pixels and values are
    rows of channels for each place, (n, places, channels).
    """

    head: tuple[Callable[[Tensor], Tensor], ...]
    rest: nn.Module
    stride: int
    field: int
    before: tuple[int, int, int]  # channels, rows and columns of what the first layers see
    size: tuple[int, int, int]  # and of what they put out

    def values(self, pixels: Tensor, side: int = 0) -> Tensor:
        """What the first layers put out for whole images, or squares of that side."""
        channels, rows, columns = self.before
        x = _maps(pixels, (channels, side or rows, side or columns))
        return _places(reduce(lambda value, layer: layer(value), self.head, x))

    def logits(self, values: Tensor) -> Logits:
        """What the rest makes of it."""
        return self.rest(_maps(values, self.size)).float()

    def reach(self, side: int) -> int:
        """How many rows of values a window of so many rows changes, at most; there may be fewer."""
        return (side + self.field - 2) // self.stride + 1

    def seen(self, side: int) -> int:
        """How many rows of pixels these values see."""
        return (self.reach(side) - 1) * self.stride + self.field

    def share(self, side: int) -> float:
        """Which part of the pixels that is; all of them where the square of values does not fit into the whole."""
        fits = self.reach(side) <= min(self.size[1:])
        return self.seen(side) ** 2 / (self.before[1] * self.before[2]) if fits else 1.0


class Windows:
    """The first layers' values of some images, and the logits of these images with one window changed.

    The network must be in eval mode, and stay as it is. What comes behind the first layers may be divided again.
    """

    def __init__(self, parts: Cut, pixels: Tensor, batch: int, side: int) -> None:
        self.parts = parts
        with torch.no_grad():
            self.kept = torch.cat([parts.values(few) for few in pixels.split(batch)])
        self.behind = _windows(parts.rest, self.kept, parts.size, batch, parts.reach(side))
        self.first = self.places = torch.zeros(0, dtype=torch.int64, device=pixels.device)
        self.new = self.kept[:0]
        self.seen = 0  # rows of pixels that are looked at; 0: all

    def only(self, keep: Mask) -> "Windows":
        """For some of the images."""
        some = copy.copy(self)
        some.kept = self.kept[keep]
        some.behind = self.behind and self.behind.only(keep)
        return some

    def look(self, top: Tensor, left: Tensor, side: int) -> None:
        """Where the images to come differ from those that are kept: first row and column (n,) of each window."""
        parts, reach = self.parts, self.parts.reach(side)
        channels, rows, columns = parts.size
        row, column = (
            (-((parts.field - 1 - start) // parts.stride)).clamp(0, max(0, size - reach))
            for start, size in ((top, rows), (left, columns))
        )
        self.seen = parts.seen(side) if parts.share(side) <= LARGEST else 0
        num = rows * columns
        if self.seen:
            step, num = torch.arange(reach, device=top.device), reach * reach
            self.places = (row * columns + column)[:, None] + (step[:, None] * columns + step).flatten()
            self.first = (row * parts.before[2] + column) * parts.stride
        self.new = self.kept.new_empty(len(top), num, channels)
        if self.behind:
            self.behind.look(row, column, reach)

    def logits(self, rows: Tensor, x: Images) -> Logits:
        """Of the images x of these rows, which differ from those that are kept in their window.

        They are filled up with copies, as in `steelman.engine.forward`.
        """
        return self._logits(fill(rows), fill(_places(x)))[: len(rows)]

    def keep(self, where: Mask) -> None:
        """The images of these rows are from now on what they were in the last look."""
        rows = where.nonzero()
        if self.seen:
            self.kept[rows, self.places[where]] = self.new[where]
        else:
            self.kept[where] = self.new[where]
        if self.behind:
            self.behind.keep(where)

    def _logits(self, rows: Tensor, pixels: Tensor) -> Logits:
        values = self._values(rows, pixels)
        return self.behind._logits(rows, values) if self.behind else self.parts.logits(values)

    def _values(self, rows: Tensor, pixels: Tensor) -> Tensor:
        if not self.seen:
            self.new[rows] = values = self.parts.values(pixels)
            return values
        step = torch.arange(self.seen, device=pixels.device)
        spots = self.first[rows, None] + (step[:, None] * self.parts.before[2] + step).flatten()
        crops = pixels.gather(1, spots[:, :, None].expand(-1, -1, pixels.shape[2]))
        self.new[rows] = new = self.parts.values(crops, self.seen)
        return self.kept[rows].scatter(1, self.places[rows, :, None].expand(-1, -1, new.shape[2]), new)


def windows(model: nn.Module, x: Images, batch: int) -> Windows | None:
    """The images as the first layers see them; None where little would be saved, or the layers are not known."""
    size = (x.shape[1], x.shape[2], x.shape[3])
    return _windows(model, _places(x), size, batch, TYPICAL) if len(x) else None


def _windows(model: nn.Module, pixels: Tensor, size: tuple[int, int, int], batch: int, side: int) -> Windows | None:
    parts = _cut(model, _maps(pixels[:1], size), side)
    if parts is None or 4 * len(pixels) * torch.Size(parts.size).numel() > MEMORY:
        return None
    return Windows(parts, pixels, batch, side)


def _cut(model: nn.Module, x: Images, side: int) -> Cut | None:
    """Where to divide a network for images of x's shape, so that windows of that side cost least."""
    try:
        graph = trace(model)
    except Unknown:
        return None
    value, stride, field, work = x, 1, 1, 0
    before = (x.shape[1], x.shape[2], x.shape[3])
    head: tuple[Callable[[Tensor], Tensor], ...] = ()
    most, best = LEAST, None
    for place, step in enumerate(graph.steps, 1):
        sees = _sees(step.kind) if step.inputs == (place - 1,) else None
        if sees is None:
            break
        head = (*head, _function(step.kind))
        with torch.no_grad():
            value = head[-1](value)
        field, stride = field + (sees[0] - 1) * stride, stride * sees[1]
        if isinstance(step.kind, Product):
            work += value.numel() * step.kind.module.weight[0].numel()
        rest = after(graph, place)
        if rest is None or value.dtype != torch.float32:
            break
        parts = Cut(head, rest, stride, field, before, (value.shape[1], value.shape[2], value.shape[3]))
        saved = int(work * (1 - parts.share(side))) - MOVING * value.numel()
        if parts.share(side) <= LARGEST and saved >= most:
            most, best = saved, parts
    return best


def _maps(rows: Tensor, size: tuple[int, int, int]) -> Tensor:
    """(n, places, channels) as (n, channels, rows, columns), in the same memory."""
    return rows.view(len(rows), *size[1:], size[0]).permute(0, 3, 1, 2)


def _places(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2).contiguous()


def _sees(kind: object) -> tuple[int, int] | None:
    """The side of the square that a layer's value sees, and the stride; None of a layer that sees more, or pads."""
    match kind:
        case Clamp() | Norm():
            return 1, 1
        case Product(module=nn.Conv2d() as module):
            kernel, stride, padding, dilation = module.kernel_size, module.stride, module.padding, module.dilation
        case MaxPool(options) if not options.get("ceil_mode", False):
            kernel = _pair(options["kernel_size"])
            stride = _pair(options.get("stride") or kernel)
            padding, dilation = _pair(options.get("padding", 0)), _pair(options.get("dilation", 1))
        case _:
            return None
    square = kernel[0] == kernel[1] and stride[0] == stride[1] and tuple(dilation) == (1, 1)
    return (kernel[0], stride[0]) if square and not isinstance(padding, str) and not any(padding) else None


def _pair(sides: Any) -> tuple[int, ...]:
    return (sides, sides) if isinstance(sides, int) else tuple(sides)


def _function(kind: object) -> Callable[[Tensor], Tensor]:
    if isinstance(kind, Clamp | MaxPool):
        return kind
    assert isinstance(kind, Product | Norm)
    return kind.module
