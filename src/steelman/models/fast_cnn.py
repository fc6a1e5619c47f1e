"""The MNIST net of "Fast is better than free" (Wong, Rice, Kolter, ICLR 2020, arXiv:2001.03994), also for bounds."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from steelman.models import Architecture
from steelman.models.layers import Thresholding, draw_for_intervals, network, positive, thresholds


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
        features = [
            *thresholds(self.threshold, self.band),
            *self._convolution(shape[0], filters),
            *self._convolution(filters, 2 * filters),
        ]
        norm = [nn.BatchNorm1d(hidden)] if self.batch_norm else []
        model = network(
            type(self).__name__,
            shape,
            features,
            lambda size: [nn.Linear(size, hidden), *norm, nn.ReLU(), nn.Linear(hidden, classes)],
        )
        if self.weights == "intervals":
            draw_for_intervals(model)
        return model

    def _convolution(self, inputs: int, outputs: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(outputs)] if self.batch_norm else []
        return [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), *norm, nn.ReLU()]
