"""PDPGD: Matyasko & Chau 2021, primal-dual proximal gradient descent adversarial attack (arXiv:2106.01538)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from steelman.attacks import Nearest, Problem
from steelman.attacks.fmn import approached
from steelman.attacks.minimal import Adam, Nearby
from steelman.errors import UsageError
from steelman.losses import margin
from steelman.progress import counted
from steelman.threats import L1, L2, Ball
from steelman.types import Images, Labels, Logits, PerExample

_RATIOS = (1e-6, 1e6)  # of the two weights


@dataclass(frozen=True, repr=False)
class PDPGD(Nearest):
    """A minimax game: the image descends on softplus(-margin) by Adam and shrinks its norm, the weight ascends.

    The shrinking is the norm's proximal operator in Adam's own metric, solved exactly. `ratio` is the first weight of
    the norm over that of the loss, None the one in balance at the start; its logarithm moves by `dual_rate` a step,
    down while the image holds and up when it is wrong, smoothed by `smoothing`. The step falls from `step_size` to a
    hundredth, the dual rate to a tenth. `start_steps` steps of FMN find the start; 0 starts at the image itself, as
    published. `halvings` forwards at the end bisect the radius of what was found.

    Raises:
        UsageError: fewer than one step, or a step, ratio, rate or smoothing out of range.
    """

    steps: int = 100
    step_size: float = 0.02
    ratio: float | None = None
    dual_rate: float = 0.1
    smoothing: float = 0.9
    start_steps: int = 50
    halvings: int = 6

    norms: ClassVar[tuple[str, ...]] = ("L2", "L1", "Linf")
    paper: ClassVar[str] = "Matyasko & Chau 2021, arXiv:2106.01538"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or min(self.start_steps, self.halvings) < 0:
            raise UsageError(f"{self!r}: expected at least one step, and start_steps and halvings of 0 or more.")
        if not (
            self.step_size > 0
            and (self.ratio is None or self.ratio > 0)
            and self.dual_rate > 0
            and 0 <= self.smoothing < 1
        ):
            raise UsageError(
                f"{self!r}: expected step_size, ratio (or None) and dual_rate > 0, and 0 <= smoothing < 1."
            )

    def search(self, problem: Problem) -> None:  # noqa: D102
        clean, near, adam = problem.x, Nearby(problem), Adam(problem.x)
        x = approached(problem, near, self.start_steps)
        log_weight = share = torch.zeros_like(near.distance)  # share of the loss; the norm has the rest
        for i in counted(problem.progress, self.steps):
            if problem.done:
                return
            _, grad = problem.value_and_grad(x, _softplus)
            if i == 0:
                log_weight = -self._log_ratio(problem, grad)
                share = log_weight.sigmoid()
            wrong, done = near.note(x), i / self.steps
            size = self.step_size * 0.01**done
            moved = x + size * adam.step(grad.nan_to_num(0))
            moved = moved.clamp(0, 1) if problem.threat.clip else moved
            weight = size * (1 - share) / share
            change = shrunk(problem.threat, moved - clean, adam.scale(), weight)
            x = (clean + change).clamp(0, 1) if problem.threat.clip else clean + change
            rate = self.dual_rate * (1 - 0.9 * done)
            log_weight = (log_weight + torch.where(wrong, -rate, rate)).clamp(*map(math.log, _RATIOS))
            share = self.smoothing * share + (1 - self.smoothing) * log_weight.sigmoid()
        problem.show(x)
        near.note(x)
        near.polish(self.halvings)

    def _log_ratio(self, problem: Problem, grad: Images) -> PerExample:
        """Of the first weights of norm and loss: given, or in balance where the search starts."""
        if self.ratio is None:
            return problem.threat.dual(grad).nan_to_num(1.0).clamp(*_RATIOS).log()
        return torch.full_like(problem.margin, math.log(self.ratio))

    def cost(self) -> str:  # noqa: D102
        forwards = 1 + self.halvings + (self.start_steps > 0)
        return f"{self.start_steps + self.steps} gradients, {forwards} forwards"


def shrunk(threat: Ball, change: Images, metric: Images, weight: PerExample) -> Images:
    """The z with the least sum of metric (z - change)^2 / 2 + weight |z|, in the threat's norm, image by image."""
    r, h, w = change.flatten(1), metric.flatten(1), weight[:, None]
    if isinstance(threat, L1):
        return (r.sign() * (r.abs() - w / h).clamp_min(0)).view_as(change)
    high = torch.linalg.vector_norm(r, ord=2 if isinstance(threat, L2) else math.inf, dim=1, keepdim=True)
    low, top = torch.zeros_like(high), high
    for _ in range(25):  # the norm t of z: by bisection, to 2^-25 of that of the change
        t = (low + top) / 2
        if isinstance(threat, L2):
            longer = torch.linalg.vector_norm(h * r / (h * t + w), dim=1, keepdim=True) > 1
        else:
            longer = (h * (r.abs() - t).clamp_min(0)).sum(1, keepdim=True) > w
        low, top = torch.where(longer, t, low), torch.where(longer, top, t)
    z = _scaled(r, h, w, top) if isinstance(threat, L2) else r.clamp(-top, top)
    return z.view_as(change)


def _scaled(r: Tensor, h: Tensor, w: Tensor, t: Tensor) -> Tensor:
    return torch.where(t > 0, h * r * t / (h * t + w).clamp_min(torch.finfo(r.dtype).tiny), 0)


def _softplus(logits: Logits, y: Labels, target: Labels | None) -> PerExample:
    return -F.softplus(-margin(logits, y, target))
