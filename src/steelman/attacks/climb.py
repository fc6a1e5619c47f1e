"""The climb that the strongest searches share: a diversified start, then steepest steps without memory.

Output-diversified starts: Tashiro et al. 2020, Diversity can be transferred (arXiv:2003.06878). Two steps of a third of
the radius and ten on the margin broke more images of the TRADES net than forty steps of PGD (docs/log.md).
"""

import math

import torch

from steelman.attacks.minimal import column
from steelman.attacks.problem import Problem
from steelman.progress import counted
from steelman.types import Images, Labels, Logits, PerExample

DIVERSIFYING_STEPS = 2  # along a random direction of the logits
DIVERSIFYING_SIZE = 1 / 3  # of the radius
FIRST_STEP, LAST_STEP = 1.0, 0.05  # of the radius; between them a half cosine


def climb(problem: Problem, steps: int, *, width: float = 1.0) -> None:
    """One diversified start and `steps` steepest steps on the margin, for every unfinished image.

    With `width` the first half of the steps is taken in a ball so many times as large, which shrinks to the threat's:
    from outside a search sees what masked gradients hide near the image. Candidates there are no successes.
    """
    if problem.done:
        return
    threat, clean = problem.threat, problem.x
    reach = torch.full((len(clean),), threat.reach(clean), device=clean.device)
    x = diversified(problem, width * reach)
    for step, size in zip(counted(problem.progress, steps), step_sizes(steps), strict=True):
        if problem.done:
            return
        _, grad = problem.value_and_grad(x, "margin", coarse=True)
        radius = reach * (1 + (width - 1) * max(0.0, 1 - 2 * step / steps))
        x = threat.project(threat.ascend(x, grad, size * radius), clean, radius)
    problem.show(threat.project(x, clean))


def diversified(problem: Problem, radius: PerExample) -> Images:
    """A random point of each image's ball of that radius, led along a random direction of the logits."""
    threat, clean = problem.threat, problem.x
    x = threat.sample(clean, problem.generator)
    if math.isfinite(threat.eps) and threat.eps > 0:  # a point of a ball of another radius
        x = clean + column(radius / threat.reach(clean)) * (x - clean)
    x = threat.project(x, clean, radius)
    weights = torch.empty(len(clean), problem.num_classes, device=clean.device)
    weights.uniform_(-1, 1, generator=problem.generator)

    def diversity(logits: Logits, y: Labels, rows: Labels | None) -> PerExample:  # noqa: ARG001
        return (logits * weights[rows]).sum(1)

    rows = torch.arange(len(clean), device=clean.device)
    for _ in range(DIVERSIFYING_STEPS):
        _, grad = problem.value_and_grad(x, diversity, toward=rows, coarse=True)
        x = threat.project(threat.ascend(x, grad, DIVERSIFYING_SIZE * radius), clean, radius)
    return x


def step_sizes(steps: int) -> list[float]:
    """Shares of the radius, from a whole one down to a twentieth along half a cosine."""
    falling = ((1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps))
    return [LAST_STEP + (FIRST_STEP - LAST_STEP) * share for share in falling]
