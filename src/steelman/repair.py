"""Gradients that are not there, put back: the same strike through finite surrogates for the derivatives.

Backward pass differentiable approximation (Athalye, Carlini & Wagner 2018, arXiv:1802.00420, section 4.1).
"""

from dataclasses import dataclass
from typing import Any

from torch import Generator, nn

from steelman.data import Data
from steelman.evaluate import Outcome, strike
from steelman.page import Check
from steelman.progress import Progress, silent
from steelman.stats import Paired, Share, mcnemar
from steelman.surrogates import Repaired
from steelman.targets import TargetKind
from steelman.types import Labels, Mask


@dataclass(frozen=True, eq=False)
class Repair:
    """The same strike on the same model with repaired gradients, beside the plain one."""

    plain: Outcome
    repaired: Outcome

    @property
    def held(self) -> Mask:
        """Which images are right and broken by neither strike."""
        return self.plain.right & ~self.plain.broken & ~self.repaired.broken

    @property
    def worst(self) -> Share:
        """Accuracy under both strikes, the worse one counting for each image."""
        return Share.of(self.held)

    def to_json(self) -> dict[str, Any]:
        """Both shares, and the worse of both image by image, with a paired test."""
        return {
            "plain": self.plain.robust.to_json(),
            "repaired": self.repaired.robust.to_json(),
            "worst": self.worst.to_json(),
            "p": self._paired().p,
        }

    def check(self) -> Check:
        """Whether finite surrogates find what the model's own gradients could not."""
        paired = self._paired()
        more = paired.only_first
        hidden = more > paired.only_second and more > 0.01 * paired.n and paired.p < 0.01
        words = (
            f"With the model's own gradients {self.plain.robust} hold, with finite surrogates {self.repaired.robust}: "
            f"they break {more} images more and {paired.only_second} fewer (p = {paired.p:.1g})."
        )
        remedy = "Report the number with repaired gradients: the other one measures gradients, not robustness."
        return Check("repaired gradients", "fail" if hidden else "ok", str(more), words, remedy if hidden else "")

    def _paired(self) -> Paired:
        plain, repaired = (one.right & ~one.broken for one in (self.plain, self.repaired))
        return mcnemar(plain, repaired)


def repair(
    model: nn.Module,
    data: Data,
    plain: Outcome,
    *,
    target: Labels | TargetKind | None = None,
    generator: Generator | None = None,
    progress: Progress = silent,
) -> Repair:
    """Strike again, with finite surrogates for the derivatives; the outputs that judge are the model's own."""
    options: dict[str, Any] = {"target": target, "generator": generator, "progress": progress}
    return Repair(plain, strike(Repaired(model), data, plain.attack, plain.threat, **options))
