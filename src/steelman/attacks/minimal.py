"""What the minimal-norm attacks share: the nearest wrong candidate of each image, its radius, its last shrinking."""

import math

import torch
from torch import Tensor

from steelman.attacks.problem import Problem
from steelman.losses import Loss
from steelman.types import Images, Mask, PerExample

FARTHEST = 1e6  # no radius is larger, in any norm: without an end 250 steps of growth are beyond float32


class Nearby:
    """The nearest wrong candidate that a search has evaluated, image by image, whether the threat allows it or not.

    A candidate that is wrong but too far away is no success, yet it tells a search where to go on.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.x_adv = problem.x.clone()
        self.distance = torch.full((len(problem.x),), math.inf, device=problem.x.device)

    @property
    def found(self) -> Mask:
        """Where a wrong candidate is known."""
        return self.distance.isfinite()

    def note(self, x_adv: Images) -> Mask:
        """Remember the candidates evaluated last where they are nearer; returns which of them are wrong."""
        problem = self.problem
        wrong = problem.margin > 0
        distance = problem.threat.distance(x_adv, problem.x)
        better = wrong & problem.active & (distance < self.distance)
        self.distance = torch.where(better, distance, self.distance)
        self.x_adv = torch.where(column(better), x_adv, self.x_adv)
        return wrong

    def polish(self, halvings: int, width: float = 0.1) -> None:
        """Shrink each nearest candidate's radius by up to `width` of it, by bisection; costs `halvings` forwards.

        The points between are projections onto smaller balls (FMN's mid-points, Pintor et al. 2021, appendix): for
        L-inf and L1 they lie nearer to the boundary than those of a straight line.
        """
        problem, threat = self.problem, self.problem.threat
        start, known = self.x_adv, self.found
        high = torch.where(known, self.distance, 0)
        low = (1 - width) * high
        for _ in range(halvings):
            if not bool((known & problem.active).any()):
                return
            middle = (low + high) / 2
            candidate = threat.project(start, problem.x, middle)
            problem.show(candidate)
            wrong = self.note(candidate)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)


class Radius:
    """Each image's radius: it grows while the candidates on it hold and shrinks once they are wrong.

    The first changes are by `growth`, halved whenever the image crosses the boundary, until they are the annealed
    `gamma`: where gradients are masked near the image, a search that comes from far outside finds the way in.
    """

    def __init__(self, first: PerExample, growth: float) -> None:
        self.now = first
        self._pace = torch.full_like(first, growth)
        self._before = torch.zeros_like(first, dtype=torch.bool)

    def update(self, wrong: Mask, nearest: PerExample, gamma: float) -> None:
        """Move on after a look at each image; a wrong one never lies further out than its nearest."""
        self._pace = torch.where(wrong != self._before, self._pace / 2, self._pace)
        self._before = wrong
        pace = self._pace.clamp_min(gamma)
        grown = (self.now * (1 + pace)).clamp_max(FARTHEST)
        self.now = torch.where(wrong, torch.minimum(self.now, nearest) * (1 - pace), grown)


def evaluated(problem: Problem, rows: Mask, x: Images, loss: Loss) -> tuple[PerExample, Images]:
    """Losses and gradients of some images' candidates; 0 for the others, which cost nothing."""
    rows = rows & problem.active
    if bool(rows.all()):
        return problem.value_and_grad(x, loss)
    values, grads = torch.zeros(len(x), device=x.device), torch.zeros_like(x)
    where = rows.nonzero().squeeze(1)
    if len(where):
        with problem.part(where) as some:
            values[where], grads[where] = some.value_and_grad(x[where], loss)
    return values, grads


def annealed(first: float, last: float, progress: float) -> float:
    """From `first` to `last` along half a cosine, with progress from 0 to 1 (arXiv:1608.03983)."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def column(values: Tensor) -> Tensor:
    """One value an image, shaped to be multiplied with images."""
    return values.view(-1, 1, 1, 1)


class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) with a state of its own for each image; `step` gives the change."""

    def __init__(self, like: Images, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self._first, self._second = torch.zeros_like(like), torch.zeros_like(like)
        self._betas, self._count = betas, 0

    def step(self, grad: Images) -> Images:
        """The direction of ascent for this gradient, about 1 in size where gradients agree over time."""
        first, second = self._betas
        self._count += 1
        self._first = first * self._first + (1 - first) * grad
        self._second = second * self._second + (1 - second) * grad.square()
        return self._first / (1 - first**self._count) / self.scale()

    def scale(self) -> Images:
        """The root mean square of each value's gradients, by which steps are divided."""
        return (self._second / (1 - self._betas[1] ** self._count)).sqrt() + 1e-8


class Constants:
    """Each image's weight of the loss against the norm: multiplied by `factor` until it is enough, then bisected."""

    def __init__(self, first: PerExample, factor: float = 10.0) -> None:
        self.now, self._factor = first, factor
        self._low, self._high = torch.zeros_like(first), torch.full_like(first, math.inf)

    def update(self, enough: Mask) -> None:
        """Move on after a search with the present weights; bisection is of their logarithms."""
        self._high = torch.where(enough, torch.minimum(self._high, self.now), self._high)
        self._low = torch.where(enough, self._low, torch.maximum(self._low, self.now))
        lower, upper = self._low == 0, self._high.isinf()
        middle = (self._low * self._high).sqrt()
        self.now = torch.where(upper, self._low * self._factor, torch.where(lower, self._high / self._factor, middle))
