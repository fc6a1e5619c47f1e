"""TRADES: Zhang et al. 2019, Theoretically principled trade-off between robustness and accuracy (arXiv:1901.08573)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.defences._minmax import MinMax, check, check_climb, climbed, ramped
from steelman.engine import guarded
from steelman.errors import UsageError
from steelman.threats import Ball, Threat
from steelman.types import Images, Labels, Logits, PerExample


@dataclass(frozen=True, repr=False)
class TRADES(MinMax):
    """Cross-entropy on clean images + beta KL(prediction there || prediction at the worst image of the ball).

    The worst image is where that divergence is large: `steps` steepest steps from x + 0.001 N(0, 1), in eval mode as in
    the authors' code. Both predictions of the loss are in the mode in which the model trains, and both get its
    gradient. The paper takes beta 1 on MNIST (40 steps of eps / 30) and 1 or 6 on CIFAR-10 (10 steps).

    Fields:
        step_size: as a fraction of eps; None takes 2.5 / steps.
        ramp: the share of training over which the radius grows evenly from 0.

    Raises:
        UsageError: a negative beta, no step, a ramp outside [0, 1], or a threat that is no ball.
    """

    threat: Threat
    beta: float = 6.0
    steps: int = 10
    step_size: float | None = None
    ramp: float = 0.0

    paper: ClassVar[str] = "Zhang et al. 2019, arXiv:1901.08573"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < math.inf:
            raise UsageError(f"beta is {self.beta}. Expected the weight of the divergence, 0 or more, such as 6.")
        check_climb(self.steps, self.step_size)
        check(self, self.threat, self.ramp)

    def images(self, model: nn.Module, x: Images, y: Labels, *, generator: Generator, progress: float = 1.0) -> Images:
        """Where the prediction differs most from that of x; labels play no part."""
        del y
        with guarded(model), torch.no_grad():
            clean = model(x)
        return climbed(
            model,
            x,
            self.ball(progress),
            lambda logits: divergence(clean, logits),
            steps=self.steps,
            step_size=self.step_size,
            generator=generator,
        )

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Float[Tensor, ""]:  # noqa: D102
        clean = model(x)
        return F.cross_entropy(clean, y) + self.beta * divergence(clean, model(x_adv)).mean()

    def ball(self, progress: float = 1.0) -> Ball:  # noqa: D102
        return ramped(self.threat, self.ramp, progress)


def divergence(clean: Logits, moved: Logits) -> PerExample:
    """KL(softmax of the first || softmax of the second), in nats."""
    log_clean = clean.log_softmax(1)
    return (log_clean.exp() * (log_clean - moved.log_softmax(1))).sum(1)
