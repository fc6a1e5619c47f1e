"""What the resistances are worth: quantiles, "the classifier is wrong here", Conf2, second guesses, over thresholds."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelman.data import Data
from steelman.stats import Share, mcnemar
from steelman.studies.resistance.course import FAILED, RESISTANCES
from steelman.studies.resistance.held import Held
from steelman.studies.resistance.scores import (
    Flags,
    Values,
    area_under_risk,
    auroc,
    average_precision,
    compared,
    conf2,
    corrected,
    errors_at,
    flagged,
    least_errors,
)
from steelman.studies.resistance.zoo import Network, baselines, is_right, runner_up

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
DISTANCE, DISTANCE_LINF = "distance", "distance, L-inf"
MEASURES = (*RESISTANCES, DISTANCE)


@dataclass(frozen=True)
class Judged:
    """One split's images: which are wrong, how far each holds, how sure the classifier seems, the second guesses."""

    wrong: Flags
    resistance: dict[str, Values]  # Res_N, Res_max, Res_min (10000 where the attack failed), distances
    surety: dict[str, Values]  # confidence and its like, without any attack
    guess_right: dict[str, Flags]  # whether the second guess is right: after attack C, beyond the boundary, runner-up

    def suspicion(self, name: str) -> Values:
        """The score of suspicion that a resistance or a surety gives."""
        return -(self.resistance[name] if name in self.resistance else self.surety[name])


def judged(subject: Network, zoo: list[Network], split: str, data: Data, found: Held) -> Judged:
    """All that is compared, of the images of val or test."""
    num, label = len(data), subject.predicted(split)[: len(data)]
    resistance: dict[str, Tensor] = {name: found.course.resistance(name) for name in RESISTANCES}
    distances = {DISTANCE: found.distance, DISTANCE_LINF: found.linf}
    resistance |= {name: far.clamp_max(FAILED) for name, far in distances.items()}
    guesses = {"C": found.course.rival, DISTANCE: found.beyond, "runner-up": runner_up(subject.logits[split][:num])}
    return Judged(
        ~is_right(subject, split, data).numpy(),
        {name: value.double().numpy() for name, value in resistance.items()},
        {name: value.numpy() for name, value in baselines(subject, zoo, split, num).items()},
        {name: (torch.where(guess < 0, label, guess) == data.labels).numpy() for name, guess in guesses.items()},
    )


def guess_of(measure: str) -> str:
    """Which second guess goes with a measure: the class that its own attack found."""
    return DISTANCE if measure == DISTANCE else "C"


def quantiles(test: Judged) -> list[dict[str, Any]]:
    """For each measure, right and wrong images apart: quantiles, and the share of infinite values."""
    rows: list[dict[str, Any]] = []
    for name in MEASURES:
        for group, chosen in (("right", ~test.wrong), ("wrong", test.wrong)):
            values = test.resistance[name][chosen]
            infinite = torch.from_numpy(_infinite(values))
            at = [_finite(float(np.quantile(values, level, method="lower"))) for level in LEVELS] if len(values) else []
            rows.append({"measure": name, "group": group, "at": at, "infinite": Share.of(infinite).to_json()})
    return rows


def wrong_here(test: Judged) -> list[dict[str, Any]]:
    """How well each score tells where the classifier is wrong; `p` compares its AUROC with that of Res_N."""
    rows: list[dict[str, Any]] = []
    for name in (*test.resistance, *test.surety):
        suspicion = test.suspicion(name)
        cut = flagged(suspicion, test.wrong)
        rows.append(
            {
                "score": name,
                "auroc": auroc(suspicion, test.wrong),
                "aupr": average_precision(suspicion, test.wrong),
                "aurc": area_under_risk(suspicion, test.wrong),
                "errors": cut.errors,
                "ties": float(1 - len(np.unique(suspicion)) / len(suspicion)),
                "p": compared(suspicion, test.suspicion("Res_N"), test.wrong),
            }
        )
    return rows


def trusted(val: Judged, test: Judged) -> list[dict[str, Any]]:
    """Conf2 of each measure: K is the median of val's wrong images and as many right ones; above 1/2 means trust."""
    rows: list[dict[str, Any]] = []
    for name in MEASURES:
        bad, good = val.resistance[name][val.wrong], val.resistance[name][~val.wrong]
        if not len(bad):
            continue
        k = float(np.median(np.concatenate((bad, good[: len(bad)]))))
        if not 0 < k < FAILED:  # most attacks failed: no value separates
            continue
        above = torch.from_numpy(conf2(test.resistance[name], k) > 0.5)
        wrong = torch.from_numpy(test.wrong)
        shares = {
            "right": Share.of(above[~wrong]),
            "wrong": Share.of(above[wrong]),
            "accuracy": Share.of(~wrong[above]),
        }
        rows.append({"measure": name, "k": k, **{key: share.to_json() for key, share in shares.items()}})
    return rows


def guesses(test: Judged) -> list[dict[str, Any]]:
    """How many wrong images each second guess corrects, the error of first and second guess together, all right or not.

    `p` compares with the class of the second largest logit, image by image (McNemar).
    """
    wrong = torch.from_numpy(test.wrong)
    plain = torch.from_numpy(test.guess_right["runner-up"])
    rows: list[dict[str, Any]] = []
    for name, right in test.guess_right.items():
        found = torch.from_numpy(right)
        rows.append(
            {
                "guess": name,
                "corrected": Share.of(found[wrong]).to_json(),
                "top2_error": Share.of(wrong & ~found).to_json(),
                "p": mcnemar(found[wrong], plain[wrong]).p,
            }
        )
    return rows


def corrections(val: Judged, test: Judged, published: tuple[float, float, float] | None) -> list[dict[str, Any]]:
    """Errors on test when images of low resistance get their second guess: the threshold is chosen on val.

    `val` is the share of errors that the choice leaves on val, `p` that of McNemar's test on test of the answers with
    and without it; `best` is the fewest errors that any threshold could reach on test, `published` those at the
    original's.
    """
    right = ~test.wrong
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(MEASURES):
        guess = guess_of(name)
        chosen = least_errors(val.suspicion(name), ~val.wrong, val.guess_right[guess])
        best = least_errors(test.suspicion(name), right, test.guess_right[guess])
        at = corrected(test.suspicion(name), right, test.guess_right[guess], chosen.threshold)
        given = published[place] if published and name != DISTANCE else None
        rows.append(
            {
                "measure": name,
                "threshold": _finite(-chosen.threshold),
                "nothing": Share.of(~torch.from_numpy(right)).to_json(),
                "val": chosen.errors / len(val.wrong),
                "chosen": Share.of(torch.from_numpy(~at)).to_json(),
                "p": mcnemar(torch.from_numpy(at), torch.from_numpy(right)).p,
                "best": Share.counted(best.errors, len(right)).to_json(),
                "published": None
                if given is None
                else Share.counted(
                    errors_at(test.suspicion(name), right, test.guess_right[guess], -given), len(right)
                ).to_json(),
            }
        )
    return rows


def _infinite(values: Values) -> Flags:
    return values >= FAILED


def _finite(value: float) -> float | str:
    return "infinite" if value >= FAILED or math.isinf(value) else value
