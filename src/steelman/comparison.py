"""A comparison as a value: several attacks, ours and other libraries', on one model and the same images."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from steelman.attacks import Attack
from steelman.attacks.foreign import Foreign
from steelman.curves import Curve, reach
from steelman.engine import generator_for
from steelman.errors import RunError, SteelmanError, UsageError, raised_by_strangers
from steelman.evaluate import Outcome, struck_once
from steelman.measurement import Measurement, Prepared, check_plain
from steelman.optimality import envelope, largest, optimality
from steelman.page import Check, Lines, Page, Panel, Section, Series, Table, Trust
from steelman.progress import Progress, Stages, silent
from steelman.spec import Spec
from steelman.stats import Share
from steelman.trust import examine, read
from steelman.wording import sentences

POINTS = 41  # radii at which the figure shows robust accuracy


@dataclass(frozen=True, repr=False)
class Comparison(Spec):
    """Attacks in turn, each with the same random seed, on the model, images and threat of a measurement.

    Raises:
        UsageError: no attack, one given twice, more than one model, or what an evaluation alone answers.
    """

    attacks: tuple[Attack, ...]
    measurement: Measurement

    def __post_init__(self) -> None:
        super().__post_init__()
        check_plain(self.measurement, "a comparison")
        if not self.attacks:
            raise UsageError('no attacks were given. Say which with --attacks, such as --attacks "PGD()" "DDN()".')
        if twice := [attack for attack in self.attacks if self.attacks.count(attack) > 1]:
            raise UsageError(f"{twice[0]!r} was given twice. Name each attack once.")
        models = self.measurement.models
        if len(models) != 1:
            raise UsageError(f"{len(models)} models were given ({', '.join(models)}). Attacks are compared on one.")


@dataclass(frozen=True, eq=False)
class Row:
    """What one attack came to, or why it came to nothing."""

    attack: Attack
    outcome: Outcome | None = None
    error: str = ""
    refused: bool = False  # the attack is not for this threat or model: wrong use, no failure
    optimality: float = math.nan  # where the threat has no limit
    rank: int = 0  # 1 is the strongest; 0 without an outcome
    tied: bool = False  # another attack has the same rank


def compare(
    comparison: Comparison, prepared: Prepared, progress: Progress = silent, place: Path | None = None
) -> list[Row]:
    """One row an attack, the strongest first.

    Within a limit the strongest leaves the fewest images; without one it is that of the greatest optimality (each
    attack then looks for its nearest successes). Optimality within a limit is left out: there attacks stop at their
    first success, and its distance says nothing of them. An attack that fails is a row that says why.
    With a place each outcome is kept there as soon as it is there, in `outcome-<position of its attack>`, and one that
    is there is not computed again.

    Raises:
        UsageError: no attack is for this threat and model.
        SteelmanError: every attack failed.
    """
    stages = Stages(progress, len(comparison.attacks))
    rows: list[Row] = []
    for index, attack in enumerate(comparison.attacks):
        stem = None if place is None else place / f"outcome-{index}"
        rows.append(_row(attack, comparison, prepared, stages.stage(f"{index + 1} of {len(comparison.attacks)}"), stem))
    outcomes = [row.outcome for row in rows if row.outcome is not None]
    if not outcomes:
        kind = UsageError if all(row.refused for row in rows) else SteelmanError
        raise kind(f"no attack could be run. {rows[0].attack!r}: {rows[0].error}")
    if math.isinf(outcomes[0].threat.eps):
        scores = iter(optimality([Curve.of(one).distance for one in outcomes]))
        rows = [row if row.outcome is None else replace(row, optimality=next(scores)) for row in rows]
    keys = [_weakness(row) for row in rows]
    ranked = [
        replace(row, rank=1 + sum(other < key for other in keys), tied=keys.count(key) > 1) if row.outcome else row
        for row, key in zip(rows, keys, strict=True)
    ]
    return sorted(ranked, key=lambda row: row.rank or len(rows) + 1)


def strongest(rows: Sequence[Row], prepared: Prepared, progress: Progress = silent) -> Trust:
    """Whether the number of the strongest attack, the first row, can be trusted."""
    outcome, what = rows[0].outcome, "checking what can be trusted"
    assert outcome is not None
    progress(0, 1, what)
    try:
        return examine(prepared.subjects[0].model, prepared.data, outcome)
    except Exception as error:  # the table is still worth having
        words = f"The checks that ask the model again failed: {_failure(error)}."
        check = Check("probes", "fail", "failed", words, "It must take any batch of images, also with gradients.")
        return Trust(f"{outcome.attack!r} within {outcome.threat!r}", (*read(outcome), check))
    finally:
        progress(1, 1, what)


def record(comparison: Comparison, prepared: Prepared, rows: Sequence[Row], trust: Trust) -> dict[str, Any]:
    """The whole table, and what can be trusted of the strongest attack's number, as plain data."""
    asked, outcomes = comparison.measurement, [row.outcome for row in rows if row.outcome is not None]
    return {
        "model": prepared.subjects[0].name,
        "threat": repr(asked.threat),
        "unlimited": math.isinf(outcomes[0].threat.eps),
        "data": repr(prepared.source),
        "split": asked.split,
        "n": len(prepared.data),
        "notes": list(prepared.notes),
        "natural": outcomes[0].natural.to_json(),
        "attacks": [_facts(row) for row in rows],
        "trust": [asdict(check) for check in trust.checks],
    }


