"""Training as a game: the images are moved to where the loss is large, then the weights to where it is small there.

The saddle point of Madry et al. 2018 (arXiv:1706.06083, equation 2.1). A radius that grows over the first part of
training: Gowal et al. 2018 (arXiv:1810.12715, section 4), there for bounds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from steelman.defences import Objective
from steelman.engine import guarded
from steelman.errors import UsageError
from steelman.threats import Ball, Threat, as_ball
from steelman.types import Images, Labels, Logits, PerExample

SOFTER = 0.75  # what a guard leaves of a single step
_NOISE = 1e-3  # pixels: where TRADES and MART start, because at the image itself their divergence has no gradient


@dataclass(frozen=True, repr=False)
class MinMax(Objective):
    """An objective in two halves: images attacked on the fly, and their loss. Others may step in between."""

    def images(self, model: nn.Module, x: Images, y: Labels, *, generator: Generator, progress: float = 1.0) -> Images:
        """The images to train on, as many as x: detached; the model is left as it was."""
        raise NotImplementedError

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Float[Tensor, ""]:
        """The mean loss of the model, in the mode in which it is, on what `images` gave."""
        raise NotImplementedError

    def ball(self, progress: float = 1.0) -> Ball:
        """The images that are searched when training is that far."""
        raise NotImplementedError

    def gentler(self) -> "MinMax":
        """The same objective, less prone to overfit to the one step of its attack.

        Raises:
            UsageError: there is nothing to soften, as in an attack of many steps.
        """
        raise UsageError(
            f"{self!r} takes no single step, and has nothing that a guard could soften. "
            "Expected an objective such as Adversarial(FGSM(random_start=True), Linf(0.3)), or none guarded."
        )

    def __call__(
        self, model: nn.Module, x: Images, y: Labels, *, progress: float, generator: Generator
    ) -> Float[Tensor, ""]:
        return self.loss(model, x, self.images(model, x, y, generator=generator, progress=progress), y)


def check(objective: MinMax, threat: Threat, ramp: float) -> None:
    """See that an objective's threat is a ball and its ramp a share, which leads up to a finite eps.

    Raises:
        UsageError: they are not.
    """
    ball = as_ball(threat)
    if ramp and math.isinf(ball.eps):
        raise UsageError(f"a ramp of {ramp:g} leads up to {ball!r}. Expected a finite eps, or ramp=0.")
    if not 0 <= ramp <= 1:
        raise UsageError(
            f"ramp is {ramp}: {type(objective).__name__} would never train at eps {ball.eps:g}. "
            "Expected the share of training over which eps grows, 0 <= ramp <= 1."
        )


def ramped(threat: Threat, ramp: float, progress: float) -> Ball:
    """The ball whose radius grows evenly from 0 to its own while progress goes from 0 to `ramp`; its own from there."""
    ball = as_ball(threat)
    return ball if progress >= ramp else ball.at(ball.eps * progress / ramp)


@dataclass(frozen=True, repr=False)
class Regularised(MinMax):
    """A loss plus `beta` times a divergence, on images that climb from beside x to where a value is large.

    Fields:
        beta: the weight of the divergence.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < math.inf:
            usual = type(self).beta
            raise UsageError(
                f"beta is {self.beta}. Expected the weight of the divergence, 0 or more, such as {usual:g}."
            )
        if self.steps < 1 or (self.step_size is not None and not 0 < self.step_size < math.inf):
            raise UsageError(
                f"steps is {self.steps}, step_size is {self.step_size}. "
                "Expected one step or more, and a positive fraction of eps."
            )
        check(self, self.threat, self.ramp)

    def ball(self, progress: float = 1.0) -> Ball:
        return ramped(self.threat, self.ramp, progress)

    def climbed(
        self,
        model: nn.Module,
        x: Images,
        value: Callable[[Logits], PerExample],
        *,
        progress: float,
        generator: Generator,
    ) -> Images:
        """Images of the ball after steepest steps on a value of the logits, in eval mode and the images' precision."""
        x, ball = x.detach(), self.ball(progress)
        step = (min(1.0, 2.5 / self.steps) if self.step_size is None else self.step_size) * ball.reach(x)
        x_adv = x + _NOISE * torch.empty_like(x).normal_(generator=generator)
        with guarded(model), torch.enable_grad():
            for _ in range(self.steps):
                candidate = x_adv.requires_grad_()
                (grad,) = torch.autograd.grad(value(model(candidate)).sum(), candidate)
                x_adv = ball.project(ball.ascend(candidate.detach(), grad, step), x)
        return x_adv.detach()
