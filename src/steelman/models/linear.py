"""Fully connected nets of study `finetune` (project comeeasy/FGSM_MNIST, 2021): one or three hidden layers."""

from dataclasses import dataclass

from torch import nn

from steelman.models import Architecture
from steelman.models.layers import ActivationName, activation, network, positive


@dataclass(frozen=True, repr=False)
class Linear1(Architecture):
    """One hidden layer of 784 units, "Basic_Linear_Regression" of the final report; 623,290 parameters on MNIST."""

    activation: ActivationName = "relu"
    width: int = 784

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights as torch draws them."""
        return _dense(type(self).__name__, shape, classes, activation_name=self.activation, width=self.width, depth=1)


@dataclass(frozen=True, repr=False)
class Linear3(Architecture):
    """Three hidden layers of 784 units, "MNIST_net(3)"; 1,854,170 parameters on MNIST."""

    activation: ActivationName = "relu"
    width: int = 784

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights as torch draws them."""
        return _dense(type(self).__name__, shape, classes, activation_name=self.activation, width=self.width, depth=3)


def _dense(
    name: str, shape: tuple[int, int, int], classes: int, *, activation_name: str, width: int, depth: int
) -> nn.Module:
    """`depth` hidden layers of `width` units, then one logit a class."""
    positive("width", width)

    def head(size: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for inputs in [size] + [width] * (depth - 1):
            layers += [nn.Linear(inputs, width), activation(activation_name)]
        return [*layers, nn.Linear(width, classes)]

    return network(name, shape, [], head)
