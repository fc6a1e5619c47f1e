"""Perturbations pixel by pixel: groups 3 to 5 of study `features`, and held-out contrast, fog and compression."""

import io
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from steelman.errors import UsageError
from steelman.threats.perturbations import Draw, Perturbation, normal
from steelman.types import Images

_COARSEST = 4  # cells a side of the coarsest layer of fog


@dataclass(frozen=True, repr=False)
class Identity(Perturbation):
    """The image as it is."""

    def apply(self, x: Images, draw: Draw) -> Images:  # noqa: ARG002, D102
        return x


@dataclass(frozen=True, repr=False)
class AbsoluteNoise(Perturbation):
    """The size of normal noise of deviation `std` is added to every value: pixels only get brighter.

    Raises:
        UsageError: a negative or infinite deviation.
    """

    std: float = 0.3

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.std < math.inf:
            raise UsageError(f"{self!r}: expected a standard deviation of 0 or more.")

    def apply(self, x: Images, draw: Draw) -> Images:  # noqa: D102
        return (x + self.std * normal(draw(x[0].numel())).abs().view_as(x)).clamp(0, 1)


@dataclass(frozen=True, repr=False)
class Removal(Perturbation):
    """Of the values above `above`, in reading order, a contiguous run of a share `share`, anywhere, is set to 0.

    Raises:
        UsageError: a share outside [0, 1], or a threshold that is no number.
    """

    share: float = 0.3
    above: float = 0.3

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1 or math.isnan(self.above):
            raise UsageError(f"{self!r}: expected a share of the bright pixels from 0 to 1, and a threshold.")

    def apply(self, x: Images, draw: Draw) -> Images:  # noqa: D102
        bright = x.flatten(1) > self.above
        rank = bright.cumsum(1) - 1  # among the bright ones, in reading order
        num = bright.sum(1, keepdim=True)
        length = (self.share * num).floor().long()
        start = (draw(1) * (num - length + 1)).floor().long()
        gone = bright & (rank >= start) & (rank < start + length)
        return torch.where(gone.view_as(x), 0, x)


@dataclass(frozen=True, repr=False)
class Contrast(Perturbation):
    """Values are drawn towards the image's mean: mean + factor (x - mean).

    Raises:
        UsageError: a factor outside [0, 1].
    """

    factor: float = 0.4

    held_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.factor <= 1:
            raise UsageError(f"{self!r}: expected a factor from 0 (grey) to 1 (unchanged).")

    def apply(self, x: Images, draw: Draw) -> Images:  # noqa: ARG002, D102
        mean = x.mean((1, 2, 3), keepdim=True)
        return (mean + self.factor * (x - mean)).clamp(0, 1)


@dataclass(frozen=True, repr=False)
class Fog(Perturbation):
    """A random cloud of share `strength` lies over the image: (1 - strength) x + strength cloud.

    The cloud is a sum of smooth noise in octaves, each of half the size and half the weight of the one before.

    Raises:
        UsageError: a strength outside [0, 1].
    """

    strength: float = 0.4

    random: ClassVar[bool] = True
    held_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength <= 1:
            raise UsageError(f"{self!r}: expected a strength from 0 to 1.")

    def apply(self, x: Images, draw: Draw) -> Images:  # noqa: D102
        height, width = int(x.shape[2]), int(x.shape[3])
        cloud, cells, weight = torch.zeros_like(x[:, :1]), _COARSEST, 1.0
        while cells <= max(height, width):
            layer = draw(cells * cells).view(-1, 1, cells, cells)
            cloud = cloud + weight * F.interpolate(layer, (height, width), mode="bilinear", align_corners=True)
            cells, weight = 2 * cells, weight / 2
        low, high = (edge(cloud.flatten(1), 1).view(-1, 1, 1, 1) for edge in (torch.amin, torch.amax))
        cloud = (cloud - low) / (high - low).clamp_min(torch.finfo(x.dtype).eps)
        return ((1 - self.strength) * x + self.strength * cloud).clamp(0, 1)


@dataclass(frozen=True, repr=False)
class Compression(Perturbation):
    """Written as a JPEG file of this quality, and read again.

    Raises:
        UsageError: a quality outside 1 to 95.
    """

    quality: int = 10

    held_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.quality <= 95:
            raise UsageError(f"{self!r}: expected a JPEG quality from 1 (worst) to 95.")

    def apply(self, x: Images, draw: Draw) -> Images:  # noqa: ARG002, D102
        levels = (x * 255).round().byte().cpu()
        if x.shape[1] not in (1, 3):
            raise UsageError(f"{self!r} was given images of {x.shape[1]} channels. Expected 1 or 3.")
        read = [self._through_file(one.permute(1, 2, 0).squeeze(2).numpy()) for one in levels]
        return torch.from_numpy(np.stack(read)).view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2).to(x) / 255

    def _through_file(self, picture: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=self.quality)
        return np.asarray(Image.open(file))
