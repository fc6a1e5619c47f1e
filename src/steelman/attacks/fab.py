"""FAB: Croce & Hein 2020, a fast adaptive boundary attack for minimally distorted examples (arXiv:1907.02044)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steelman.attacks import Nearest, Problem
from steelman.attacks.multi_targeted import runs
from steelman.errors import UsageError
from steelman.losses import difference
from steelman.progress import counted
from steelman.threats import L1, Ball, Linf, room_towards
from steelman.types import Images, Mask, PerExample

GRADIENT_FLOATS = 2**25  # gradients of all classes held at a time: bounds the memory of the untargeted search

SAFETY = 1e-4  # the margin to end with, as a share of the original's: less could be undone by another rounding


@dataclass(frozen=True, repr=False)
class FAB(Nearest):
    """Projections onto the linearised boundary within the pixel range, drawn towards the original image.

    Each iterate mixes the projection of the point before (weight at least 1 - `alpha_max`) with that of the original,
    overshoots by `eta`, and from an adversarial point goes back to `beta` of the way. The boundary is that with each of
    the `targets` likeliest classes in turn (FAB-T), or with `targets=0` the nearest of all, at a gradient a class. The
    evaluation that judges a point also gives the next boundary, so that a step costs one forward and one backward;
    after an adversarial point it is that point's boundary. The first run starts from the original, further `restarts`
    within half the distance reached so far. The nearest success is drawn in by `line_search` secant steps at the end.

    Raises:
        UsageError: fewer than one step or restart, negative numbers, or alpha_max, beta outside [0, 1].
    """

    steps: int = 100
    restarts: int = 1
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    line_search: int = 3

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    paper: ClassVar[str] = "Croce & Hein 2020, arXiv:1907.02044"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.restarts < 1 or self.targets < 0 or self.line_search < 0:
            raise UsageError(f"{self!r}: expected at least one step and restart, targets and line_search >= 0.")
        if not (0 <= self.alpha_max <= 1 and 0 <= self.beta <= 1 and self.eta >= 1):
            raise UsageError(f"{self!r}: expected alpha_max and beta in [0, 1] and eta of at least 1.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        if problem.done:
            return
        if not self.targets or problem.target is not None:
            problem.show(problem.x)  # else the choice of targets does
        nearest = _Nearest(problem)
        clean: PerExample | None = None
        for rest, rows, toward, restart in runs(problem, self.targets, self.restarts, "logits"):
            clean = problem.margin.clone() if clean is None else clean
            part = nearest.part(rest, rows)
            start = rest.x if restart == 0 else _random_start(rest, part.distance)
            if self.targets or rest.target is not None:
                self._run(rest, toward, start, part)
            else:
                self._run_untargeted(rest, start, part)
            nearest.take(rows, part)
        rows = (problem.active & nearest.distance.isfinite()).nonzero().squeeze(1)
        if len(rows) and clean is not None:
            with problem.part(rows) as rest:
                self._search_line(rest, nearest.part(rest, rows), clean[rows])

    def cost(self) -> str:  # noqa: D102
        runs = self.restarts * max(1, self.targets)
        each = "" if self.targets else " of each other class"
        return f"{runs * self.steps} gradients{each}, {runs + self.line_search + 1} forwards"

    def _run_untargeted(self, problem: Problem, start: Images, nearest: "_Nearest") -> None:
        """The search along all classes at once, for as many images at a time as memory holds gradients."""
        num_others = problem.num_classes - 1
        size = max(1, GRADIENT_FLOATS // (num_others * start[0].numel()))
        shift = torch.arange(1, num_others + 1, device=start.device)[:, None]
        towards = (problem.y + shift) % (num_others + 1)
        for rows in torch.arange(len(start), device=start.device).split(size):
            with problem.part(rows) as rest:
                part = nearest.part(rest, rows)
                self._run(rest, towards[:, rows], start[rows], part)
            nearest.take(rows, part)

    def _run(self, problem: Problem, toward: Tensor | None, start: Images, nearest: "_Nearest") -> None:
        """Step by step onto the boundary seen from the point before."""
        x = start
        for _ in counted(problem.progress, self.steps):
            if problem.done:
                return
            gap, normal = _boundary(problem, x, toward)
            adversarial = problem.margin > 0
            nearest.see(x, adversarial)
            share = torch.where(adversarial, self.beta, 1.0).to(x.dtype).view(-1, 1, 1, 1)
            x = self._step(problem, x, problem.x + share * (x - problem.x), gap, normal)
        if not problem.done:
            problem.show(x)
            nearest.see(x, problem.margin > 0)

    def _step(self, problem: Problem, seen: Images, x: Images, gap: PerExample, normal: Images) -> Images:
        """The next iterate from x, with the boundary gap + normal . (z - seen) = 0."""
        clean, threat = problem.x, problem.threat
        points = torch.stack((x, clean))
        gaps = gap + torch.linalg.vecdot(normal.flatten(1), (points - seen).flatten(2))
        change = onto_hyperplane(threat, points, normal, gaps)
        own, original = (threat.length(one).clamp_min(1e-8) for one in change)
        alpha = (own / (own + original)).clamp_max(self.alpha_max).view(-1, 1, 1, 1)
        here, there = points.add_(change, alpha=self.eta)
        mixed = torch.lerp(here, there, alpha)
        return mixed.clamp(0, 1) if threat.clip else mixed

    def _search_line(self, problem: Problem, nearest: "_Nearest", clean: PerExample) -> None:
        """Secant steps between each image and its nearest success, kept where they are successes (section 3.3)."""
        inner, low, aim = problem.x, clean, -SAFETY * clean
        for _ in range(self.line_search):
            if problem.done:
                return
            high = nearest.margin
            weight = ((high - aim) / (high - low)).nan_to_num(0).clamp(0, 1).view(-1, 1, 1, 1)
            x = nearest.x + weight * (inner - nearest.x)
            problem.show(x)
            adversarial = problem.margin > 0
            nearest.see(x, adversarial)
            inner = torch.where(adversarial.view(-1, 1, 1, 1), inner, x)
            low = torch.where(adversarial, low, problem.margin)


class _Nearest:
    """Each image's nearest success, allowed or not, with its distance (inf without one) and margin."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.x = problem, problem.x.clone()
        self.distance = torch.full((len(problem.x),), math.inf, dtype=problem.x.dtype, device=problem.x.device)
        self.margin = torch.zeros_like(problem.margin)

    def part(self, problem: Problem, rows: Tensor) -> "_Nearest":
        """The same for some images alone."""
        part = _Nearest(problem)
        part.x, part.distance, part.margin = self.x[rows], self.distance[rows], self.margin[rows]
        return part

    def take(self, rows: Tensor, part: "_Nearest") -> None:
        """Copy back what a part found."""
        self.x[rows], self.distance[rows], self.margin[rows] = part.x, part.distance, part.margin

    def see(self, x: Images, adversarial: Mask) -> None:
        """Remember the adversarial candidates that are nearer than what was known."""
        distance = self.problem.threat.distance(x, self.problem.x)
        nearer = adversarial & (distance < self.distance)
        rows = nearer.nonzero().squeeze(1)
        self.x[rows], self.distance[rows], self.margin[rows] = x[rows], distance[rows], self.problem.margin[rows]


