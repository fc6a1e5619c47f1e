"""ConvNets of study `finetune` (project comeeasy/FGSM_MNIST, 2021): the final report's and the earlier one of March."""

from dataclasses import dataclass

from torch import nn

from steelman.models import Architecture
from steelman.models.layers import ActivationName, activation, network


@dataclass(frozen=True, repr=False)
class ConvNet(Architecture):
    """Three 3x3 convolutions, the last of stride 2 without activation, then 512-512-10; 623,114 parameters on MNIST.

    `activation` also applies between the fully connected layers unless `head_activation` says otherwise.
    """

    activation: ActivationName = "relu"
    head_activation: ActivationName | None = None
    batch_norm: bool = False

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights as torch draws them.

        Raises:
            UsageError: images of this shape are too small for the layers.
        """
        in_head = self.head_activation or self.activation
        features = [
            *_convolution(shape[0], 32, kernel=3, padding=1, batch_norm=self.batch_norm),
            activation(self.activation),
            nn.MaxPool2d(3),
            *_convolution(32, 64, kernel=3, padding=1, batch_norm=self.batch_norm),
            activation(self.activation),
            nn.MaxPool2d(3),
            *_convolution(64, 128, kernel=3, padding=1, stride=2, batch_norm=self.batch_norm),
        ]
        return network(
            type(self).__name__,
            shape,
            features,
            lambda size: [
                nn.Linear(size, 512),
                activation(in_head),
                nn.Linear(512, 512),
                activation(in_head),
                nn.Linear(512, classes),
            ],
        )


@dataclass(frozen=True, repr=False)
class ConvNetMarch(Architecture):
    """The README's net of March 2021, its two fully connected activations free; 163,034 parameters on MNIST."""

    first_activation: ActivationName = "tanh"
    second_activation: ActivationName = "tanh"
    batch_norm: bool = False

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights as torch draws them.

        Raises:
            UsageError: images of this shape are too small for the layers.
        """
        features = [
            *_convolution(shape[0], 32, kernel=3, padding=1, batch_norm=self.batch_norm),
            nn.ReLU(),
            nn.MaxPool2d(2),
            *_convolution(32, 64, kernel=5, padding=2, stride=2, batch_norm=self.batch_norm),
            nn.ReLU(),
            nn.MaxPool2d(2),
            *_convolution(64, 128, kernel=3, padding=1, batch_norm=self.batch_norm),
        ]
        return network(
            type(self).__name__,
            shape,
            features,
            lambda size: [
                nn.Linear(size, 32),
                activation(self.first_activation),
                nn.Linear(32, 16),
                activation(self.second_activation),
                nn.Linear(16, classes),
            ],
        )


def _convolution(
    inputs: int, outputs: int, *, kernel: int, padding: int, stride: int = 1, batch_norm: bool
) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding)
    return [convolution, nn.BatchNorm2d(outputs)] if batch_norm else [convolution]
