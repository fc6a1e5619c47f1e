"""Gradients that are not there, put back: the same model with finite surrogates for derivatives that are infinite or 0.

Backward pass differentiable approximation (Athalye, Carlini & Wagner 2018, arXiv:1802.00420, section 4.1), applied to
every model without touching it: the functions it calls are watched, their values kept, their derivatives replaced.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode

from steelman.data import Data
from steelman.defences._filter import straight_through
from steelman.evaluate import Outcome, strike
from steelman.page import Check
from steelman.progress import Progress, silent
from steelman.stats import Paired, Share, mcnemar
from steelman.targets import TargetKind
from steelman.types import Labels, Mask

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


@dataclass(frozen=True, eq=False)
class Repair:
    """The same strike on the same model with repaired gradients, beside the plain one."""

    plain: Outcome
    repaired: Outcome

    @property
    def held(self) -> Mask:
        """Which images are right and broken by neither strike."""
        return self.plain.right & ~self.plain.broken & ~self.repaired.broken

    @property
    def worst(self) -> Share:
        """Accuracy under both strikes, the worse one counting for each image."""
        return Share.of(self.held)

    def to_json(self) -> dict[str, Any]:
        """Both shares, and the worse of both image by image, with a paired test."""
        return {
            "plain": self.plain.robust.to_json(),
            "repaired": self.repaired.robust.to_json(),
            "worst": self.worst.to_json(),
            "p": self._paired().p,
        }

    def check(self) -> Check:
        """Whether finite surrogates find what the model's own gradients could not."""
        paired = self._paired()
        more = paired.only_first
        hidden = more > paired.only_second and more > 0.01 * paired.n and paired.p < 0.01
        words = (
            f"With the model's own gradients {self.plain.robust} hold, with finite surrogates {self.repaired.robust}: "
            f"they break {more} images more and {paired.only_second} fewer (p = {paired.p:.1g})."
        )
        remedy = "Report the number with repaired gradients: the other one measures gradients, not robustness."
        return Check("repaired gradients", "fail" if hidden else "ok", str(more), words, remedy if hidden else "")

    def _paired(self) -> Paired:
        plain, repaired = (one.right & ~one.broken for one in (self.plain, self.repaired))
        return mcnemar(plain, repaired)


def repair(
    model: nn.Module,
    data: Data,
    plain: Outcome,
    *,
    target: Labels | TargetKind | None = None,
    generator: Generator | None = None,
    progress: Progress = silent,
) -> Repair:
    """Strike again, with finite surrogates for the derivatives; the outputs that judge are the model's own."""
    options: dict[str, Any] = {"target": target, "generator": generator, "progress": progress}
    return Repair(plain, strike(Repaired(model), data, plain.attack, plain.threat, **options))


class _Surrogates(TorchFunctionMode):
    """Answers the watched functions with their own value and another derivative."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given: dict[str, Any] = kwargs or {}
        soft = _STAND_INS.get(func)
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
