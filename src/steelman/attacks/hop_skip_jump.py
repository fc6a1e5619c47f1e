"""HopSkipJumpAttack: Chen, Jordan & Wainwright 2020, a query-efficient decision-based attack (arXiv:1904.02144)."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from steelman.attacks import Nearest, Problem
from steelman.attacks.boundary import approach, find_start, wrong
from steelman.errors import UsageError
from steelman.progress import counted
from steelman.threats import Linf
from steelman.types import Images, PerExample

_MOST_HALVINGS = 20  # of a bracket, or of a step: float32 tells no more apart
_LEAST_CHANGE = 2.0**-20  # of a value around 1, below which float32 rounds it away
_FIRST_PROBE = 0.1  # how far the first estimate probes, in the Euclidean norm


@dataclass(frozen=True, repr=False)
class HopSkipJump(Nearest):
    """Estimates the boundary's normal from decisions nearby, jumps along it, and returns to the boundary by bisection.

    Step t asks for `samples` * sqrt(t) decisions, at most `most_samples`, from probes `gamma` / number of values of the
    distance away (in the first step 0.1). The search starts from noise (`find_start`): where none is wrong in `tries`
    images, or none reaches the target, the image has failed.

    Raises:
        UsageError: fewer than one step, sample or try, or a gamma that is not above 0.
    """

    steps: int = 64
    most_samples: int = 10000
    gamma: float = 1.0
    tries: int = 50
    samples: int = field(default=100, kw_only=True)

    norms: ClassVar[tuple[str, ...]] = ("L2", "Linf")
    needs: ClassVar[str] = "decisions"
    paper: ClassVar[str] = "Chen et al. 2020, arXiv:1904.02144"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.steps, self.samples, self.most_samples, self.tries) < 1 or not self.gamma > 0:
            raise UsageError(f"{self!r}: expected at least one step, sample and try, and a gamma above 0.")

    def passes(self) -> int:
        """One: the estimate is a mean over many decisions as it is."""
        return 1

    def search(self, problem: Problem) -> None:  # noqa: D102
        start, found = find_start(problem, self.tries)
        with problem.part(found.nonzero().squeeze(1)) as rest:
            if rest.done:
                return
            halvings = self.halvings(rest)
            x = approach(rest, start[found], halvings)
            for step in counted(problem.progress, self.steps, first=1):
                if rest.done:
                    return
                x = approach(rest, self.jump(rest, x, step), halvings)

    def halvings(self, problem: Problem) -> int:
        """As many as bring the bracket to gamma / d^1.5 of the distance in L2 and gamma / d^2 in L-inf."""
        power = 2 if isinstance(problem.threat, Linf) else 1.5
        wanted = math.ceil(power * math.log2(problem.x[0].numel()) - math.log2(self.gamma))
        return min(max(wanted, 1), _MOST_HALVINGS)

    def jump(self, problem: Problem, x: Images, step: int) -> Images:
        """A wrong image beyond the boundary: the way along the estimated normal is halved until it is one."""
        threat, values = problem.threat, x[0].numel()
        distance = threat.distance(x, problem.x)
        probe = self.gamma * distance / values if step > 1 else torch.full_like(distance, _FIRST_PROBE)
        samples = min(int(self.samples * math.sqrt(step)), self.most_samples)
        normal = estimate(problem, x, probe.clamp_min(_LEAST_CHANGE * math.sqrt(values)), samples)
        size, best, pending = distance / math.sqrt(step), x, problem.active
        for _ in range(_MOST_HALVINGS):
            candidate = threat.ascend(x, normal, size)
            candidate = candidate.clamp(0, 1) if threat.clip else candidate
            hit = wrong(problem, candidate, pending)
            best, pending = torch.where(hit.view(-1, 1, 1, 1), candidate, best), pending & ~hit
            size = size / 2
        return best

    def cost(self) -> str:  # noqa: D102
        probes = sum(min(int(self.samples * math.sqrt(t)), self.most_samples) for t in range(1, self.steps + 1))
        others = self.tries + _MOST_HALVINGS * (1 + 2 * self.steps)
        return f"{probes + others} forwards"


def estimate(problem: Problem, x: Images, size: PerExample, samples: int) -> Images:
    """The direction in which decisions turn wrong, from `samples` random probes `size` away in L2 (section 3).

    The mean decision is taken off as a baseline, unless all are alike.
    """
    weighted, total = torch.zeros_like(x), torch.zeros_like(x)
    hits = torch.zeros_like(size)
    length = size.view(-1, 1, 1, 1)
    for _ in range(samples):
        draw = torch.empty_like(x)
        if isinstance(problem.threat, Linf):
            draw.uniform_(-1, 1, generator=problem.generator)
        else:
            draw.normal_(generator=problem.generator)
        probe = x + length * draw / torch.linalg.vector_norm(draw.flatten(1), dim=1).view(-1, 1, 1, 1)
        probe = probe.clamp(0, 1) if problem.threat.clip else probe
        moved = (probe - x) / length
        sign = wrong(problem, probe).to(x.dtype) * 2 - 1
        weighted += sign.view(-1, 1, 1, 1) * moved
        total += moved
        hits += sign
    mean = hits / samples
    baseline = torch.where(mean.abs() == 1, 0, mean).view(-1, 1, 1, 1)
    return weighted - baseline * total
