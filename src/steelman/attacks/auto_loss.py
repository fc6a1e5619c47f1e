"""Attack B of maxdinech/mnist-attack (github.com, 2017): a loss that chooses itself."""

from dataclasses import dataclass
from typing import ClassVar

from steelman.attacks.confidence import length, slope
from steelman.attacks.descent import Descent
from steelman.attacks.minimal import column
from steelman.types import Images, PerExample


@dataclass(frozen=True, repr=False)
class AutoLoss(Descent):
    """Adam on |r|_p where the confidence is at most `low`, on both where it is at most `high`, else on the confidence.

    `low` and `high` None are the published 0.2 and 0.4 with on="softmax", and 0.5 both with on="logits". No pixel's
    change leaves [-1, 1].
    """

    published: ClassVar[tuple[float, float]] = (0.2, 0.4)

    def direction(self, r: Images, ascent: Images, sure: PerExample, p: float) -> Images:  # noqa: D102
        low, high = self.thresholds
        shorter = slope(r, lambda change: length(change, p)) * column(sure <= high)
        return ascent * column(sure > low) - shorter

    def limited(self, r: Images) -> Images:  # noqa: D102
        return r.clamp(-1, 1)
