"""Everything that the study has measured, as its page reads it."""

from dataclasses import dataclass
from typing import Any

from steelman.data import Data, Splits
from steelman.page import Trust
from steelman.runs import Run
from steelman.studies.resistance.held import Held
from steelman.studies.resistance.plan import Plan, Reported
from steelman.studies.resistance.verdicts import Judged
from steelman.studies.resistance.zoo import Network


@dataclass(frozen=True)
class Done:
    """Everything that was measured."""

    plan: Plan
    run: Run
    splits: Splits
    zoo: list[Network]
    subject: Network
    attacks: dict[str, list[dict[str, Any]]]  # network -> a row for each norm and attack
    test: Data  # whose resistance was measured
    held: Held
    judged: Judged
    val: Judged
    reported: Reported | None
    saturation: dict[str, Any]
    discriminator: dict[str, Any]
    detection: dict[str, Any]
    trust: list[Trust]
    lines: dict[str, Any]


@dataclass(frozen=True)
class Words:
    """The verdicts' tables, made once for page and findings."""

    quantiles: list[dict[str, Any]]
    wrong_here: list[dict[str, Any]]
    trusted: list[dict[str, Any]]
    guesses: list[dict[str, Any]]
    corrections: list[dict[str, Any]]
