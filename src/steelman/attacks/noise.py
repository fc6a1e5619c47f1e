"""Random noise: the baseline every attack has to beat, uniform in the threat's set."""

from dataclasses import dataclass
from typing import ClassVar

from steelman.attacks import Attack, Problem
from steelman.errors import UsageError


@dataclass(frozen=True, repr=False)
class Noise(Attack):
    """`tries` random allowed images; the worst counts.

    Raises:
        UsageError: fewer than one try.
    """

    tries: int = 10

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1", "L0")
    needs: ClassVar[str] = "decisions"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tries < 1:
            raise UsageError(f"{self!r}: expected at least one try.")

    def search(self, problem: Problem) -> None:  # noqa: D102
        for _ in range(self.tries):
            problem.show(problem.threat.sample(problem.x, problem.generator))

    def climbs_anew(self) -> int:  # noqa: D102
        return self.tries

    def cost(self) -> str:  # noqa: D102
        return f"{self.tries} forwards"
