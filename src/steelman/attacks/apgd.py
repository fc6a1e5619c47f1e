"""APGD: Croce & Hein 2020, Reliable evaluation with an ensemble of diverse parameter-free attacks (arXiv:2003.01690).

In L1: Croce & Hein 2021, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers (arXiv:2103.01208).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steelman.attacks import Attack, Problem
from steelman.attacks.multi_targeted import Order, runs
from steelman.errors import UsageError
from steelman.losses import LossName
from steelman.progress import Stages, counted
from steelman.threats import L1, Ball
from steelman.types import Images, Labels, Mask, PerExample

RISES = 0.75  # a step is kept while more than this share of the moves raised the loss (rho of section 3.1)
MOMENTUM = 0.75  # weight of the new step against the one before (alpha of section 3)
SPARSE_START = 0.2  # the share of the pixels that L1 moves at first
SPARSE_SHRINK = 1.5  # the share is the best point's, divided by this; steps shrink by it, too
SPARSE_STEADY = 0.95  # the best point's share fell less than that: the step shrinks
SPARSE_SMALLEST = 10.0  # to no less than the radius divided by this


@dataclass(frozen=True, repr=False)
class APGD(Attack):
    """Projected ascent with momentum whose step halves, image by image, when the loss no longer rises.

    The step begins at twice the radius (once, in L1) and every halving goes on from the best point. With `targets`
    (APGD-T) the loss pulls towards each of the likeliest other classes in turn, in the `order` of their logits or of
    their estimated distance (MALT), no more than there are; a problem with a target of its own is searched towards it.
    In L1 steps go to as many pixels as the best point so far suggests, and with `warm_up` the first 30 % of the steps
    search in three times, the next 30 % in two times the radius: what they show outside the threat counts as rejected.

    Raises:
        UsageError: fewer than one step or restart, or a negative number of targets.
    """

    steps: int = 100
    restarts: int = 1
    loss: LossName = "cross_entropy"
    targets: int = 0
    order: Order = "logits"
    random_start: bool = True
    warm_up: bool = True

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    climbs: ClassVar[bool] = False
    paper: ClassVar[str] = "Croce & Hein 2020, arXiv:2003.01690"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.restarts < 1 or self.targets < 0:
            raise UsageError(f"{self!r}: expected at least one step and one restart, and targets >= 0.")

    def strays(self, threat: Ball) -> bool:
        """Only in L1, where the first balls are wider."""
        return self._warms_up(threat)

    def search(self, problem: Problem) -> None:  # noqa: D102
        for rest, _, toward, _ in runs(problem, self.targets, self.restarts, self.order):
            x, drawn = self._start(rest), self.random_start and self._warms_up(rest.threat)
            stages = Stages(rest.progress, len(self._phases(rest.threat)))
            for ball, steps in self._phases(rest.threat):
                rest.progress = stages.stage("")
                climb = self._climb(rest, ball, ball.project(x, rest.x), toward, steps, drawn)
                if rest.done:
                    break
                x, drawn = climb.best, True

    def cost(self) -> str:  # noqa: D102
        count = self.restarts * max(1, self.targets)
        gradients, forwards = self.steps * count * self.samples, count + (self.targets > 0)
        ranking = " and, for the order, 1 of each of the likeliest 100 classes" if self.order == "malt" else ""
        if self.samples > 1:
            return f"{gradients + count * self.samples} gradients{ranking}, {int(self.targets > 0)} forwards"
        return f"{gradients} gradients{ranking}, {forwards} forward{'s' * (forwards > 1)}"

    def _start(self, problem: Problem) -> Images:
        """A random point of the ball; in L1 a Gaussian one projected, which moves few pixels (Mind the box, B.1)."""
        threat, clean = problem.threat, problem.x
        if not self.random_start:
            return clean
        if not isinstance(threat, L1):
            return threat.sample(clean, problem.generator)
        ball = self._phases(threat)[0][0]
        return ball.project(clean + torch.empty_like(clean).normal_(generator=problem.generator), clean)

    def _warms_up(self, threat: Ball) -> bool:
        return self.warm_up and isinstance(threat, L1) and self.steps > 3

    def _phases(self, threat: Ball) -> list[tuple[Ball, int]]:
        """The balls to search one after the other, and the steps in each."""
        if not self._warms_up(threat):
            return [(threat, self.steps)]
        part = 3 * self.steps // 10
        rest = self.steps - 2 * part
        return [(threat.at(3 * threat.eps), part), (threat.at(2 * threat.eps), part), (threat, rest)]

    def _climb(
        self, problem: Problem, ball: Ball, start: Images, toward: Labels | None, steps: int, drawn: bool
    ) -> "_Climb":
        """Ascend from `start`; every evaluation gives the next gradient, but the last, which only judges."""
        value, grad = problem.value_and_grad(start, self.loss, toward=toward, coarse=True)
        climb: _Climb
        if isinstance(ball, L1):
            climb, checks = _SparseClimb(ball, problem.x, start, value, grad, drawn=drawn), _every(steps)
        else:
            climb, checks = _Climb(ball, problem.x, start, value, grad), set(checkpoints(steps))
        for step in counted(problem.progress, steps, first=1):
            if problem.done:
                break
            x = climb.move()
            if step < steps or problem.samples > 1:  # a random model is judged on as many samples to the end
                value, grad = problem.value_and_grad(x, self.loss, toward=toward, coarse=True)
            else:
                value = problem.value(x, self.loss, toward=toward)
            climb.see(value, grad)
            if step in checks:
                climb.check()
        return climb


def checkpoints(steps: int) -> list[int]:
    """The steps after which step sizes are looked at: ceil(p_j steps) for p = 0.22, 0.41, 0.57, ... (section 3.2).

    p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06), counted in percent so that no rounding shifts a checkpoint.
    """
    percent, gap = 22, 22
    found: list[int] = []
    while percent < 100:
        found.append(-(-percent * steps // 100))
        gap = max(gap - 3, 6)
        percent += gap
    return sorted(set(found))


def _every(steps: int) -> set[int]:
    """In L1 the checks come after each 4 % of the steps."""
    gap = max(1, 4 * steps // 100)
    return set(range(gap, steps + 1, gap))


class _Climb:
    """Where each image's ascent is, and the best point it came by. All state is per image."""

    def __init__(self, ball: Ball, clean: Images, start: Images, value: PerExample, grad: Images) -> None:
        self.ball, self.clean = ball, clean
        self.x, self.before, self.value, self.grad = start, start, value, grad
        self.best, self.best_value, self.best_grad = start.clone(), value.clone(), grad.clone()
        self.size = torch.full_like(value, 2 * ball.reach(clean))
        self.first = True
        self.rises, self.moves = torch.zeros_like(value), 0  # since the last checkpoint
        self.checked_value, self.halved = value.clone(), torch.ones_like(value, dtype=torch.bool)  # there

    def move(self) -> Images:
        """Step, project, and mix with the move before."""
        momentum = self.x - self.before
        x = self.ball.project(self.ball.ascend(self.x, self.grad, self.size), self.clean)
        if not self.first:
            mixed = self.x + MOMENTUM * (x - self.x) + (1 - MOMENTUM) * momentum
            x = self.ball.project(mixed, self.clean)
        self.first, self.before, self.x = False, self.x, x
        return x

    def see(self, value: PerExample, grad: Images) -> None:
        """Take in what the model says of the point moved to."""
        self.rises += value > self.value
        self.moves += 1
        self.value, self.grad = value, grad
        better = (value > self.best_value) | self.best_value.isnan()
        self.best_value = torch.where(better, value, self.best_value)
        rows = better.nonzero().squeeze(1)
        self.best[rows], self.best_grad[rows] = self.x[rows], grad[rows]

    def check(self) -> None:
        """Halve the step where too few moves raised the loss, or where neither step nor best value changed."""
        stuck = ~self.halved & (self.checked_value >= self.best_value)
        halve = (self.rises <= RISES * self.moves) | stuck
        self.size = torch.where(halve, self.size / 2, self.size)
        self._restart(halve)
        self.rises, self.moves = torch.zeros_like(self.rises), 0
        self.checked_value, self.halved = self.best_value.clone(), halve

    def _restart(self, where: Mask) -> None:
        """Go on from the best point."""
        self.x = torch.where(_column(where), self.best, self.x)
        self.grad = torch.where(_column(where), self.best_grad, self.grad)