def comparison_page(facts: dict[str, Any], rows: Sequence[Row], command: str) -> Page:
    """The table, and robust accuracy over distance of all attacks where their distances say something."""
    best, far = facts["attacks"][0], facts["unlimited"]
    columns = ("rank", "attack", "robust", "success", *(("median distance", "optimality") if far else ()))
    columns += ("forwards an image", "backwards an image", "seconds")
    cells = tuple(
        (rank_text(one), one["attack"], one["robust"], one["success"])
        + ((distance_cell(one), one["optimality"]) if far else ())
        + (("", "", "") if one["error"] else tuple(one[name] for name in _COSTS))
        for one in facts["attacks"]
    )
    median = "more than half hold" if best["median"] is None else f"median distance {best['median']:.4g}"
    median = median if best["success"]["n"] else "no image is right"
    strongest = (
        f"success on {Share.from_json(best['success'])}, {median}"
        if far
        else f"{Share.from_json(best['robust'])} robust"
    )
    return Page(
        title=f"Attacks on {facts['model']} within {facts['threat']}",
        question=f"Which attack is the strongest on {facts['model']} within {facts['threat']}?",
        headline=f"{best['attack']}{' and others' if best['tied'] else ''}: {strongest}.",
        findings=(
            *sentences(facts["notes"]),
            *(f"{one['attack']} failed: {one['error']}" for one in facts["attacks"] if one["error"]),
            *_strayed(facts, rows),
        ),
        sections=(
            Section("Result", (_about(facts),), (Table("Attacks, the strongest first", columns, cells),)),
            *((Section("Over distance", (), (_figure(rows),)),) if far else ()),
            Section("Can the strongest attack's number be trusted?", (), (_trust(facts),)),
        ),
        rerun=command,
        facts={"data": facts["data"], "split": facts["split"], "images": str(facts["n"])},
    )


def _about(facts: dict[str, Any]) -> str:
    """On which images the columns stand."""
    natural = Share.from_json(facts["natural"])
    right = round(natural.value * natural.n)
    rest = "Success, median distance and optimality are" if facts["unlimited"] else "Success is"
    return f"Natural accuracy is {natural}. {rest} of the {right} images that are right."


def _strayed(facts: dict[str, Any], rows: Sequence[Row]) -> list[str]:
    """What attacks showed that the threat forbids, and do not look at by design; of a peer's nothing is known."""
    assert rows[0].outcome is not None
    threat = rows[0].outcome.threat
    return [
        f"{one['attack']} showed {one['rejected']:,} candidates outside {facts['threat']}: none was counted."
        for one, row in zip(facts["attacks"], rows, strict=True)
        if one["rejected"] and (isinstance(row.attack, Foreign) or not row.attack.strays(threat))
    ]


