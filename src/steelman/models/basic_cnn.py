"""The smallest convolutional net of study `finetune` (project comeeasy/FGSM_MNIST, 2021, final report)."""

from dataclasses import dataclass

from torch import nn

from steelman.models import Architecture
from steelman.models.layers import network


@dataclass(frozen=True, repr=False)
class BasicCNN(Architecture):
    """Two 3x3 convolutions (32, 64), each with ReLU and pooling, one linear layer; 50,186 parameters on MNIST."""

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network: convolutions as torch draws them, the linear layer's weights Xavier uniform.

        Raises:
            UsageError: images of this shape are too small for the layers.
        """
        features = [
            nn.Conv2d(shape[0], 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]

        def head(size: int) -> list[nn.Module]:
            linear = nn.Linear(size, classes)
            nn.init.xavier_uniform_(linear.weight)
            return [linear]

        return network(type(self).__name__, shape, features, head)
