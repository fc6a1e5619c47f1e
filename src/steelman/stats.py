"""Intervals and paired tests for measured shares.

Clopper & Pearson 1934 (exact binomial interval) and McNemar 1947 (exact paired test), both through scipy.special,
which takes a second less to import than scipy.stats.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from steelman.errors import UsageError
from steelman.types import Mask

Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """A measured share with its 95 % Clopper-Pearson interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, hits: Mask) -> "Share":
        """The share of True in a mask of n cases."""
        return cls.counted(int(hits.sum()), len(hits))

    @classmethod
    def counted(cls, hits: int, n: int) -> "Share":
        """The share of `hits` in `n` cases; NaN without any case."""
        low, high = clopper_pearson(hits, n)
        return cls(hits / n if n else math.nan, low, high, n)

    def to_json(self) -> dict[str, float | int | None]:
        """`{"value", "low", "high", "n"}`; NaN becomes None, which JSON can say."""
        return {
            "value": None if math.isnan(self.value) else self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Share":
        """What `to_json` gave."""
        value = math.nan if raw["value"] is None else raw["value"]
        return cls(value, raw["low"], raw["high"], raw["n"])

    def __str__(self) -> str:
        if not self.n:
            return "none, n = 0"
        return f"{100 * self.value:.2f} % [{100 * self.low:.2f}, {100 * self.high:.2f}], n = {self.n}"


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same cases: how often only one of them is right, and the exact two-sided p-value."""

    only_first: int
    only_second: int
    n: int
    p: float

    @classmethod
    def counted(cls, only_first: int, only_second: int, n: int) -> "Paired":
        """From the numbers of cases that only one of the two gets right."""
        discordant, fewer = only_first + only_second, min(only_first, only_second)
        p = min(1.0, 2 * float(special.bdtr(fewer, discordant, 0.5))) if discordant else 1.0
        return cls(only_first, only_second, n, p)


def placements(positive: Values, negative: Values) -> tuple[Values, Values]:
    """What makes up an area under the ROC curve, each set's mean being that area (DeLong et al. 1988).

    For each positive value the share of the negative ones that it is above, for each negative one the share of the
    positive ones above it; a tie counts half.
    """

    def ranked(values: Values, others: Values) -> Values:
        others = np.sort(others)
        below, upto = np.searchsorted(others, values, side="left"), np.searchsorted(others, values, side="right")
        return (below + upto) / (2 * len(others))

    return ranked(positive, negative), 1 - ranked(negative, positive)


def clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a binomial share (Clopper & Pearson 1934); (0, 1) without any case.

    Raises:
        UsageError: hits outside 0 .. n.
    """
    if not 0 <= hits <= n:
        raise UsageError(f"{hits} hits in {n} cases. Expected 0 <= hits <= n.")
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(hits, n - hits + 1, tail)) if hits else 0.0
    high = float(special.betainccinv(hits + 1, n - hits, tail)) if hits < n else 1.0
    return low, high


def most_left(hits: int, sampled: int, others: int, confidence: float = 0.95) -> int:
    """How many of the `others` are hits at most, where `sampled` were drawn at random from among all and had `hits`.

    The exact one-sided bound of a draw without replacement: the largest number of hits among all of which a sample with
    so few, or fewer, has a probability of more than 1 - confidence.

    Raises:
        UsageError: hits outside 0 .. sampled.
    """
    if not 0 <= hits <= sampled:
        raise UsageError(f"{hits} hits in a sample of {sampled}. Expected 0 <= hits <= {sampled}.")
    whole = sampled + others

    def likely(total: int) -> bool:
        few = sum(math.comb(total, k) * math.comb(whole - total, sampled - k) for k in range(hits + 1))
        return Fraction(few, math.comb(whole, sampled)) > 1 - Fraction(str(confidence))

    return bisect.bisect_left(range(hits, hits + others + 1), x=True, key=lambda total: not likely(total)) - 1


def mcnemar(first: Mask, second: Mask) -> Paired:
    """McNemar's exact test that two classifiers, judged on the same cases, are right equally often.

    Raises:
        UsageError: masks of different length.
    """
    if len(first) != len(second):
        raise UsageError(f"a paired test of {len(first)} against {len(second)} cases. Judge both on the same images.")
    return Paired.counted(int((first & ~second).sum()), int((second & ~first).sum()), len(first))


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); the deviation of a single value is NaN."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return float(tensor.mean()), float(tensor.std()) if len(values) > 1 else math.nan
