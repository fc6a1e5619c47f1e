"""Interval bounds as a certifier (Gowal et al. 2018, arXiv:1810.12715), with outward rounding."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from steelman.bounds import margins_of_boxes
from steelman.certify._bounded import Bounded
from steelman.threats import Ball
from steelman.types import Images, Labels, PerExample


@dataclass(frozen=True, repr=False)
class Interval(Bounded):
    """Proven where interval arithmetic through every layer leaves the label's logit above all others.

    The cheapest proof, about the price of two forward passes; tight for networks that were trained on it. It holds in
    exact arithmetic and in float32: every layer's box is widened by its rounding error.
    """

    paper: ClassVar[str] = "Gowal et al. 2018, arXiv:1810.12715"

    def bound(self, model: nn.Module, x: Images, y: Labels, threat: Ball) -> PerExample:  # noqa: D102
        return margins_of_boxes(model, x, y, threat)

    def supported(self) -> str:  # noqa: D102
        return (
            "convolutions and linear layers, batch normalisation, ReLU, leaky ReLU, tanh, sigmoid, clamp, max and "
            "average pooling, padding, flatten and reshape, sums, products with constants; threats Linf, L2 and L1; "
            "float32 or better"
        )
