"""What training on bounds shares: how the box grows, the clean share of the loss, and the regularisers on the way.

Gowal et al. 2018 (arXiv:1810.12715, section 4): eps and the weight of the bound grow together. Shi et al. 2021
(arXiv:2103.11341, section 3.3): while eps grows, intervals are kept tight and ReLU units on and off in balance.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.bounds.box import Unknown
from steelman.bounds.graph import SUPPORTED
from steelman.bounds.training import Flow, Passed, clean_and_intervals
from steelman.defences import Objective
from steelman.errors import UsageError
from steelman.threats import Linf, Threat
from steelman.types import Images, Labels, Logits

_TOLERANCE = 0.5  # of the regularisers (arXiv:2103.11341, section 4)
_TINY = 1e-12


@dataclass(frozen=True, repr=False)
class Bounded(Objective):
    """Cross-entropy of clean images and of the worst logits that bounds allow, mixed.

    Fields:
        threat: L-inf, around each image.
        kappa: the clean images' share of the loss at the end; it falls from 1 as eps grows from 0.
        warmup: the share of training before eps grows, on clean images only.
        ramp: the share of training over which eps grows.
        regularization: the weight of the regularisers at the start of the ramp; 0 at its end.
        l1: the weight of the sum of all absolute weights of convolutions and linear layers.

    Raises:
        UsageError: a number out of its range, another threat, or eps that would never reach the threat's.
    """

    threat: Threat
    kappa: float = 0.3
    warmup: float = 0.0
    ramp: float = 0.3
    regularization: float = 0.5
    l1: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.threat, Linf):
            raise UsageError(f"the threat is {self.threat!r}. Expected an L-inf ball such as Linf(0.3).")
        if not 0 <= self.kappa <= 1:
            raise UsageError(f"kappa is {self.kappa}. Expected the clean share of the loss, 0 <= kappa <= 1.")
        if min(self.warmup, self.ramp) < 0 or self.warmup + self.ramp > 1:
            raise UsageError(
                f"warmup is {self.warmup} and ramp is {self.ramp}: training would never reach eps "
                f"{self.threat.eps:g}. Expected shares of training, 0 or more, of 1 together at most."
            )
        if not (self.regularization >= 0 and self.l1 >= 0):
            raise UsageError(
                f"regularization is {self.regularization} and l1 is {self.l1}. Expected weights of 0 or more."
            )

    def __call__(
        self, model: nn.Module, x: Images, y: Labels, *, progress: float, generator: Generator
    ) -> Float[Tensor, ""]:
        share = self.share(progress)
        penalty = self.l1 * _sum_of_weights(model) if self.l1 else 0.0
        if share == 0:
            return F.cross_entropy(model(x), y) + penalty
        low, high = self.box(model, x, y, progress, generator)
        try:
            passed = clean_and_intervals(model, x, low, high)
            worst = self.worst_logits(passed, y, share)
        except Unknown as unknown:
            name = type(self).__name__
            raise UsageError(f"{name} has no bounds for {unknown}. Possible: {SUPPORTED}. Change the model.") from None
        kappa = 1 - (1 - self.kappa) * share
        loss = kappa * F.cross_entropy(passed.logits, y) + (1 - kappa) * F.cross_entropy(worst, y)
        if share < 1 and self.regularization:
            penalty = penalty + self.regularization * (1 - share) * looseness(passed)
        return loss + penalty

    def share(self, progress: float) -> float:
        """How much of eps is reached when training is that far."""
        if progress < self.warmup:
            return 0.0
        return 1.0 if progress >= self.warmup + self.ramp else (progress - self.warmup) / self.ramp

    def box(
        self,
        model: nn.Module,  # noqa: ARG002
        x: Images,
        y: Labels,  # noqa: ARG002
        progress: float,
        generator: Generator,  # noqa: ARG002
    ) -> tuple[Images, Images]:
        """The ends of each image's box when training is that far."""
        ball = self.ball(progress)
        return around(x, ball.eps, ball)

    def ball(self, progress: float = 1.0) -> Linf:
        """Around each image, what training is to hold against when it is that far."""
        assert isinstance(self.threat, Linf)
        return Linf(self.share(progress) * self.threat.eps, clip=self.threat.clip)

    def worst_logits(self, passed: Passed, y: Labels, share: float) -> Logits:  # noqa: ARG002
        """Upper bounds of each logit minus the label's."""
        return passed.worst_logits(y)


def around(x: Images, radius: float, ball: Linf) -> tuple[Images, Images]:
    """Both ends of the box of this radius around each image, within the pixel range where the ball is."""
    low, high = x - radius, x + radius
    return (low.clamp_min(0), high.clamp_max(1)) if ball.clip else (low, high)


def looseness(passed: Passed) -> Float[Tensor, ""]:
    """The two regularisers of arXiv:2103.11341 (equations 8 and 10), 0 where nothing is to be mended.

    For each activation's input: by how much the mean interval is more than twice as wide as the image's, and by how
    much units that are always on outweigh those always off, or the other way, more than twofold in mean and variance.
    """
    layers = passed.before_activations()
    if not layers:
        return passed.flows[0].radius.new_zeros(())
    width = passed.flows[0].radius.mean()
    terms = [F.relu(_TOLERANCE - width / layer.radius.mean().clamp_min(_TINY)) for layer in layers]
    terms += [F.relu(_TOLERANCE - ratio) for layer in layers for ratio in _balance(layer)]
    return torch.stack(terms).sum() / (_TOLERANCE * len(layers))


def _balance(layer: Flow) -> list[Tensor]:
    """The smaller of on / off and off / on, of the sums of centres and of their squared deviations."""
    centre, on, off = layer.centre, layer.centre > layer.radius, layer.centre < -layer.radius
    spread = (centre - centre.mean(0)).square()
    sums = [(centre[on].sum(), -centre[off].sum()), (spread[on].sum(), spread[off].sum())]
    return [torch.minimum(one / other.clamp_min(_TINY), other / one.clamp_min(_TINY)) for one, other in sums]


def _sum_of_weights(model: nn.Module) -> Tensor:
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return torch.stack([layer.weight.abs().sum() for layer in layers]).sum()
