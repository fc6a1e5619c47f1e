"""The worst case of several attacks, image by image (the ensemble idea of Croce & Hein 2020, arXiv:2003.01690)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from steelman.attacks import Attack, Problem
from steelman.errors import UsageError
from steelman.progress import Stages
from steelman.threats import Ball


@dataclass(frozen=True, repr=False)
class Strongest(Attack):
    """All members in turn; each only sees the images that held against those before it.

    On a random model give `samples` to the whole: a member of its own fewer draws would take an image for broken, and
    spare it those after it, where a single answer is wrong by chance.

    Raises:
        UsageError: no members, or one that is no mere search, as Reliable.
    """

    members: tuple[Attack, ...]

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1", "L0")
    climbs: ClassVar[bool] = False
    paper: ClassVar[str] = "Croce & Hein 2020, arXiv:2003.01690"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.members:
            raise UsageError("Strongest has no members. Expected attacks, such as Strongest((FGSM(), PGD())).")
        if whole := [member for member in self.members if type(member).run is not Attack.run]:
            raise UsageError(
                f"{whole[0]!r} proves and audits what it leaves, which it can only do on its own. "
                "Evaluate it beside Strongest(...), not in it."
            )

    def check_norm(self, threat: Ball) -> None:
        """See that every member searches in the threat's norm.

        Raises:
            UsageError: one does not.
        """
        for member in self.members:
            member.check_norm(threat)

    def strays(self, threat: Ball) -> bool:
        """Whether a member does."""
        return any(member.strays(threat) for member in self.members)

    def seeks_nearest(self) -> bool:
        """Whether every member does."""
        return all(member.seeks_nearest() for member in self.members)

    def search(self, problem: Problem) -> None:  # noqa: D102
        in_turn(problem, self.members)

    def cost(self) -> str:  # noqa: D102
        return "; ".join(member.cost() for member in self.members)


def in_turn(problem: Problem, members: Sequence[Attack]) -> None:
    """The searches of several attacks, each of the images that held against those before it."""
    stages = Stages(problem.progress, len(members))
    for member in members:
        with problem.part(samples=member.passes()) as rest:
            rest.progress = stages.stage(repr(member))
            if not rest.done:
                rest.progress(0, 1, "begun")
                member.search(rest)
