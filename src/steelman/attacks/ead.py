"""EAD: Chen et al. 2018, Elastic-net attacks to deep neural networks via adversarial examples (arXiv:1709.04114)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from steelman.attacks import Nearest, Problem
from steelman.attacks.fmn import approached
from steelman.attacks.minimal import Constants, Nearby, column, evaluated
from steelman.errors import UsageError
from steelman.losses import margin
from steelman.progress import counted
from steelman.threats import L1
from steelman.types import Images, Labels, Logits, Mask, PerExample


@dataclass(frozen=True, repr=False)
class EAD(Nearest):
    """Accelerated shrinkage (FISTA) on |d|_2^2 + beta |d|_1 - c min(margin, confidence), with a search for c.

    `beta` None is 5 in L1 and 0.05 in L2; the nearest wrong point in the threat's norm counts. The gradient is taken
    at the extrapolated point, cut to the pixel range, and this point is the candidate: one pass a step, where the
    published code takes two. `learning_rate` falls linearly to 0. Starts, searches and constants are those of
    `CarliniWagner`.

    Raises:
        UsageError: fewer than one step or search, or a learning rate, beta, constant or confidence out of range.
    """

    steps: int = 60
    searches: int = 3
    learning_rate: float = 0.01
    beta: float | None = None
    constant: float | None = None
    confidence: float = 0.0
    start_steps: int = 50
    halvings: int = 6

    norms: ClassVar[tuple[str, ...]] = ("L1", "L2")
    paper: ClassVar[str] = "Chen et al. 2018, arXiv:1709.04114"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.searches < 1 or min(self.start_steps, self.halvings) < 0:
            raise UsageError(f"{self!r}: expected at least one step and one search, the other counts of 0 or more.")
        if not (self.learning_rate > 0 and self.confidence >= 0 and (self.beta is None or self.beta >= 0)):
            raise UsageError(f"{self!r}: expected learning_rate > 0, confidence >= 0 and beta >= 0 or None.")
        if self.constant is not None and not self.constant > 0:
            raise UsageError(f"{self!r}: expected a constant > 0 or None.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        near = Nearby(problem)
        beta = self.beta if self.beta is not None else (5.0 if isinstance(problem.threat, L1) else 0.05)
        start = approached(problem, near, self.start_steps)
        constants = Constants(self._first(problem, near, beta, start))
        for _ in counted(problem.progress, self.searches):
            if problem.done:
                return
            enough, last = self._descend(problem, near, constants.now, beta, start)
            constants.update(enough)
            start = torch.where(column(near.found), near.x_adv, last)
        near.polish(self.halvings)

    def _first(self, problem: Problem, near: Nearby, beta: float, start: Images) -> PerExample:
        """The constant at which the largest pull of the loss is the resistance of a value changed by 1."""
        if self.constant is not None:
            return torch.full_like(near.distance, self.constant)
        _, grad = problem.value_and_grad(start, margin)
        near.note(start)
        return ((beta + 2) / grad.flatten(1).abs().amax(1)).nan_to_num(1.0, 1e6).clamp(1e-6, 1e6)

    def _descend(
        self, problem: Problem, near: Nearby, constant: PerExample, beta: float, start: Images
    ) -> tuple[Mask, Images]:
        """One search: for which images the constant was enough, and where each one ended."""
        clean, clip = problem.x, problem.threat.clip
        x = before = start
        enough = torch.zeros_like(near.found)
        for i in range(self.steps):
            _, grad = evaluated(problem, problem.active, x, self._hinge)
            near.note(x)
            enough |= (problem.margin > 0) & (problem.margin >= self.confidence)
            rate = self.learning_rate * (1 - i / self.steps)
            change = x - clean + rate * (column(constant) * grad.nan_to_num(0) - 2 * (x - clean))
            after = clean + change.sign() * (change.abs() - rate * beta).clamp_min(0)
            after = after.clamp(0, 1) if clip else after
            x, before = after + i / (i + 3) * (after - before), after
            x = x.clamp(0, 1) if clip else x
        return enough, before

    def _hinge(self, logits: Logits, y: Labels, target: Labels | None) -> PerExample:
        return margin(logits, y, target).clamp_max(self.confidence)

    def cost(self) -> str:  # noqa: D102
        gradients = self.start_steps + self.steps * self.searches + (self.constant is None)
        return f"{gradients} gradients, {self.halvings + (self.start_steps > 0)} forwards"
