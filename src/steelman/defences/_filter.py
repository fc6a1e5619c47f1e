"""Filters: shields that change the image before the model sees it, and what an adaptive attack differentiates instead.

The forward pass is exact. Where the filter has no useful derivative, the backward pass takes that of a stand-in close
to it (backward pass differentiable approximation, Athalye et al. 2018, arXiv:1802.00420, section 4.1).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from steelman.defences import Shield
from steelman.errors import UsageError
from steelman.surrogates import straight_through
from steelman.types import Images


@dataclass(frozen=True, repr=False)
class Filter(Shield):
    """A shield that filters the image; pixels stay in [0, 1] and the shape stays as it is."""

    smooth: ClassVar[bool] = False  # whether the filter's own derivative is the one to attack through

    def exact(self, x: Images) -> Images:
        """The filtered images, as the model sees them."""
        raise NotImplementedError

    def stand_in(self, x: Images) -> Images:
        """A differentiable approximation whose derivative attacks take; the image itself (straight-through)."""
        return x

    def __call__(self, model: nn.Module) -> nn.Module:
        return Filtered(model, self)

    def _require(self, name: str, expected: str, *, holds: bool) -> None:
        if not holds:
            raise UsageError(f"{type(self).__name__}: {name} is {getattr(self, name)}. Expected {expected}.")


class Filtered(nn.Module):
    """A model behind a filter: exact forward, and backward through the filter's stand-in."""

    def __init__(self, model: nn.Module, filter_: Filter) -> None:
        super().__init__()
        self.model, self.filter = model, filter_

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits for the filtered images."""
        return self.model(self.filtered(x))

    def filtered(self, x: Tensor) -> Tensor:
        """What the model sees."""
        if self.filter.smooth:
            return self.filter.exact(x)
        with torch.no_grad():
            exact = self.filter.exact(x.detach())
        if not torch.is_grad_enabled() or not x.requires_grad:
            return exact
        return straight_through(exact, self.filter.stand_in(x))
