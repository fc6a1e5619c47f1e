"""FMN: Pintor et al. 2021, Fast minimum-norm attacks through adaptive norm constraints (arXiv:2102.12827)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from steelman.attacks import Nearest, Problem
from steelman.attacks.minimal import Nearby, Radius, annealed
from steelman.errors import UsageError
from steelman.losses import LossName
from steelman.progress import counted
from steelman.threats import L0, L1
from steelman.types import Images, PerExample


@dataclass(frozen=True, repr=False)
class FMN(Nearest):
    """Steps of steepest ascent inside a ball whose radius shrinks when the last point was wrong and else grows.

    The first radius is where the boundary would be if the loss were linear, between 1/100 and 1/3 of the longest
    change. The radius moves as in `DDN`: without that a masked gradient at the start leads far away, and back by 5 % a
    step only. `step_size` is a fraction of the radius, annealed to a hundredth of it; None is 0.3 in L1, else 1.

    Raises:
        UsageError: fewer than one step, or a step or change of radius out of range.
    """

    steps: int = 100
    step_size: float | None = None
    gamma: float = 0.05
    growth: float = 0.5
    loss: LossName = "margin"
    halvings: int = 6

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1", "L0")
    paper: ClassVar[str] = "Pintor et al. 2021, arXiv:2102.12827"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.halvings < 0:
            raise UsageError(f"{self!r}: expected at least one step, and halvings of 0 or more.")
        if not ((self.step_size is None or self.step_size > 0) and 0 < self.gamma < 1 and 0 <= self.growth < 1):
            raise UsageError(f"{self!r}: expected step_size > 0 or None, 0 < gamma < 1 and 0 <= growth < 1.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        near = Nearby(problem)
        self.approach(problem, near)
        near.polish(self.halvings)

    def approach(self, problem: Problem, near: Nearby) -> None:
        """The search without its last bisection: other attacks start from the nearest wrong point that it finds."""
        threat, clean = problem.threat, problem.x
        radius, x = Radius(torch.zeros_like(near.distance), self.growth), clean
        first = (0.3 if isinstance(threat, L1) else 1.0) if self.step_size is None else self.step_size
        for i in counted(problem.progress, self.steps):
            if problem.done:
                return
            _, grad = problem.value_and_grad(x, self.loss)
            wrong = near.note(x)
            if i:
                radius.update(wrong, near.distance, annealed(self.gamma, self.gamma / 50, i / self.steps))
            else:
                radius.now = _first(problem, threat.dual(grad))
            size = annealed(first, first / 100, i / self.steps) * radius.now
            x = threat.project(threat.ascend(x, grad, size), clean, radius.now)
        problem.show(x)
        near.note(x)

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps} gradients, {1 + self.halvings} forwards"


def approached(problem: Problem, near: Nearby, steps: int) -> Images:
    """The nearest wrong point of a short search with FMN, else (and with 0 steps) the image itself."""
    if steps:
        FMN(steps=steps).approach(problem, near)
    return near.x_adv


def _first(problem: Problem, slope: PerExample) -> PerExample:
    """The distance to the linearised boundary, within bounds that a dead or masked gradient cannot pass."""
    shape = problem.x.shape
    largest = problem.threat.largest((int(shape[1]), int(shape[2]), int(shape[3])))
    least = 1.0 if isinstance(problem.threat, L0) else largest / 100
    distance = problem.margin.abs() / slope.clamp_min(torch.finfo(slope.dtype).tiny)
    return distance.nan_to_num(largest).clamp(least, largest / 3)
