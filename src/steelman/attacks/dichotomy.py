"""Attack A of maxdinech/mnist-attack (github.com, 2017): Adam on a sphere whose radius is bisected."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from steelman.attacks import Nearest, Problem
from steelman.attacks.confidence import LOSS, On, check, length, order, placed, pulled_back
from steelman.attacks.minimal import Adam, Nearby, column, evaluated
from steelman.errors import UsageError
from steelman.progress import counted
from steelman.types import Images, Mask, PerExample


@dataclass(frozen=True, repr=False)
class Dichotomy(Nearest):
    """Adam on r, shown as x + N r / (1e-5 + |r|_p), until it is wrong; N is bisected `halvings` times, image by image.

    N lies between 0 and `upper`; None is the published 4 in L2 and for other p the norm of a change as large in each
    pixel, at most 1. `p` None is the threat's norm. With on="softmax" the loss is the label's confidence, as
    published, and stays where that is 1.0 in float32; with on="logits" it is the margin's, and for finite p each
    gradient is scaled to 1 in L-inf.

    Raises:
        UsageError: fewer than one step or halving, or a learning rate, p or upper end out of range.
    """

    p: float | None = None
    on: On = "logits"
    steps: int = 1000
    learning_rate: float = 0.005
    halvings: int = 12
    upper: float | None = None

    norms: ClassVar[tuple[str, ...]] = ("L2", "Linf", "L1")
    paper: ClassVar[str] = "maxdinech/mnist-attack, 2017"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, p=self.p, steps=self.steps, halvings=self.halvings, learning_rate=self.learning_rate)
        if self.halvings < 1 or not (self.upper is None or self.upper > 0):
            raise UsageError(f"{self!r}: expected at least one halving, and upper > 0 or None.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        p, near = order(self.p, problem.threat), Nearby(problem)
        size = problem.x[0].numel()
        upper = min(size ** (1 / p), 4 * size ** max(0.0, 1 / p - 0.5)) if self.upper is None else self.upper
        low = torch.zeros_like(near.distance)
        high = torch.full_like(low, upper)
        for _ in counted(problem.progress, self.halvings):
            if problem.done:
                return
            middle = (low + high) / 2
            reached = self._ascend(problem, near, middle, p)
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)

    def _ascend(self, problem: Problem, near: Nearby, radius: PerExample, p: float) -> Mask:
        """Which images become wrong on the sphere of their radius within the steps."""

        def place(r: Images) -> Images:
            return r * column(radius / (1e-5 + length(r, p)))

        r, adam = torch.zeros_like(problem.x), Adam(problem.x)
        reached = torch.zeros_like(near.found)
        for i in range(self.steps):
            running = problem.active & ~reached
            if not bool(running.any()):
                break
            x = placed(problem, place(r))
            _, grad = evaluated(problem, running, x, LOSS[self.on])
            reached |= running & near.note(torch.where(column(running), x, near.x_adv))
            if i < self.steps - 1:
                pulled = pulled_back(problem, r, place, grad)
                if self.on == "logits" and math.isfinite(p):  # r = 0 makes the first 1e5 times as long as the others
                    pulled = pulled / column(pulled.flatten(1).abs().amax(1).clamp_min(torch.finfo(pulled.dtype).tiny))
                r = (r + self.learning_rate * adam.step(pulled)).clamp(-1, 1)
        return reached

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps * self.halvings} gradients"
