"""SmallCNN, the MNIST net of TRADES (Zhang et al., ICML 2019, arXiv:1901.08573); the published weights load."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from steelman.models import Architecture
from steelman.models.layers import dropout, flat_size


@dataclass(frozen=True, repr=False)
class SmallCNN(Architecture):
    """Four 3x3 convolutions (32, 32, 64, 64) and 200-200-10; 312,202 parameters on MNIST."""

    dropout: float = 0.5

    recipe: ClassVar[Mapping[str, Any]] = {"batch_size": 128}
    paper: ClassVar[str] = (
        "Zhang et al.: Theoretically principled trade-off between robustness and accuracy, arXiv:1901.08573"
    )

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its convolutions Kaiming normal, its linear layers as torch draws them.

        Raises:
            UsageError: images of this shape are too small for the layers, or the dropout rate is no probability.
        """
        return _SmallCNN(shape, classes, self.dropout)


class _SmallCNN(nn.Module):
    """Submodules named as in the published weights: feature_extractor.convN, classifier.fcN."""

    def __init__(self, shape: tuple[int, int, int], classes: int, rate: float) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(shape[0], 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 64, 3)]
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight)
        first, second, third, fourth = convolutions
        self.feature_extractor = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=first,
                relu1=nn.ReLU(),
                conv2=second,
                relu2=nn.ReLU(),
                maxpool1=nn.MaxPool2d(2),
                conv3=third,
                relu3=nn.ReLU(),
                conv4=fourth,
                relu4=nn.ReLU(),
                maxpool2=nn.MaxPool2d(2),
            )
        )
        size = flat_size("SmallCNN", shape, self.feature_extractor)
        # The reference starts fc3 at zero; then every gradient with respect to the image is zero until the first step.
        self.classifier = nn.Sequential(
            OrderedDict[str, nn.Module](
                fc1=nn.Linear(size, 200),
                relu1=nn.ReLU(),
                drop=dropout(rate),
                fc2=nn.Linear(200, 200),
                relu2=nn.ReLU(),
                fc3=nn.Linear(200, classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.feature_extractor(x).flatten(1))
