"""The MNIST net of "Fast is better than free" (Wong, Rice, Kolter, ICLR 2020, arXiv:2001.03994), also for bounds."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from steelman.models import Architecture
from steelman.models.layers import Thresholding, draw_for_intervals, network, normalised, positive, thresholds


@dataclass(frozen=True, repr=False)
class FastCNN(Architecture):
    """Two 4x4 convolutions of stride 2 (16, 32) and 100-10; 166,406 parameters on MNIST.

    Fields:
        batch_norm: normalise before each activation.
        threshold: a first layer that is 0 below `band`, 1 above it and linear within: its ends fixed or learned.
        band: the lower and the upper end.
        filters: of the first convolution; the second has twice as many.
        hidden: units of the hidden layer.
        weights: how they are drawn, "intervals" for training on interval bounds (Shi et al. 2021, arXiv:2103.11341).
    """

    batch_norm: bool = False
    threshold: Thresholding = "none"
    band: tuple[float, float] = (0.3, 0.7)
    filters: int = 16
    hidden: int = 100
    weights: Literal["torch", "intervals"] = "torch"

    paper: ClassVar[str] = "Wong, Rice, Kolter: Fast is better than free, arXiv:2001.03994"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights as torch draws them unless `weights` says otherwise.

        Raises:
            UsageError: images of this shape are too small for the layers, fewer than one filter or unit, an unknown
                threshold, or a band that is no interval.
        """
        filters, hidden = positive("filters", self.filters), positive("hidden", self.hidden)
        convolutions = (
            nn.Conv2d(shape[0], filters, 4, stride=2, padding=1),
            nn.Conv2d(filters, 2 * filters, 4, stride=2, padding=1),
        )
        model = network(
            type(self).__name__,
            shape,
            [
                *thresholds(self.threshold, self.band),
                *(one for layer in convolutions for one in normalised(layer, batch_norm=self.batch_norm)),
            ],
            lambda size: [
                *normalised(nn.Linear(size, hidden), batch_norm=self.batch_norm),
                nn.Linear(hidden, classes),
            ],
        )
        if self.weights == "intervals":
            draw_for_intervals(model)
        return model
