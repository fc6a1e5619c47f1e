"""MultiTargeted: Gowal et al. 2019, an alternative surrogate loss for PGD-based testing (arXiv:1910.09338)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from steelman.attacks import Attack, Problem
from steelman.errors import UsageError
from steelman.losses import LOSSES, Loss, LossName, difference
from steelman.progress import Stages, counted
from steelman.types import Labels

Order: TypeAlias = Literal["logits", "malt"]

CANDIDATES = 100  # classes whose gradients MALT compares, the likeliest (Melis et al. 2024, section 4)
CLASSES_A_PASS = 10  # of which so many share a forward pass: bounds the memory for their gradients


class Run(NamedTuple):
    """One search towards one class, for the images that were not finished when it began."""

    problem: Problem
    rows: Tensor  # where these images are among those of the whole problem
    toward: Labels | None  # None leaves the direction to the loss and the problem's own target
    restart: int  # counted from 0


def runs(problem: Problem, targets: int, restarts: int, order: Order) -> Iterator[Run]:
    """The searches towards each of the `targets` likeliest other classes in turn, `restarts` each.

    With a target of its own the problem needs no others; with `targets=0` there are none. There are never more than the
    model has other classes.
    """
    towards: list[Tensor] | list[None] = [None]
    if targets and problem.target is None and not problem.done:
        towards = list(likeliest(problem, targets, order))
    total = len(towards) * restarts
    stages = Stages(problem.progress, total)
    for place, toward in enumerate(towards):
        for restart in range(restarts):
            if problem.done:
                return
            rows = problem.active.nonzero().squeeze(1)
            with problem.part(rows) as rest:
                number = place * restarts + restart + 1
                rest.progress = stages.stage(f"run {number} of {total}" if total > 1 else "")
                yield Run(rest, rows, None if toward is None else toward[rows], restart)


def likeliest(problem: Problem, count: int, order: Order) -> Tensor:
    """The classes other than the label that are nearest at the clean image, nearest first, as (classes, b).

    `logits` takes the largest logits, from one forward. `malt` divides the difference of logits by the dual norm of
    its gradient, which for a linear model is the distance itself (Melis et al. 2024, "MALT Powers Up Adversarial
    Attacks"); this costs a gradient for each of the 100 likeliest classes. Judges the clean images.
    """
    logits = problem.logits(problem.x)
    others = logits.scatter(1, problem.y[:, None], -torch.inf)
    num_others = logits.shape[1] - 1
    if order == "logits":
        return others.topk(min(count, num_others), dim=1).indices.t()
    candidates = others.topk(min(CANDIDATES, num_others), dim=1).indices.t()
    distances: list[Tensor] = []
    for group in candidates.split(CLASSES_A_PASS):
        values, grads = problem.values_and_grads(problem.x, difference, group)
        slopes = torch.stack([problem.threat.dual(grad) for grad in grads])
        distances.append(-values / slopes.clamp_min(torch.finfo(slopes.dtype).tiny))
    nearest = torch.cat(distances).argsort(dim=0, stable=True)[:count]
    return candidates.gather(0, nearest)


@dataclass(frozen=True, repr=False)
class MultiTargeted(Attack):
    """PGD on the difference of two logits, z_t - z_y, for each of the `targets` likeliest classes t in turn.

    A problem with a target of its own is searched towards that one class. `step_size` is a fraction of the radius; None
    takes 2.5 / steps, at most 1. `order` says which classes count as likeliest: by their logits, or by the estimated
    distance (MALT).

    Raises:
        UsageError: fewer than one step, restart or target, or a step size that is not above 0.
    """

    steps: int = 100
    step_size: float | None = None
    restarts: int = 1
    targets: int = 9
    random_start: bool = True
    loss: Literal["difference", "cross_entropy", "margin", "dlr"] = "difference"
    order: Order = "logits"

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1", "L0")
    climbs: ClassVar[bool] = False
    paper: ClassVar[str] = "Gowal et al. 2019, arXiv:1910.09338"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.steps, self.restarts, self.targets) < 1 or (self.step_size is not None and not self.step_size > 0):
            raise UsageError(
                f"{self!r}: expected at least one step, one restart and one target, and a step size above 0."
            )

    def search(self, problem: Problem) -> None:  # noqa: D102
        step = min(1.0, 2.5 / self.steps) if self.step_size is None else self.step_size
        loss: LossName | Loss = difference if self.loss == "difference" else LOSSES[self.loss]
        if self.loss == "difference" and problem.target is not None:
            loss = "margin"  # the target has to beat every class, not the label alone
        for rest, _, toward, _ in runs(problem, self.targets, self.restarts, self.order):
            threat, clean = rest.threat, rest.x
            x = threat.sample(clean, rest.generator) if self.random_start else clean
            for _ in counted(rest.progress, self.steps):
                if rest.done:
                    break
                _, grad = rest.value_and_grad(x, loss, toward=toward, coarse=True)
                x = threat.project(threat.ascend(x, grad, step * threat.reach(clean)), clean)
            if not rest.done:
                rest.show(x)

    def cost(self) -> str:  # noqa: D102
        count = self.restarts * self.targets
        ranking = " and, for the order, 1 of each of the likeliest 100 classes" if self.order == "malt" else ""
        return f"{self.steps * count} gradients{ranking}, {count + 1} forwards"
