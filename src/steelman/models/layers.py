"""What the architectures share: activations by name, dropout, and a network whose head fits what its layers leave.

Also what makes interval bounds tight: a threshold as the first layer, and weights for them (Shi et al. 2021,
arXiv:2103.11341, section 3.1).
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from steelman.errors import UsageError, choices

ActivationName = Literal["relu", "tanh", "leaky", "silu"]
Protection = Literal["none", "dropout", "batchnorm"]
Thresholding = Literal["none", "fixed", "learned"]

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


class Threshold(nn.Module):
    """0 up to the band's lower end, 1 from its upper end on, a straight line between them, pixel by pixel.

    A pixel that an attacker cannot move into the band is known exactly. Learned, the two ends are parameters.
    """

    low: Tensor
    width: Tensor

    def __init__(self, band: tuple[float, float], *, learned: bool = False) -> None:
        super().__init__()
        for name, value in (("low", band[0]), ("width", band[1] - band[0])):
            if learned:
                self.register_parameter(name, nn.Parameter(torch.tensor(value)))
            else:
                self.register_buffer(name, torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.low) / self.width).clamp(0, 1)


def thresholds(kind: str, band: tuple[float, float]) -> list[nn.Module]:
    """The first layers of a net with this kind of threshold: none or one.

    Raises:
        UsageError: an unknown kind, or a band that is no interval within [0, 1].
    """
    if kind not in ("none", "fixed", "learned"):
        raise UsageError(choices("threshold", kind, ("none", "fixed", "learned")))
    if len(band) != 2 or not 0 <= band[0] < band[1] <= 1:
        raise UsageError(f"band is {band}. Expected two pixel values in [0, 1], the lower one first, as (0.3, 0.7).")
    return [] if kind == "none" else [Threshold((band[0], band[1]), learned=kind == "learned")]


def draw_for_intervals(model: nn.Module) -> None:
    """Give each convolution and linear layer weights through which interval bounds neither grow nor shrink.

    They are normal with standard deviation sqrt(2 pi) / fan-in, as torch draws them; biases become 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=math.sqrt(2 * math.pi) / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def normalised(layer: nn.Conv2d | nn.Linear, *, batch_norm: bool) -> list[nn.Module]:
    """The layer and ReLU, with batch normalisation between them where asked for."""
    if not batch_norm:
        return [layer, nn.ReLU()]
    convolves = isinstance(layer, nn.Conv2d)
    norm = nn.BatchNorm2d(layer.out_channels) if convolves else nn.BatchNorm1d(layer.out_features)
    return [layer, norm, nn.ReLU()]


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
    size = _num_left(layers, shape)
    if size is not None:
        return size
    channels, height, width = shape
    for side in range(1, _LARGEST_SEARCHED + 1):
        if _num_left(layers, (channels, side, side)) is not None:
            raise UsageError(
                f"images of {height}x{width} pixels are too small for {name}, which needs at least {side}x{side}. "
                "Enlarge the images or choose another architecture."
            )
    raise UsageError(f"{name} takes no images of {channels} channels. Choose another architecture.")


def _num_left(layers: nn.Module, shape: tuple[int, int, int]) -> int | None:
    """The number of values left of one image; None where a layer finds nothing to work on."""
    training = layers.training
    try:
        with torch.no_grad():
            return layers.eval()(torch.zeros(1, *shape)).numel() or None
    except RuntimeError:  # how torch says that a kernel is larger than its input
        return None
    finally:
        layers.train(training)