class _SparseClimb(_Climb):
    """The ascent in L1: equal steps in the pixels of largest gradient, as many as the best point suggests."""

    def __init__(
        self, ball: Ball, clean: Images, start: Images, value: PerExample, grad: Images, *, drawn: bool
    ) -> None:
        super().__init__(ball, clean, start, value, grad)
        self.pixels = clean[0].numel()
        self.largest = ball.reach(clean)
        self.size = torch.full_like(value, self.largest)
        self.changed = self._count(start) if drawn else torch.full_like(value, self.pixels)
        self.share = self.changed / self.pixels / SPARSE_SHRINK if drawn else torch.full_like(value, SPARSE_START)

    def move(self) -> Images:
        """Step and project; without momentum."""
        slope = self.grad.flatten(1).nan_to_num(0)
        size = slope.abs()
        # rounded, as with the reference's rounding up a single pixel is never reached
        count = (self.share * self.pixels).round().long().clamp(1, self.pixels)
        threshold = size.sort(1).values.gather(1, self.pixels - count[:, None])
        sign = torch.where(size >= threshold, slope.sign(), 0)
        length = self.size / sign.abs().sum(1).clamp_min(1)
        self.x = self.ball.project(self.x + (length[:, None] * sign).view_as(self.x), self.clean)
        return self.x

    def check(self) -> None:
        """Start again with the full step where the best point has become sparser, else shrink the step."""
        changed = self._count(self.best)
        sparser = changed < SPARSE_STEADY * self.changed
        self.share, self.changed = changed / self.pixels / SPARSE_SHRINK, changed
        self.size = torch.where(sparser, self.largest, self.size / SPARSE_SHRINK)
        self.size = self.size.clamp(self.largest / SPARSE_SMALLEST, self.largest)
        self._restart(sparser)

    def _count(self, x: Images) -> Tensor:
        return (x != self.clean).flatten(1).sum(1).to(self.value.dtype)


def _column(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)
