"""Robust accuracy over eps, and how far each image holds: one search for the nearest success, then checks where needed.

A curve is kept as one distance an image, that of the nearest success known, so it can only fall as eps grows, and every
further attack can only lower it. The usual way, one attack of fixed eps at each eps, costs as many attacks as there
are points; a minimal-norm attack gives all points at once but may miss successes (Rony et al. 2019, DDN,
arXiv:1811.09600; Pintor et al. 2021, FMN, arXiv:2102.12827). Here the second is checked with the first.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from steelman.attacks import Attack
from steelman.attacks.found import broken
from steelman.attacks.pgd import PGD
from steelman.data import Data
from steelman.engine import generator_for, guarded
from steelman.errors import UsageError
from steelman.evaluate import Outcome, check_pixels, logits_of, strike
from steelman.page import Check
from steelman.progress import Progress, Stages, silent
from steelman.spec import catalogue, parse
from steelman.stats import Share
from steelman.threats import TOLERANCE, Ball
from steelman.types import Images, Labels, Mask, PerExample

NEAR = 1.25  # an image whose nearest success is within NEAR times eps gets the full check at eps, others the cheap one
CHEAP = PGD(steps=5, loss="margin", random_start=False)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_NEAREST = {"Linf": "FMN", "L2": "DDN", "L1": "FMN", "L0": "FMN"}  # the usual choice in each norm


@dataclass(frozen=True)
class Curve:
    """Robust accuracy as a step function of eps, from the distance of each image's nearest known success."""

    threat: Ball  # its eps is how far was searched
    attacks: tuple[Attack, ...]
    right: Mask
    distance: PerExample  # inf where nothing was found, NaN where the image was wrong from the start
    epsilons: tuple[float, ...] = ()  # the radii that were asked for, ascending
    gradients: int = 0
    forwards: int = 0
    separate: int | None = None  # gradients at most of one full check at each of the radii; None where not known

    @classmethod
    def of(cls, *outcomes: Outcome) -> "Curve":
        """The curve that outcomes on the same images tell together.

        Raises:
            UsageError: no outcome, or outcomes of other images, another norm, pixel range or target.
        """
        if not outcomes:
            raise UsageError("a curve of no outcomes. Expected at least one, such as strike(..., closest=True).")
        first = outcomes[0]
        for other in outcomes[1:]:
            _check_alike(first, other)
        distance = torch.stack([_distances(one) for one in outcomes]).amin(0).masked_fill(~first.right, math.nan)
        return cls(
            first.threat.at(max(one.threat.eps for one in outcomes)),
            tuple(one.attack for one in outcomes),
            first.right,
            distance,
            tuple(sorted({one.threat.eps for one in outcomes if math.isfinite(one.threat.eps)})),
            sum(int(one.backwards.sum()) for one in outcomes),
            sum(int(one.forwards.sum()) for one in outcomes),
        )

    def robust(self, eps: float) -> Share:
        """The share of all images that are right and have no known success within eps: an upper bound.

        Raises:
            UsageError: nothing was searched as far as that.
        """
        if eps > reach(self.threat.eps):
            raise UsageError(f"robust accuracy at eps {eps:g}, but searched was up to {self.threat.eps:g} only.")
        return Share.of(self.right & ~self._broken_within(eps))

    def _broken_within(self, eps: float) -> Mask:
        return (self.distance <= reach(eps)) & self.distance.isfinite()

    def quantile(self, share: float) -> float:
        """The least radius within which at least this share of the right images break; inf where that is beyond all.

        Raises:
            UsageError: a share outside 0 to 1.
        """
        if not 0 < share <= 1:
            raise UsageError(f"the quantile {share:g}. Expected a share above 0, at most 1.")
        radii = self.distance[self.right].sort().values
        return float(radii[math.ceil(share * len(radii)) - 1]) if len(radii) else math.nan

    def between(self) -> list[Share]:
        """The share of the right images that break up to each of the radii asked for, and not before; last: later."""
        radii = self.distance[self.right]
        edges = [-math.inf, *(reach(eps) for eps in self.epsilons), math.inf]
        counts = [int((radii <= edge).sum()) for edge in edges[:-1]] + [len(radii)]
        return [Share.counted(after - before, len(radii)) for before, after in itertools.pairwise(counts)]

    def check(self, outcome: Outcome, *, random: bool = False) -> Check:
        """Whether the searches of the curve broke, within the eps of a strike, what held there."""
        if random:
            words = (
                "The model draws random numbers: each radius is that of the nearest of many noisy answers, so the "
                "curve lies below what a single answer holds."
            )
            return Check("curve", "warn", "one draw each", words, "Read the accuracy over draws at the eps attacked.")
        eps = outcome.threat.eps
        held = outcome.right & ~outcome.broken
        more = int((held & self._broken_within(eps)).sum())
        fails = more > 0.01 * len(held)
        words = (
            f"Within {eps:g} the curve's searches break {more} of {int(held.sum())} images that held against "
            f"{outcome.attack!r}: in all {self.robust(eps)} hold."
        )
        remedy = "Report that share, and choose a stronger attack." if fails else ""
        return Check("curve", "fail" if fails else "ok", str(more), words, remedy)

    def to_json(self) -> dict[str, Any]:
        """Points with their intervals, quantiles of the radii (None: beyond), and what it cost."""
        quantiles = {f"{share:g}": self.quantile(share) for share in QUANTILES}
        return {
            "attacks": [repr(attack) for attack in self.attacks],
            "natural": Share.of(self.right).to_json(),
            "points": [{"eps": eps, "robust": self.robust(eps).to_json()} for eps in self.epsilons],
            "quantiles": {name: value if math.isfinite(value) else None for name, value in quantiles.items()},
            "radii": [share.to_json() for share in self.between()],
            "gradients": self.gradients,
            "forwards": self.forwards,
            "separate": self.separate,
        }


