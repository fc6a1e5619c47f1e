"""Held-out perturbations that move or mix pixels: blur, rotation, translation, elastic distortion.

Elastic distortion: Simard et al. 2003 (doi:10.1109/ICDAR.2003.1227801).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from steelman.errors import UsageError
from steelman.threats.perturbations import Draw, Perturbation
from steelman.types import Images

_TRUNCATED = 3  # standard deviations after which a Gaussian is cut


@dataclass(frozen=True, repr=False)
class Blur(Perturbation):
    """A Gaussian blur of deviation `sigma` pixels.

    Raises:
        UsageError: no positive deviation.
    """

    sigma: float = 1.5

    held_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "sigma")

    def apply(self, x: Images, draw: Draw) -> Images:  # noqa: ARG002, D102
        return _smoothed(x, self.sigma).clamp(0, 1)


@dataclass(frozen=True, repr=False)
class Rotation(Perturbation):
    """Turned by `degrees`, to the left or to the right at random; black comes in from outside.

    Raises:
        UsageError: no positive angle.
    """

    degrees: float = 25.0

    random: ClassVar[bool] = True
    held_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "degrees")

    def apply(self, x: Images, draw: Draw) -> Images:  # noqa: D102
        turn = math.radians(self.degrees) * _sign(draw(1))[:, 0]
        rows, columns = _places(x)
        sine, cosine = turn.sin().view(-1, 1, 1), turn.cos().view(-1, 1, 1)
        return _sampled(x, cosine * rows + sine * columns, cosine * columns - sine * rows)


@dataclass(frozen=True, repr=False)
class Translation(Perturbation):
    """Moved by `pixels` up or down and left or right, at random; black comes in from outside.

    Raises:
        UsageError: no positive number of pixels.
    """

    pixels: float = 3.0

    random: ClassVar[bool] = True
    held_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "pixels")

    def apply(self, x: Images, draw: Draw) -> Images:  # noqa: D102
        down, right = (self.pixels * _sign(draw(2))).view(-1, 2, 1, 1).unbind(1)
        rows, columns = _places(x)
        return _sampled(x, rows - down, columns - right)


@dataclass(frozen=True, repr=False)
class Elastic(Perturbation):
    """Every pixel is displaced by a smooth random field: uniform noise, blurred by `sigma`, times `alpha` pixels.

    Raises:
        UsageError: a constant that is not positive.
    """

    alpha: float = 34.0
    sigma: float = 4.0

    random: ClassVar[bool] = True
    held_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "alpha")
        _positive(self, "sigma")

    def apply(self, x: Images, draw: Draw) -> Images:  # noqa: D102
        height, width = int(x.shape[2]), int(x.shape[3])
        noise = 2 * draw(2 * height * width).view(-1, 2, height, width) - 1
        down, right = (self.alpha * _smoothed(noise, self.sigma)).unbind(1)
        rows, columns = _places(x)
        return _sampled(x, rows + down, columns + right)


def _positive(perturbation: Perturbation, field: str) -> None:
    if not 0 < getattr(perturbation, field) < math.inf:
        raise UsageError(f"{perturbation!r}: expected {field} above 0.")


def _sign(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0).to(uniform)


def _places(x: Images) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel, measured from the middle, (1, height, width) each."""
    height, width = int(x.shape[2]), int(x.shape[3])
    rows = (torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2)[None, :, None]
    columns = (torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2)[None, None, :]
    return rows.expand(1, height, width), columns.expand(1, height, width)


def _sampled(x: Images, rows: Tensor, columns: Tensor) -> Images:
    """The image read at these places (from the middle, in pixels), bilinear between pixels, black outside."""
    height, width = int(x.shape[2]), int(x.shape[3])
    grid = torch.stack(torch.broadcast_tensors(columns * 2 / (width - 1), rows * 2 / (height - 1)), dim=-1)
    grid = grid.expand(len(x), height, width, 2)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True).clamp(0, 1)


def _smoothed(x: Images, sigma: float) -> Images:
    """A Gaussian blur, row by row and then column by column; beyond the edge pixels are black."""
    reach = math.ceil(_TRUNCATED * sigma)
    weights = torch.exp(-torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device).square() / (2 * sigma**2))
    weights, channels = weights / weights.sum(), x.shape[1]
    kernel = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    down = F.conv2d(x, kernel, padding=(reach, 0), groups=channels)
    return F.conv2d(down, kernel.transpose(2, 3), padding=(0, reach), groups=channels)
