"""Parts of the interval pass that go over memory seldom, two with their gradient written out for that."""

from typing import Any

import torch
from torch import Tensor


def middle(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and radius of the intervals from low to high: half of the sum and half of the difference."""
    centre = torch.lerp(low, high, 0.5)
    return centre, centre - low


def rectified(centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and radius of the intervals after ReLU."""
    return _Rectified.apply(centre, radius)


def statistics(x: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of x, known already; only their gradient is computed."""
    return _Statistics.apply(x, mean, variance)


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (centre - radius).relu_(), (centre + radius).relu_()
        ctx.save_for_backward(low, high)
        return middle(low, high)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_centre: Tensor, of_radius: Tensor
    ) -> tuple[Tensor, Tensor]:
        low, high = ctx.saved_tensors
        of_centre, of_radius = _ordered(of_centre, low), _ordered(of_radius, low)
        of_high = torch.ops.aten.threshold_backward(of_centre + of_radius, high, 0)
        of_low = torch.ops.aten.threshold_backward(of_centre - of_radius, low, 0)
        return middle(of_low, of_high)


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, mean)
        return mean.clone(), variance.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_mean: Tensor, of_variance: Tensor
    ) -> tuple[Tensor, None, None]:
        x, mean = ctx.saved_tensors
        num, shape = x.numel() // x.shape[1], (-1, *[1] * (x.ndim - 2))
        slope = 2 * of_variance / num
        offset = of_mean / num - slope * mean
        return torch.addcmul(offset.view(shape), x, slope.view(shape)), None, None


def _ordered(grad: Tensor, like: Tensor) -> Tensor:
    """The gradient in the other tensor's order of memory: mixed orders cost many times as much, here and further on."""
    return grad if grad.stride() == like.stride() else torch.empty_like(like).copy_(grad)
