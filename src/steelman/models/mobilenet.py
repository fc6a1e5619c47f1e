"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381): torchvision's layers behind ImageNet's normalisation."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from steelman.errors import UsageError
from steelman.models import Architecture
from steelman.models._imagenet import ImageNetNormalize, check_channels, load_pretrained
from steelman.models.cuts import Cuttable


@dataclass(frozen=True, repr=False)
class MobileNetV2(Architecture):
    """Sixteen inverted residual blocks behind a stem and an expanded convolution; 3,504,872 parameters, 1,000 classes.

    Cut points are the blocks 1 to 16: `features[:n + 2]` in torchvision's words, for 16 `features[:19]`, which is all
    but the classifier. `pretrained` is "torchvision", "timm" or a file, here or in $STEELMAN_DATA.

    Raises:
        UsageError: a width that is not positive.
    """

    width: float = 1.0
    pretrained: str | None = None

    recipe: ClassVar[Mapping[str, Any]] = {"lr": 1e-4, "epochs": 4, "batch_size": 32}
    paper: ClassVar[str] = "Sandler et al. 2018, arXiv:1801.04381"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.width <= 4:
            raise UsageError(f"width is {self.width}. Expected 0 < width <= 4, such as 1.0 or 0.5.")

    def blank(self) -> "MobileNetV2":
        """The same network without pretrained weights."""
        return replace(self, pretrained=None)

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network; what the pretrained weights do not fill is as torchvision draws it.

        Raises:
            UsageError: images of neither one nor three channels.
            WeightsError: pretrained weights that cannot be had, or do not fit.
        """
        from steelman.vision import torchvision  # takes seconds to import

        check_channels("MobileNetV2", shape[0])
        net = torchvision.models.mobilenet_v2(num_classes=classes, width_mult=self.width)
        model = Cuttable(
            OrderedDict[str, nn.Module](
                normalize=ImageNetNormalize(),
                features=net.features,
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classifier=net.classifier,
            )
        )
        model.cuts = {blocks: 1 + (19 if blocks == 16 else blocks + 2) for blocks in range(1, 17)}
        if self.pretrained is not None:
            origins = {"torchvision": "mobilenet_v2", "timm": "mobilenetv2_100"} if self.width == 1 else {}
            load_pretrained(model, self.pretrained, "classifier.", origins)
        return model
