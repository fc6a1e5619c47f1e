"""Carlini & Wagner 2017, Towards evaluating the robustness of neural networks (arXiv:1608.04644): their L2 attack."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from steelman.attacks import Nearest, Problem
from steelman.attacks.fmn import approached
from steelman.attacks.minimal import Adam, Constants, Nearby, annealed, column, evaluated
from steelman.errors import UsageError
from steelman.losses import margin
from steelman.progress import counted
from steelman.types import Images, Labels, Logits, Mask, PerExample

ENOUGH = 4.0  # times the constant that holds a found point: with less the search goes inside and stays there


@dataclass(frozen=True, repr=False)
class CarliniWagner(Nearest):
    """Adam on |change|^2 - c min(margin, confidence), with a search for the least c that is enough, image by image.

    Pixels are clipped after each step: the published change of variables, tanh, is infinite at 0 and 1 and so slow
    near them that black pixels hardly move. `start_steps` steps of FMN find the first start (0: the image itself); each
    of the `searches` has `steps` steps and starts from the nearest wrong point known. `constant` is the first c; None
    takes the one at which both terms pull equally at the start, four times as much where FMN has found one.
    `learning_rate` is annealed to a hundredth in each search. An image whose loss has not fallen for a tenth of the
    steps ends its search. `halvings` forwards at the end bisect the radius of what was found, of which the nearest
    wrong point counts: `confidence` is where the search aims, not a demand.

    Raises:
        UsageError: fewer than one step or search, or a learning rate, constant or confidence out of range.
    """

    steps: int = 30
    searches: int = 2
    learning_rate: float = 0.02
    constant: float | None = None
    confidence: float = 0.0
    start_steps: int = 80
    halvings: int = 6

    norms: ClassVar[tuple[str, ...]] = ("L2",)
    paper: ClassVar[str] = "Carlini & Wagner 2017, arXiv:1608.04644"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.searches < 1 or min(self.start_steps, self.halvings) < 0:
            raise UsageError(f"{self!r}: expected at least one step and one search, the other counts of 0 or more.")
        if not (self.learning_rate > 0 and self.confidence >= 0 and (self.constant is None or self.constant > 0)):
            raise UsageError(f"{self!r}: expected learning_rate > 0, confidence >= 0 and constant > 0 or None.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        near = Nearby(problem)
        start = approached(problem, near, self.start_steps)
        constants = Constants(self._first(problem, near, start))
        for _ in counted(problem.progress, self.searches):
            if problem.done:
                return
            enough, last = self._descend(problem, near, constants.now, start)
            constants.update(enough)
            start = torch.where(column(near.found), near.x_adv, last)
        near.polish(self.halvings)

    def _first(self, problem: Problem, near: Nearby, start: Images) -> PerExample:
        """The constant at which both terms pull equally at the start or, seen from it, on the boundary."""
        if self.constant is not None:
            return torch.full_like(near.distance, self.constant)
        _, grad = problem.value_and_grad(start, margin)
        near.note(start)
        slope = problem.threat.dual(grad)
        pull = 2 * (problem.threat.distance(start, problem.x) + problem.margin.abs() / slope)
        more = torch.where(near.found, ENOUGH, 1.0)
        return (more * pull / slope).nan_to_num(1.0, 1e6).clamp(1e-6, 1e6)

    def _descend(self, problem: Problem, near: Nearby, constant: PerExample, start: Images) -> tuple[Mask, Images]:
        """One search: for which images the constant was enough, and where each one ended."""
        clean, clip = problem.x, problem.threat.clip
        x, adam, check = start, Adam(start), max(1, self.steps // 10)
        enough, running = torch.zeros_like(near.found), problem.active.clone()
        before = torch.full_like(constant, torch.inf)
        for i in range(self.steps):
            value, grad = evaluated(problem, running, x, self._hinge)
            near.note(x)
            enough |= running & (problem.margin > 0) & (problem.margin >= self.confidence)
            if i % check == check - 1:
                objective = (x - clean).square().flatten(1).sum(1) - constant * value
                running = running & (objective < 0.9999 * before)
                before = torch.where(running, objective, before)
            running = running & problem.active
            if not bool(running.any()):
                break
            rate = annealed(self.learning_rate, self.learning_rate / 100, i / self.steps)
            moved = x + rate * adam.step(column(constant) * grad.nan_to_num(0) - 2 * (x - clean))
            x = torch.where(column(running), moved.clamp(0, 1) if clip else moved, x)
        return enough, x

    def _hinge(self, logits: Logits, y: Labels, target: Labels | None) -> PerExample:
        return margin(logits, y, target).clamp_max(self.confidence)

    def cost(self) -> str:  # noqa: D102
        gradients = self.start_steps + self.steps * self.searches + (self.constant is None)
        return f"{gradients} gradients, {self.halvings + (self.start_steps > 0)} forwards"
