"""The small net of study `features` that tells robust from non-robust features of one digit (2019)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from steelman.models import Architecture
from steelman.models._features import feature_network


@dataclass(frozen=True, repr=False)
class BlindCNN(Architecture):
    """Two 3x3 convolutions (2, 3), a layer of 30 features, one logit a class.

    The built network's submodule `features` maps images to the 30 non-negative features, `head` these to logits.
    """

    conv_dropout: float = 0.2
    head_dropout: float = 0.3

    recipe: ClassVar[Mapping[str, Any]] = {"lr": 3e-5, "epochs": 20, "batch_size": 32}

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights Xavier uniform and its biases 0, as Keras draws them.

        Raises:
            UsageError: images of this shape are too small for the layers, or a dropout rate is no probability.
        """
        return feature_network(
            type(self).__name__,
            shape,
            classes,
            filters=(2, 3),
            units=30,
            conv_dropout=self.conv_dropout,
            head_dropout=self.head_dropout,
        )
