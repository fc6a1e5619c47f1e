"""Bisect: the smallest radius at which a fixed-radius attack wins, by a dichotomy batched over images.

The dichotomy is that of the `resistance` study; the upper ends come from FMN (Pintor et al. 2021, arXiv:2102.12827),
the attack inside it climbs from output-diversified starts (Tashiro et al. 2020, arXiv:2003.06878).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from steelman.attacks import Nearest, Problem
from steelman.attacks.climb import diversified, step_sizes
from steelman.attacks.fmn import FMN
from steelman.attacks.minimal import Nearby, column
from steelman.errors import UsageError
from steelman.progress import counted
from steelman.types import Images, Mask, PerExample

BELOW = 0.95  # of a success: the lower end of its first bracket, and of one opened again
CLOSED = 0.01  # of the radius: a narrower bracket is opened again
WARM = 0.3  # size of the steps from a scaled success, as a share of those from a fresh start
FRESH = 4  # every so many rounds all images start afresh


@dataclass(frozen=True, repr=False)
class Bisect(Nearest):
    """For every image a bracket of radii: at the lower end the attack failed, at the upper one it won.

    `start` steps of FMN find the first upper ends. Each of `rounds` attacks all images at once, each at the middle of
    its own bracket, with `steps` steepest steps on the margin: from the nearest success scaled to the new radius, every
    fourth time from a diversified random point. An image that breaks waits for the others at no cost. A failed attack
    proves nothing, so a bracket that has closed is opened again below. `halvings` forwards shrink the best at the end.

    Raises:
        UsageError: fewer than one step or round, or a negative number of halvings.
    """

    start: int = 100
    steps: int = 12
    rounds: int = 12
    halvings: int = 8

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1", "L0")
    paper: ClassVar[str] = "Tashiro et al. 2020, arXiv:2003.06878"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.start, self.steps, self.rounds) < 1 or self.halvings < 0:
            raise UsageError(f"{self!r}: expected at least one step and one round, and halvings of 0 or more.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        near = Nearby(problem)
        FMN(steps=self.start).approach(problem, near)
        low = torch.where(near.found, BELOW * near.distance, 0)
        reach = problem.threat.reach(problem.x)
        for number in counted(problem.progress, self.rounds, first=1):
            if problem.done:
                return
            low = torch.where(low < (1 - CLOSED) * near.distance, low, BELOW * near.distance)
            radius = torch.where(near.found, (low + near.distance) / 2, reach)
            fresh = ~near.found if number % FRESH else torch.ones_like(near.found)
            wrong = self._attack(problem, near, radius, fresh)
            low = torch.where(wrong, low, torch.maximum(low, radius))
        near.polish(self.halvings)

    def _attack(self, problem: Problem, near: Nearby, radius: PerExample, fresh: Mask) -> Mask:
        """Which images break at their own radius; the nearest wrong candidates are noted."""
        threat, clean = problem.threat, problem.x
        x, wrong = self._starts(problem, near, radius, fresh), torch.zeros_like(fresh)
        pace = torch.where(fresh, 1.0, WARM) * radius
        for size in step_sizes(self.steps):
            rows = (problem.active & ~wrong).nonzero().squeeze(1)
            if len(rows) == 0:
                return wrong
            with problem.part(rows) as part:
                _, grad = part.value_and_grad(x[rows], "margin")
            near.note(x)  # images that wait stand where they were found wrong
            wrong[rows] = problem.margin[rows] > 0
            moved = threat.project(threat.ascend(x[rows], grad, size * pace[rows]), clean[rows], radius[rows])
            x[rows] = torch.where(column(wrong[rows]), x[rows], moved)
        rows = (problem.active & ~wrong).nonzero().squeeze(1)
        with problem.part(rows) as part:
            part.show(x[rows])
        near.note(x)
        wrong[rows] = problem.margin[rows] > 0
        return wrong

    def _starts(self, problem: Problem, near: Nearby, radius: PerExample, fresh: Mask) -> Images:
        """A diversified random point for the fresh, else the nearest wrong candidate brought into the radius."""
        x = problem.threat.project(near.x_adv, problem.x, radius)
        rows = (fresh & problem.active).nonzero().squeeze(1)
        if len(rows):
            with problem.part(rows) as part:
                x[rows] = diversified(part, radius[rows])
        return x

    def cost(self) -> str:  # noqa: D102
        gradients = self.start + self.rounds * self.steps + 2 * (self.rounds // FRESH)
        return f"{gradients} gradients, {1 + self.rounds + self.halvings} forwards at most"
