"""What the architectures share: activations by name, dropout, and a network whose head fits what its layers leave."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn

from steelman.errors import UsageError, choices

ActivationName = Literal["relu", "tanh", "leaky", "silu"]
Protection = Literal["none", "dropout", "batchnorm"]

LEAKY_SLOPE = 0.1
_LARGEST_SEARCHED = 1024  # pixels a side

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky": lambda: nn.LeakyReLU(LEAKY_SLOPE),
    "silu": nn.SiLU,
}


def activation(name: str) -> nn.Module:
    """The activation layer of this name.

    Raises:
        UsageError: no activation has this name.
    """
    if name not in _ACTIVATIONS:
        raise UsageError(choices("activation", name, _ACTIVATIONS))
    return _ACTIVATIONS[name]()


def protected(protection: str, possible: Sequence[str], *, rate: float, norm: nn.Module) -> list[nn.Module]:
    """The layers that a protection against overfitting inserts at one place: none, dropout of `rate`, or `norm`.

    Raises:
        UsageError: the protection is none of the possible ones, or the rate is no probability.
    """
    if protection not in possible:
        raise UsageError(choices("protection", protection, possible))
    layers: dict[str, list[nn.Module]] = {"none": [], "dropout": [dropout(rate)], "batchnorm": [norm]}
    return layers[protection]


def dropout(rate: float) -> nn.Dropout:
    """Dropout that zeroes a share `rate` of the values while training.

    Raises:
        UsageError: the rate is outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise UsageError(
            f"the dropout rate is {rate}. Possible: 0 (no dropout) up to, without, 1. Choose for example 0.5."
        )
    return nn.Dropout(rate)


def positive(field: str, value: int) -> int:
    """The value, a number of units.

    Raises:
        UsageError: it is below 1.
    """
    if value < 1:
        raise UsageError(f"{field} is {value}. Possible: 1 and up. Choose a whole number such as 128.")
    return value


def network(
    name: str,
    shape: tuple[int, int, int],
    features: Sequence[nn.Module],
    head: Callable[[int], Sequence[nn.Module]],
) -> nn.Sequential:
    """`features`, flatten, `head(number of flattened values)`, as the submodules `features`, `flatten` and `head`.

    Raises:
        UsageError: images of this shape are too small for the layers; `name` is named.
    """
    trunk = nn.Sequential(*features)
    size = flat_size(name, shape, trunk)
    parts = {"features": trunk, "flatten": nn.Flatten(), "head": nn.Sequential(*head(size))}
    return nn.Sequential(OrderedDict(parts))


def flat_size(name: str, shape: tuple[int, int, int], layers: nn.Module) -> int:
    """How many values the layers leave of one image of this shape (channels, height, width).

    Raises:
        UsageError: the image is too small; the smallest size that passes is named.
    """
    shadow = copy.deepcopy(layers).to("meta").eval()
    size = _dry_size(shadow, shape)
    if size is not None:
        return size
    channels, height, width = shape
    for side in range(1, _LARGEST_SEARCHED + 1):
        if _dry_size(shadow, (channels, side, side)) is not None:
            raise UsageError(
                f"images of {height}x{width} pixels are too small for {name}, which needs at least {side}x{side}. "
                "Enlarge the images or choose another architecture."
            )
    raise UsageError(f"{name} takes no images of {channels} channels. Choose another architecture.")


def _dry_size(shadow: nn.Module, shape: tuple[int, int, int]) -> int | None:
    """The number of values left, computed from shapes alone; None where a layer finds nothing to work on."""
    try:
        return shadow(torch.empty(1, *shape, device="meta")).numel() or None
    except RuntimeError:  # how torch says that a kernel is larger than its input
        return None
