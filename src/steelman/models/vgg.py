"""VGG (Simonyan, Zisserman, arXiv:1409.1556) for small images: study `resistance` (maxdinech/mnist-attack)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from steelman.models import Architecture
from steelman.models.layers import network, protected


@dataclass(frozen=True, repr=False)
class VGGSmall(Architecture):
    """Four 3x3 convolutions without padding and 4096-4096-10; 25,473,994 parameters on MNIST with dropout."""

    protection: Literal["dropout", "batchnorm"] = "dropout"
    dropout: float = 0.5

    recipe: ClassVar[Mapping[str, Any]] = {"lr": 1e-4, "epochs": 40, "batch_size": 32}
    paper: ClassVar[str] = "Simonyan, Zisserman: Very deep convolutional networks, arXiv:1409.1556"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, protected after both hidden layers, its weights as torch draws them.

        Raises:
            UsageError: images of this shape are too small for the layers, an unknown protection or dropout rate.
        """
        features = [
            nn.Conv2d(shape[0], 64, 3),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        return network(
            type(self).__name__,
            shape,
            features,
            lambda size: [
                nn.Linear(size, 4096),
                nn.ReLU(),
                *self._protect(),
                nn.Linear(4096, 4096),
                nn.ReLU(),
                *self._protect(),
                nn.Linear(4096, classes),
            ],
        )

    def _protect(self) -> list[nn.Module]:
        return protected(self.protection, ("dropout", "batchnorm"), rate=self.dropout, norm=nn.BatchNorm1d(4096))
