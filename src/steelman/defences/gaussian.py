"""Training for randomised smoothing: Gaussian noise on every image (Cohen et al. 2019, arXiv:1902.02918).

Agreement between draws: Jeong & Shin 2020 (arXiv:2006.04062). Images attacked through the smoothed classifier:
SmoothAdv, Salman et al. 2019 (arXiv:1906.04584).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.defences import Objective
from steelman.engine import guarded
from steelman.errors import UsageError
from steelman.threats import L2
from steelman.types import Images, Labels


@dataclass(frozen=True, repr=False)
class Gaussian(Objective):
    """Mean cross-entropy on images with Gaussian noise, a smoothed classifier's training.

    Fields:
        sigma: the noise's standard deviation, in pixel units; that of the smoothed classifier to be.
        samples: draws of noise for each image and step.
        consistency: weight of the mean divergence KL(mean of the draws' predictions || prediction of a draw).
        entropy: weight of the entropy of the mean prediction; it counts with `consistency` only.
        radius: L2 radius within which each image is first moved to where the mean prediction of the draws is worst.
        steps: of that search, each 2 radius / steps long.
        warm_up: the share of training over which the radius grows from 0.

    Raises:
        UsageError: a number out of its range, or consistency between fewer than two draws.
    """

    sigma: float = 0.5
    samples: int = 1
    consistency: float = 0.0
    entropy: float = 0.5
    radius: float = 0.0
    steps: int = 2
    warm_up: float = 0.1

    paper: ClassVar[str] = "Cohen et al. 2019, arXiv:1902.02918; Jeong & Shin 2020, arXiv:2006.04062"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("sigma", "a noise above 0", holds=0 < self.sigma < math.inf)
        self._require("samples", "one draw or more", holds=self.samples >= 1)
        for name in ("consistency", "entropy", "radius"):
            self._require(name, "0 or more", holds=0 <= getattr(self, name) < math.inf)
        self._require("steps", "one step or more", holds=self.steps >= 1)
        self._require("warm_up", "a share of training, 0 <= warm_up <= 1", holds=0 <= self.warm_up <= 1)
        if self.consistency and self.samples < 2:
            raise UsageError(f"consistency={self.consistency} compares draws, and samples is 1. Give samples=2.")

    def __call__(  # noqa: D102
        self, model: nn.Module, x: Images, y: Labels, *, progress: float, generator: Generator
    ) -> Float[Tensor, ""]:
        shape = (self.samples, *x.shape)
        noise = self.sigma * torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        grown = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        logits = model((self.images(model, x, y, noise, self.radius * grown) + noise).flatten(0, 1))
        loss = F.cross_entropy(logits, y.repeat(self.samples))
        if self.consistency:
            loss = loss + disagreement(logits.unflatten(0, shape[:2]), self.consistency, self.entropy)
        return loss

    def images(
        self, model: nn.Module, x: Images, y: Labels, noise: Float[Tensor, "s b c h w"], radius: float
    ) -> Images:
        """Images within the radius whose mean prediction over these draws gives the label least (SmoothAdv)."""
        if radius == 0:
            return x
        threat, moved = L2(radius), x
        with guarded(model), torch.enable_grad():
            for _ in range(self.steps):
                moved = moved.detach().requires_grad_()
                log_odds = model((moved + noise).flatten(0, 1)).log_softmax(1).unflatten(0, noise.shape[:2])
                mean = log_odds.logsumexp(0)  # of the mean probability, up to a constant
                (grad,) = torch.autograd.grad(F.nll_loss(mean, y, reduction="sum"), moved)
                moved = threat.project(threat.ascend(moved.detach(), grad, 2 * radius / self.steps), x)
        return moved

    def _require(self, name: str, expected: str, *, holds: bool) -> None:
        if not holds:
            raise UsageError(f"{name} is {getattr(self, name)}. Expected {expected}.")


def disagreement(logits: Float[Tensor, "s b k"], consistency: float, entropy: float) -> Float[Tensor, ""]:
    """The consistency regulariser: how far draws are from their mean prediction, and how unsure that is.

    `consistency` times the mean over draws of KL(mean || draw), plus `entropy` times the entropy of the mean, averaged
    over images (Jeong & Shin 2020, equation 8).
    """
    log_each = logits.log_softmax(2)
    log_mean = log_each.logsumexp(0) - math.log(len(logits))
    mean = log_mean.exp()
    own = (mean * log_mean).sum(1)  # minus the entropy
    cross = (mean * log_each).sum(2).mean(0)
    return (consistency * (own - cross) - entropy * own).mean()
