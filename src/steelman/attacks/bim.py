"""BIM: Kurakin, Goodfellow & Bengio 2017, Adversarial examples in the physical world (arXiv:1607.02533)."""

from dataclasses import dataclass
from typing import ClassVar

from steelman.attacks import Attack, Problem
from steelman.errors import UsageError
from steelman.losses import LossName
from steelman.progress import counted


@dataclass(frozen=True, repr=False)
class BIM(Attack):
    """FGSM in small steps from the image itself, clipped to ball and pixel range after each (I-FGSM).

    `step_size` is a fraction of the radius; None takes 1 / steps. The paper's own steps are one grey level long,
    1 / (255 eps) of the radius, and min(255 eps + 4, 1.25 * 255 eps) in number.

    Raises:
        UsageError: fewer than one step, or a step size that is not above 0.
    """

    steps: int = 10
    step_size: float | None = None
    loss: LossName = "cross_entropy"

    paper: ClassVar[str] = "Kurakin et al. 2017, arXiv:1607.02533"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or (self.step_size is not None and not self.step_size > 0):
            raise UsageError(f"{self!r}: expected at least one step and a step size above 0.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        threat, clean = problem.threat, problem.x
        step = (1 / self.steps if self.step_size is None else self.step_size) * threat.reach(clean)
        x = clean
        for _ in counted(problem.progress, self.steps):
            if problem.done:
                return
            _, grad = problem.value_and_grad(x, self.loss, coarse=True)
            x = threat.project(threat.ascend(x, grad, step), clean)
        problem.show(x)

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps} gradients, 1 forward"
