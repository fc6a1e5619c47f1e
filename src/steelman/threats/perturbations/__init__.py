"""Perturbations: named, bounded changes of an image that keep its label. Random ones draw from where they are told."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from steelman.spec import Spec
from steelman.types import Images

Draw = Callable[[int], Tensor]
"""`draw(k)`: numbers uniform in (0, 1) of shape (images, k); every call gives new ones."""


@dataclass(frozen=True, repr=False)
class Perturbation(Spec):
    """One way to change an image; the fields are its constants."""

    random: ClassVar[bool] = False
    held_out: ClassVar[bool] = False  # among those that training of study `features` never sees

    def apply(self, x: Images, draw: Draw) -> Images:
        """The changed images, pixels in [0, 1]; what is random comes from `draw`."""
        raise NotImplementedError


def drawn(x: Images, generator: Generator) -> Draw:
    """Numbers from a generator: other ones at every call."""

    def draw(num: int) -> Tensor:
        uniform = torch.rand((len(x), num), generator=generator, dtype=x.dtype, device=x.device)
        return uniform.clamp_min(torch.finfo(x.dtype).tiny)

    return draw


def keyed(x: Images, seed: int) -> Draw:
    """Numbers that are a hash of each image's own pixels (rounded to 8 bits) and the seed.

    The same image gets the same numbers in every epoch, batch and process: perturbations that are drawn once, without
    being stored. The hash: splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195).
    """
    pixels = (x.flatten(1) * 255).round().long()
    weights = _mixed(torch.arange(1, pixels.shape[1] + 1, device=x.device) * _GOLDEN + _signed(seed))
    keys = _mixed((pixels * (weights | 1)).sum(1) + _signed(seed))
    calls = 0

    def draw(num: int) -> Tensor:
        nonlocal calls
        calls += 1
        counters = torch.arange(1, num + 1, device=x.device) + calls * _PER_CALL
        bits = _mixed(keys[:, None] + counters * _GOLDEN)
        top = (bits >> 40) & 0xFFFFFF  # 24 bits: as many as a float32 between 0 and 1 tells apart
        return (top.to(x.dtype) + 0.5) / 2**24

    return draw


def normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones, by the inverse of the distribution function."""
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


_PER_CALL = 2**40  # counters of one call never meet those of the next


def _signed(value: int) -> int:
    """The same 64 bits as a signed number, which is what torch has."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mixed(bits: Tensor) -> Tensor:
    """Splitmix64's finaliser; products wrap around, and shifts fill with zeros."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & (2 ** (64 - by) - 1)
