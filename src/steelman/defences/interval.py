"""Training on interval bounds: IBP (Gowal et al. 2018, arXiv:1810.12715), fast (Shi et al. 2021, arXiv:2103.11341)."""

from dataclasses import dataclass
from typing import ClassVar

from steelman.defences._bounded import Bounded


@dataclass(frozen=True, repr=False)
class IBP(Bounded):
    """The bound is interval arithmetic through the network, in one pass with the clean images.

    It wants batch normalisation, weights drawn for intervals (`FastCNN(batch_norm=True, weights="intervals")`) and
    clip_gradient=10.
    """

    paper: ClassVar[str] = "Gowal et al. 2018, arXiv:1810.12715; Shi et al. 2021, arXiv:2103.11341"
