"""ResNet-18 (He et al. 2016, arXiv:1512.03385): torchvision's layers behind ImageNet's normalisation."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from steelman.models import Architecture
from steelman.models._imagenet import ImageNetNormalize, check_channels, load_pretrained
from steelman.models.cuts import Cuttable


@dataclass(frozen=True, repr=False)
class ResNet18(Architecture):
    """Eight residual blocks of two convolutions behind a stem; 11,689,512 parameters with 1,000 classes.

    Cut points are the blocks 1 to 8. `pretrained` is "torchvision", "timm" or a file, here or in $STEELMAN_DATA.
    """

    pretrained: str | None = None

    recipe: ClassVar[Mapping[str, Any]] = {"lr": 1e-4, "epochs": 4, "batch_size": 32}
    paper: ClassVar[str] = "He et al. 2016, arXiv:1512.03385"

    def blank(self) -> "ResNet18":
        """The same network without pretrained weights."""
        return replace(self, pretrained=None)

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network; what the pretrained weights do not fill is as torchvision draws it.

        Raises:
            UsageError: images of neither one nor three channels.
            WeightsError: pretrained weights that cannot be had, or do not fit.
        """
        from steelman.vision import torchvision  # takes seconds to import

        check_channels("ResNet18", shape[0])
        net = torchvision.models.resnet18(num_classes=classes)
        layers = dict(net.named_children())
        head = layers.pop("fc")
        model = Cuttable(
            OrderedDict[str, nn.Module](normalize=ImageNetNormalize(), **layers, flatten=nn.Flatten(), fc=head)
        )
        model.cuts = {blocks: 5 + blocks for blocks in range(1, 9)}
        if self.pretrained is not None:
            load_pretrained(model, self.pretrained, "fc.", {"torchvision": "resnet18", "timm": "resnet18"})
        return model
