"""CROWN-IBP (Zhang et al. 2020, arXiv:1906.06316): linear bounds while the box grows, intervals at its full size."""

from dataclasses import dataclass
from typing import ClassVar

from steelman.bounds.training import Passed, worst_logits_by_lines
from steelman.defences._bounded import Bounded
from steelman.errors import UsageError
from steelman.types import Labels, Logits


@dataclass(frozen=True, repr=False)
class CrownIBP(Bounded):
    """As interval training, the bound mixed with CROWN's, whose share falls from 1 to `final_share` as eps grows.

    Each step with linear bounds costs about as much as one step per class.

    Raises:
        UsageError: as for interval training, and a share outside [0, 1].
    """

    final_share: float = 0.0

    paper: ClassVar[str] = "Zhang et al. 2020, arXiv:1906.06316"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.final_share <= 1:
            raise UsageError(f"final_share is {self.final_share}. Expected CROWN's last share, 0 <= final_share <= 1.")

    def worst_logits(self, passed: Passed, y: Labels, share: float) -> Logits:  # noqa: D102
        linear = 1 - (1 - self.final_share) * share
        by_intervals = passed.worst_logits(y)
        return by_intervals if linear == 0 else by_intervals.lerp(worst_logits_by_lines(passed, y), linear)
