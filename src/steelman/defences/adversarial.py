"""Adversarial training: Madry et al. 2018 (arXiv:1706.06083).

Batches of clean and adversarial images: Goodfellow et al. 2015 (arXiv:1412.6572, section 6).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.attacks import Attack
from steelman.defences import Objective
from steelman.errors import UsageError
from steelman.threats import Ball, Threat
from steelman.types import Images, Labels


@dataclass(frozen=True, repr=False)
class Adversarial(Objective):
    """Mean cross-entropy on images attacked on the fly; a share 1 - mix of each batch stays clean.

    The attack works on the model as it is now, in eval mode; the loss is that of the mode in which the model trains.

    Raises:
        UsageError: a mix outside [0, 1], or a threat in which an attack cannot search.
    """

    attack: Attack
    threat: Threat
    mix: float = 1.0

    paper: ClassVar[str] = "Madry et al. 2018, arXiv:1706.06083"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mix <= 1:
            raise UsageError(f"mix is {self.mix}. Expected the adversarial share of a batch, 0 <= mix <= 1.")
        if not isinstance(self.threat, Ball):
            raise UsageError(f"the threat is {self.threat!r}. Expected a ball such as Linf(0.3) or L2(1.5).")

    def __call__(  # noqa: D102
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        progress: float,  # noqa: ARG002
        generator: Generator,
    ) -> Float[Tensor, ""]:
        return F.cross_entropy(model(self.images(model, x, y, generator=generator)), y)

    def images(self, model: nn.Module, x: Images, y: Labels, *, generator: Generator) -> Images:
        """The batch to train on: its first round(mix * b) images attacked, the others as they are."""
        assert isinstance(self.threat, Ball)
        num = round(self.mix * len(x))
        if num == 0:
            return x
        attacked = self.attack.perturb(model, x[:num], y[:num], self.threat, generator=generator)
        return torch.cat((attacked, x[num:]))
