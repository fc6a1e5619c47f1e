"""Gaussian blur as a defence: Osadchy et al. 2017, No bot expects the DeepCAPTCHA (doi:10.1109/TIFS.2017.2718479)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from steelman.defences._filter import Filter
from steelman.defences.median_filter import mirrored
from steelman.surrogates import straight_through
from steelman.types import Images


@dataclass(frozen=True, repr=False)
class GaussianFilter(Filter):
    """Each pixel becomes a Gaussian mean of those around it, edges mirrored; attacked through its own derivative.

    The kernel reaches three standard deviations, in whole pixels.

    Raises:
        UsageError: a sigma that is not above 0; at the call, one too wide for the image.
    """

    sigma: float = 1.0

    smooth: ClassVar[bool] = True
    paper: ClassVar[str] = "Osadchy et al. 2017, doi:10.1109/TIFS.2017.2718479"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("sigma", "a width in pixels above 0", holds=0 < self.sigma < math.inf)

    def exact(self, x: Images) -> Images:  # noqa: D102
        reach, channels = math.ceil(3 * self.sigma), x.shape[1]
        offsets = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        kernel = (-0.5 * (offsets / self.sigma) ** 2).softmax(0)
        padded = mirrored(x, reach)
        rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        mean = F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
        return straight_through(mean.clamp(0, 1), mean)  # rounding beyond 0 or 1 takes no derivative away