def curve(
    model: nn.Module,
    data: Data | tuple[Images, Labels],
    threat: Ball,
    epsilons: Sequence[float],
    *,
    nearest: Attack,
    check: Attack,
    target: Labels | None = None,
    known: Sequence[Outcome] = (),
    generator: Generator | None = None,
    progress: Progress = silent,
) -> Curve:
    """Robust accuracy over eps from one search for the nearest success, checked at each of `epsilons`.

    Ascending in eps, only images are attacked that nothing has broken within eps yet: first what is known of them is
    brought to distance eps (the projected nearest success and the stretched best try of the check before, one forward
    each), then those whose nearest success is within NEAR times eps, or that have none, get `check`, the others CHEAP.

    Args:
        model: pixels to logits.
        data: images and labels.
        threat: the norm and whether pixels are clipped; its own eps is not used.
        epsilons: the radii to check, above 0.
        nearest: the minimal-norm attack, run once without limit.
        check: the attack of fixed eps.
        target: the class to reach, image by image.
        known: outcomes on the same images; their successes count, and a check that they already made is not repeated.
        generator: of the attacks' random choices; seed 0 without it.
        progress: told about each stage.

    Raises:
        UsageError: no radii, or radii that are not finite and above 0; known outcomes of something else; what `strike`
            refuses.
    """
    asked = ascending(epsilons)
    x, y = (data.pixels(), data.labels) if isinstance(data, Data) else data
    generator = generator or generator_for(x)
    stages = Stages(progress, 1 + len(asked))
    options: dict[str, Any] = {"target": target, "generator": generator, "progress": stages.stage("nearest")}
    first = strike(model, (x, y), nearest, threat.at(math.inf), closest=True, **options)
    search = _Search(model, check_pixels(x), first, check, generator)
    for outcome in known:
        _check_alike(first, outcome)
        search.learn(outcome)
    for eps in asked:
        search.check_at(eps, known, stages.stage(f"eps {eps:g}"))
    return replace(
        Curve.of(first),
        attacks=(nearest, check, CHEAP),
        distance=search.distance,
        epsilons=asked,
        gradients=search.gradients,
        forwards=search.forwards,
        separate=search.separate(len(asked)),
    )


def default_nearest(threat: Ball) -> Attack:
    """The minimal-norm attack that curves take unless another is named: DDN for L2, else FMN.

    Raises:
        UsageError: there is none for the norm.
    """
    norm = type(threat).__name__
    name = _NEAREST.get(norm, "")
    if name not in catalogue("attack"):
        raise UsageError(f"no minimal-norm attack is known for {norm}. Name one, see steelman list attacks.")
    return parse(name, "attack")


def ascending(epsilons: Sequence[float]) -> tuple[float, ...]:
    """The radii of a curve, each once.

    Raises:
        UsageError: none, or one that is not finite and above 0.
    """
    asked = tuple(sorted({float(eps) for eps in epsilons}))
    if not asked or not all(math.isfinite(eps) and eps > 0 for eps in asked):
        given = ", ".join(f"{eps:g}" for eps in asked) or "none"
        raise UsageError(f"the radii of a curve are {given}. Expected finite ones above 0, such as 0.1, 0.2, 0.3.")
    return asked


