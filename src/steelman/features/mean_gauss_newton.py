"""Gauss-Newton steps with one Gram matrix for all images, Polyak's step length (1969) and momentum.

The exact step of one image, J^T (J J^T)^-1 r, costs as many gradients as there are activations. The mean of J J^T over
a few images costs them once, and removes most of what makes plain descent slow: activations of different steepness.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steelman.errors import UsageError
from steelman.features import Activations, Inversion, State
from steelman.types import Counts, Images, Mask, PerExample


@dataclass(frozen=True, repr=False)
class MeanGaussNewton(Inversion):
    """Steps along J^T (G + damping)^-1 r with the mean Gram matrix G, which is restricted to the units at work.

    The step's length is `step_size` times Polyak's, r^T w / |J^T w|^2, at which a linear network's residual would be 0.
    Pixels that are at an end of [0, 1] and would leave it take no part. Without a Gram matrix (layers of too many
    activations) G is the identity. An image stops after `patience` gradients without a residual lower by 1 %.

    Raises:
        UsageError: no step, or a constant out of range.
    """

    steps: int = 30
    damping: float = 0.3  # in units of the mean of G's diagonal
    step_size: float = 0.5
    momentum: float = 0.5
    patience: int = 10

    scaled: ClassVar[bool] = True
    paper: ClassVar[str] = "Polyak 1969, doi:10.1016/0041-5553(69)90061-5"

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = 0 < self.damping < math.inf and 0 < self.step_size < math.inf and 0 <= self.momentum < 1
        if self.steps < 1 or self.patience < 1 or not numbers:
            raise UsageError(
                f"{self!r}: expected one step or more, patience of 1 or more, damping and step_size above 0, and "
                "0 <= momentum < 1."
            )

    @property
    def most(self) -> int:  # noqa: D102
        return self.steps + 1  # the last gradient only judges

    def begin(self, x: Images) -> State:  # noqa: D102
        lowest = torch.full_like(x[:, 0, 0, 0], torch.inf)
        return {"velocity": torch.zeros_like(x), "lowest": lowest, "idle": torch.zeros_like(lowest)}

    def weigh(self, residual: Activations, gram: Float[Tensor, "f f"] | None) -> Activations:  # noqa: D102
        if gram is None:
            return residual
        work = (residual != 0).to(residual)  # a unit that is 0, as it should be, has no gradient
        damped = work[:, :, None] * gram * work[:, None, :]
        damped.diagonal(dim1=1, dim2=2).add_(self.damping * gram.diagonal().mean())
        factor, failed = torch.linalg.cholesky_ex(damped)
        weights = torch.cholesky_solve(residual[:, :, None], factor)[:, :, 0] * work
        return torch.where((failed == 0)[:, None] & weights.isfinite().all(1, keepdim=True), weights, residual)

    def step(self, x: Images, fall: PerExample, grad: Images, count: Counts, state: State) -> Images:  # noqa: ARG002, D102
        leaving = ((x <= 0) & (grad > 0)) | ((x >= 1) & (grad < 0))
        grad = torch.where(leaving, 0, grad)
        squared = grad.flatten(1).square().sum(1)
        size = self.step_size * fall / squared.clamp_min(torch.finfo(x.dtype).tiny)
        move = torch.where(squared > 0, size, 0).view(-1, 1, 1, 1) * grad
        state["velocity"] = self.momentum * state["velocity"] - move
        return (x + state["velocity"]).clamp(0, 1)

    def stop(self, distance: PerExample, state: State) -> Mask:  # noqa: D102
        better = distance < 0.99 * state["lowest"]
        state["lowest"] = torch.where(better, distance, state["lowest"])
        state["idle"] = torch.where(better, 0, state["idle"] + 1)
        return state["idle"] >= self.patience
