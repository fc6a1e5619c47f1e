"""Classifiers: any `nn.Module` from pixels in [0, 1] (n c h w) to logits; normalisation is its first layer."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from steelman.spec import Spec


@dataclass(frozen=True, repr=False)
class Architecture(Spec):
    """A frozen configuration that builds a network for a shape and a number of classes."""

    recipe: ClassVar[Mapping[str, Any]] = {}  # the fields of `train.Recipe` in which this family differs
    paper: ClassVar[str] = ""

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network, its weights drawn from torch's global generator as torch layers do.

        Raises:
            UsageError: images of this shape are too small for the layers.
        """
        raise NotImplementedError

    def blank(self) -> "Architecture":
        """The same network without weights that it would read from elsewhere, for those who bring their own."""
        return self

    def __call__(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """The network with weights drawn from `generator`; the global generator is left as it was."""
        with seeded(generator):
            return self.build(shape, classes).eval()


class Normalize(nn.Module):
    """Pixels in [0, 1] to (x - mean) / std, per channel: always the first layer, so that attacks see pixels only."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


@contextmanager
def seeded(generator: torch.Generator) -> Generator[None, None, None]:
    """Torch's global CPU generator, seeded by a draw from `generator` inside the block, as it was after it."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
