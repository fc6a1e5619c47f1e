"""The bracket: certified <= true <= attacked. What is proven is not attacked; a sample of it is, as an alarm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Generator, nn

from steelman.attacks import Attack
from steelman.attacks.pgd import PGD
from steelman.certify import Certifier, certify
from steelman.data import Data
from steelman.evaluate import Outcome, accuracy, strike
from steelman.page import Check
from steelman.progress import Progress, Stages, silent
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
    generator: Generator | None = None,
    progress: Progress = silent,
    **options: Any,
) -> tuple[Outcome, Bracket]:
    """Certify first and attack the rest; the outcome counts what is certified as held and costs it no query.

    Args:
        model: from pixels in [0, 1] to logits.
        data: images and labels.
        certifier: the proof; of the model itself, not of a smoothed one.
        attack: what the rest is attacked with.
        threat: around each image.
        radii: where to certify besides.
        generator: the source of the attack's random choices.
        progress: told in shares of proving, attacking and each further radius.
        options: as `strike` takes them.

    Raises:
        UsageError: a layer or a threat that the certifier does not know; whatever `strike` refuses.
    """
    stages = Stages(progress, 2 + len(radii))
    right = accuracy(model, data).cpu()
    certified = certify(model, data, certifier, threat, progress=stages.stage("proving")) & right
    outcome = strike(
        model,
        data,
        attack,
        threat,
        proven=certified.to(data.labels.device),
        generator=generator,
        progress=stages.stage("attacking the rest"),
        **options,
    )
    rows = certified.nonzero().squeeze(1)[:SAMPLE]
    alarm = strike(model, data.take(rows.to(data.labels.device)), ALARM, threat) if len(rows) else None
    over_eps = []
    for eps in radii:
        stage = stages.stage(f"proving at {eps:g}")
        mask = certified if eps == threat.eps else certify(model, data, certifier, threat.at(eps), progress=stage)
        over_eps.append((eps, Share.of(mask & right)))
    violated = 0 if alarm is None else int(alarm.broken.sum())
    return outcome, Bracket(certifier, certified, len(rows), violated, tuple(over_eps))
