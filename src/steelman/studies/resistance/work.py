"""How much work each part of the study is, counted in gradients of one image: its share of the progress."""

from dataclasses import dataclass
from typing import Any

from steelman.attacks.dichotomy import Dichotomy
from steelman.data import Data, Splits
from steelman.studies.resistance.detect import OVERSHOOT, methods
from steelman.studies.resistance.plan import Plan


@dataclass(frozen=True)
class Work:
    """Gradients that each part computes, at most; networks differ in what one costs, which is not counted."""

    zoo: tuple[int, ...]  # training of each network
    attacks: int  # on the chosen images, of one network
    test: int
    val: int
    finding: int
    discriminators: int
    detection: int

    @property
    def total(self) -> int:
        """Of the whole study."""
        parts = self.test + self.val + self.finding + self.discriminators + self.detection
        return sum(self.zoo) + len(self.zoo) * self.attacks + parts


def counted(plan: Plan, splits: Splits) -> Work:
    """The work of a study on these data."""
    scale = plan.scale
    num_test, num_train = _num(splits.test, scale.num_test), _num(splits.train, scale.num_train)
    num_val, held = _num(splits.val, scale.num_val), scale.steps + scale.nearest + scale.nearest_linf
    each = [_steps(attack) for p in plan.p for attack in plan.attacks(p).values()]
    shown = len(methods(plan, 0.0)) * (3 + len(OVERSHOOT)) + 2  # sets of images whose course is followed
    return Work(
        zoo=tuple(plan.recipe(architecture).epochs * num_train for architecture in plan.models),
        attacks=scale.num_attacked * sum(each),
        test=num_test * held,
        val=num_val * held,
        finding=scale.num_finding * (2 * scale.steps + scale.nearest),
        discriminators=min(scale.num_wrong, num_val // 10) * 2 * scale.steps,
        detection=scale.num_detect * shown * (scale.steps + scale.nearest),
    )


def _steps(attack: Any) -> int:
    return attack.steps * attack.halvings if isinstance(attack, Dichotomy) else attack.steps


def _num(data: Data, limit: int | None) -> int:
    return len(data) if limit is None else min(len(data), limit)
