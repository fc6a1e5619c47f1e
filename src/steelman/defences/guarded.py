"""A guard against catastrophic overfitting: single-step training that learns its own step and nothing else.

The collapse: Wong et al. 2020 (arXiv:2001.03994, section 5.4), where robust accuracy under PGD falls to 0 within a few
hundred steps while that against the step itself rises. What helps, smaller steps and more noise: Andriushchenko &
Flammarion 2020 (arXiv:2007.02617), de Jorge et al. 2022 (arXiv:2202.01181).
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn

from steelman.attacks import Attack
from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.defences import Objective
from steelman.defences._minmax import MinMax
from steelman.engine import generator_for, guarded, predict
from steelman.errors import UsageError
from steelman.threats import Ball
from steelman.types import Images, Labels


@dataclass(frozen=True)
class Look:
    """What a guard saw: shares of right answers under one step, and under the probe."""

    one_step: float
    robust: float
    watched: int = 0  # images


@dataclass(frozen=True, repr=False)
class Guarded(Objective):
    """A single-step objective whose training is rolled back when it collapses, and goes on gentler.

    `checks` times an epoch, the last time at its end, `fit` attacks the first `num` val images twice within the ball of
    that moment: by FGSM and by the probe. Where the probe leaves fewer right by `gap` of them or more, the training has
    collapsed: weights, average and optimiser go back to the last check with at most half that gap (the
    start, before any), and from then on the objective's step is shorter or its noise stronger (`gentler`). Steps are
    not made up for: the training takes as many as without a guard. Each row of the log has `one_step` and `robust` of
    its last check, and its `rollbacks`.

    Fields:
        objective: Adversarial(FGSM(...), ...), FGSMRS(...), NFGSM(...), or AWP of one of them.

    Raises:
        UsageError: an objective with nothing to soften, a probe that does not search in its threat, or a number out of
            its range.
    """

    objective: Objective
    probe: Attack = PGD(steps=10)  # noqa: RUF009 (frozen)
    num: int = 200
    checks: int = 4
    gap: float = 0.3

    paper: ClassVar[str] = "Wong et al. 2020, arXiv:2001.03994 (the collapse)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.objective, MinMax):
            raise UsageError(
                f"Guarded was given {self.objective!r}. Expected an objective of a single step, such as "
                "Adversarial(FGSM(random_start=True), Linf(0.3)) or NFGSM(Linf(0.3))."
            )
        if self.num < 1 or self.checks < 1:
            raise UsageError(f"num is {self.num}, checks is {self.checks}. Expected one image and one check or more.")
        if not 0 < self.gap < 1:
            raise UsageError(f"gap is {self.gap}. Expected a share of the images, 0 < gap < 1, such as 0.3.")
        self.objective.gentler()
        for attack in (FGSM(), self.probe):
            attack.check_norm(self.ball())

    def __call__(  # noqa: D102
        self, model: nn.Module, x: Images, y: Labels, *, progress: float, generator: Generator
    ) -> Float[Tensor, ""]:
        return self.objective(model, x, y, progress=progress, generator=generator)

    def ball(self, progress: float = 1.0) -> Ball:
        """The images that are searched when training is that far."""
        assert isinstance(self.objective, MinMax)
        return self.objective.ball(progress)

    def after(self, rollbacks: int) -> "Guarded":
        """What training goes on with after so many rollbacks."""
        objective = self.objective
        for _ in range(rollbacks):
            assert isinstance(objective, MinMax)
            objective = objective.gentler()
        return Guarded(objective, self.probe, self.num, self.checks, self.gap)

    def look(self, model: nn.Module, x: Images, y: Labels, *, progress: float) -> Look:
        """How many of the images the model gets right after one step, and after the probe, which draws from seed 0."""
        found = [
            attack(model, x, y, self.ball(progress), generator=generator_for(x)) for attack in (FGSM(), self.probe)
        ]
        with guarded(model):
            one_step, robust = (int((predict(model, images).argmax(1) == y).sum()) / len(y) for images in found)
        return Look(one_step, robust, len(y))

    def collapsed(self, look: Look) -> bool:
        """Whether the training has learned its own step and no more."""
        return look.one_step - look.robust >= self.gap

    def well(self, look: Look) -> bool:
        """Whether it is worth going back to."""
        return look.one_step - look.robust <= self.gap / 2

    def due(self, step: int, num_batches: int) -> bool:
        """Whether to look after this step (1 .. num_batches) of an epoch."""
        return step * self.checks // num_batches > (step - 1) * self.checks // num_batches
