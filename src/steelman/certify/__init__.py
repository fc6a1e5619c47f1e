"""Certifiers: proofs that no allowed change of an image alters what the classifier says."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, nn

from steelman.progress import Progress, silent
from steelman.spec import Spec
from steelman.threats import Ball
from steelman.types import Images, Labels, Mask


@dataclass(frozen=True, repr=False)
class Certifier(Spec):
    """A way to prove images robust; the fields are its constants."""

    paper: ClassVar[str] = ""

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: Ball,
        *,
        generator: Generator | None = None,
        progress: Progress = silent,
    ) -> Mask:
        """Whether an image is proven to be classified as `y` everywhere in the threat; False proves nothing.

        Args:
            model: from pixels in [0, 1] to logits; run in eval mode and given back as it was.
            x: pixels in [0, 1].
            y: class indices; an image that the model gets wrong is never certified.
            threat: around each image.
            generator: the source of every random choice; None for seed 0.
            progress: told in images.

        Raises:
            UsageError: a layer or a threat that this certifier does not know.
        """
        raise NotImplementedError
