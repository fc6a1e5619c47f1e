"""AWP: Wu, Xia & Wang 2020, Adversarial weight perturbation helps robust generalization (arXiv:2004.05884)."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.func import functional_call  # pyright: ignore[reportPrivateImportUsage]

from steelman.defences import Objective
from steelman.defences._minmax import MinMax
from steelman.errors import UsageError
from steelman.threats import Ball
from steelman.types import Images, Labels, Logits


@dataclass(frozen=True, repr=False)
class AWP(MinMax):
    """The loss of another objective at weights moved to where it is worse; its gradient is taken there, too.

    First the images are attacked at the weights as they are. Then each layer's weights w move once along the gradient
    g of that loss, by gamma |w| g / |g| (Euclidean norms, layer by layer; equation 10 with one step, the authors'
    code). Biases and BatchNorm's scales do not move. The optimiser applies the gradient to the unmoved weights, and the
    pass that finds the direction leaves BatchNorm's statistics alone. The paper takes gamma 0.01 with adversarial
    training, 0.005 with TRADES and MART.

    Fields:
        objective: Adversarial(...), NFGSM(...), TRADES(...) or MART(...).
        start: the share of training after which weights begin to move.

    Raises:
        UsageError: an objective that attacks no images, a negative gamma, or a start outside [0, 1].
    """

    objective: Objective
    gamma: float = 0.01
    start: float = 0.0

    paper: ClassVar[str] = "Wu et al. 2020, arXiv:2004.05884"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.objective, MinMax):
            raise UsageError(
                f"AWP was given {self.objective!r}. Expected an objective that attacks images, such as "
                "Adversarial(PGD(steps=10), Linf(0.3)) or TRADES(Linf(0.3))."
            )
        if not 0 <= self.gamma < math.inf or not 0 <= self.start <= 1:
            raise UsageError(
                f"gamma is {self.gamma}, start is {self.start}. Expected gamma >= 0, such as 0.01, and 0 <= start <= 1."
            )

    def __call__(  # noqa: D102
        self, model: nn.Module, x: Images, y: Labels, *, progress: float, generator: Generator
    ) -> Float[Tensor, ""]:
        x_adv = self.images(model, x, y, generator=generator, progress=progress)
        return (self if progress >= self.start else self.inner).loss(model, x, x_adv, y)

    @property
    def inner(self) -> MinMax:
        """The objective, known to attack images."""
        assert isinstance(self.objective, MinMax)
        return self.objective

    def images(self, model: nn.Module, x: Images, y: Labels, *, generator: Generator, progress: float = 1.0) -> Images:
        """Those of the objective."""
        return self.inner.images(model, x, y, generator=generator, progress=progress)

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Float[Tensor, ""]:
        """The objective's loss at the moved weights."""
        change = self._change(model, x, x_adv, y)
        moved = {name: value + change[name] for name, value in model.named_parameters() if name in change}
        return self.inner.loss(_Twin(model, moved), x, x_adv, y)

    def ball(self, progress: float = 1.0) -> Ball:  # noqa: D102
        return self.inner.ball(progress)

    def gentler(self) -> "AWP":
        """The objective within is gentler."""
        return replace(self, objective=self.inner.gentler())

    def _change(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> dict[str, Tensor]:
        """How far each layer's weights move."""
        weights = {
            name: value.detach().clone().requires_grad_()
            for name, value in model.named_parameters()
            if value.ndim > 1 and value.requires_grad
        }
        statistics = {name: value.clone() for name, value in model.named_buffers()}
        with torch.enable_grad():
            loss = self.inner.loss(_Twin(model, {**weights, **statistics}), x, x_adv, y)
            grads = torch.autograd.grad(loss, list(weights.values()))
        tiny = torch.finfo(x.dtype).tiny
        return {
            name: self.gamma * value.detach().norm() / grad.norm().clamp_min(tiny) * grad
            for (name, value), grad in zip(weights.items(), grads, strict=True)
        }


class _Twin(nn.Module):
    """A model with some of its weights replaced."""

    def __init__(self, model: nn.Module, replaced: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.replaced = model, replaced
        self.training = model.training

    def forward(self, x: Images) -> Logits:
        return functional_call(self.model, self.replaced, (x,))
