"""MI-FGSM: Dong et al. 2018, Boosting adversarial attacks with momentum (arXiv:1710.06081)."""

from dataclasses import dataclass
from typing import ClassVar

from steelman.attacks import Problem
from steelman.attacks._momentum import Direction, Momentum


@dataclass(frozen=True, repr=False)
class MIFGSM(Momentum):
    """BIM along the momentum of its gradients (algorithm 1), in L2 along the unit momentum (section 3.3)."""

    paper: ClassVar[str] = "Dong et al. 2018, arXiv:1710.06081"

    def direction(self, problem: Problem, step: float) -> Direction:  # noqa: ARG002, D102
        return lambda x, _: problem.value_and_grad(x, self.loss, coarse=True)[1]
