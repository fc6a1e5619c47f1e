"""Straight bright lines across the image, at any angle: groups 1 and 2 of study `features`."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.errors import UsageError
from steelman.threats.perturbations import Draw, Perturbation
from steelman.types import Images


@dataclass(frozen=True, repr=False)
class Lines(Perturbation):
    """`count` parallel lines, `width` pixels wide, add `strength`; the sum is cut to [0, 1].

    The lines are spread evenly from one edge of the image to the other; at 0 and 90 degrees they cover whole pixels.

    Fields:
        angle: of the lines, in degrees against the rows: 0 is horizontal, 90 vertical.
        phase: how far all lines are shifted, in parts of the distance between two of them; they wrap around.

    Raises:
        UsageError: no line, no width, or an angle, strength or phase that is no finite number.
    """

    angle: float = 0.0
    count: int = 7
    width: float = 1.0
    strength: float = 0.6
    phase: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1 or not 0 < self.width < math.inf:
            raise UsageError(f"{self!r}: expected at least one line, of a width above 0 pixels.")
        if not all(math.isfinite(value) for value in (self.angle, self.strength, self.phase)):
            raise UsageError(f"{self!r}: expected finite numbers for angle, strength and phase.")

    def apply(self, x: Images, draw: Draw) -> Images:  # noqa: ARG002, D102
        return (x + self.strength * self.pattern(int(x.shape[2]), int(x.shape[3])).to(x)).clamp(0, 1)

    def pattern(self, height: int, width: int) -> Tensor:
        """How much of each pixel a line covers, 0 to 1, (height, width)."""
        turn = math.radians(self.angle)
        down, right = round(math.cos(turn), 12), round(math.sin(turn), 12)  # exactly 0 and 1 at right angles
        rows, columns = torch.arange(height).double(), torch.arange(width).double()
        reach = ((height - 1) * abs(down) + (width - 1) * abs(right)) / 2  # of pixel centres, from the middle
        place = (rows - (height - 1) / 2)[:, None] * down + (columns - (width - 1) / 2) * right + reach
        covered = torch.zeros_like(place)
        for start in self._starts(2 * reach + 1):  # of a pixel's extent, place ± 1/2, the part within the line
            covered += ((place + 0.5).clamp_max(start + self.width - 0.5) - (place - 0.5).clamp_min(start - 0.5)).clamp(
                0, 1
            )
        return covered.clamp_max(1).float()

    def _starts(self, length: float) -> list[float]:
        """Where the lines begin: from the first pixel to the last one that leaves room for the width."""
        last = length - self.width
        gap = last / max(1, self.count - 1)
        starts = [number * gap for number in range(self.count)] if self.count > 1 else [last / 2]
        if self.phase:
            starts = [(start + self.phase * gap) % length for start in starts]
            starts += [start - length for start in starts if start > last]
        on_pixels = self.angle % 90 == 0 and self.width == round(self.width)
        return [float(round(start)) for start in starts] if on_pixels else starts
