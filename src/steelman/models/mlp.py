"""The multi-layer perceptrons MLP, MLP_d and MLP_bn of study `resistance` (project maxdinech/mnist-attack, 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from steelman.models import Architecture
from steelman.models.layers import Protection, network, positive, protected


@dataclass(frozen=True, repr=False)
class MLP(Architecture):
    """Two hidden layers of 120 units; 109,930 parameters on MNIST.

    Dropout stands before each of the three linear layers, batch normalisation after each ReLU.
    """

    protection: Protection = "none"
    dropout: float = 0.5
    width: int = 120

    recipe: ClassVar[Mapping[str, Any]] = {"lr": 2e-4, "epochs": 30, "batch_size": 32}

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights as torch draws them; it ends in logits (the original ends in a softmax).

        Raises:
            UsageError: an unknown protection or dropout rate, or a width below 1.
        """
        width = positive("width", self.width)
        return network(
            type(self).__name__,
            shape,
            [],
            lambda size: [
                *self._dropout(),
                nn.Linear(size, width),
                nn.ReLU(),
                *self._protect(width),
                nn.Linear(width, width),
                nn.ReLU(),
                *self._protect(width),
                nn.Linear(width, classes),
            ],
        )

    def _dropout(self) -> list[nn.Module]:
        return self._protect(self.width) if self.protection == "dropout" else []

    def _protect(self, size: int) -> list[nn.Module]:
        norm = nn.BatchNorm1d(size)
        return protected(self.protection, ("none", "dropout", "batchnorm"), rate=self.dropout, norm=norm)
