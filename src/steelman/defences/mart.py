"""MART: Wang et al. 2020, Improving adversarial robustness requires revisiting misclassified examples (ICLR 2020,
https://openreview.net/forum?id=rklOg6EFwS).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.defences._minmax import Regularised
from steelman.defences.trades import divergence
from steelman.losses import cross_entropy
from steelman.types import Images, Labels


@dataclass(frozen=True, repr=False)
class MART(Regularised):
    """Boosted cross-entropy on attacked images, and a divergence that counts most where the clean image is wrong.

    With p the prediction for x, q that for x_adv: the mean of - log q_y - log(1 - max of the other q) + beta KL(p || q)
    (1 - p_y), table 1 of the paper. x_adv is where the cross-entropy is large: `steps` steepest steps from
    x + 0.001 N(0, 1), in eval mode as in the authors' code; the loss is in the mode in which the model trains, and
    both p and q get its gradient. The paper takes beta 5.

    The fields are those of `Regularised`.
    """

    beta: float = 5.0

    paper: ClassVar[str] = "Wang et al. 2020, ICLR, openreview rklOg6EFwS"

    def images(self, model: nn.Module, x: Images, y: Labels, *, generator: Generator, progress: float = 1.0) -> Images:
        """Where the cross-entropy of the label is large."""
        return self.climbed(model, x, lambda logits: cross_entropy(logits, y), progress=progress, generator=generator)

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Float[Tensor, ""]:  # noqa: D102
        clean, attacked = model(x), model(x_adv)
        label = F.one_hot(y, clean.shape[1]).bool()
        rival = attacked.detach().masked_fill(label, -math.inf).argmax(1, keepdim=True)
        total = attacked.logsumexp(1)
        rest = attacked.scatter(1, rival, -math.inf).logsumexp(1) - total  # log(1 - q_rival), which cannot be log 0
        boosted = F.cross_entropy(attacked, y) - rest.mean()
        unsure = 1 - clean.softmax(1)[label]
        return boosted + self.beta * (divergence(clean, attacked) * unsure).mean()
