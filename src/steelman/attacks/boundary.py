"""Boundary attack: Brendel, Rauber & Bethge 2018, Decision-based adversarial attacks (arXiv:1712.04248)."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from steelman.attacks import Nearest, Problem
from steelman.errors import UsageError
from steelman.progress import counted
from steelman.types import Images, Mask, PerExample

_HALVINGS = 10  # between the first wrong image and the original
_ADAPTATION, _WINDOW = 1.5, 20  # step sizes change by this factor, at most once in so many outcomes
_AROUND, _TOWARDS = (0.2, 0.5), (0.1, 0.25)  # shares of successes between which a step size is kept


@dataclass(frozen=True, repr=False)
class Boundary(Nearest):
    """A random walk along the decision boundary, ever nearer to the image, that asks for nothing but decisions.

    Each step goes sideways at equal distance and, if that is still wrong, towards the image; both are fractions of the
    distance and adapt to each image's own share of successes. The walk starts from noise (`find_start`): where none is
    wrong in `tries` images, or none reaches the target, the image has failed.

    Raises:
        UsageError: fewer than one step or try, or a step size that is not above 0.
    """

    steps: int = 5000
    tries: int = 50
    around: float = 0.01
    towards: float = 0.01

    norms: ClassVar[tuple[str, ...]] = ("L2",)
    needs: ClassVar[str] = "decisions"
    paper: ClassVar[str] = "Brendel et al. 2018, arXiv:1712.04248"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.tries < 1 or not self.around > 0 or not self.towards > 0:
            raise UsageError(f"{self!r}: expected at least one step and one try, and step sizes above 0.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        start, found = find_start(problem, self.tries)
        with problem.part(found.nonzero().squeeze(1)) as rest:
            rest.progress = problem.progress
            if not rest.done:
                self.walk(rest, approach(rest, start[found], _HALVINGS))

    def walk(self, problem: Problem, x: Images) -> None:
        """Steps from wrong images x on; each image keeps its own step sizes."""
        clean, threat = problem.x, problem.threat
        around, towards = _Size.of(self.around, clean), _Size.of(self.towards, clean)
        for _ in counted(problem.progress, self.steps):
            if problem.done:
                return
            side = sideways(x, clean, around.size, torch.empty_like(x).normal_(generator=problem.generator))
            side = side.clamp(0, 1) if threat.clip else side
            beside = problem.active & wrong(problem, side)
            distance = threat.distance(x, clean)
            nearer = threat.project(side, clean, radius=distance * (1 - towards.size).clamp_min(0))
            inside = wrong(problem, nearer, beside)
            around.count(problem.active, beside, _AROUND)
            towards.count(beside, inside, _TOWARDS)
            closer = inside & (threat.distance(nearer, clean) < distance)
            x = torch.where(closer.view(-1, 1, 1, 1), nearer, x)

    def cost(self) -> str:  # noqa: D102
        return f"{self.tries + _HALVINGS + 2 * self.steps} forwards"


@dataclass
class _Size:
    """A step size for each image, and how often it was tried and succeeded since it last changed."""

    size: PerExample
    tried: Tensor = field(init=False)
    hits: Tensor = field(init=False)

    @classmethod
    def of(cls, size: float, x: Images) -> "_Size":
        return cls(torch.full((len(x),), size, dtype=x.dtype, device=x.device))

    def __post_init__(self) -> None:
        self.tried, self.hits = torch.zeros_like(self.size), torch.zeros_like(self.size)

    def count(self, tried: Mask, hit: Mask, shares: tuple[float, float]) -> None:
        """Note an outcome of the images tried; longer steps where they succeed often, shorter where seldom."""
        self.tried += tried
        self.hits += hit
        full = self.tried >= _WINDOW
        share = self.hits / self.tried.clamp_min(1)
        self.size = torch.where(full & (share > shares[1]), self.size * _ADAPTATION, self.size)
        self.size = torch.where(full & (share < shares[0]), self.size / _ADAPTATION, self.size)
        self.tried, self.hits = torch.where(full, 0, self.tried), torch.where(full, 0, self.hits)


def sideways(x: Images, clean: Images, size: PerExample, noise: Images) -> Images:
    """Images moved at right angles to the way from clean by `size` of its length, and back to that length."""
    way = (x - clean).flatten(1)
    distance = torch.linalg.vector_norm(way, dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    unit, flat = way / distance, noise.flatten(1)
    flat = flat - (flat * unit).sum(1, keepdim=True) * unit
    flat = flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    moved = unit + size[:, None] * flat
    return clean + (distance * moved / torch.linalg.vector_norm(moved, dim=1, keepdim=True)).view_as(x)


def wrong(problem: Problem, x_adv: Images, asked: Mask | None = None) -> Mask:
    """The decision on each candidate: whether it is wrong, or reaches the target; False where it is not asked for.

    Images that are finished are never asked for.
    """
    if asked is None:
        asked = problem.active
        problem.show(x_adv)
        return asked & (problem.margin > 0)
    asked = asked & problem.active
    rows, answer = asked.nonzero().squeeze(1), torch.zeros_like(problem.active)
    with problem.part(rows) as part:
        part.show(x_adv[rows])
        answer[rows] = part.margin > 0
    return answer


def find_start(problem: Problem, tries: int) -> tuple[Images, Mask]:
    """A wrong image for each image, and where one was found among `tries`; 0 elsewhere.

    Without a target uniform noise is blended in more and more, the last image is noise alone. With one the candidates
    are noise around grey with rising contrast, up to twice that of uniform noise. No more than these is tried.
    """
    clean = problem.x
    start, found = torch.zeros_like(clean), torch.zeros_like(problem.active)
    for trial in range(1, tries + 1):
        noise, share = torch.rand(clean.shape, generator=problem.generator, device=clean.device), trial / tries
        if problem.target is None:
            candidate = (1 - share) * clean + share * noise
        else:
            candidate = (0.5 + 2 * share * (noise - 0.5)).clamp(0, 1)
        hit = wrong(problem, candidate, ~found)
        start, found = torch.where(hit.view(-1, 1, 1, 1), candidate, start), found | hit
    return start, found & problem.active


def approach(problem: Problem, x_adv: Images, halvings: int) -> Images:
    """The last wrong image found by bisection between each wrong x_adv and the original, along the threat's balls."""
    low, high = torch.zeros_like(problem.margin), problem.threat.distance(x_adv, problem.x)
    for _ in range(halvings):
        middle = (low + high) / 2
        hit = wrong(problem, problem.threat.project(x_adv, problem.x, radius=middle))
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    return problem.threat.project(x_adv, problem.x, radius=high)
