"""Attack B of maxdinech/mnist-attack (github.com, 2017): a loss that chooses itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from steelman.attacks import Nearest, Problem
from steelman.attacks.confidence import LOSS, On, check, confidence, course, length, order, placed, pulled_back, slope
from steelman.attacks.minimal import Adam, Nearby, column
from steelman.errors import UsageError
from steelman.threats import Ball
from steelman.types import Images, Labels, PerExample


@dataclass(frozen=True, repr=False)
class AutoLoss(Nearest):
    """Adam on |r|_p where the confidence is at most `low`, on both where it is at most `high`, else on the confidence.

    `low` and `high` None are the published 0.2 and 0.4 with on="softmax", and 0.5 both with on="logits", where the
    confidence is the label's against its strongest rival and its logarithm is followed. `p` None is the threat's norm.
    `halvings` forwards at the end bisect the radius of what was found; the published attack has none.

    Raises:
        UsageError: fewer than one step, negative halvings, a learning rate, p or thresholds out of range.
    """

    p: float | None = None
    on: On = "logits"
    steps: int = 500
    learning_rate: float = 0.001
    low: float | None = None
    high: float | None = None
    halvings: int = 6

    norms: ClassVar[tuple[str, ...]] = ("L2", "Linf", "L1")
    paper: ClassVar[str] = "maxdinech/mnist-attack, 2017"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, p=self.p, steps=self.steps, halvings=self.halvings, learning_rate=self.learning_rate)
        if not 0 <= self.thresholds[0] <= self.thresholds[1] <= 1:
            raise UsageError(f"{self!r}: expected 0 <= low <= high <= 1.")

    @property
    def thresholds(self) -> tuple[float, float]:
        """The confidences between which the norm joins the loss."""
        low, high = (0.2, 0.4) if self.on == "softmax" else (0.5, 0.5)
        return low if self.low is None else self.low, high if self.high is None else self.high

    def search(self, problem: Problem) -> None:  # noqa: D102
        near = Nearby(problem)
        for _ in self.walk(problem, near):
            pass
        near.polish(self.halvings, width=0.5)

    def walk(self, problem: Problem, near: Nearby) -> Iterator[tuple[PerExample, PerExample]]:
        """One step after the other; yields |r|_p and the confidence of each image."""
        p, (low, high) = order(self.p, problem.threat), self.thresholds
        r, adam = torch.zeros_like(problem.x), Adam(problem.x)
        for _ in range(self.steps):
            if problem.done:
                return
            x = placed(problem, r)
            value, grad = problem.value_and_grad(x, LOSS[self.on])
            near.note(x)
            norm, sure = length(r, p), confidence(value, self.on)
            yield norm, sure
            ascent = pulled_back(problem, r, lambda change: change, grad) * column(sure > low)
            shorter = slope(r, lambda change: length(change, p)) * column(sure <= high)
            r = (r + self.learning_rate * adam.step(ascent - shorter)).clamp(-1, 1)
        problem.show(placed(problem, r))
        near.note(placed(problem, r))

    def trace(self, model: nn.Module, x: Images, y: Labels, threat: Ball) -> tuple[Tensor, Tensor]:
        """The course of |r|_p and of the confidence, each (steps, b)."""
        return course(self.walk, model, x, y, threat)

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps} gradients, {1 + self.halvings} forwards"