def _trust(facts: dict[str, Any]) -> Trust:
    checks = tuple(Check(**check) for check in facts["trust"])
    return Trust(f"{facts['attacks'][0]['attack']} within {facts['threat']}", checks)


_COSTS = ("forwards", "backwards", "seconds")


def rank_text(one: dict[str, Any]) -> str:
    """The rank, with = where another attack shares it; nothing for an attack that failed."""
    return f"{one['rank']}{'=' if one['tied'] else ''}" if one["rank"] else ""


def distance_cell(one: dict[str, Any]) -> float | str:
    """The median distance; the word inf where more than half hold, as JSON has no such number; nothing of no image."""
    if one["error"] or not one["success"]["n"]:
        return ""
    return "inf" if one["median"] is None else one["median"]


def _row(attack: Attack, comparison: Comparison, prepared: Prepared, progress: Progress, stem: Path | None) -> Row:
    model, threat, data = prepared.subjects[0].model, comparison.measurement.ball, prepared.data
    progress(0, 1, "attacking")
    generator = generator_for(data.images, comparison.measurement.seed)
    options: dict[str, Any] = {"closest": math.isinf(threat.eps), "generator": generator, "progress": progress}
    try:
        return Row(attack, struck_once(stem, model, data, attack, threat, **options))
    except RunError:  # no room for the outcome: that is no failure of the attack
        raise
    except Exception as error:  # whatever it is: the other attacks are still worth having
        return Row(attack, error=_failure(error), refused=isinstance(error, UsageError))
    finally:
        progress(1, 1, "attacking")


def _failure(error: Exception) -> str:
    """An error in one line, with its place where it is that of the user's own code."""
    words = " ".join(str(error).split())
    if isinstance(error, SteelmanError):
        return words
    return raised_by_strangers(error) or f"{type(error).__name__}: {words}"


def _weakness(row: Row) -> tuple[float, ...]:
    if row.outcome is None:
        return (math.inf,)
    score = 0.0 if math.isnan(row.optimality) else -round(row.optimality, 6)
    return (score, row.outcome.robust.value)


def _facts(row: Row) -> dict[str, Any]:
    names = ("robust", "success", "median", "optimality", *_COSTS, "rejected")
    facts: dict[str, Any] = {"attack": repr(row.attack), "rank": row.rank, "tied": row.tied, "error": row.error}
    if row.outcome is None:
        return facts | dict.fromkeys(names)
    outcome, curve = row.outcome, Curve.of(row.outcome)
    median, attacked = curve.quantile(0.5), max(1, int(outcome.right.sum()))
    values = (
        outcome.robust.to_json(),
        Share.of(outcome.broken[outcome.right]).to_json(),
        median if math.isfinite(median) else None,
        None if math.isnan(row.optimality) else row.optimality,
        round(int(outcome.forwards.sum()) / attacked, 2),
        round(int(outcome.backwards.sum()) / attacked, 2),
        round(outcome.seconds, 3),
        int(outcome.rejected.sum()),
    )
    return facts | dict(zip(names, values, strict=True))


def _figure(rows: Sequence[Row]) -> Lines:
    """Robust accuracy over distance, of searches without a limit; all attacks together as the last line."""
    done = [(repr(row.attack), row.outcome) for row in rows if row.outcome is not None]
    known = [Curve.of(outcome).distance for _, outcome in done]
    threat, n = done[0][1].threat, len(known[0])
    radii = [largest(known) * step / (POINTS - 1) for step in range(POINTS)]
    named = [(label, one.nan_to_num(nan=0.0, posinf=math.inf)) for (label, _), one in zip(done, known, strict=True)]
    named += [("all together", envelope(known))] if len(named) > 1 else []
    series = tuple(
        Series(label, "other", tuple(radii), tuple(float((one.double() > reach(to)).double().mean()) for to in radii))
        for label, one in named
    )
    caption = f"Share of {n} images that are right and have no known success within the distance"
    label = f"{type(threat).__name__} distance"
    return Lines("over-distance", caption, label, "robust accuracy", (Panel("", series),))
