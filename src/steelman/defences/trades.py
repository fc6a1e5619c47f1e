"""TRADES: Zhang et al. 2019, Theoretically principled trade-off between robustness and accuracy (arXiv:1901.08573)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.defences._minmax import Regularised
from steelman.engine import guarded
from steelman.types import Images, Labels, Logits, PerExample


@dataclass(frozen=True, repr=False)
class TRADES(Regularised):
    """Cross-entropy on clean images + beta KL(prediction there || prediction at the worst image of the ball).

    The worst image is where that divergence is large: `steps` steepest steps from x + 0.001 N(0, 1), in eval mode as in
    the authors' code. Both predictions of the loss are in the mode in which the model trains, and both get its
    gradient. The paper takes beta 1 on MNIST (40 steps of eps / 30) and 1 or 6 on CIFAR-10 (10 steps).

    The fields are those of `Regularised`.
    """

    paper: ClassVar[str] = "Zhang et al. 2019, arXiv:1901.08573"

    def images(self, model: nn.Module, x: Images, y: Labels, *, generator: Generator, progress: float = 1.0) -> Images:
        """Where the prediction differs most from that of x; labels play no part."""
        del y
        with guarded(model), torch.no_grad():
            clean = model(x)
        return self.climbed(model, x, lambda logits: divergence(clean, logits), progress=progress, generator=generator)

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Float[Tensor, ""]:  # noqa: D102
        clean = model(x)
        return F.cross_entropy(clean, y) + self.beta * divergence(clean, model(x_adv)).mean()


def divergence(clean: Logits, moved: Logits) -> PerExample:
    """KL(softmax of the first || softmax of the second), in nats."""
    log_clean = clean.log_softmax(1)
    return (log_clean.exp() * (log_clean - moved.log_softmax(1))).sum(1)
