"""Branch and bound as a certifier: beta-CROWN (Wang et al. 2021, arXiv:2103.06624)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from steelman.bounds.branching import branched_margins
from steelman.certify._bounded import Bounded, in_parts
from steelman.certify.crown import CROWN
from steelman.errors import UsageError
from steelman.progress import Progress, silent
from steelman.threats import Ball
from steelman.types import Images, Labels, PerExample

_AT_ONCE = CROWN()  # before anything is halved


@dataclass(frozen=True, repr=False)
class BranchAndBound(Bounded):
    """The strongest proof here: what `CROWN` leaves open is halved by the signs of ReLU units, again and again.

    Slopes are optimised, and each half's known sign is used by a multiplier. Given time it decides any ReLU network but
    for rounding; `branches` is where it gives up. An image of which a short search finds a change that breaks it is
    given up at once; the others take seconds each, of small networks.

    Fields:
        branches: the most parts of the allowed set to look at for one image and class.

    Raises:
        UsageError: fewer than one branch.
    """

    branches: int = 300

    paper: ClassVar[str] = "Wang et al. 2021, arXiv:2103.06624; Xu et al. 2021, arXiv:2011.13824"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.branches < 1:
            raise UsageError(f"{self!r}: expected at least one branch.")

    @property
    def quick(self) -> CROWN:
        """What is proven before anything is halved."""
        return _AT_ONCE

    def margins(  # noqa: D102
        self, model: nn.Module, x: Images, y: Labels, threat: Ball, *, progress: Progress = silent
    ) -> PerExample:
        margins = super().margins(model, x, y, threat)
        rest = (margins <= 0).nonzero().squeeze(1)
        settled = len(x) - len(rest)

        def tell(done: int, total: int, words: str) -> None:  # noqa: ARG001
            progress(settled + done, len(x), words)

        tell(0, 0, f"certifying with {type(self).__name__}")

        def branched(x: Images, y: Labels) -> PerExample:
            return branched_margins(model, x, y, threat, branches=self.branches)

        closer = in_parts(self, model, x[rest], y[rest], tell, branched, size=1)
        margins[rest] = margins[rest].maximum(closer)
        return margins

    def bound(self, model: nn.Module, x: Images, y: Labels, threat: Ball) -> PerExample:
        """What `CROWN` proves at once."""
        return _AT_ONCE.bound(model, x, y, threat)

    def supported(self) -> str:  # noqa: D102
        return _AT_ONCE.supported()
