"""VMI-FGSM: Wang & He 2021, Enhancing transferability through variance tuning (arXiv:2103.15571)."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from steelman.attacks import Problem
from steelman.attacks._momentum import Direction, Momentum
from steelman.errors import UsageError
from steelman.types import Images


@dataclass(frozen=True, repr=False)
class VMIFGSM(Momentum):
    """MI-FGSM along the gradient plus how much that of the point before differed from its neighbourhood's mean.

    The mean is over `samples` points within `beta` radii of the threat's own kind of ball (algorithm 1). The neighbours
    are no candidates; the points themselves are judged.

    Raises:
        UsageError: fewer than one sample, a negative beta, or what MIFGSM raises.
    """

    beta: float = 1.5
    samples: int = field(default=20, kw_only=True)

    paper: ClassVar[str] = "Wang & He 2021, arXiv:2103.15571"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or not self.beta >= 0:
            raise UsageError(f"{self!r}: expected at least one sample and a beta of 0 or more.")

    def passes(self) -> int:
        """One: the mean over neighbours draws anew for each."""
        return 1

    def direction(self, problem: Problem, step: float) -> Direction:  # noqa: ARG002, D102
        around = replace(problem.threat, eps=self.beta * problem.threat.reach(problem.x), clip=False)
        before: tuple[Images, Images] | None = None  # the last point and its gradient

        def gradient(x: Images, _momentum: Images) -> Images:
            nonlocal before
            variance = torch.zeros_like(x)
            if before is not None:  # measured only now: after the last step no one would ask for it
                point, slope = before
                for _ in range(self.samples):
                    near = around.sample(point, problem.generator)  # drawn for finished images too: same stream
                    variance += problem.value_and_grad(near, self.loss, through=lambda seen: seen)[1] / self.samples
                variance -= slope
            _, grad = problem.value_and_grad(x, self.loss)
            before = x, grad
            return grad + variance

        return gradient

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps + (self.steps - 1) * self.samples} gradients, 1 forward"
