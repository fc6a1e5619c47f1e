"""The net of study `features` (project xziyue/robust_mnist_feature_py, 2019), whose layer of 100 units is inverted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from steelman.models import Architecture
from steelman.models._features import feature_network


@dataclass(frozen=True, repr=False)
class FC100(Architecture):
    """Two 3x3 convolutions (32, 64), a layer of 100 features, one logit a class; 941,526 parameters on MNIST.

    The built network's submodule `features` maps images to the 100 non-negative features, `head` these to logits.
    """

    conv_dropout: float = 0.2
    head_dropout: float = 0.3

    recipe: ClassVar[Mapping[str, Any]] = {"lr": 3e-5, "epochs": 6, "batch_size": 32}

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights Xavier uniform and its biases 0, as Keras draws them.

        Raises:
            UsageError: images of this shape are too small for the layers, or a dropout rate is no probability.
        """
        return feature_network(
            type(self).__name__,
            shape,
            classes,
            filters=(32, 64),
            units=100,
            conv_dropout=self.conv_dropout,
            head_dropout=self.head_dropout,
        )
