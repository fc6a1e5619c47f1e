"""Bit depth reduction, the colour squeezing of Xu, Evans & Qi 2018 (Feature squeezing, arXiv:1704.01155)."""

from dataclasses import dataclass
from typing import ClassVar

from steelman.defences._filter import Filter
from steelman.types import Images


@dataclass(frozen=True, repr=False)
class BitDepth(Filter):
    """Pixels rounded to 2^bits equally spaced levels from 0 to 1; attacked straight through.

    Raises:
        UsageError: bits outside 1 to 8.
    """

    bits: int = 3

    paper: ClassVar[str] = "Xu et al. 2018, arXiv:1704.01155; attacked as in Athalye et al. 2018, arXiv:1802.00420"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("bits", "1 to 8", holds=1 <= self.bits <= 8)

    def exact(self, x: Images) -> Images:  # noqa: D102
        steps = 2**self.bits - 1
        return (x * steps).round() / steps
