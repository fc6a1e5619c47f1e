"""NI-FGSM, SI-NI-FGSM: Lin et al. 2020, Nesterov accelerated gradient and scale invariance (arXiv:1908.06281)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from steelman.attacks import Problem
from steelman.attacks._momentum import Direction, Momentum
from steelman.errors import UsageError
from steelman.types import Images


@dataclass(frozen=True, repr=False)
class NIFGSM(Momentum):
    """MI-FGSM with the gradient taken where the momentum is about to lead, averaged over `scales` darker copies.

    Copy i has the pixels divided by 2^i (SI-NI-FGSM with 5, as in the paper). The model never sees the candidates on
    the way, so the last one alone is judged. In L-inf the look-ahead is step_size * decay * momentum with gradients
    divided by their mean absolute value, as in the authors' code: divided by their sum, as in equation 6, it would
    vanish. In other norms it is shorter by the norm of the whole pixel range.

    Raises:
        UsageError: fewer than one scale, or what MIFGSM raises.
    """

    scales: int = 1

    paper: ClassVar[str] = "Lin et al. 2020, arXiv:1908.06281"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scales < 1:
            raise UsageError(f"{self!r}: expected at least one scale.")

    def direction(self, problem: Problem, step: float) -> Direction:  # noqa: D102
        channels, height, width = problem.x.shape[1:]
        values = channels * height * width
        ahead = step * self.decay * values / problem.threat.largest((channels, height, width))

        def gradient(x: Images, momentum: Images) -> Images:
            point, total = x + ahead * momentum, torch.zeros_like(x)
            for i in range(self.scales):
                total += problem.value_and_grad(point, self.loss, through=lambda seen, i=i: seen / 2**i, coarse=True)[1]
            return total / self.scales

        return gradient

    def cost(self) -> str:  # noqa: D102
        return f"{self.steps * self.scales} gradients, 1 forward"
