"""Defences: what a classifier is trained to do (objectives), and what is put around it afterwards (shields)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn

from steelman.spec import Spec
from steelman.threats import Ball
from steelman.types import Images, Labels


@dataclass(frozen=True, repr=False)
class Objective(Spec):
    """What training minimises; the fields are its constants."""

    paper: ClassVar[str] = ""

    def __call__(
        self, model: nn.Module, x: Images, y: Labels, *, progress: float, generator: Generator
    ) -> Float[Tensor, ""]:
        """The mean loss of a batch, to be differentiated with respect to the model's parameters.

        Args:
            model: in the mode in which it trains.
            x: pixels in [0, 1].
            y: class indices.
            progress: how far training is, 0 at its first step, towards 1; schedules depend on it.
            generator: the source of every random choice.
        """
        raise NotImplementedError

    def ball(self, progress: float = 1.0) -> Ball | None:  # noqa: ARG002
        """Around each image, what training is to hold against when it is that far; None where it knows of no ball."""
        return None


@dataclass(frozen=True, repr=False)
class Shield(Spec):
    """A defence at inference time: a model is wrapped in another one; the fields are its constants.

    What the wrapped model does is exact; what has no derivative, or no useful one, has that of a stand-in.
    """

    samples: ClassVar[int] = 1  # passes that an attack should average, where the shield draws random numbers
    paper: ClassVar[str] = ""

    def __call__(self, model: nn.Module) -> nn.Module:
        """The defended model, from pixels in [0, 1] to logits; it shares the given model's weights."""
        raise NotImplementedError
