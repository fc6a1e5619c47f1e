"""Median smoothing, the spatial squeezing of Xu, Evans & Qi 2018 (Feature squeezing, arXiv:1704.01155)."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from steelman.defences._filter import Filter
from steelman.errors import UsageError
from steelman.types import Images


@dataclass(frozen=True, repr=False)
class MedianFilter(Filter):
    """Each pixel becomes the median of the square around it, edges mirrored; attacked through the square's mean.

    The median's own derivative reaches one pixel of the square alone, and none at all that lies on a flat background.

    Raises:
        UsageError: a size that is no odd number from 3 on; at the call, one that is larger than the image.
    """

    size: int = 3

    paper: ClassVar[str] = "Xu et al. 2018, arXiv:1704.01155; attacked as in Athalye et al. 2018, arXiv:1802.00420"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("size", "an odd number of pixels, 3 or more", holds=self.size >= 3 and self.size % 2 == 1)

    def exact(self, x: Images) -> Images:  # noqa: D102
        squares = mirrored(x, self.size // 2).unfold(2, self.size, 1).unfold(3, self.size, 1)
        return squares.flatten(4).median(4).values

    def stand_in(self, x: Images) -> Images:  # noqa: D102
        return F.avg_pool2d(mirrored(x, self.size // 2), self.size, stride=1)


def mirrored(x: Images, margin: int) -> Tensor:
    """The images with so many more pixels on each side, mirrored at the edge.

    Raises:
        UsageError: the image has no more pixels than that.
    """
    if margin >= min(x.shape[2:]):
        raise UsageError(
            f"a filter that reaches {margin} pixels is too wide for images of {x.shape[2]}x{x.shape[3]}. "
            "Choose a smaller one."
        )
    return F.pad(x, (margin, margin, margin, margin), mode="reflect")
