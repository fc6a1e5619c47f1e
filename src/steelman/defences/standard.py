"""Standard training: cross-entropy on clean images; label smoothing of Szegedy et al. 2016 (arXiv:1512.00567)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.defences import Objective
from steelman.errors import UsageError
from steelman.types import Images, Labels


@dataclass(frozen=True, repr=False)
class Standard(Objective):
    """Mean cross-entropy; with label smoothing s the target is (1 - s) on the label plus s / k on each of k classes.

    Raises:
        UsageError: a smoothing outside [0, 1).
    """

    label_smoothing: float = 0.0

    paper: ClassVar[str] = "Szegedy et al. 2016, arXiv:1512.00567 (label smoothing)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing is {self.label_smoothing}. Expected 0 <= label_smoothing < 1.")

    def __call__(  # noqa: D102
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        progress: float,  # noqa: ARG002
        generator: Generator,  # noqa: ARG002
    ) -> Float[Tensor, ""]:
        return F.cross_entropy(model(x), y, label_smoothing=self.label_smoothing)
