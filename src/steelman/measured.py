"""What came out of a measurement, model by model: outcome, trust, curve, bracket; and all of it as plain data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from steelman.attacks import Attack
from steelman.bracket import Bracket, bracketed
from steelman.curves import Curve, curve
from steelman.engine import generator_for
from steelman.evaluate import Outcome, struck_once
from steelman.measurement import Prepared, Subject
from steelman.page import Trust
from steelman.progress import Progress, joined, silent
from steelman.random_models import random_accuracies
from steelman.repair import Repair, repair
from steelman.runs import Run
from steelman.shielded import Shielded, averaging, strike_shielded
from steelman.stats import Share, mcnemar
from steelman.targets import TargetKind, described
from steelman.trust import examine


@dataclass(frozen=True, eq=False)
class Measured:
    """What came out for one model."""

    name: str
    outcome: Outcome
    trust: Trust
    curve: Curve | None = None
    bracket: Bracket | None = None
    shielded: Shielded | None = None
    repaired: Repair | None = None
    random: dict[str, Any] | None = None  # accuracy over the draws of a random model


def measure(prepared: Prepared, progress: Progress = silent, run: Run | None = None) -> list[Measured]:
    """Strike every model, and ask of every number whether it can be trusted; with radii also a curve over them.

    A shielded model is struck twice, static and adaptive; the outcome is the adaptive one. With a run each outcome is
    kept there, in `examples/outcome-<position>`, as soon as it is there, and one that is there is not computed again.
    """
    return [_measured(prepared, index, progress, run) for index in range(len(prepared.subjects))]


def _measured(prepared: Prepared, index: int, progress: Progress, run: Run | None) -> Measured:
    spec, data, name = prepared.measurement, prepared.data, prepared.subjects[index].name
    aim = "" if spec.target is None else f", aimed at {described(spec.target)}"
    words = f"{spec.attack!r} on {name}{aim}"
    progress(0, len(data), words)
    struck = _struck(prepared, index, progress, words, run)
    model, outcome = struck.model, struck.outcome
    points = _curve(prepared, Subject(name, model), outcome, progress) if spec.curve else None
    repaired = None
    if spec.repair:
        saying = _saying(progress, f"{words}, with repaired gradients", spec.attack)
        options: dict[str, Any] = {"target": outcome.target, "generator": _generator(prepared), "progress": saying}
        repaired = repair(model, data, outcome, **options)
    progress(0, 1, f"checking what can be trusted of {name}")
    trust = examine(model, data, outcome, subject=f"{words} within {spec.ball!r}")
    drawn = random_accuracies(model, data, outcome, generator=_generator(prepared))
    more = [part.check() for part in (repaired, struck.bracket) if part is not None]
    more += [points.check(outcome, random=drawn is not None)] if points is not None else []
    trust = replace(trust, checks=(*trust.checks, *more))
    progress(1, 1, f"checking what can be trusted of {name}")
    return Measured(name, outcome, trust, points, struck.bracket, struck.shielded, repaired, drawn)


@dataclass(frozen=True, eq=False)
class _Struck:
    """A model, the outcome of its attack, and what stands beside that."""

    model: nn.Module  # as it was attacked: with its shield
    outcome: Outcome
    bracket: Bracket | None = None
    shielded: Shielded | None = None


def _struck(prepared: Prepared, index: int, progress: Progress, words: str, run: Run | None) -> _Struck:
    spec, data, model = prepared.measurement, prepared.data, prepared.subjects[index].model
    options: dict[str, Any] = {"target": _target(prepared), "generator": _generator(prepared)}
    if spec.certifier is not None:
        keeping: dict[str, Any] = {"run": run, "name": f"outcome-{index}", "radii": spec.curve, "progress": progress}
        return _Struck(model, *bracketed(model, data, spec.certifier, spec.attack, spec.ball, **keeping, **options))
    options["progress"] = _saying(progress, words, spec.attack)
    kept = None if run is None else run.path / "examples" / f"outcome-{index}"
    if spec.shield is not None:
        shielded = strike_shielded(model, spec.shield, data, spec.attack, spec.ball, kept=kept, **options)
        return _Struck(shielded.model, shielded.adaptive, shielded=shielded)
    return _Struck(model, struck_once(kept, model, data, spec.attack, spec.ball, **options))


def _target(prepared: Prepared) -> Tensor | TargetKind | None:
    target = prepared.measurement.target
    return torch.full_like(prepared.data.labels, target) if isinstance(target, int) else target


def record(prepared: Prepared, found: Sequence[Measured]) -> dict[str, Any]:
    """All shares and verdicts as plain data; every model but the first with a paired test against the first."""
    spec, data = prepared.measurement, prepared.data
    held = [one.outcome.right & ~one.outcome.broken for one in found]
    models: list[dict[str, Any]] = []
    for index, one in enumerate(found):
        row = one.outcome.to_json()
        row = {"model": one.name, **{k: v for k, v in row.items() if k not in ("attack", "threat")}}
        row |= {"verdict": one.trust.verdict, "trust": [asdict(check) for check in one.trust.checks]}
        if one.bracket is not None:
            row["certified"] = Share.of(one.bracket.certified).to_json()
        parts = {"bracket": one.bracket, "curve": one.curve, "shield": one.shielded, "repaired": one.repaired}
        row |= {name: part.to_json() for name, part in parts.items() if part is not None}
        if one.random is not None:
            row["random"] = one.random
        if index:
            row["paired"] = asdict(mcnemar(held[0], held[index]))
        models.append(row)
    return {
        "attack": repr(spec.attack),
        "threat": repr(spec.threat),
        "target": spec.target,
        "data": repr(prepared.source),
        "split": spec.split,
        "n": len(data),
        "notes": list(prepared.notes),
        "models": models,
    }


def _curve(prepared: Prepared, subject: Subject, outcome: Outcome, progress: Progress) -> Curve:
    """The curve of one model; the attack of the measurement is its check."""
    words = f"curve of {subject.name}"
    progress(0, 1, words)
    shield = prepared.measurement.shield
    nearest, check = (averaging(one, shield) for one in prepared.measurement.curve_attacks)
    return curve(
        subject.model,
        prepared.data,
        outcome.threat,
        prepared.measurement.curve,
        nearest=nearest,
        check=check,
        target=outcome.target,
        known=(outcome,),
        generator=_generator(prepared),
        progress=_saying(progress, words),
    )


def _generator(prepared: Prepared) -> Generator:
    return generator_for(prepared.data.images, prepared.measurement.seed)


def _saying(progress: Progress, instead: str, attack: Attack | None = None) -> Progress:
    """The same progress under other words, and the stage that the work is in."""

    def say(done: int, total: int, words: str) -> None:
        stage = words if attack is None else words.removeprefix(repr(attack)).removeprefix(": ")
        progress(done, total, joined(instead, stage))

    return say
