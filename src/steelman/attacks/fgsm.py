"""FGSM: Goodfellow, Shlens & Szegedy 2015, Explaining and harnessing adversarial examples (arXiv:1412.6572)."""

from dataclasses import dataclass
from typing import ClassVar

from steelman.attacks import Attack, Problem
from steelman.errors import UsageError
from steelman.losses import LossName


@dataclass(frozen=True, repr=False)
class FGSM(Attack):
    """One step to the edge of the ball: along the gradient's sign for L-inf, the unit gradient for L2, and on few
    pixels for L1.

    With `random_start` the step leaves from a random point (FGSM-RS of Wong et al. 2020, arXiv:2001.03994, which
    takes step_size=1.25). `step_size` is a fraction of the radius.

    Raises:
        UsageError: a step size that is not above 0.
    """

    loss: LossName = "cross_entropy"
    random_start: bool = False
    step_size: float = 1.0

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    paper: ClassVar[str] = "Goodfellow et al. 2015, arXiv:1412.6572"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step_size > 0:
            raise UsageError(f"{self!r}: expected a step size above 0.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        threat, clean = problem.threat, problem.x
        x = threat.sample(clean, problem.generator) if self.random_start else clean
        _, grad = problem.value_and_grad(x, self.loss)
        step = self.step_size * threat.reach(clean)
        problem.show(threat.project(threat.ascend(x, grad, step), clean))

    def cost(self) -> str:  # noqa: D102
        return "1 gradient, 1 forward"
