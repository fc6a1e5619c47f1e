"""What the attacks B and C of maxdinech/mnist-attack (2017) share: Adam on a mix of confidence and norm."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from steelman.attacks import Nearest, Problem
from steelman.attacks.confidence import LOSS, On, check, confidence, course, length, order, placed, pulled_back
from steelman.attacks.minimal import Adam, Nearby
from steelman.errors import UsageError
from steelman.progress import counted
from steelman.threats import Ball
from steelman.types import Images, Labels, PerExample


@dataclass(frozen=True, repr=False)
class Descent(Nearest):
    """A walk of Adam steps from the image itself; a subclass says where to, and what its thresholds mean.

    `low` and `high` None are the published thresholds with on="softmax", and 0.5 both with on="logits", where the
    confidence is the label's against its strongest rival and its logarithm is followed. `p` None is the threat's norm.
    `halvings` forwards at the end bisect the radius of what was found; the published attacks have none.

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
    published: ClassVar[tuple[float, float]]

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, p=self.p, steps=self.steps, halvings=self.halvings, learning_rate=self.learning_rate)
        if not 0 <= self.thresholds[0] <= self.thresholds[1] <= 1:
            raise UsageError(f"{self!r}: expected 0 <= low <= high <= 1.")

    @property
    def thresholds(self) -> tuple[float, float]:
        """The confidences between which the norm joins the loss."""
        low, high = self.published if self.on == "softmax" else (0.5, 0.5)
        return low if self.low is None else self.low, high if self.high is None else self.high

    def direction(self, r: Images, ascent: Images, sure: PerExample, p: float) -> Images:
        """Where to go from the change r, given the loss's gradient and each image's confidence."""
        raise NotImplementedError

    def limited(self, r: Images) -> Images:
        """The change after a step."""
        return r

    def search(self, problem: Problem) -> None:  # noqa: D102
        near = Nearby(problem)
        for _ in self.walk(problem, near):
            pass
        near.polish(self.halvings, width=0.5)

    def walk(self, problem: Problem, near: Nearby) -> Iterator[tuple[PerExample, PerExample]]:
        """One step after the other; yields |r|_p and the confidence of each image."""
        p = order(self.p, problem.threat)
        r, adam = torch.zeros_like(problem.x), Adam(problem.x)
        for _ in counted(problem.progress, self.steps):
            if problem.done:
                return
            x = placed(problem, r)
            value, grad = problem.value_and_grad(x, LOSS[self.on])
            near.note(x)
            norm, sure = length(r, p), confidence(value, self.on)
            yield norm, sure
            ascent = pulled_back(problem, r, lambda change: change, grad)
            r = self.limited(r + self.learning_rate * adam.step(self.direction(r, ascent, sure, p)))
        problem.show(placed(problem, r))
        near.note(placed(problem, r))

    def trace(self, model: nn.Module, x: Images, y: Labels, threat: Ball) -> tuple[Tensor, Tensor]:
        """The course of |r|_p and of the confidence, each (steps, b)."""
        return course(self.walk, model, x, y, threat)

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps} gradients, {1 + self.halvings} forwards"
