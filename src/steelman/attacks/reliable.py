"""Reliable: the robust accuracy of AutoAttack (Croce & Hein 2020, arXiv:2003.01690) for a small part of its cost."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Generator, Tensor, nn

from steelman.attacks import Attack, Problem
from steelman.attacks.apgd import APGD
from steelman.attacks.audit import audit
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.climb import DIVERSIFYING_STEPS, climb
from steelman.attacks.found import Found, spread
from steelman.attacks.square import Square
from steelman.bounds import interval_margins
from steelman.engine import generator_for, guarded, micro_batch
from steelman.errors import UsageError
from steelman.losses import LossName
from steelman.progress import Progress, Stages, between, silent
from steelman.surrogates import Repaired
from steelman.threats import Ball
from steelman.types import Images, Labels, Mask

WIDTH = 1.5  # of the ball from whose shell the wide climbs start
FIRST = 1 / 4  # the share of the held images that APGD's first two runs search; every two runs half as many,
FEWEST = 1 / 16  # down to this share
FEW = 2  # and this number, where that is more
Run: TypeAlias = tuple[LossName, bool]  # what APGD climbs; by surrogates?
CYCLE: tuple[Run, ...] = (("cross_entropy", True), ("margin", False), ("margin", True), ("cross_entropy", False))
WINDOWS = 0.1  # share of the image that the random search's first windows cover
WITNESSES = 32  # held images of a chunk that random search tries
FULL = AutoAttack()  # what is run on samples, and on everything after an alarm
_WEIGHTS = (8, 2, 2)  # of the search, the audit and what follows a miss, in the progress
ALARM = 0.05  # share of the witnesses it may break before the gradients count as masked


@dataclass(frozen=True, repr=False)
class Reliable(Attack):
    """The default evaluation: a short climb for all images, ever more for the ever fewer that come nearest to breaking.

    0. Images that interval bounds prove to hold are left in peace: a net trained for that, or a small radius.
    1. Every image: two steps along a random direction of the logits (output-diversified start, Tashiro et al. 2020,
       arXiv:2003.06878), then `steps` steepest steps on the margin, from a whole radius down to a twentieth.
    2. The half that held by the smallest margins: a climb of three times the steps, from half as far again outside the
       ball and through finite surrogates for the derivatives (`steelman.surrogates`): gradients masked near the image
       lead astray from inside only, those that are missing lead nowhere.
    3. `rounds` runs of APGD of ten times the steps, on cross-entropy and margin in turn, by surrogates and plain: for
       the quarter of what held by the smallest margins twice, the eighth twice, and from then on the sixteenth. Each
       run starts elsewhere and breaks others; what breaks at all is among these few (docs/log.md).
    4. Random search by windows (Square) from the best image found so far: a third of `polish` queries for the eighth,
       then all of them for the sixteenth. It goes on where gradients end, and breaks more than as many runs again.
    5. A short Square run on a sample. Where it breaks what the climbs left, or where gradients are dead, they are
       masked, and the full AutoAttack is run on all that is left.
    6. AutoAttack on a random sample of `audit` images of those given up. Should it break one, it goes on with those
       that hold by the smallest margins, a sixteenth at a time, until such a group and a fresh sample hold as well.

    How much an image gets depends on the others of its chunk of up to 512, and in the audit on all. `Found.audited`
    tells which images were attacked in full, `Found.sampled` which of them were the random sample that bounds how many
    of the others would break (`steelman.stats.most_left`).

    Raises:
        UsageError: fewer than one step, or a negative number of rounds, queries or audited images.
    """

    steps: int = 10
    rounds: int = 8
    polish: int = 3000
    queries: int = 300
    audit: int = 20

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    climbs: ClassVar[bool] = False
    paper: ClassVar[str] = "Tashiro et al. 2020, arXiv:2003.06878; Croce & Hein 2020, arXiv:2003.01690"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or min(self.rounds, self.polish, self.queries, self.audit) < 0:
            raise UsageError(f"{self!r}: expected at least one step, and no negative numbers.")

    def strays(self, threat: Ball) -> bool:
        """As AutoAttack, which it may call."""
        return FULL.strays(threat)

    def search(self, problem: Problem) -> None:  # noqa: D102
        repaired, stages = Repaired(problem.model), Stages(problem.progress, 6 + self.rounds)
        problem.progress = stages.stage("a climb")
        climb(problem, self.steps)
        with problem.part(likeliest(problem, 0.5), model=repaired) as part:
            part.progress = stages.stage("a climb from outside")
            climb(part, 3 * self.steps, width=WIDTH)
        for number in range(self.rounds):
            loss, surrogates = CYCLE[number % len(CYCLE)]
            model = repaired if surrogates else problem.model
            with problem.part(likeliest(problem, share_of(number)), model=model) as part:
                part.progress = stages.stage(f"APGD on the likeliest, run {number + 1} of {self.rounds}")
                APGD(steps=10 * self.steps, loss=loss, warm_up=False).search(part)
        for share, queries in ((2 * FEWEST, self.polish // 3), (FEWEST, self.polish)):
            if queries:
                with problem.part(likeliest(problem, share)) as part:
                    part.progress = stages.stage("random search on the likeliest")
                    Square(queries=queries, p_init=WINDOWS, rescale=True, warm=True).search(part)
        problem.progress = stages.stage("looking for masked gradients")
        if self._masked(problem):
            with problem.part() as rest:
                rest.progress = stages.stage("AutoAttack, since gradients are masked")
                FULL.search(rest)

    def _masked(self, problem: Problem) -> bool:
        """Whether gradients are missing, or random search breaks what they could not."""
        held = (problem.active & ~problem.success).nonzero().squeeze(1)
        if len(held) == 0 or not self.queries:
            return False
        dead = (problem.health.dead == problem.health.steps)[held]
        chosen = held[torch.randperm(len(held), generator=problem.generator, device=held.device)[:WITNESSES]]
        with problem.part(chosen) as part:
            part.progress = problem.progress
            Square(queries=self.queries).search(part)
            broken = int(part.success.sum())
        return bool(dead.float().mean() > ALARM) or broken > ALARM * len(chosen)

    def run(  # noqa: D102
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: Ball,
        *,
        target: Labels | None = None,
        closest: bool = False,
        generator: Generator | None = None,
        progress: Progress = silent,
    ) -> Found:
        generator = generator or generator_for(x)
        self.check_norm(threat)
        proven = certified(model, x, y, threat)
        open_rows = (~proven).nonzero().squeeze(1)
        aim = None if target is None else target[open_rows]
        options: dict[str, Any] = {"closest": closest, "generator": generator}
        stages = Stages(progress, sum(_WEIGHTS))
        told = stages.stage("", _WEIGHTS[0])
        attacked = super().run(model, x[open_rows], y[open_rows], threat, target=aim, progress=told, **options)
        found = spread(attacked, open_rows, x, proven)
        held = (~found.success & ~proven).nonzero().squeeze(1)
        ensemble, done = replace(FULL, samples=self.samples), 0
        first, later = (stages.stage(repr(self), weight) for weight in _WEIGHTS[1:])

        def full(rows: Tensor, words: str) -> Found:
            nonlocal done
            begun, done = done, done + len(rows)
            aim = None if target is None else target[rows]
            told = between(later, begun, done, len(held), words) if begun else between(first, 0, done, done, words)
            return ensemble.run(model, x[rows], y[rows], threat, target=aim, progress=told, **options)

        found = audit(found, held, self.audit, full, generator)
        progress(len(x), len(x), repr(self))
        return found

    def cost(self) -> str:  # noqa: D102
        shares = [share_of(number) for number in range(self.rounds)]
        climbs = self.steps + DIVERSIFYING_STEPS + (3 * self.steps + DIVERSIFYING_STEPS) / 2
        mean = round(climbs + 10 * self.steps * sum(shares))
        forwards = round(self.polish * FEWEST * (1 + 2 / 3))
        full = f"AutoAttack for {self.audit} images, for more where it breaks one, for all where gradients are masked"
        return f"up to {mean} gradients, {forwards} forwards; {full}"


def certified(model: nn.Module, x: Images, y: Labels, threat: Ball) -> Mask:
    """Which images interval bounds prove to hold, whatever the target; stops where a first batch has none."""
    proven = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if len(x) == 0:
        return proven
    with guarded(model):
        for rows in torch.arange(len(x), device=x.device).split(micro_batch(model, x)):
            margins = interval_margins(model, x[rows], y[rows], threat)
            if margins is None or not (margins > 0).any():
                break
            proven[rows] = margins > 0
    return proven


def share_of(number: int) -> float:
    """The share of the held images that APGD's run of that number searches."""
    return max(FEWEST, FIRST * 0.5 ** (number // 2))


def likeliest(problem: Problem, share: float) -> Tensor:
    """Rows of the share of the unbroken images with the smallest margins so far; no fewer than two, if there are."""
    held = (problem.active & ~problem.success).nonzero().squeeze(1)
    order = problem.score[held].argsort(descending=True, stable=True)
    return held[order[: max(FEW, math.ceil(share * len(held)))]]
