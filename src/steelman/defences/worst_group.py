"""Worst-of-group training: the loss of the perturbation that hurts each image most.

Original: xziyue/robust_mnist_feature_py (2019). The worst of finitely many transformations: Engstrom et al. 2019,
Exploring the landscape of spatial robustness (arXiv:1712.02779).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from steelman.defences import Objective
from steelman.errors import UsageError
from steelman.threats import Threat
from steelman.threats.groups import Groups
from steelman.types import Images, Labels


@dataclass(frozen=True, repr=False)
class WorstGroup(Objective):
    """Mean cross-entropy on each image under the one perturbation of the groups whose loss is largest now.

    The choice is made in eval mode, without gradient; the step is taken on the chosen images only.

    Raises:
        UsageError: a threat that is not Groups(...).
    """

    threat: Threat = Groups()  # noqa: RUF009 (frozen)

    paper: ClassVar[str] = "Engstrom et al. 2019, arXiv:1712.02779"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.threat, Groups):
            raise UsageError(f"the threat is {self.threat!r}. Expected perturbations, such as Groups().")

    def __call__(  # noqa: D102
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        progress: float,  # noqa: ARG002
        generator: Generator,
    ) -> Float[Tensor, ""]:
        return F.cross_entropy(model(self.images(model, x, y, generator=generator)), y)

    def images(self, model: nn.Module, x: Images, y: Labels, *, generator: Generator) -> Images:
        """The batch to train on: each image under its worst perturbation."""
        assert isinstance(self.threat, Groups)
        candidates = self.threat.candidates(x, generator)
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                logits = [model(part) for part in candidates]
        finally:
            for module, mode in modes:
                module.training = mode
        losses = torch.stack([F.cross_entropy(part, y, reduction="none") for part in logits])
        worst = losses.nan_to_num(torch.inf).argmax(0)
        return candidates[worst, torch.arange(len(x), device=x.device)]
