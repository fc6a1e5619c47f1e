"""Groups of perturbations: a finite set of changes, of which the worst counts for each image.

Original: xziyue/robust_mnist_feature_py (2019), whose five groups are the default.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from steelman.errors import UsageError, check_seed
from steelman.threats import TOLERANCE, Threat
from steelman.threats.perturbations import Draw, Perturbation, drawn, keyed
from steelman.threats.perturbations.geometry import Blur, Elastic, Rotation, Translation
from steelman.threats.perturbations.lines import Lines
from steelman.threats.perturbations.pixels import AbsoluteNoise, Compression, Contrast, Fog, Identity, Removal
from steelman.types import Images, Mask

ORIGINAL: tuple[Perturbation, ...] = (
    Lines(angle=90.0, count=5, width=2.0),
    Lines(angle=0.0, count=7, width=1.0),
    AbsoluteNoise(),
    Removal(),
    Identity(),
)
HELD_OUT: tuple[Perturbation, ...] = (Blur(), Contrast(), Rotation(), Translation(), Elastic(), Compression(), Fog())


@dataclass(frozen=True, repr=False)
class Groups(Threat):
    """One of a few named perturbations; the default is vertical lines, horizontal lines, |noise|, removal, none.

    Fields:
        members: the perturbations.
        fixed: what is random is drawn once for each image, from its own pixels and the seed, as published; False
            draws anew at every call, from the caller's generator.
        seed: of the fixed draws.

    Raises:
        UsageError: no perturbation, or a negative seed.
    """

    members: tuple[Perturbation, ...] = ORIGINAL
    fixed: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.members or not all(isinstance(member, Perturbation) for member in self.members):
            raise UsageError(f"{self!r}: expected at least one perturbation, such as Groups((Lines(angle=90),)).")
        check_seed(self.seed)

    def candidates(self, x: Images, generator: Generator | None = None) -> Float[Tensor, "g b c h w"]:
        """Every image under every perturbation, in the order of the members; pixels in [0, 1].

        Raises:
            UsageError: `fixed=False` without a generator to draw from.
        """
        return torch.stack([self.apply(number, x, generator) for number in range(len(self.members))])

    def apply(self, number: int, x: Images, generator: Generator | None = None) -> Images:
        """Every image under one perturbation.

        Raises:
            UsageError: `fixed=False` without a generator to draw from.
        """
        return self.members[number].apply(x, self._draw(number, x, generator))

    def contains(self, x_adv: Images, x: Images, tolerance: float = TOLERANCE) -> Mask:
        """Whether each candidate is the image under one of the perturbations, as they are drawn once.

        Raises:
            UsageError: random perturbations that are drawn anew: any image could be a draw.
        """
        if not self.fixed and any(member.random for member in self.members):
            raise UsageError(f"{self!r} draws anew: which images it allows cannot be told. Write fixed=True.")
        gaps = (self.candidates(x, torch.Generator()) - x_adv).flatten(2).abs().amax(2)
        return (gaps <= tolerance).any(0)

    def _draw(self, number: int, x: Images, generator: Generator | None) -> Draw:
        if self.fixed:
            return keyed(x, self.seed + number * _STRIDE)
        if generator is None:
            raise UsageError(f"{self!r} draws anew each time. Give a generator, or write fixed=True.")
        return drawn(x, generator)


_STRIDE = 1_000_003  # between the seeds of two members
