"""The convolutional nets CNN, CNN_d and CNN_bn of study `resistance` (project maxdinech/mnist-attack, 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from steelman.models import Architecture
from steelman.models.layers import Protection, network, protected


@dataclass(frozen=True, repr=False)
class CNN(Architecture):
    """Two convolutions (20 of 5x5, 40 of 3x3) and 120-10; 129,090 parameters on MNIST.

    Dropout stands before both linear layers, batch normalisation after the poolings and the hidden layer.
    """

    protection: Protection = "none"
    dropout: float = 0.5

    recipe: ClassVar[Mapping[str, Any]] = {"lr": 2e-4, "epochs": 30, "batch_size": 32}

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights as torch draws them; it ends in logits (the original ends in a softmax).

        Raises:
            UsageError: images of this shape are too small for the layers, an unknown protection or dropout rate.
        """
        features = [
            nn.Conv2d(shape[0], 20, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            *self._after_pooling(20),
            nn.Conv2d(20, 40, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            *self._after_pooling(40),
        ]
        return network(
            type(self).__name__,
            shape,
            features,
            lambda size: [
                *self._protect(nn.Identity()),  # the last pooling is normalised already
                nn.Linear(size, 120),
                nn.ReLU(),
                *self._protect(nn.BatchNorm1d(120)),
                nn.Linear(120, classes),
            ],
        )

    def _after_pooling(self, channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(channels)] if self.protection == "batchnorm" else []

    def _protect(self, norm: nn.Module) -> list[nn.Module]:
        return protected(self.protection, ("none", "dropout", "batchnorm"), rate=self.dropout, norm=norm)
