"""DDN: Rony et al. 2019, Decoupling direction and norm for efficient gradient-based L2 attacks (arXiv:1811.09600)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from steelman.attacks import Nearest, Problem
from steelman.attacks.minimal import Nearby, Radius, annealed, column
from steelman.errors import UsageError
from steelman.losses import LossName
from steelman.progress import counted
from steelman.types import Images, PerExample


@dataclass(frozen=True, repr=False)
class DDN(Nearest):
    """Steps along the unit gradient, each brought onto a sphere that shrinks when the last point was wrong, else grows.

    `radius` is the first sphere's and `step_size` a fraction of the current one, annealed to a hundredth. The radius
    changes by the factor 1 +- `growth`, halved at each crossing of the boundary, then by 1 +- `gamma`, annealed to a
    fiftieth: the published attack has gamma alone, and needs many steps where the distance is not about `radius`.
    `halvings` forwards at the end bisect the radius of what was found.

    Raises:
        UsageError: fewer than one step, or a radius, step or change of radius out of range.
    """

    steps: int = 100
    radius: float = 1.0
    step_size: float = 2.0
    gamma: float = 0.05
    growth: float = 0.5
    loss: LossName = "cross_entropy"
    halvings: int = 6

    norms: ClassVar[tuple[str, ...]] = ("L2",)
    paper: ClassVar[str] = "Rony et al. 2019, arXiv:1811.09600"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.halvings < 0:
            raise UsageError(f"{self!r}: expected at least one step, and halvings of 0 or more.")
        if not (self.radius > 0 and self.step_size > 0 and 0 < self.gamma < 1 and 0 <= self.growth < 1):
            raise UsageError(f"{self!r}: expected radius > 0, step_size > 0, 0 < gamma < 1 and 0 <= growth < 1.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        near, x = Nearby(problem), problem.x
        radius = Radius(torch.full_like(near.distance, self.radius), self.growth)
        for i in counted(problem.progress, self.steps):
            if problem.done:
                return
            _, grad = problem.value_and_grad(x, self.loss)
            wrong = near.note(x)
            if i:
                radius.update(wrong, near.distance, annealed(self.gamma, self.gamma / 50, i / self.steps))
            size = annealed(self.step_size, self.step_size / 100, i / self.steps) * radius.now
            x = _on_sphere(problem, problem.threat.ascend(x, grad, size), radius.now)
        problem.show(x)
        near.note(x)
        near.polish(self.halvings)

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps} gradients, {1 + self.halvings} forwards"


def _on_sphere(problem: Problem, x_adv: Images, radius: PerExample) -> Images:
    """The change, rescaled so that it is as long as the radius once it is cut by the pixel range, if that has room."""
    length = problem.threat.distance(x_adv, problem.x).clamp_min(torch.finfo(x_adv.dtype).tiny)
    far = column(1e3 * (1 + radius) / length.clamp_min(1e-12))
    return problem.threat.project(problem.x + far * (x_adv - problem.x), problem.x, radius)
