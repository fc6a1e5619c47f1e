"""Normalised-gradient descent, as study `features` published it (xziyue/robust_mnist_feature_py, 2019)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from steelman.errors import UsageError
from steelman.features import Inversion, State
from steelman.types import Counts, Images, Mask, PerExample


@dataclass(frozen=True, repr=False)
class NormalisedGradient(Inversion):
    """Steps of length step_size * decay^k along the gradient, k = 0, 1, ...; pixels are cut to [0, 1].

    An image stops when the distance changed by less than `change` in a step. Where the gradient is 0 no step is taken.

    Raises:
        UsageError: no step, or a constant out of range.
    """

    steps: int = 100
    step_size: float = 1.0
    decay: float = 0.996
    change: float = 1e-3

    two_sided: ClassVar[bool] = True
    paper: ClassVar[str] = "as in Ilyas et al. 2019, arXiv:1905.02175"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or not 0 < self.step_size < math.inf or not 0 < self.decay <= 1 or not self.change >= 0:
            raise UsageError(f"{self!r}: expected one step or more, step_size > 0, 0 < decay <= 1 and change >= 0.")

    @property
    def most(self) -> int:  # noqa: D102
        return self.steps + 1  # the last gradient only judges

    def begin(self, x: Images) -> State:  # noqa: D102
        return {"distance": torch.full_like(x[:, 0, 0, 0], torch.inf)}

    def step(self, x: Images, fall: PerExample, grad: Images, count: Counts, state: State) -> Images:  # noqa: ARG002, D102
        length = grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        size = self.step_size * self.decay ** count.to(x.dtype).view(-1, 1, 1, 1)
        return (x - torch.where(length > 0, size * grad / length, 0)).clamp(0, 1)

    def stop(self, distance: PerExample, state: State) -> Mask:  # noqa: D102
        before, state["distance"] = state["distance"], distance
        return (distance - before).abs() < self.change
