"""How well a score tells wrong images from right ones: area under ROC, risk over coverage, thresholds, second guesses.

AUROC with the interval of Newcombe 2006 (Statistics in Medicine 25, method 5), compared as DeLong, DeLong &
Clarke-Pearson 1988 (Biometrics 44) do; risk and coverage of El-Yaniv & Wiener 2010 (JMLR 11). All functions take the
score of suspicion: the higher, the sooner the image is taken for wrong.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from steelman.stats import Values, placements

Flags = NDArray[np.bool_]
NORMAL = 1.959963984540054  # 97.5 % of a standard normal distribution lie below


def auroc(suspicion: Values, wrong: Flags) -> dict[str, Any] | None:
    """The chance that a wrong image is more suspect than a right one (ties count half), with its 95 % interval.

    The interval holds also where few are wrong, or all of them are told: that by DeLong's standard error would be a
    point there. `n` counts all images; None where all are right or all are wrong.
    """
    if wrong.all() or not wrong.any():
        return None
    value, num_wrong = _placements(suspicion, wrong)[0], int(wrong.sum())
    low, high = (_end(value, end, num_wrong, len(wrong) - num_wrong) for end in (0.0, 1.0))
    return {"value": value, "low": low, "high": high, "n": len(wrong)}


def compared(first: Values, second: Values, wrong: Flags) -> float:
    """The two-sided p-value that two scores of the same images have the same AUROC (DeLong); 1 without a difference."""
    if wrong.all() or not wrong.any():
        return 1.0
    (one, parts), (other, more) = _placements(first, wrong), _placements(second, wrong)
    variance = sum(_variance(a - b) for a, b in zip(parts, more, strict=True))
    if variance <= 0:
        return 1.0
    return float(special.erfc(abs(one - other) / math.sqrt(2 * variance)))


def risk_coverage(suspicion: Values, wrong: Flags) -> tuple[Values, Values]:
    """The error rate among the k least suspect images, for k = 1 to n, and the coverage k / n.

    Equally suspect images come in random order: the error rate is the expected one.
    """
    order = np.argsort(suspicion, kind="stable")
    values, errors = suspicion[order], wrong[order].astype(float)
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    errors = (np.bincount(group, errors) / sizes)[group]
    count = np.arange(1, len(wrong) + 1)
    return count / len(wrong), np.cumsum(errors) / count


def area_under_risk(suspicion: Values, wrong: Flags) -> float:
    """The mean risk over all coverages: 0 at best."""
    return float(risk_coverage(suspicion, wrong)[1].mean())


@dataclass(frozen=True)
class Cut:
    """A threshold: what is above it is flagged (or given up); so many errors are left."""

    threshold: float
    errors: int


def flagged(suspicion: Values, wrong: Flags) -> Cut:
    """The threshold with the fewest wrong verdicts "this image is wrong" and "this one is right" together."""
    thresholds, errors = _over(suspicion, ~wrong, wrong)
    return _least(thresholds, errors)


def second_guess(suspicion: Values, right: Flags, other_right: Flags) -> tuple[Values, NDArray[np.int64]]:
    """Errors when images above a threshold get another class, over that threshold: the U curve.

    The first threshold is below all (every image gets its second guess), the last one above all (none does).
    """
    return _over(suspicion, ~other_right, ~right)


def least_errors(suspicion: Values, right: Flags, other_right: Flags) -> Cut:
    """The threshold of `second_guess` with the fewest errors; the highest one of equals, which changes least."""
    return _least(*second_guess(suspicion, right, other_right))


def errors_at(suspicion: Values, right: Flags, other_right: Flags, threshold: float) -> int:
    """How many images are wrong when those above this threshold get their second guess."""
    return int((~corrected(suspicion, right, other_right, threshold)).sum())


def corrected(suspicion: Values, right: Flags, other_right: Flags, threshold: float) -> Flags:
    """Which images are right when those above this threshold get their second guess."""
    return np.where(suspicion > threshold, other_right, right)


def conf2(resistance: Values, k: float) -> Values:
    """The original's confidence (Res / K) / (1 + Res / K): 1/2 where the resistance is K."""
    ratio = np.asarray(resistance, dtype=float) / k
    return np.where(np.isinf(ratio), 1.0, ratio / (1 + np.where(np.isinf(ratio), 0, ratio)))


def average_precision(suspicion: Values, wrong: Flags) -> float | None:
    """Area under precision over recall of the wrong images; None without one of them."""
    if not wrong.any():
        return None
    from sklearn.metrics import average_precision_score  # takes a second to import

    return float(average_precision_score(wrong, suspicion))


def thinned(x: Values, y: Values, num: int = 120) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most so many points of a curve, the ends among them."""
    rows = np.unique(np.linspace(0, len(x) - 1, min(num, len(x))).round().astype(int))
    return tuple(map(float, x[rows])), tuple(map(float, y[rows]))


def _end(value: float, end: float, first: int, second: int) -> float:
    """The area furthest towards 0 or 1 at which `value` is 1.96 of its standard errors away: by bisection."""
    inside, outside = value, end
    for _ in range(60):
        area = (inside + outside) / 2
        both = (first + second) / 2 - 1
        share = 1 + both * ((1 - area) / (2 - area) + area / (1 + area))
        if abs(value - area) <= NORMAL * math.sqrt(area * (1 - area) * share / (first * second)):
            inside = area
        else:
            outside = area
    return inside


def _over(suspicion: Values, cost_above: Flags, cost_below: Flags) -> tuple[Values, NDArray[np.int64]]:
    """The cost of each cut between distinct scores: `cost_above` where the score is above it, else `cost_below`."""
    values, group = np.unique(suspicion, return_inverse=True)
    above = np.bincount(group, cost_above, len(values)).astype(np.int64)
    below = np.bincount(group, cost_below, len(values)).astype(np.int64)
    costs = np.concatenate(([0], np.cumsum(below))) + above.sum() - np.concatenate(([0], np.cumsum(above)))
    return np.concatenate(([np.nextafter(values[0], -np.inf)], values)), costs


def _least(thresholds: Values, errors: NDArray[np.int64]) -> Cut:
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    return Cut(float(thresholds[best]), int(errors[best]))


def _placements(suspicion: Values, wrong: Flags) -> tuple[float, tuple[Values, Values]]:
    """AUROC, and for each wrong (right) image the share of right (wrong) ones on its proper side."""
    parts = placements(suspicion[wrong], suspicion[~wrong])
    return float(parts[0].mean()), parts


def _variance(values: Values) -> float:
    """Of the mean."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0
