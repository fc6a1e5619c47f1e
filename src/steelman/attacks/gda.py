"""Attack C of maxdinech/mnist-attack (github.com, 2018): B with a push away from the image."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from steelman.attacks.confidence import length, slope
from steelman.attacks.descent import Descent
from steelman.attacks.minimal import column
from steelman.types import Images, PerExample


@dataclass(frozen=True, repr=False)
class GDA(Descent):
    """Adam on sum |r|^p where the confidence is below `low`, on both where it is below `high`, else their difference.

    So a sure image is pushed away from itself as well as from its label. `low` and `high` None are the published 0.2
    and 0.9 with on="softmax", and 0.5 both with on="logits".
    """

    published: ClassVar[tuple[float, float]] = (0.2, 0.9)

    def direction(self, r: Images, ascent: Images, sure: PerExample, p: float) -> Images:  # noqa: D102
        low, high = self.thresholds
        growth = slope(r, lambda change: _penalty(change, p)) * column(torch.where(sure < high, -1.0, 1.0))
        return ascent * column(sure >= low) + growth


def _penalty(r: Images, p: float) -> PerExample:
    """The sum of |r|^p, which for p = 2 is the squared norm; for infinite p the norm itself."""
    return length(r, p) if math.isinf(p) else r.abs().pow(p).flatten(1).sum(1)
