"""SPSA: Uesato et al. 2018, Adversarial risk and the dangers of evaluating against weak attacks (arXiv:1802.05666)."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from steelman.attacks import Attack, Problem
from steelman.errors import UsageError
from steelman.losses import LossName
from steelman.progress import counted
from steelman.types import Images

_FIRST_DECAY, _SECOND_DECAY = 0.9, 0.999  # Adam's


@dataclass(frozen=True, repr=False)
class SPSA(Attack):
    """Adam along gradients estimated from the loss alone, each from `samples` allowed images around the candidate.

    The images are drawn in pairs, delta to both sides in a random direction of signs; `samples` counts the images.
    `step_size` is a fraction of the radius, in L2 as if all pixels moved alike. The paper takes samples=8192.

    Raises:
        UsageError: fewer than one step, an odd number of samples, or a step size or delta that is not above 0.
    """

    steps: int = 100
    step_size: float = 0.1
    delta: float = 0.01
    loss: LossName = "margin"
    samples: int = field(default=128, kw_only=True)

    needs: ClassVar[str] = "scores"
    paper: ClassVar[str] = "Uesato et al. 2018, arXiv:1802.05666"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.samples < 2 or self.samples % 2:
            raise UsageError(f"{self!r}: expected at least one step and an even number of samples, 2 or more.")
        if not self.step_size > 0 or not self.delta > 0:
            raise UsageError(f"{self!r}: expected a step size and a delta above 0.")

    def passes(self) -> int:
        """One: the estimate is a mean over many passes as it is."""
        return 1

    def search(self, problem: Problem) -> None:  # noqa: D102
        threat, clean = problem.threat, problem.x
        channels, height, width = clean.shape[1:]
        rate = self.step_size * threat.reach(clean) / threat.largest((channels, height, width))
        x, first, second = clean, torch.zeros_like(clean), torch.zeros_like(clean)
        for step in counted(problem.progress, self.steps, first=1):
            grad = self.estimate(problem, x)
            if problem.done:
                return
            first = _FIRST_DECAY * first + (1 - _FIRST_DECAY) * grad
            second = _SECOND_DECAY * second + (1 - _SECOND_DECAY) * grad**2
            size = (second / (1 - _SECOND_DECAY**step)).sqrt() + torch.finfo(grad.dtype).tiny
            x = threat.project(x + rate * first / (1 - _FIRST_DECAY**step) / size, clean)
            problem.show(x)

    def estimate(self, problem: Problem, x: Images) -> Images:
        """The slope of the loss in each value, over pairs of allowed images on both sides of x.

        At the edge of the threat's set the projection shortens a pair's way, in each value by another amount: the slope
        is that of the regression on what did move. Where nothing is cut it is the paper's mean over pairs.
        """
        products, squares = torch.zeros_like(x), torch.zeros_like(x)
        for _ in range(self.samples // 2):
            signs = torch.empty_like(x).uniform_(-1, 1, generator=problem.generator).sign()
            above, below = (problem.threat.project(x + side * self.delta * signs, problem.x) for side in (1, -1))
            rise = problem.value(above, self.loss) - problem.value(below, self.loss)
            moved = above - below
            products += rise.view(-1, 1, 1, 1) * moved
            squares += moved**2
        return torch.where(squares > 0, products / squares.clamp_min(torch.finfo(x.dtype).tiny), 0).nan_to_num(0)

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps * (self.samples + 1)} forwards"
