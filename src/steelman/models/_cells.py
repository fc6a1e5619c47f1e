"""What V1's cells make of filtered images: rectified or combined responses, and the noise of their spikes."""

import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

DerivativeName = Literal["smooth", "published"]
NoiseName = Literal["neuronal", "gaussian"]

NEARLY_ZERO = 1e-4  # responses far below it, on black ground and in rounding errors, hardly move an attack
GAIN = 25.0  # of every response
_SMALLEST_VARIANCE = 1e-4


class Noise(nn.Module):
    """Noise on responses of 0 or more, rectified again; each call draws anew, from the module's own generator.

    "neuronal": the spike count of a cell with mean rate y = scale response + level varies by sqrt(y), as that of a
    Poisson process; "gaussian": a standard deviation of `scale` for all cells. The generator's state is saved with the
    weights: a training that is resumed, or a network that is loaded, draws on where it stood.
    """

    def __init__(self, kind: NoiseName | None, scale: float, level: float, seed: int) -> None:
        super().__init__()
        self.kind, self.scale, self.level = kind, scale, level
        self.source = Generator().manual_seed(seed)

    def forward(self, responses: Tensor) -> Tensor:
        """Responses (cells, b, rows, columns) with noise."""
        if self.kind is None:
            return responses
        if self.source.device != responses.device:  # pragma: no cover (no GPU in the tests)
            self.source = Generator(responses.device).manual_seed(self.source.initial_seed())
        normal = torch.empty_like(responses).normal_(generator=self.source)
        if self.kind == "gaussian":
            return normal.mul_(self.scale).add(responses).relu_()
        noisy: Tensor = _Neuronal.apply(responses, normal, self.scale, self.level)  # type: ignore[no-untyped-call]
        return noisy

    def get_extra_state(self) -> Tensor:
        """The generator's state, under `_extra_state` in a state_dict."""
        return self.source.get_state()

    def set_extra_state(self, state: Any) -> None:
        """Go on from a saved state; one of another kind of device is left."""
        if state.shape == self.source.get_state().shape:
            self.source.set_state(state.cpu())


def complex_cells(even: Tensor, odd: Tensor, derivative: DerivativeName) -> Tensor:
    """sqrt((even^2 + odd^2) / 2).

    Its derivative is infinite at 0: "published" leaves it so, and the chain rule makes NaN of it. "smooth" takes
    that of sqrt(even^2 + odd^2 + NEARLY_ZERO^2) instead, which is finite, and 0 at 0.
    """
    if derivative == "published":
        return (even.square() + odd.square()).sqrt() / math.sqrt(2)
    length: Tensor = _Modulus.apply(even, odd)  # type: ignore[no-untyped-call]
    return length


class _Modulus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, even: Tensor, odd: Tensor) -> Tensor:
        length = even.square().addcmul_(odd, odd).mul_(0.5).sqrt_()
        ctx.save_for_backward(even, odd, length)
        return length

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        even, odd, length = ctx.saved_tensors
        factor = (length.square().mul_(2).add_(NEARLY_ZERO**2)).rsqrt_().mul_(grad).mul_(math.sqrt(0.5))
        return even * factor, odd * factor


class _Neuronal(torch.autograd.Function):
    """relu(r + n sqrt(scale r + level + 1e-4) / scale), the noise of rates undone to responses, in few passes."""

    @staticmethod
    def forward(ctx: Any, responses: Tensor, normal: Tensor, scale: float, level: float) -> Tensor:
        spread = responses.mul(scale).add_(level + _SMALLEST_VARIANCE).sqrt_()
        noisy = spread.mul(normal).div_(scale).add_(responses).relu_()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(normal / spread, noisy)
        return noisy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ratio, noisy = ctx.saved_tensors
        return (ratio * 0.5).add_(1).mul_(grad).mul_(noisy > 0), None, None, None
