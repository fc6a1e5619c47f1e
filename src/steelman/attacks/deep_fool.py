"""DeepFool: Moosavi-Dezfooli et al. 2016, a simple and accurate method to fool deep networks (arXiv:1511.04599)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from steelman.attacks import Nearest, Problem
from steelman.attacks.minimal import Nearby, column
from steelman.errors import UsageError
from steelman.losses import difference
from steelman.progress import counted
from steelman.types import Images, Labels, Logits, PerExample


@dataclass(frozen=True, repr=False)
class DeepFool(Nearest):
    """Steps onto the nearest linearised boundary with the `candidates` likeliest classes, until one is crossed.

    The gradients of all candidates come from one forward pass. Pixels are kept in their range. Each step is
    longer by the fraction `overshoot`; at the end `halvings` forwards bisect back to the boundary.

    Raises:
        UsageError: fewer than one step or two candidates, a negative overshoot, or negative halvings.
    """

    steps: int = 50
    candidates: int = 10
    overshoot: float = 0.02
    halvings: int = 8

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2")
    paper: ClassVar[str] = "Moosavi-Dezfooli et al. 2016, arXiv:1511.04599"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.candidates < 2:
            raise UsageError(f"{self!r}: expected at least one step and two candidates.")
        if not self.overshoot >= 0 or self.halvings < 0:
            raise UsageError(f"{self!r}: expected overshoot >= 0 and halvings of 0 or more.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        near, x = Nearby(problem), problem.x.clone()
        for step in counted(problem.progress, self.steps + 1):
            rows = (problem.active & ~near.found).nonzero().squeeze(1)
            if not len(rows):
                break
            before = x.clone()
            with problem.part(rows) as rest:
                if step == self.steps:
                    rest.show(x[rows])
                else:
                    x[rows] = self._moved(rest, x[rows])
            near.note(torch.where(column(near.found), near.x_adv, before))
        near.polish(self.halvings, width=0.5)

    def _moved(self, problem: Problem, x: Images) -> Images:
        """After the shortest of the steps onto the linearised boundaries; as it was where no gradient points anywhere.

        Pixels that are at the end of their range already and would leave it do not count.
        """
        threat = problem.threat
        if problem.target is not None:
            towards, loss = problem.target[None], difference
        else:
            ranks = torch.arange(min(self.candidates, problem.num_classes) - 1, device=x.device)
            towards, loss = ranks[:, None].expand(-1, len(x)), _behind
        values, grads = problem.values_and_grads(x, loss, towards)
        if threat.clip:
            grads = torch.where((x <= 0) & (grads < 0) | (x >= 1) & (grads > 0), 0, grads)
        lengths = (values.abs() / torch.stack([threat.dual(grad) for grad in grads])).nan_to_num(math.inf, math.inf)
        grad = grads[lengths.argmin(0), torch.arange(len(x), device=x.device)]
        length = lengths.amin(0).clamp_max(threat.largest((int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))))
        moved = x + column((1 + self.overshoot) * length) * threat.steepest(grad)
        return moved.clamp(0, 1) if threat.clip else moved

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps * (self.candidates - 1)} gradients, {1 + self.steps + self.halvings} forwards"


def _behind(logits: Logits, y: Labels, rank: Labels | None) -> PerExample:
    """The logit of the other class of that rank, 0 the likeliest, minus the label's."""
    assert rank is not None
    others = logits.scatter(1, y[:, None], -math.inf).sort(dim=1, descending=True).values
    return (others.gather(1, rank[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
