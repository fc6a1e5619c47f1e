"""The medium net of interval training (Gowal et al. 2018, arXiv:1810.12715, table 1), with batch normalisation.

Where the layers are normalised: Shi et al. 2021 (arXiv:2103.11341).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from steelman.models import Architecture
from steelman.models.layers import Thresholding, draw_for_intervals, network, normalised, positive, thresholds


@dataclass(frozen=True, repr=False)
class MediumCNN(Architecture):
    """Convolutions 3x3 and 4x4 of stride 2, twice (32, 32, 64, 64), and 512-512-10; 895,850 parameters on MNIST.

    Fields:
        batch_norm: normalise before each activation.
        threshold: a first layer that is 0 below `band`, 1 above it and linear within: its ends fixed or learned.
        band: the lower and the upper end.
        filters: of the first two convolutions; the others have twice as many.
        hidden: units of each hidden layer.
        weights: how they are drawn, "intervals" for training on interval bounds.
    """

    batch_norm: bool = True
    threshold: Thresholding = "none"
    band: tuple[float, float] = (0.3, 0.7)
    filters: int = 32
    hidden: int = 512
    weights: Literal["torch", "intervals"] = "intervals"

    recipe: ClassVar[Mapping[str, Any]] = {"batch_size": 128, "clip_gradient": 10.0}
    paper: ClassVar[str] = "Gowal et al.: On the effectiveness of interval bound propagation, arXiv:1810.12715"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights drawn for interval bounds unless `weights` says otherwise.

        Raises:
            UsageError: images of this shape are too small for the layers, fewer than one filter or unit, an unknown
                threshold, or a band that is no interval.
        """
        filters, hidden = positive("filters", self.filters), positive("hidden", self.hidden)
        convolutions = (
            nn.Conv2d(shape[0], filters, 3),
            nn.Conv2d(filters, filters, 4, stride=2),
            nn.Conv2d(filters, 2 * filters, 3),
            nn.Conv2d(2 * filters, 2 * filters, 4, stride=2),
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
                *normalised(nn.Linear(hidden, hidden), batch_norm=self.batch_norm),
                nn.Linear(hidden, classes),
            ],
        )
        if self.weights == "intervals":
            draw_for_intervals(model)
        return model
