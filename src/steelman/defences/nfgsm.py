"""N-FGSM: de Jorge et al. 2022, Make some noise: reliable and efficient single-step adversarial training
(arXiv:2202.01181).
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.attacks.fgsm import FGSM
from steelman.defences._minmax import MinMax, check, ramped
from steelman.engine import guarded
from steelman.errors import UsageError
from steelman.threats import Ball, Threat
from steelman.types import Images, Labels

NOISIER = 1.25  # what a guard makes of the noise


@dataclass(frozen=True, repr=False)
class NFGSM(MinMax):
    """Mean cross-entropy after strong noise and one step, which are not cut back to the ball.

    The noise is uniform in the ball of radius noise * eps and stays within the pixel range; from there one step of
    length step * eps rises along the gradient, which is taken in eval mode. So an image moves by up to
    (noise + step) * eps. The paper takes noise=2, step=1 for eps up to 16/255. The radius grows evenly from 0 over
    the first share `ramp` of training.

    Raises:
        UsageError: a negative noise, no step, a ramp outside [0, 1], or a threat in which FGSM does not step.
    """

    threat: Threat
    noise: float = 2.0
    step: float = 1.0
    ramp: float = 0.0

    paper: ClassVar[str] = "de Jorge et al. 2022, arXiv:2202.01181"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise < math.inf or not 0 < self.step < math.inf:
            raise UsageError(
                f"noise is {self.noise}, step is {self.step}. Expected fractions of eps, noise >= 0 and step > 0."
            )
        check(self, self.threat, self.ramp)
        FGSM().check_norm(self.ball())

    def images(self, model: nn.Module, x: Images, y: Labels, *, generator: Generator, progress: float = 1.0) -> Images:
        """The images after noise and step."""
        ball = self.ball(progress)
        noisy = ball.at(self.noise * ball.eps).sample(x.detach(), generator)
        with guarded(model), torch.enable_grad():
            candidate = noisy.clone().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(model(candidate), y, reduction="sum"), candidate)
        moved = ball.ascend(noisy, grad, self.step * ball.reach(x))
        return moved.clamp(0, 1) if ball.clip else moved

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Float[Tensor, ""]:  # noqa: ARG002, D102
        return F.cross_entropy(model(x_adv), y)

    def ball(self, progress: float = 1.0) -> Ball:  # noqa: D102
        return ramped(self.threat, self.ramp, progress)

    def gentler(self) -> "NFGSM":
        """The noise is a quarter stronger, at least half of eps."""
        return replace(self, noise=max(0.5, NOISIER * self.noise))
