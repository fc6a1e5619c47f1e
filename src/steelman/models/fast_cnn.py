"""The MNIST net of "Fast is better than free" (Wong, Rice, Kolter, ICLR 2020, arXiv:2001.03994)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from steelman.models import Architecture
from steelman.models.layers import network


@dataclass(frozen=True, repr=False)
class FastCNN(Architecture):
    """Two 4x4 convolutions of stride 2 (16, 32) and 100-10; 166,406 parameters on MNIST."""

    paper: ClassVar[str] = "Wong, Rice, Kolter: Fast is better than free, arXiv:2001.03994"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights as torch draws them.

        Raises:
            UsageError: images of this shape are too small for the layers.
        """
        features = [
            nn.Conv2d(shape[0], 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
        ]
        return network(
            type(self).__name__,
            shape,
            features,
            lambda size: [nn.Linear(size, 100), nn.ReLU(), nn.Linear(100, classes)],
        )
