"""How much work each part of the study is, counted in gradients of one image: its share of the progress."""

from dataclasses import dataclass

from steelman.attacks import Attack
from steelman.attacks.dichotomy import Dichotomy
from steelman.data import Splits
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
    num_test, num_train = len(splits.test.first(scale.num_test)), len(splits.train.first(scale.num_train))
    num_val, held = min(len(splits.val), scale.num_val), scale.steps + scale.nearest
    each = [_steps(attack, scale.nearest) for p in plan.p for attack in plan.attacks(p).values()]
    shown = len(methods(plan, 0.0)) * (3 + len(OVERSHOOT)) + 2  # sets of images whose course is followed
    return Work(
        zoo=tuple(plan.recipe(architecture).epochs * num_train for architecture in plan.models),
        attacks=scale.num_attacked * sum(each),
        test=num_test * held,
        val=num_val * held,
        finding=scale.num_finding * (2 * scale.steps + scale.nearest),
        discriminators=min(scale.num_wrong, num_val // 10) * 2 * scale.steps,
        detection=scale.num_detect * shown * held,
    )


def _steps(attack: Attack, usual: int) -> int:
    steps: int = getattr(attack, "steps", usual)
    return steps * attack.halvings if isinstance(attack, Dichotomy) else steps
