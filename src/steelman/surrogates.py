"""A model with derivatives where it has none: finite surrogates for derivatives that are infinite or 0.

Backward pass differentiable approximation (Athalye, Carlini & Wagner 2018, arXiv:1802.00420, section 4.1), applied to
every model without touching it: the functions it calls are watched, their values kept, their derivatives replaced.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SMOOTH = 1e-4  # added under a square root, for its derivative alone: at most 50 at 0 instead of infinity
LEAK = 0.1  # slope of a ReLU's derivative where it is 0


class Repaired(nn.Module):
    """A model with the same outputs, to the last bit, and finite, non-zero surrogates in the backward pass.

    Square root, reciprocal root, power below 1 and logarithm get the derivative that they have a little above; ReLU,
    ReLU6, hardtanh and clamp a small slope where they have none; round, floor, ceil, trunc and sign that of the
    identity. Calls of these torch functions are watched: not those in place, nor any inside a compiled part; where a
    model compares, sorts or looks up, nothing can be put back.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits."""
        if not torch.is_grad_enabled():
            return self.model(x)
        with _Surrogates():
            return self.model(x)


def straight_through(value: Tensor, stand_in: Tensor) -> Tensor:
    """`value` to the last bit, with the derivative of `stand_in` (Bengio et al. 2013, arXiv:1308.3432)."""
    return _StraightThrough.apply(value, stand_in)  # type: ignore[no-any-return]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, stand_in: Tensor) -> Tensor:  # noqa: ARG004
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, grad


class _Surrogates(TorchFunctionMode):
    """Answers the watched functions with their own value and another derivative."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given: dict[str, Any] = kwargs or {}
        soft = _STAND_INS.get(func)
        if soft is not None and not args:  # all by name
            given = dict(given)
            args = (given.pop("input"),)
        if soft is None or not isinstance(args[0], Tensor) or not args[0].requires_grad or given.get("inplace"):
            return func(*args, **given)
        with torch.no_grad():
            value = func(*args, **given)
        return straight_through(value, soft(value, *args, **given))


def _lifted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The derivative of the function a little above, where it is finite."""

    def soft(value: Tensor, x: Tensor, *rest: Any) -> Tensor:  # noqa: ARG001
        return function(x + SMOOTH, *rest)

    return soft


def _root(value: Tensor, x: Tensor, exponent: Any) -> Tensor:  # noqa: ARG001
    """Powers between 0 and 1 are roots; others keep their derivative."""
    is_root = isinstance(exponent, float) and 0 < exponent < 1
    return torch.pow(x + SMOOTH if is_root else x, exponent)


def _leaky(value: Tensor, x: Tensor, *rest: Any, **options: Any) -> Tensor:  # noqa: ARG001
    """The function's own derivative, and a small one where that is 0: it is 1 or 0 for all of these."""
    passed = (value == x).to(x)
    return x * (LEAK + (1 - LEAK) * passed)


def _identity(value: Tensor, x: Tensor, *rest: Any, **options: Any) -> Tensor:  # noqa: ARG001
    return x


_STEPS = ("round", "floor", "ceil", "trunc", "fix", "sign")
_STAND_INS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    **{place.sqrt: _lifted(torch.sqrt) for place in (torch, Tensor)},
    **{place.rsqrt: _lifted(torch.rsqrt) for place in (torch, Tensor)},
    **{place.log: _lifted(torch.log) for place in (torch, Tensor)},
    **dict.fromkeys((torch.pow, Tensor.pow, Tensor.__pow__), _root),
    **dict.fromkeys((torch.relu, Tensor.relu, F.relu, F.relu6, F.hardtanh), _leaky),
    **dict.fromkeys((torch.clamp, Tensor.clamp, torch.clip, Tensor.clip), _leaky),
    **dict.fromkeys((torch.clamp_min, Tensor.clamp_min, torch.clamp_max, Tensor.clamp_max), _leaky),
    **{getattr(place, name): _identity for place in (torch, Tensor) for name in _STEPS},
}
