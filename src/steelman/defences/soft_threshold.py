"""A soft threshold in front of the model: input as good as binary, the one-bit squeezing of arXiv:1704.01155."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from steelman.defences._filter import Filter
from steelman.types import Images


@dataclass(frozen=True, repr=False)
class SoftThreshold(Filter):
    """Each pixel x becomes sigmoid(slope * (x - threshold)), scaled so that 0 stays 0 and 1 stays 1.

    A steep one saturates, and its own derivative vanishes where an attack begins: the attack takes that of the same
    sigmoid with a slope of at most `attacked_slope`.

    Raises:
        UsageError: a threshold outside (0, 1), or a slope that is not above 0.
    """

    threshold: float = 0.5
    slope: float = 20.0
    attacked_slope: float = 4.0

    paper: ClassVar[str] = "Xu et al. 2018, arXiv:1704.01155; attacked as in Athalye et al. 2018, arXiv:1802.00420"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("threshold", "a pixel value between 0 and 1", holds=0 < self.threshold < 1)
        self._require("slope", "a number above 0", holds=0 < self.slope < math.inf)
        self._require("attacked_slope", "a number above 0", holds=0 < self.attacked_slope < math.inf)

    def exact(self, x: Images) -> Images:  # noqa: D102
        return self._scaled(x, self.slope).clamp(0, 1)

    def stand_in(self, x: Images) -> Images:  # noqa: D102
        return self._scaled(x, min(self.slope, self.attacked_slope))

    def _scaled(self, x: Tensor, slope: float) -> Tensor:
        low, high = ((1 + math.tanh(slope * (end - self.threshold) / 2)) / 2 for end in (0.0, 1.0))
        return ((slope * (x - self.threshold)).sigmoid() - low).div(high - low)
