"""Linear bounds as a certifier: CROWN (Zhang et al. 2018, arXiv:1811.00866).

Intermediate bounds by intervals: CROWN-IBP (Zhang et al. 2020, arXiv:1906.06316).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from steelman.bounds import margins_of_boxes
from steelman.bounds.crown import linear_margins
from steelman.bounds.graph import SUPPORTED
from steelman.certify._bounded import Bounded
from steelman.threats import Ball
from steelman.types import Images, Labels, PerExample


@dataclass(frozen=True, repr=False)
class CROWN(Bounded):
    """Proven where linear functions below the label's lead, traced from the logits back to the image, stay above 0.

    Each image's margin is the better one of this bound and the interval bound. It holds in exact arithmetic and in
    float32: the bound is lowered by what rounding may do in each layer.

    Fields:
        intermediate: where the inputs of activations are known to lie, by "interval" arithmetic, or by "linear" bounds
            of their own, which proves far more of a network that was not trained on intervals and takes minutes for
            a hundred images.
    """

    intermediate: Literal["interval", "linear"] = "interval"

    paper: ClassVar[str] = "Zhang et al. 2018, arXiv:1811.00866; Zhang et al. 2020, arXiv:1906.06316"

    @property
    def quick(self) -> "CROWN":
        """With intervals within."""
        return CROWN()

    def bound(self, model: nn.Module, x: Images, y: Labels, threat: Ball) -> PerExample:  # noqa: D102
        margins = margins_of_boxes(model, x, y, threat)
        rest = (margins <= 0).nonzero().squeeze(1)
        if len(rest):
            closer = linear_margins(model, x[rest], y[rest], threat, refine=self.intermediate == "linear")
            margins[rest] = margins[rest].maximum(closer)
        return margins

    def supported(self) -> str:  # noqa: D102
        return f"{SUPPORTED}; threats Linf, L2 and L1; float32 or better"
