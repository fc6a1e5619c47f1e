"""Features: what a network sees in an image, made visible, cleaned, told apart and synthesised."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from steelman.spec import Spec
from steelman.types import Counts, Images, Mask, PerExample

State = dict[str, Tensor]
Activations = Float[Tensor, "b f"]


@dataclass(frozen=True, repr=False)
class Inversion(Spec):
    """How to look for an image whose activations match given ones; the fields are the method's constants.

    In each round the engine evaluates the residual r between activations and target, the method weighs it, w = M r with
    a matrix M of its choice, the engine gives the gradient J^T w, and the method steps. The least |r|, 0, is known.
    """

    two_sided: ClassVar[bool] = False  # whether a unit below its ReLU's threshold counts as 0, and has no gradient
    scaled: ClassVar[bool] = False  # whether `weigh` wants the activations' mean Gram matrix J J^T
    paper: ClassVar[str] = ""

    @property
    def most(self) -> int:
        """The largest number of gradients that an image gets."""
        raise NotImplementedError

    def begin(self, x: Images) -> State:
        """What the method remembers of each image, before its first step; every tensor has one row an image."""
        raise NotImplementedError

    def weigh(self, residual: Activations, gram: Float[Tensor, "f f"] | None) -> Activations:  # noqa: ARG002
        """The weights of the activations whose gradient is wanted; the residual itself means least squares."""
        return residual

    def step(self, x: Images, fall: PerExample, grad: Images, count: Counts, state: State) -> Images:
        """The next candidates, pixels in [0, 1]; `state` is brought up to date.

        Args:
            x: candidates, each with its own history.
            fall: residual times weights, r^T M r.
            grad: the gradient of the weighted activations, J^T M r.
            count: how many gradients each image had before this one, 0 at its first step.
            state: what `begin` gave, row by row.
        """
        raise NotImplementedError

    def stop(self, distance: PerExample, state: State) -> Mask:
        """Which images the method itself gives up at this distance |r|, judged after the step."""
        raise NotImplementedError
