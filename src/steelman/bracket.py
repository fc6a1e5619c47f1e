"""The bracket: certified <= true <= attacked. What is proven at once is not attacked; a sample is, as an alarm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, nn

from steelman.attacks import Attack
from steelman.attacks.pgd import PGD
from steelman.certify import Certifier, certify
from steelman.data import Data
from steelman.evaluate import Outcome, accuracy, strike, struck_once
from steelman.page import Check
from steelman.progress import Progress, Stages, silent
from steelman.runs import Run
from steelman.stats import Share
from steelman.threats import Ball
from steelman.types import Mask

ALARM = PGD(steps=20, loss="margin")  # what the sample of proven images is attacked with
SAMPLE = 200


@dataclass(frozen=True)
class Bracket:
    """Which images are certified at the threat and at other radii, and how many of a sample an attack broke.

    A proof that an attack breaks is a bug, of the certifier or of the model, which then is not what was bounded.
    """

    certifier: Certifier
    certified: Mask
    tried: int
    violated: int
    over_eps: tuple[tuple[float, Share], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The shares as plain data."""
        points = [{"eps": eps, "certified": share.to_json()} for eps, share in self.over_eps]
        return {"certifier": repr(self.certifier), "tried": self.tried, "violated": self.violated, "points": points}

    def check(self) -> Check:
        """Whether certificates and attacks contradict each other."""
        value = f"{self.violated} of {self.tried}"
        if self.violated:
            words = f"{ALARM!r} broke {value} images that {self.certifier!r} had certified: one of the two is wrong."
            remedy = "Believe neither number. Check that the model computes the same in each call, and report the bug."
            return Check("certificates", "fail", value, words, remedy)
        if not self.tried:
            return Check("certificates", "info", "none", f"{self.certifier!r} certified no image.", "")
        words = f"{ALARM!r} broke none of {self.tried} certified images."
        return Check("certificates", "ok", value, words, "")


def bracketed(
    model: nn.Module,
    data: Data,
    certifier: Certifier,
    attack: Attack,
    threat: Ball,
    *,
    radii: Sequence[float] = (),
    run: Run | None = None,
    name: str = "outcome",
    generator: Generator | None = None,
    progress: Progress = silent,
    **options: Any,
) -> tuple[Outcome, Bracket]:
    """Prove what a quick proof can, attack the rest, and let a slow certifier look at what holds.

    The outcome counts what is proven before the attack as held and costs it no query.

    Args:
        model: from pixels in [0, 1] to logits.
        data: images and labels.
        certifier: the proof; of the model itself, not of a smoothed one.
        attack: what the rest is attacked with.
        threat: around each image.
        radii: where to certify besides. What is proven at a radius is so at smaller ones, and what stays open or broken
            is not looked at again at larger ones.
        run: where the outcome and what is proven so far are kept; the same call goes on from there.
        name: of their files in its `examples`.
        generator: the source of the attack's random choices.
        progress: told in shares of proving, attacking, proving what holds and each further radius.
        options: as `strike` takes them.

    Raises:
        UsageError: a layer or a threat that the certifier does not know; whatever `strike` refuses.
    """
    slow = certifier.quick != certifier
    stages = Stages(progress, 2 + slow + len(radii))
    right = accuracy(model, data).cpu()
    first = stages.stage("proving")
    certified = certify(model, data, certifier.quick, threat, run=run, name=f"{name}-quick", progress=first) & right
    options |= {"proven": certified.to(data.labels.device), "generator": generator}
    options["progress"] = stages.stage("attacking the rest")
    kept = None if run is None else run.path / "examples" / name
    outcome = struck_once(kept, model, data, attack, threat, **options)

    def more(at: Ball, known: Mask, possible: Mask) -> Mask:
        """The images known to be proven, and those that the certifier proves of the possible ones."""
        stage, proven = stages.stage(f"proving at {at.eps:g}"), known.clone()
        rows = (possible & ~known).nonzero().squeeze(1)
        if len(rows):
            some = data.take(rows.to(data.labels.device))
            proven[rows] = certify(model, some, certifier, at, run=run, name=f"{name}-{at.eps:g}", progress=stage)
        return proven

    if slow:
        certified = more(threat, certified, right & ~outcome.broken.cpu())
    rows = certified.nonzero().squeeze(1)[:SAMPLE]
    alarm = strike(model, data.take(rows.to(data.labels.device)), ALARM, threat) if len(rows) else None
    over_eps, possible = {}, right
    for eps in sorted(radii):
        if eps == threat.eps:
            possible = certified
        else:
            known = certified if eps < threat.eps else torch.zeros_like(right)
            fallen = outcome.broken & (outcome.distance <= eps)
            possible = more(threat.at(eps), known, possible & ~fallen.cpu())
        over_eps[eps] = Share.of(possible)
    violated = 0 if alarm is None else int(alarm.broken.sum())
    return outcome, Bracket(certifier, certified, len(rows), violated, tuple((eps, over_eps[eps]) for eps in radii))
