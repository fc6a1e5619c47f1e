"""A box of values that stands in for a tensor while a model runs, and the size of rounding errors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import resolve_name

from steelman.threats import Ball

Operation: TypeAlias = Callable[..., Any]
TINY = 1e-15  # more than all that underflow can lose, also under a square root
FEW_CLASSES = 32  # up to which a last layer's differences are taken for all pairs of classes
_TF32 = 2.0**-8  # of a product of two numbers cut to 10 bits, as CUDA devices do by default: theirs and ours
RULES: dict[Operation, Operation] = {}  # what a torch function makes of boxes; rules.py fills it in
_PROPERTIES: tuple[Any, ...] = (Tensor.shape, Tensor.ndim, Tensor.dtype, Tensor.device, Tensor.is_cuda)
FACTS: set[Operation] = {Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__} | {p.__get__ for p in _PROPERTIES}


class Unknown(Exception):
    """The model does something for which there is no rule; says what, in words that follow "has no rule for"."""


@dataclass(frozen=True)
class Round:
    """The values centre + e + radii * d with |d| <= 1 in the threat's norm and |e| <= error, element by element.

    All images have the same radii.
    """

    centre: Tensor
    error: Tensor
    radii: Tensor
    norm: type[Ball]

    def reshaped(self, operation: Callable[[Tensor], Tensor]) -> "Round | None":
        """The same values in another shape; None where rows are no images any more."""
        centre, error, radii = (operation(part) for part in (self.centre, self.error, self.radii))
        return Round(centre, error, radii, self.norm) if len(centre) == len(self.centre) else None


class Box(Tensor):
    """All values between low and high, which stands in for a layer's output; at first also within a ball."""

    spread: tuple[Tensor, Tensor] | None  # centre and radius, of a product: its ends are computed when asked for
    ball: Round | None
    _ends: tuple[Tensor, Tensor] | None
    origin: tuple["Box", Tensor, Tensor | None] | None  # input, weight and bias of the linear layer it comes from
    aliases: list[None]  # one entry for each box that shares these values, as views do

    @staticmethod
    def __new__(cls: type["Box"], low: Tensor, high: Tensor, ball: Round | None = None) -> "Box":  # noqa: D102
        if low.dtype not in (torch.float32, torch.float64) or low.dtype != high.dtype:
            raise Unknown
        made: Any = Tensor._make_wrapper_subclass(cls, low.shape, dtype=low.dtype, device=low.device)
        made._ends, made.spread, made.ball, made.origin, made.aliases = (low, high), None, ball, None, [None]
        return made

    @classmethod
    def about(cls, centre: Tensor, radius: Tensor) -> "Box":
        """The box of these centres and radii, which nobody may write over."""
        made = cls(centre, radius)
        made._ends, made.spread = None, (centre, radius)
        return made

    @property
    def low(self) -> Tensor:
        """The lower end of each interval."""
        return self.ends[0]

    @property
    def high(self) -> Tensor:
        """The upper end."""
        return self.ends[1]

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Both."""
        if self._ends is None:
            assert self.spread is not None
            centre, radius = self.spread
            self._ends = centre - radius, centre + radius
        return self._ends

    def become(self, other: "Box") -> None:
        """Become the other one, for all that hold this."""
        self._ends, self.spread, self.ball, self.origin = other._ends, other.spread, other.ball, other.origin

    @classmethod
    def __torch_function__(
        cls, func: Operation, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        rule = RULES.get(func)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if tensors and torch.is_autocast_enabled(tensors[0].device.type):
            raise Unknown("lower precision (autocast)")
        name = resolve_name(func) or getattr(func, "__name__", str(func))
        if rule is None or not tensors:
            raise Unknown(name)
        try:
            return rule(*args, **(kwargs or {}))
        except TypeError:  # an option that the rule does not have
            raise Unknown(f"{name} with these options") from None
        except Unknown as unknown:
            raise Unknown(str(unknown) or f"{name} with these options") from None

    @classmethod
    def __torch_dispatch__(cls, func: object, types: object, args: object = (), kwargs: object = None) -> Any:
        raise Unknown  # called from compiled code, around the rules

    @property
    def middle(self) -> tuple[Tensor, Tensor]:
        """Centre and radius of each interval."""
        centre = (self.low + self.high).mul_(0.5)
        upwards, downwards = self.high - centre, centre - self.low
        return centre, torch.maximum(upwards, downwards, out=upwards)


def of_label(pairs: Tensor, y: Tensor) -> Tensor:
    """Of values (n, classes * classes) of all pairs of classes those of each image's label with every class."""
    classes = math.isqrt(pairs.shape[1])
    return pairs.unflatten(1, (classes, classes)).gather(1, y.view(-1, 1, 1).expand(-1, 1, classes)).squeeze(1)


def unit_roundoff(like: Tensor) -> float:
    """The largest relative error of one rounding."""
    return torch.finfo(like.dtype).eps / 2


def error_of_sum(terms: int, like: Tensor) -> float:
    """Twice gamma_(terms + 8): relative to the sum of absolute values, for the model's sum and another one."""
    error = (terms + 8) * unit_roundoff(like)
    return 2 * error / (1 - error) if error < 0.5 else math.inf


def error_of_product(weight: Tensor) -> float:
    """The share of |weight| |x| by which a layer's sum of products may be off, whatever its order."""
    tf32 = _TF32 if weight.is_cuda and weight.dtype == torch.float32 else 0.0
    return error_of_sum(weight[0].numel(), weight) + tf32
