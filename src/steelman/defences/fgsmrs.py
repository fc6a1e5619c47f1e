"""FGSM-RS: Wong, Rice & Kolter 2020, Fast is better than free: revisiting adversarial training (arXiv:2001.03994)."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.attacks.fgsm import FGSM
from steelman.defences._minmax import SOFTER, MinMax, check, ramped
from steelman.engine import guarded
from steelman.errors import UsageError
from steelman.surrogates import Repaired
from steelman.threats import Ball, Linf, Threat
from steelman.types import Images, Labels


@dataclass(frozen=True, repr=False)
class FGSMRS(MinMax):
    """Mean cross-entropy after one step from a random point, cut back to the ball: as the authors train on MNIST.

    The random point may lie beyond the pixel range, as in their code; `Adversarial(FGSM(random_start=True))` starts
    within it, which on MNIST leaves half of the black pixels where they are. It is uniform in the ball of radius noise
    * eps or, with start="corner", a random corner of that box, as in RAND+FGSM (Tramer et al. 2018, arXiv:1705.07204).
    With `towards` it is also moved a random share of the way to another image of the batch, by at most towards * eps:
    independent noise hardly changes what a net makes of an image, the way to another image does (own addition, not of
    the papers). From there one step of length step * eps rises along the gradient, which is taken in eval mode; from a
    corner a step of 2 ends in the corner that the gradient points to. With `surrogates` the gradient is taken through
    finite surrogates, for layers that have none of their own to most pixels, such as a threshold. The radius grows
    evenly from 0 over the first share `ramp` of training.

    Raises:
        UsageError: a negative noise or way, no step, a ramp outside [0, 1], a corner of anything but an L-inf
            ball, or a threat in which FGSM does not step.
    """

    threat: Threat
    noise: float = 1.0
    step: float = 1.25
    towards: float = 0.0
    ramp: float = 0.0
    start: Literal["uniform", "corner"] = "uniform"
    surrogates: bool = False

    paper: ClassVar[str] = "Wong et al. 2020, arXiv:2001.03994"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.noise < math.inf and 0 <= self.towards < math.inf and 0 < self.step < math.inf):
            raise UsageError(
                f"noise is {self.noise}, towards is {self.towards}, step is {self.step}. "
                "Expected fractions of eps, noise >= 0, towards >= 0 and step > 0."
            )
        check(self, self.threat, self.ramp)
        if self.start == "corner" and not isinstance(self.threat, Linf):
            raise UsageError(
                f"{self.threat!r} has no corners. Expected Linf(...) with start='corner', or start='uniform'."
            )
        FGSM().check_norm(self.ball())

    def images(self, model: nn.Module, x: Images, y: Labels, *, generator: Generator, progress: float = 1.0) -> Images:
        """The images of the ball after the step."""
        x, ball = x.detach(), self.ball(progress)
        start, asked = self._start(x, ball, generator), Repaired(model) if self.surrogates else model
        with guarded(model), torch.enable_grad():
            candidate = start.clone().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(asked(candidate), y, reduction="sum"), candidate)
        return ball.project(ball.ascend(start, grad, self.step * ball.reach(x)), x)

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Float[Tensor, ""]:  # noqa: ARG002, D102
        return F.cross_entropy(model(x_adv), y)

    def ball(self, progress: float = 1.0) -> Ball:  # noqa: D102
        return ramped(self.threat, self.ramp, progress)

    def gentler(self) -> "FGSMRS":
        """The step is three quarters as long."""
        return replace(self, step=SOFTER * self.step)

    def _start(self, x: Images, ball: Ball, generator: Generator) -> Images:
        free = replace(ball, clip=False)
        start = free.at(self.noise * ball.eps).sample(x, generator)
        if self.start == "corner":
            start = x + self.noise * ball.eps * (start - x).sign()
        if not self.towards:
            return start
        others = x[torch.randperm(len(x), generator=generator, device=x.device)]
        share = torch.rand((len(x), 1, 1, 1), generator=generator, device=x.device, dtype=x.dtype)
        return start + free.at(self.towards * ball.eps).project(x + share * (others - x), x) - x
