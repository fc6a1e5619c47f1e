"""DI-FGSM: Xie et al. 2019, Improving transferability with input diversity (arXiv:1803.06978)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from steelman.attacks import Problem
from steelman.attacks._momentum import Direction, Momentum
from steelman.errors import UsageError
from steelman.types import Images, Mask


@dataclass(frozen=True, repr=False)
class DIFGSM(Momentum):
    """MI-FGSM (M-DI2-FGSM) through images that are, each with a probability, shrunk at random and padded with black.

    A shrunk image has at least `smallest` of the height and width and lies anywhere in the frame; the frame keeps its
    size, as most nets need (the paper enlarges 299 pixels to 330). The model sees no candidate unchanged on the way,
    so the last one alone is judged.

    Raises:
        UsageError: a probability outside [0, 1], a smallest size outside (0, 1], or what MIFGSM raises.
    """

    probability: float = 0.5
    smallest: float = 0.9

    paper: ClassVar[str] = "Xie et al. 2019, arXiv:1803.06978"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.probability <= 1 or not 0 < self.smallest <= 1:
            raise UsageError(f"{self!r}: expected a probability from 0 to 1 and a smallest size above 0, at most 1.")

    def direction(self, problem: Problem, step: float) -> Direction:  # noqa: ARG002, D102
        def diverse(seen: Images) -> Images:
            draw = torch.rand(len(seen), generator=problem.generator, device=seen.device)
            return shrunk(seen, self.smallest, draw < self.probability, problem.generator)

        return lambda x, _: problem.value_and_grad(x, self.loss, through=diverse, coarse=True)[1]


def shrunk(x: Images, smallest: float, chosen: Mask, generator: Generator) -> Images:
    """The chosen images bilinearly resized by a random share and padded with 0 to their former size at random.

    As products with one matrix a side: differentiable, and another size for each image.
    """
    size, down, right = torch.rand(3, len(x), generator=generator, device=x.device)
    height, width = x.shape[2:]
    rows = _resize_and_pad(height, smallest, size, down, chosen).to(x.dtype)
    columns = _resize_and_pad(width, smallest, size, right, chosen).to(x.dtype)
    return torch.einsum("bih,bchw,bjw->bcij", rows, x, columns)


def _resize_and_pad(side: int, smallest: float, size: Tensor, place: Tensor, chosen: Mask) -> Tensor:
    """(b, side, side) weights of the old pixels (last axis) in the new, half-pixel centres; identity unless chosen.

    `size` and `place` in [0, 1) choose among the whole numbers of pixels below `side`, and among all that are left.
    """
    least = max(1, math.floor(smallest * side))
    length = least + (size * max(1, side - least)).floor()
    length = torch.where(chosen, length, side)
    offset = torch.where(chosen, (place * (side - length + 1)).floor(), 0)
    new = torch.arange(side, device=size.device) - offset[:, None]
    inside = (new >= 0) & (new < length[:, None])
    old = ((new + 0.5) * (side / length)[:, None] - 0.5).clamp(0, side - 1)
    weights = (1 - (old[:, :, None] - torch.arange(side, device=size.device)).abs()).clamp_min(0)
    return weights * inside[:, :, None]
