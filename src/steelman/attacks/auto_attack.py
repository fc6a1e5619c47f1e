"""AutoAttack: Croce & Hein 2020, Reliable evaluation of adversarial robustness (arXiv:2003.01690)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from steelman.attacks import Attack, Problem
from steelman.attacks.apgd import APGD
from steelman.attacks.fab import FAB
from steelman.attacks.square import Square
from steelman.attacks.strongest import in_turn
from steelman.errors import UsageError
from steelman.threats import Ball


@dataclass(frozen=True, repr=False)
class AutoAttack(Attack):
    """The four attacks of the reference code in its order, each on the images that held against those before it.

    `standard`: APGD on the cross-entropy, targeted APGD on the DLR, targeted FAB, Square. `plus`: APGD on both losses,
    five restarts each, FAB along all classes with five restarts, Square, targeted APGD, targeted FAB. `rand`, for
    models that draw random numbers: APGD on both losses with means over 20 passes. There are nine targets, or all other
    classes where these are fewer. With three classes the targeted DLR is scaled by the second and third logit in place
    of the third and fourth, with two both DLRs are the plain margin (see losses.dlr).

    `steps` is that of APGD and FAB, `queries` that of Square; other values than the reference's 100 and 5,000 are for
    tests and training.

    Raises:
        UsageError: fewer than one step or query.
    """

    version: Literal["standard", "plus", "rand"] = "standard"
    steps: int = 100
    queries: int = 5000

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    climbs: ClassVar[bool] = False
    paper: ClassVar[str] = "Croce & Hein 2020, arXiv:2003.01690"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.queries < 1:
            raise UsageError(f"{self!r}: expected at least one step and one query.")

    @property
    def members(self) -> tuple[Attack, ...]:
        """The attacks in L-inf and L2."""
        return self.members_in("Linf")

    def members_in(self, norm: str) -> tuple[Attack, ...]:
        """The attacks in a norm; `standard` in L1 takes five restarts, five targets and wider balls at first."""
        sparse = norm == "L1"
        steps, wide = self.steps, sparse and self.version == "standard"
        if self.version == "rand":
            return (
                APGD(steps, samples=20, warm_up=False),
                APGD(steps, loss="dlr", samples=20, warm_up=False),
            )
        square = Square(self.queries)
        if self.version == "plus":
            return (
                APGD(steps, restarts=5, warm_up=False),
                APGD(steps, restarts=5, loss="dlr", warm_up=False),
                FAB(steps, restarts=5, targets=0),
                square,
                APGD(steps, loss="dlr", targets=9, warm_up=False),
                FAB(steps),
            )
        return (
            APGD(steps, restarts=5 if sparse else 1, warm_up=wide),
            APGD(steps, loss="dlr", targets=5 if sparse else 9, warm_up=wide),
            FAB(steps),
            square,
        )

    def strays(self, threat: Ball) -> bool:
        """Whether a member does: FAB looks at any distance."""
        return any(member.strays(threat) for member in self.members_in(type(threat).__name__))

    def search(self, problem: Problem) -> None:  # noqa: D102
        in_turn(problem, self.members_in(type(problem.threat).__name__))

    def cost(self) -> str:  # noqa: D102
        return "; ".join(member.cost() for member in self.members)
