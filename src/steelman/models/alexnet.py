"""AlexNet (Krizhevsky, Sutskever, Hinton, NIPS 2012) for small images: studies `finetune` and `resistance`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from steelman.models import Architecture
from steelman.models.layers import dropout, network, protected

_PAPER = "Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional neural networks, NIPS 2012"


@dataclass(frozen=True, repr=False)
class AlexNet28(Architecture):
    """Four convolutions and 4096-4096-10, final report of comeeasy/FGSM_MNIST; 70,350,602 parameters on MNIST."""

    dropout: float = 0.5

    paper: ClassVar[str] = _PAPER

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights as torch draws them.

        Raises:
            UsageError: images of this shape are too small for the layers, or the dropout rate is no probability.
        """
        features = [
            nn.Conv2d(shape[0], 192, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.AdaptiveAvgPool2d(7),
        ]
        return network(
            type(self).__name__,
            shape,
            features,
            lambda size: [
                dropout(self.dropout),
                nn.Linear(size, 4096),
                nn.ReLU(),
                dropout(self.dropout),
                nn.Linear(4096, 4096),
                nn.ReLU(),
                nn.Linear(4096, classes),
            ],
        )


@dataclass(frozen=True, repr=False)
class AlexNetSmall(Architecture):
    """Two convolutions (5x5, 3x3) and 120-10, project maxdinech/mnist-attack; 212,658 parameters with dropout."""

    protection: Literal["dropout", "batchnorm"] = "dropout"
    dropout: float = 0.5

    recipe: ClassVar[Mapping[str, Any]] = {"lr": 5e-4, "epochs": 100}
    paper: ClassVar[str] = _PAPER

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, protected before both fully connected layers, its weights as torch draws them.

        Raises:
            UsageError: images of this shape are too small for the layers, an unknown protection or dropout rate.
        """
        features = [
            nn.Conv2d(shape[0], 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        return network(
            type(self).__name__,
            shape,
            features,
            lambda size: [
                *self._protect(size),
                nn.Linear(size, 120),
                nn.ReLU(),
                *self._protect(120),
                nn.Linear(120, classes),
            ],
        )

    def _protect(self, size: int) -> list[nn.Module]:
        norm = nn.BatchNorm1d(size)
        return protected(self.protection, ("dropout", "batchnorm"), rate=self.dropout, norm=norm)