@dataclass
class _Search:
    """What is known of each image while the radii are checked."""

    model: nn.Module
    x: Images
    first: Outcome
    check: Attack
    generator: Generator
    full: int = 0  # gradients of the full check on an image that holds

    def __post_init__(self) -> None:
        first = self.first
        self.distance = _distances(first).masked_fill(~first.right, math.nan)
        self.nearest = first.x_adv.clone()  # the nearest success, where there is one
        self.tried = self.x.clone()  # the best try of the latest check, and its eps; 0 before any
        self.tried_eps = torch.zeros_like(self.distance)
        self.gradients, self.forwards = int(first.backwards.sum()), int(first.forwards.sum())

    def learn(self, outcome: Outcome, rows: Tensor | None = None) -> None:
        """Take in what an attack did to all images, or to those of `rows`."""
        rows = torch.arange(len(self.x), device=self.x.device) if rows is None else rows
        distance = _distances(outcome)
        nearer = distance < self.distance[rows]
        chosen = rows[nearer]
        self.distance[chosen], self.nearest[chosen] = distance[nearer], outcome.x_adv[nearer]
        held = outcome.right & ~outcome.broken
        self.tried[rows[held]], self.tried_eps[rows[held]] = outcome.x_adv[held], outcome.threat.eps

    def check_at(self, eps: float, known: Sequence[Outcome], progress: Progress) -> None:
        """Attack what holds at eps, with no more than is needed."""
        self._bring(eps)
        rows = self._open(eps)
        full = ~(self.distance[rows] > NEAR * eps) | self.distance[rows].isinf()
        self._strike(CHEAP, rows[~full], eps, progress)
        if not any(one.attack == self.check and one.threat.eps == eps for one in known):
            found = self._strike(self.check, rows[full], eps, progress)
            held = found.backwards[found.right & ~found.broken] if found else torch.zeros(0)
            self.full = max(self.full, int(held.max()) if len(held) else 0)
        progress(1, 1, "checked")

    def separate(self, num: int) -> int | None:
        """The gradients that so many separate checks of all right images cost at most."""
        return num * int(self.first.right.sum()) * self.full or None

    def _open(self, eps: float) -> Tensor:
        return (self.first.right & ~(self.distance <= reach(eps))).nonzero().squeeze(1)

    def _strike(self, attack: Attack, rows: Tensor, eps: float, progress: Progress) -> Outcome | None:
        if len(rows) == 0:
            return None
        target = None if self.first.target is None else self.first.target[rows]
        found = strike(
            self.model,
            (self.x[rows], self.first.y[rows]),
            attack,
            self.first.threat.at(eps),
            target=target,
            generator=self.generator,
            progress=progress,
        )
        self.gradients += int(found.backwards.sum())
        self.forwards += int(found.forwards.sum())
        self.learn(found, rows)
        return found

    def _bring(self, eps: float) -> None:
        """Show the model what is known of the open images, brought to distance eps."""
        rows = self._open(eps)
        rows = rows[self.distance[rows].isfinite()]
        self._show(self.nearest[rows], rows, eps)
        rows = self._open(eps)
        rows = rows[(self.tried_eps[rows] > 0) & (self.tried_eps[rows] < eps)]
        stretch = (eps / self.tried_eps[rows]).view(-1, 1, 1, 1)
        self._show(self.x[rows] + stretch * (self.tried[rows] - self.x[rows]), rows, eps)

    def _show(self, x_adv: Images, rows: Tensor, eps: float) -> None:
        if len(rows) == 0:
            return
        threat, x = self.first.threat.at(eps), self.x[rows]
        x_adv = threat.project(x_adv, x)
        with guarded(self.model):
            logits = logits_of(self.model, x_adv)
        self.forwards += len(rows)
        target = None if self.first.target is None else self.first.target[rows]
        hit = broken(logits, self.first.y[rows], target) & threat.contains(x_adv, x)
        self.distance[rows[hit]] = threat.distance(x_adv, x)[hit].clamp_max(eps)
        self.nearest[rows[hit]] = x_adv[hit]


def reach(eps: float) -> float:
    """eps, and what threats allow for rounding."""
    return eps + TOLERANCE * max(1.0, eps)


def _distances(outcome: Outcome) -> PerExample:
    """Of each image's success, which is within the threat whatever its last digits; inf where there is none."""
    return torch.where(outcome.broken, outcome.distance.clamp_max(outcome.threat.eps), math.inf)


def _check_alike(first: Outcome, other: Outcome) -> None:
    alike = {
        "another norm or pixel range": first.threat.at(1.0) == other.threat.at(1.0),
        "other images": torch.equal(first.y, other.y),  # which are right may differ: the model may be random
        "another target": (first.target is None) == (other.target is None)
        and (first.target is None or other.target is None or torch.equal(first.target, other.target)),
    }
    if different := [words for words, same in alike.items() if not same]:
        raise UsageError(
            f"{other.attack!r} within {other.threat!r} is about {different[0]} than {first.attack!r} within "
            f"{first.threat!r}. A curve needs outcomes on the same images in one norm."
        )
