"""Shared by the transfer attacks: steps along a decaying sum of unit gradients (Dong et al. 2018, arXiv:1710.06081)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from steelman.attacks import Attack, Problem
from steelman.errors import UsageError
from steelman.losses import LossName
from steelman.progress import counted
from steelman.types import Images

Direction: TypeAlias = Callable[[Images, Images], Images]  # (candidate, momentum) -> the gradient to add


@dataclass(frozen=True, repr=False)
class Momentum(Attack):
    """Ascent in which each gradient counts by its direction alone; what gradient is taken is up to the subclass.

    `step_size` is a fraction of the radius; None takes 1 / steps, so that all steps together just reach the edge.

    Raises:
        UsageError: fewer than one step, or a negative step size or decay.
    """

    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    loss: LossName = "cross_entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or not self.decay >= 0 or (self.step_size is not None and not self.step_size > 0):
            raise UsageError(f"{self!r}: expected at least one step, a step size above 0 and a decay of 0 or more.")

    def search(self, problem: Problem) -> None:
        """Step along the momentum; show the last candidate, and those before where the subclass does."""
        threat, clean = problem.threat, problem.x
        step = (1 / self.steps if self.step_size is None else self.step_size) * threat.reach(clean)
        direction = self.direction(problem, step)
        x, momentum = clean, torch.zeros_like(clean)
        for _ in counted(problem.progress, self.steps):
            if problem.done:
                return
            momentum = self.decay * momentum + normalised(direction(x, momentum))
            x = threat.project(threat.ascend(x, momentum, step), clean)
        problem.show(x)

    def direction(self, problem: Problem, step: float) -> Direction:
        """How this search finds the gradient that each step adds to the momentum."""
        raise NotImplementedError

    def cost(self) -> str:
        """One gradient a step."""
        return f"{self.steps} gradients, 1 forward"


def normalised(grad: Images) -> Images:
    """Each image's gradient divided by the sum of its absolute values; 0 where it is 0 or NaN."""
    grad = grad.nan_to_num(0)
    largest = grad.flatten(1).abs().amax(1).clamp_min(torch.finfo(grad.dtype).tiny)
    scaled = grad / largest.view(-1, 1, 1, 1)  # no sum overflows or vanishes
    return scaled / scaled.flatten(1).abs().sum(1).clamp_min(1).view(-1, 1, 1, 1)
