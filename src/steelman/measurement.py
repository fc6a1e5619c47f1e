"""A measurement as a value: which models, on which images, under which attack; and what came out, model by model."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from steelman.attacks import Attack, Nearest
from steelman.attacks.pgd import PGD
from steelman.bracket import Bracket, bracketed
from steelman.certify import Certifier
from steelman.curves import Curve, ascending, curve, default_nearest
from steelman.data import Data, Source
from steelman.data.matching import few, matched
from steelman.defences import Shield
from steelman.engine import generator_for
from steelman.errors import DataError, PixelError, UsageError, WeightsError
from steelman.evaluate import Outcome, struck_once
from steelman.loading import is_run, load
from steelman.models.factory import check_fit
from steelman.models.weights import add_weights
from steelman.page import Trust
from steelman.progress import Progress, joined, silent
from steelman.random_models import random_accuracies
from steelman.repair import Repair, repair
from steelman.runs import Run
from steelman.shielded import Shielded, averaging, strike_shielded
from steelman.spec import Spec
from steelman.stats import Share, mcnemar
from steelman.targets import TargetKind, check_kind, described
from steelman.threats import Ball, Threat, as_ball
from steelman.train import Trained, load_run
from steelman.trust import examine


@dataclass(frozen=True, repr=False)
class Measurement(Spec):
    """One attack within one threat on the same images for every model.

    Fields:
        runs: directories of trainings.
        model: an architecture or `package.module:factory`, beside them.
        weights: the file with that model's weights.
        data: None for the data that the runs were trained on.
        num: the first so many images of the split; None for all.
        target: the class that the attack aims at; its own images are left out. Or how one is chosen for each image.
        curve: radii at which robust accuracy is measured beside that of the threat, from one search for `nearest`.
        nearest: the minimal-norm attack of the curve; None for `attack` if it is one, else the usual one of the norm.
        certifier: proves images first, at the radii of the curve too; what it proves is not attacked.
        shield: is put around every model; the shares are then of the defended model under an attack that knows it.
        repair: attack a second time with finite surrogates for derivatives that are infinite or 0.

    Raises:
        UsageError: no model, a threat in which an attack cannot search, a number out of its range, weights for nothing,
            an unknown kind of target, a minimal-norm attack without a curve or none for the norm.
    """

    attack: Attack
    threat: Threat
    runs: tuple[str, ...] = ()
    model: str | None = None
    weights: str | None = None
    data: Source | None = None
    split: Literal["test", "val", "train"] = "test"
    num: int | None = None
    seed: int = 0
    target: int | TargetKind | None = None
    curve: tuple[float, ...] = ()
    nearest: Attack | None = None
    certifier: Certifier | None = None
    shield: Shield | None = None
    repair: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.runs and self.model is None:
            raise UsageError(
                "no model was given. Give run directories such as runs/cnn, or --model with an architecture or "
                "package.module:factory and its --weights."
            )
        if self.weights is not None and self.model is None:
            raise UsageError(f"weights {self.weights} were given without a model. Say which with --model.")
        ball = self.ball
        if self.num is not None and self.num < 1:
            raise UsageError(f"num is {self.num}. Expected 1 image or more.")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}. Expected 0 or more.")
        if isinstance(self.target, str):
            check_kind(self.target)
        if self.nearest is not None and not self.curve:
            raise UsageError(f"{self.nearest!r} is for a curve, and no radii were given. Say which with --curve.")
        if self.certifier is not None and self.shield is not None:
            raise UsageError(
                f"both {self.certifier!r} and {self.shield!r} were given. A certificate is of the model itself: leave "
                "out one of the two."
            )
        if self.certifier is not None and self.certifier.smooths:
            raise UsageError(
                f"{self.certifier!r} certifies a smoothed model, not the one that is attacked. "
                "Use it with `steelman certify`, or choose a certifier of the model itself: Interval, CROWN."
            )
        if self.curve:
            object.__setattr__(self, "curve", ascending(self.curve))
            for attack in self.curve_attacks:
                attack.check_norm(ball)

    @property
    def ball(self) -> Ball:
        """The threat.

        Raises:
            UsageError: it is no ball.
        """
        return as_ball(self.threat)

    @property
    def models(self) -> tuple[str, ...]:
        """The runs, and the model beside them."""
        return self.runs if self.model is None else (*self.runs, self.model)

    @property
    def curve_attacks(self) -> tuple[Attack, Attack]:
        """What searches for the nearest success, and what checks it at each radius."""
        if isinstance(self.attack, Nearest):
            return self.nearest or self.attack, PGD(loss="margin")
        return self.nearest or default_nearest(self.ball), self.attack


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under measurement and what it is called."""

    name: str
    model: nn.Module


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that a measurement needs, read and known to fit together."""

    measurement: Measurement
    source: Source
    data: Data
    subjects: tuple[Subject, ...]
    notes: tuple[str, ...]  # what a reader must know about the images

    @property
    def digest(self) -> str:
        """Identity of the images and all weights."""
        digest = hashlib.sha256(self.data.digest.encode())
        for subject in self.subjects:
            add_weights(digest, subject.model)
        return digest.hexdigest()


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


def prepare(
    measurement: Measurement, root: Path | None = None, progress: Progress = silent, *, device: str = "cpu"
) -> Prepared:
    """Read the models and the images, and see that they fit together.

    Raises:
        UsageError: no data, runs with different data, a class too many, a target that is no class.
        RunError, DataError, WeightsError, PixelError: what cannot be read, or does not fit; runs that number the same
            classes otherwise.
    """
    trained = [load_run(Path(run)) for run in measurement.runs]
    source = measurement.data or _common_source(measurement.runs, trained)
    data = getattr(source.splits(root, progress), measurement.split)
    notes, named = data.notes, list(zip(_short(measurement.runs), trained, strict=True))
    if trained:
        given = data
        data, more = matched(given, trained[0].classes)
        notes += more
        for name, one in named[1:]:
            if not torch.equal(matched(given, one.classes)[0].labels, data.labels):
                raise DataError(
                    f"{name} numbers the classes of {given.name} otherwise ({few(one.classes)}) than {named[0][0]} "
                    f"({few(trained[0].classes)}): the same labels would mean other things. Evaluate them one by one."
                )
    data = data.first(measurement.num)
    if isinstance(measurement.target, int):
        data, more = _without_target(data, measurement.target)
        notes += more
    subjects = [Subject(name, one.model) for name, one in named]
    for name, one in named:
        _check(name, one, data)
        notes += tuple(f"{name} {words}" for words in one.notes(measurement.split))
    if measurement.model is not None:
        subjects.append(Subject(_name(measurement), _given(measurement, data)))
        check_fit(subjects[-1].model, data.shape, len(data.classes))
    for subject in subjects:
        subject.model.to(device)
    return Prepared(measurement, source, data.to(device), tuple(subjects), notes)


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
    more += [points.check(outcome)] if points is not None and drawn is None else []  # random models break by chance
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


def _common_source(runs: Sequence[str], trained: Sequence[Trained]) -> Source:
    sources = {repr(one.training.data): one.training.data for one in trained}
    if not sources:
        raise UsageError("no data were given. Say which with --data, such as digits, mnist or path/to/folder.")
    if len(sources) > 1:
        raise UsageError(
            f"the runs {', '.join(runs)} were trained on different data ({', '.join(sources)}). "
            "Say with --data on which to compare them."
        )
    return next(iter(sources.values()))


def _given(measurement: Measurement, data: Data) -> nn.Module:
    assert measurement.model is not None
    if is_run(measurement.model):
        raise UsageError(f"{measurement.model} is a run directory. Give it without --model.")
    if measurement.weights is None and ":" not in measurement.model.split("(")[0]:
        raise WeightsError(
            f"{measurement.model} was given without weights, and an untrained network says nothing. Give the file "
            f"with --weights, or train it first: steelman train {measurement.model}."
        )
    return load(measurement.model, measurement.weights, shape=data.shape, classes=len(data.classes))


def _short(runs: Sequence[str]) -> list[str]:
    """The last part of every path where that tells them apart."""
    names = [Path(run).name for run in runs]
    return names if len(set(names)) == len(names) else list(runs)


def _saying(progress: Progress, instead: str, attack: Attack | None = None) -> Progress:
    """The same progress under other words, and the stage that the work is in."""

    def say(done: int, total: int, words: str) -> None:
        stage = words if attack is None else words.removeprefix(repr(attack)).removeprefix(": ")
        progress(done, total, joined(instead, stage))

    return say


def _name(measurement: Measurement) -> str:
    assert measurement.model is not None
    return (
        measurement.model if measurement.weights is None else f"{measurement.model} of {Path(measurement.weights).name}"
    )


def _check(name: str, trained: Trained, data: Data) -> None:
    try:
        check_fit(trained.model, data.shape, len(data.classes))
    except UsageError as error:
        if trained.shape == data.shape:
            raise type(error)(f"{name}: {error}") from None
        raise PixelError(
            f"{data.name} has images of {_size(data.shape)}, {name} was trained on {_size(trained.shape)} "
            "(channels x height x width). Convert the images or choose another model."
        ) from None


def _size(shape: tuple[int, int, int]) -> str:
    return "x".join(str(length) for length in shape)


def _without_target(data: Data, target: int) -> tuple[Data, tuple[str, ...]]:
    if not 0 <= target < len(data.classes):
        raise UsageError(
            f"target is {target}. Expected a class from 0 to {len(data.classes) - 1} ({few(data.classes)})."
        )
    others: Tensor = (data.labels != target).nonzero().squeeze(1)
    if len(others) == 0:
        raise UsageError(f"all {len(data)} images are of the target class {target}. Choose another, or more images.")
    return data.take(others), (f"left out {len(data) - len(others)} images of the target class itself",)