def onto_hyperplane(threat: Ball, x: Tensor, normal: Images, gap: Tensor) -> Tensor:
    """The smallest change d, in the threat's norm, with gap + normal . d = 0 and x + d in the pixel range.

    x may hold several points (..., b, c, h, w) for each normal, gap then is (..., b). Where the range does not reach
    the hyperplane, d goes as far towards it as it can. Without a range (clip=False) nothing limits d. A normal of 0
    gives no change. Section 3.1; solved exactly.
    """
    flat, slope = x.flatten(-3), normal.flatten(1).nan_to_num(0)
    largest = slope.abs().amax(1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    size = slope.abs() / largest
    distance = (gap.nan_to_num(0).abs() / largest.squeeze(1)).clamp_max(torch.finfo(slope.dtype).max)
    sign = slope.sign() * torch.where(gap < 0, 1.0, -1.0).to(slope.dtype)[..., None]
    if threat.clip:
        room = room_towards(sign * size.sign(), flat)
    else:
        room = torch.where(size > 0, math.inf, 0.0).expand_as(sign)
    if isinstance(threat, L1):
        moved = _fill(size, room, distance)
    else:
        moved = _spread(size, size.sign() if isinstance(threat, Linf) else size, room, distance)
    return (sign * moved).view_as(x)


def _spread(size: Tensor, pace: Tensor, room: Tensor, distance: Tensor) -> Tensor:
    """min(t pace, room) with the least t >= 0 at which size . min(t pace, room) = distance, row by row.

    The sum is concave and piecewise linear in t: Newton's method from the left needs no more rounds than there are
    values that reach their limit, and each row stops by itself. Written without masks, which torch computes slowly.
    """
    largest, tiny = torch.finfo(size.dtype).max, torch.finfo(size.dtype).tiny
    rate, gain = size * pace, size * room
    free = rate.sum(1).expand_as(distance)
    time = (distance / free.clamp_min(tiny)).clamp_max(largest)
    growing = (free > 0) & gain.sum(-1).isfinite()  # without a pixel range nothing reaches a limit
    while growing.any():
        moves = (room - time[..., None] * pace).sign_().clamp_min_(0)  # 1 where the limit is not reached, else 0
        free = torch.linalg.vecdot(moves, rate)
        spent = torch.linalg.vecdot(1 - moves, gain)
        reached = ((distance - spent).clamp_min(0) / free.clamp_min(tiny)).clamp_max(largest)
        growing &= (reached > time * (1 + 1e-6)) & (free > 0)
        time = torch.where(growing, reached, time)
    return torch.minimum(time[..., None] * pace, room)


def _fill(size: Tensor, room: Tensor, distance: Tensor) -> Tensor:
    """Spend on the values of largest size first, each up to its room, until size . d = distance, row by row."""
    ordered, order = size.sort(dim=1, descending=True, stable=True)
    order = order.expand_as(room)
    limit = room.gather(-1, order)
    gain = (ordered * limit).nan_to_num(0)
    before = gain.cumsum(-1) - gain if bool(gain.isfinite().all()) else _before(gain)
    missing = (distance[..., None] - before).clamp_min(0)
    spent = torch.minimum(missing / ordered.clamp_min(torch.finfo(size.dtype).tiny), limit)
    return torch.zeros_like(spent).scatter_(-1, order, spent)


def _before(gain: Tensor) -> Tensor:
    """The sum of all gains further left, some of them infinite."""
    return torch.nn.functional.pad(gain.cumsum(-1)[..., :-1], (1, 0))


def _boundary(problem: Problem, x: Images, toward: Tensor | None) -> tuple[PerExample, Images]:
    """The function that is 0 on the boundary, below 0 before it, at x, and its gradient: of several the nearest's."""
    if toward is None:
        return problem.value_and_grad(x, "margin")
    if toward.ndim == 1:
        return problem.value_and_grad(x, difference, toward=toward)
    values, grads = problem.values_and_grads(x, difference, toward)
    slopes = torch.stack([problem.threat.dual(grad) for grad in grads])
    nearest = (values.abs() / slopes.clamp_min(1e-12)).argmin(0)
    column = torch.arange(len(x), device=x.device)
    return values[nearest, column], grads[nearest, column]


def _random_start(problem: Problem, distance: PerExample) -> Images:
    """A point at half of the nearest success's distance, or of the radius where that is less (section 3.2)."""
    clean, threat = problem.x, problem.threat
    noise = torch.empty_like(clean)
    if isinstance(threat, Linf):
        noise.uniform_(-1, 1, generator=problem.generator)
    else:
        noise.normal_(generator=problem.generator)
    length = threat.length(noise).clamp_min(torch.finfo(noise.dtype).tiny)
    radius = distance.clamp_max(threat.reach(clean)) / 2
    x = clean + (radius / length).view(-1, 1, 1, 1) * noise
    return x.clamp(0, 1) if threat.clip else x
