"""PGD: Madry et al. 2018, Towards deep learning models resistant to adversarial attacks (arXiv:1706.06083)."""

from dataclasses import dataclass
from typing import ClassVar

from steelman.attacks import Attack, Problem
from steelman.errors import UsageError
from steelman.losses import LossName
from steelman.progress import counted


@dataclass(frozen=True, repr=False)
class PGD(Attack):
    """Projected steepest ascent from a random point of the ball; of several restarts the worst counts, per image.

    `step_size` is a fraction of the radius; None takes 2.5 / steps, at most 1 (Madry et al., section 4). In L1
    each step goes to few pixels (Tramer & Boneh 2019, arXiv:1904.13000), in L0 the projection keeps the largest changes
    (Croce & Hein 2019, arXiv:1909.05040, section 3.3).

    Raises:
        UsageError: fewer than one step or restart, or a step size that is not above 0.
    """

    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    loss: LossName = "cross_entropy"

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1", "L0")
    paper: ClassVar[str] = "Madry et al. 2018, arXiv:1706.06083"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.restarts < 1 or (self.step_size is not None and not self.step_size > 0):
            raise UsageError(f"{self!r}: expected at least one step and one restart, and a step size above 0.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        threat, clean = problem.threat, problem.x
        step = (min(1.0, 2.5 / self.steps) if self.step_size is None else self.step_size) * threat.reach(clean)
        for _ in range(self.restarts):
            x = threat.sample(clean, problem.generator) if self.random_start else clean
            for _ in counted(problem.progress, self.steps):
                if problem.done:
                    return
                _, grad = problem.value_and_grad(x, self.loss, coarse=True)
                x = threat.project(threat.ascend(x, grad, step), clean)
            problem.show(x)

    def climbs_anew(self) -> int:  # noqa: D102
        return self.restarts

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps * self.restarts * self.samples} gradients, {self.restarts} forward"
