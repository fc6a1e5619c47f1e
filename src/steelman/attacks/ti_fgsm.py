"""TI-FGSM: Dong et al. 2019, Evading defenses by translation-invariant attacks (arXiv:1904.02884)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from steelman.attacks import Problem
from steelman.attacks._momentum import Direction, Momentum
from steelman.errors import UsageError
from steelman.types import Images


@dataclass(frozen=True, repr=False)
class TIFGSM(Momentum):
    """MI-FGSM along gradients smoothed with a kernel, which stands for attacking all shifted copies (equation 7).

    The paper takes kernel_size=15 for images of 299 pixels; the default suits 28 to 64. The gaussian's radius is three
    standard deviations, as in the authors' code.

    Raises:
        UsageError: a kernel size that is not odd and positive, or what MIFGSM raises.
    """

    kernel: Literal["gaussian", "linear", "uniform"] = "gaussian"
    kernel_size: int = 5

    paper: ClassVar[str] = "Dong et al. 2019, arXiv:1904.02884"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise UsageError(f"{self!r}: expected an odd kernel size of 1 or more, such as 5.")

    def direction(self, problem: Problem, step: float) -> Direction:  # noqa: ARG002, D102
        profile = _profile(self.kernel, self.kernel_size).to(problem.x)
        return lambda x, _: smoothed(problem.value_and_grad(x, self.loss, coarse=True)[1], profile)


def smoothed(grad: Images, profile: Tensor) -> Images:
    """Each channel convolved with the kernel whose rows and columns are both `profile`; NaN counts as 0."""
    channels, radius = grad.shape[1], len(profile) // 2
    down, right = (profile.view(shape).expand(channels, 1, -1, -1) for shape in ((1, 1, -1, 1), (1, 1, 1, -1)))
    half = F.conv2d(grad.nan_to_num(0), down.expand(channels, 1, -1, 1), padding=(radius, 0), groups=channels)
    return F.conv2d(half, right.expand(channels, 1, 1, -1), padding=(0, radius), groups=channels)


def _profile(kernel: str, size: int) -> Tensor:
    """One side of the kernel, in float64, with sum 1: the paper's kernels are products of the same two."""
    radius = size // 2
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
    match kernel:
        case "gaussian":
            weights = (-(distance**2) / (2 * (max(radius, 1) / 3) ** 2)).exp()
        case "linear":
            weights = 1 - distance.abs() / (radius + 1)
        case _:
            weights = torch.ones_like(distance)
    return weights / weights.sum()
