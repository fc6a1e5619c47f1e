"""Sigma-zero: Cina et al. 2024, gradient-based optimization of l0-norm adversarial examples (arXiv:2402.01879)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from steelman.attacks import Nearest, Problem
from steelman.attacks.minimal import Adam, Nearby, annealed, column, evaluated
from steelman.errors import UsageError
from steelman.losses import margin
from steelman.progress import counted
from steelman.types import Images, Labels, Logits, PerExample

BETAS = (0.8, 0.999)  # of Adam; at steps this long the published first one, 0.9, leaves more changes


@dataclass(frozen=True, repr=False)
class SigmaZero(Nearest):
    """Adam on margin plus a smooth count of changed values, dropping changes below a threshold that adapts.

    The count is the mean of d^2 / (d^2 + `sigma`). Its gradient and the margin's together are scaled to 1 in L-inf.
    The `threshold` rises by `pace` of the step after a wrong candidate and falls after one that holds; `step_size`
    is annealed to a tenth. After every `stretch` steps (0: never, as published) the search goes on from the nearest
    wrong point. At last up to `removals` forwards undo its changes one by one, the least useful first. The
    published step is 1, which leaves more changes on MNIST at as many evaluations.

    Raises:
        UsageError: fewer than one step, a negative count, or a step, sigma, threshold or pace out of range.
    """

    steps: int = 200
    step_size: float = 2.0
    sigma: float = 0.001
    threshold: float = 0.3
    pace: float = 0.01
    stretch: int = 15
    removals: int = 15

    norms: ClassVar[tuple[str, ...]] = ("L0",)
    paper: ClassVar[str] = "Cina et al. 2024, arXiv:2402.01879"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or min(self.stretch, self.removals) < 0:
            raise UsageError(f"{self!r}: expected at least one step, and stretch and removals of 0 or more.")
        if not (self.step_size > 0 and self.sigma > 0 and 0 <= self.threshold <= 1 and self.pace > 0):
            raise UsageError(f"{self!r}: expected step_size, sigma and pace > 0, and a threshold between 0 and 1.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        clean, near, adam = problem.x, Nearby(problem), Adam(problem.x, BETAS)
        change, size = torch.zeros_like(clean), self.step_size
        threshold = torch.full_like(near.distance, self.threshold)
        for i in counted(problem.progress, self.steps):
            if problem.done:
                return
            x = clean + change
            _, grad = problem.value_and_grad(x, _hinge)
            wrong = near.note(x)
            change = (x + size * adam.step(self._ascent(grad, change))).clamp(0, 1) - clean
            size = annealed(self.step_size, self.step_size / 10, i / self.steps)
            threshold = (threshold + torch.where(wrong, size, -size) * self.pace).clamp(0, 1)
            change = torch.where(change.abs() < column(threshold), 0, change)
            if self.stretch and i % self.stretch == self.stretch - 1:
                change = torch.where(column(near.found), near.x_adv - clean, change)
        problem.show(clean + change)
        near.note(clean + change)
        if self.removals:
            self._thin_out(problem, near)

    def _thin_out(self, problem: Problem, near: Nearby) -> None:
        """Undo the changes of the nearest wrong point one by one and keep what stays wrong.

        Their order is that of the margin which each brings, by the gradient there.
        """
        clean, known = problem.x.flatten(1), near.found
        _, grad = evaluated(problem, known, near.x_adv, margin)
        change = near.x_adv.flatten(1) - clean
        use = torch.where(change != 0, grad.flatten(1).nan_to_num(0) * change, torch.inf)
        order, count = use.argsort(dim=1, stable=True), (change != 0).sum(1)
        for k in range(min(self.removals, clean.shape[1])):
            rows = (known & problem.active & (k < count)).nonzero().squeeze(1)
            if not len(rows):
                return
            where, x = order[rows, k], near.x_adv.flatten(1).clone()
            x[rows, where] = clean[rows, where]
            with problem.part(rows) as rest:
                rest.show(x.view_as(problem.x)[rows])
            near.note(x.view_as(problem.x))

    def _ascent(self, grad: Images, change: Images) -> Images:
        """The gradient of hinge minus mean smooth count, scaled so that its largest entry is 1."""
        square = change.square()
        count = 2 * change * self.sigma / (square + self.sigma).square() / change[0].numel()
        total = grad.nan_to_num(0) - count
        return total / column(total.flatten(1).abs().amax(1).clamp_min(1e-12))

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps + (self.removals > 0)} gradients, {1 + self.removals} forwards"


def _hinge(logits: Logits, y: Labels, target: Labels | None) -> PerExample:
    """The margin where it is below 0, else 0: a wrong candidate is wrong enough."""
    return margin(logits, y, target).clamp_max(0)
