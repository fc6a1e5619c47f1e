"""Adversarial training: Madry et al. 2018 (arXiv:1706.06083).

Batches of clean and adversarial images: Goodfellow et al. 2015 (arXiv:1412.6572, section 6). With one step from a
random point, `Adversarial(FGSM(random_start=True, step_size=1.25), Linf(0.3))`, it is FGSM-RS (Wong et al. 2020,
arXiv:2001.03994) as its authors train on CIFAR-10, where the random point is a picture; on MNIST: `FGSMRS`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.attacks import Attack
from steelman.attacks.fgsm import FGSM
from steelman.defences._minmax import SOFTER, MinMax, check, ramped
from steelman.errors import UsageError
from steelman.threats import Ball, Threat
from steelman.types import Images, Labels


@dataclass(frozen=True, repr=False)
class Adversarial(MinMax):
    """Mean cross-entropy on images attacked on the fly; a share 1 - mix of each batch stays clean.

    The attack works on the model as it is now, in eval mode; the loss is that of the mode in which the model trains.
    Over the first share `ramp` of training the radius, and the attack's steps with it, grow evenly from 0.

    Raises:
        UsageError: a mix or a ramp outside [0, 1], or a threat in which an attack cannot search.
    """

    attack: Attack
    threat: Threat
    mix: float = 1.0
    ramp: float = 0.0

    paper: ClassVar[str] = "Madry et al. 2018, arXiv:1706.06083"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mix <= 1:
            raise UsageError(f"mix is {self.mix}. Expected the adversarial share of a batch, 0 <= mix <= 1.")
        check(self, self.threat, self.ramp)

    def images(self, model: nn.Module, x: Images, y: Labels, *, generator: Generator, progress: float = 1.0) -> Images:
        """The batch to train on: its first round(mix * b) images attacked, the others as they are."""
        num = round(self.mix * len(x))
        if num == 0:
            return x
        attacked = self.attack.perturb(model, x[:num], y[:num], self.ball(progress), generator=generator)
        return torch.cat((attacked, x[num:]))

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Float[Tensor, ""]:  # noqa: ARG002, D102
        return F.cross_entropy(model(x_adv), y)

    def ball(self, progress: float = 1.0) -> Ball:  # noqa: D102
        return ramped(self.threat, self.ramp, progress)

    def gentler(self) -> "Adversarial":
        """FGSM leaves from a random point, or takes a step three quarters as long.

        Raises:
            UsageError: an attack of many steps.
        """
        attack = self.attack
        if not isinstance(attack, FGSM):
            return super().gentler()  # pyright: ignore[reportReturnType]
        if not attack.random_start:
            return replace(self, attack=replace(attack, random_start=True))
        return replace(self, attack=replace(attack, step_size=SOFTER * attack.step_size))
