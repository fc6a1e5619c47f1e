"""Cross-entropy on a network that ends in a softmax already: the training of maxdinech/mnist-attack (2017)."""

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.defences import Objective
from steelman.types import Images, Labels


@dataclass(frozen=True, repr=False)
class DoubleSoftmax(Objective):
    """Mean cross-entropy of the softmax of the softmax of the logits: a loss that cannot fall to 0.

    With k classes it is least at log(1 + (k - 1) / e), 1.4612 for ten, where the confidence is 1: logits grow until
    the softmax is exactly 1.0 in float32.
    """

    paper: ClassVar[str] = "maxdinech/mnist-attack, 2017"

    def __call__(  # noqa: D102
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        progress: float,  # noqa: ARG002
        generator: Generator,  # noqa: ARG002
    ) -> Float[Tensor, ""]:
        return F.cross_entropy(model(x).softmax(1), y)

    @staticmethod
    def least(classes: int) -> float:
        """The loss of a network that is right with confidence 1."""
        return math.log(1 + (classes - 1) / math.e)
