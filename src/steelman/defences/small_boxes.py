"""SABR (Müller et al. 2023, arXiv:2210.04871): interval bounds of a small box about an adversarial image."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, nn

from steelman.attacks import Attack
from steelman.attacks.pgd import PGD
from steelman.defences._bounded import Bounded, around
from steelman.errors import UsageError
from steelman.types import Images, Labels


@dataclass(frozen=True, repr=False)
class SABR(Bounded):
    """As interval training, on a box of `share_of_eps` times eps about the attack's image, which stays in the threat.

    Smaller boxes regularise less: a higher clean accuracy, certified by linear bounds or a complete verifier rather
    than by intervals.

    Raises:
        UsageError: as for interval training, and a share outside (0, 1].
    """

    kappa: float = 0.0
    share_of_eps: float = 0.6
    attack: Attack = PGD(steps=8, step_size=0.25)  # noqa: RUF009 (frozen)

    paper: ClassVar[str] = "Müller et al. 2023, arXiv:2210.04871"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share_of_eps <= 1:
            raise UsageError(f"share_of_eps is {self.share_of_eps}. Expected the box's part of eps, above 0, up to 1.")

    def box(  # noqa: D102
        self, model: nn.Module, x: Images, y: Labels, progress: float, generator: Generator
    ) -> tuple[Images, Images]:
        ball = self.ball(progress)
        radius = self.share_of_eps * ball.eps
        rest = ball.at(ball.eps - radius)
        centre = self.attack.perturb(model, x, y, rest, generator=generator) if rest.eps > 0 else x
        return around(centre, radius, ball)
