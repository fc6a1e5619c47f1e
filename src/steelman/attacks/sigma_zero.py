"""Sigma-zero: Cina et al. 2024, gradient-based optimization of l0-norm adversarial examples (arXiv:2402.01879)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steelman.attacks import Nearest, Problem
from steelman.attacks.minimal import Adam, Nearby, annealed, column, evaluated
from steelman.errors import UsageError
from steelman.losses import margin
from steelman.types import Images, Labels, Logits, PerExample


@dataclass(frozen=True, repr=False)
class SigmaZero(Nearest):
    """Adam on margin plus a smooth count of changed values, dropping changes below a threshold that adapts.

    The count is the mean of d^2 / (d^2 + `sigma`). Its gradient and the margin's together are scaled to 1 in L-inf.
    The `threshold` rises by `pace` of the step after a wrong candidate and falls after one that holds; `step_size`
    is annealed to a tenth.
    Then `refinements` gradients drop changes one by one from the nearest wrong point, or exchange them.

    Raises:
        UsageError: fewer than one step, or a step, sigma, threshold or pace out of range.
    """

    steps: int = 200
    step_size: float = 1.0
    sigma: float = 0.001
    threshold: float = 0.3
    pace: float = 0.01
    refinements: int = 20

    norms: ClassVar[tuple[str, ...]] = ("L0",)
    paper: ClassVar[str] = "Cina et al. 2024, arXiv:2402.01879"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.refinements < 0:
            raise UsageError(f"{self!r}: expected at least one step, and refinements of 0 or more.")
        if not (self.step_size > 0 and self.sigma > 0 and 0 <= self.threshold <= 1 and self.pace > 0):
            raise UsageError(f"{self!r}: expected step_size, sigma and pace > 0, and a threshold between 0 and 1.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        clean, near, adam = problem.x, Nearby(problem), Adam(problem.x)
        change, size = torch.zeros_like(clean), self.step_size
        threshold = torch.full_like(near.distance, self.threshold)
        for i in range(self.steps):
            if problem.done:
                return
            x = clean + change
            _, grad = problem.value_and_grad(x, _hinge)
            wrong = near.note(x)
            change = (x + size * adam.step(self._ascent(grad, change))).clamp(0, 1) - clean
            size = annealed(self.step_size, self.step_size / 10, i / self.steps)
            threshold = (threshold + torch.where(wrong, size, -size) * self.pace).clamp(0, 1)
            change = torch.where(change.abs() < column(threshold), 0, change)
        problem.show(clean + change)
        near.note(clean + change)
        self._refine(problem, near)

    def _refine(self, problem: Problem, near: Nearby) -> None:
        """From the nearest wrong point on: drop the least useful change while wrong, else exchange it for a better."""
        clean, x, known = problem.x, near.x_adv, near.found
        for _ in range(self.refinements):
            if not bool((known & problem.active).any()):
                return
            _, grad = evaluated(problem, known, x, margin)
            wrong = near.note(x)
            gain = (grad.nan_to_num(0).abs() * torch.where(grad > 0, 1 - clean, clean)).flatten(1)
            changed = (x != clean).flatten(1)
            worst = torch.where(changed, gain, torch.inf).argmin(1, keepdim=True)
            best = torch.where(changed, -torch.inf, gain).argmax(1, keepdim=True)
            kept = torch.where(wrong[:, None], x.flatten(1), torch.where(changed, _end(grad), clean.flatten(1)))
            kept = kept.scatter(1, worst, clean.flatten(1).gather(1, worst))
            swapped = kept.scatter(1, best, _end(grad).gather(1, best))
            x = torch.where(wrong[:, None], kept, swapped).view_as(x)

    def _ascent(self, grad: Images, change: Images) -> Images:
        """The gradient of hinge minus mean smooth count, scaled so that its largest entry is 1."""
        square = change.square()
        count = 2 * change * self.sigma / (square + self.sigma).square() / change[0].numel()
        total = grad.nan_to_num(0) - count
        return total / column(total.flatten(1).abs().amax(1).clamp_min(1e-12))

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps + self.refinements} gradients, 1 forward"


def _end(grad: Images) -> Tensor:
    """The end of the pixel range that the gradient points to, each image as one row."""
    return (grad > 0).to(grad.dtype).flatten(1)


def _hinge(logits: Logits, y: Labels, target: Labels | None) -> PerExample:
    """The margin where it is below 0, else 0: a wrong candidate is wrong enough."""
    return margin(logits, y, target).clamp_max(0)
