"""A measurement as a value: which models, on which images, under which attack; and all that it needs, read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from steelman.attacks import Attack
from steelman.attacks.pgd import PGD
from steelman.certify import Certifier
from steelman.curves import ascending, default_nearest
from steelman.data import Data, Source
from steelman.data.matching import few, matched
from steelman.defences import Shield
from steelman.errors import DataError, PixelError, UsageError, WeightsError, check_seed
from steelman.loading import is_run, load
from steelman.models.factory import check_fit
from steelman.models.weights import add_weights
from steelman.progress import Progress, silent
from steelman.spec import Spec
from steelman.targets import TargetKind, check_kind
from steelman.threats import Ball, Threat, as_ball
from steelman.train import Trained, load_run


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
        names: what the models are called, one each; without them by the ends of their paths.

    Raises:
        UsageError: no model, names that are not one each, a threat in which an attack cannot search, a number out
            of its range, weights for nothing, an unknown kind of target, a minimal-norm attack without a curve or none
            for the norm.
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
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.runs and self.model is None:
            raise UsageError(
                "no model was given. Give run directories such as runs/cnn, or --model with an architecture or "
                "package.module:factory and its --weights."
            )
        if self.weights is not None and self.model is None:
            raise UsageError(f"weights {self.weights} were given without a model. Say which with --model.")
        if self.names and len(self.names) != len(self.models):
            raise UsageError(f"{len(self.names)} names for {len(self.models)} models. Give one each, or none.")
        if again := [name for name in self.names if self.names.count(name) > 1]:
            raise UsageError(f"two models are called {again[0]}. Give each a name of its own.")
        if again := [run for run in self.runs if self.runs.count(run) > 1]:
            raise UsageError(f"{again[0]} was given twice. Give each run once.")
        ball = self.ball
        if self.num is not None and self.num < 1:
            raise UsageError(f"num is {self.num}. Expected 1 image or more.")
        check_seed(self.seed)
        if isinstance(self.target, str):
            check_kind(self.target)
        if self.nearest is not None and not self.curve:
            raise UsageError(f"{self.nearest!r} is for a curve, and no radii were given. Say which with --curve.")
        if self.nearest is not None and not self.nearest.seeks_nearest():
            raise UsageError(
                f"{self.nearest!r} is no search for the nearest success. Give one, such as DDN() or FMN()."
            )
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
        if self.attack.seeks_nearest():
            return self.nearest or self.attack, PGD(loss="margin")
        return self.nearest or default_nearest(self.ball), self.attack


def check_plain(measurement: Measurement, user: str) -> None:
    """See that nothing is asked of `user` that an evaluation alone answers.

    Raises:
        UsageError: a target, a curve, a certifier, a shield or a repair is.
    """
    kept = {one.name: one.default for one in fields(Measurement) if one.name in _EVALUATED}
    if given := [name for name, default in kept.items() if getattr(measurement, name) != default]:
        raise UsageError(f"{user} makes no use of {', '.join(given)}. Leave that out, or use steelman evaluate.")


_EVALUATED = ("target", "curve", "nearest", "certifier", "shield", "repair")


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
    notes, named = data.notes, list(zip(_names(measurement), trained, strict=False))  # a model beside them comes last
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
        subjects.append(Subject(_names(measurement)[-1], _given(measurement, data)))
        check_fit(subjects[-1].model, data.shape, len(data.classes))
    for subject in subjects:
        subject.model.to(device)
    return Prepared(measurement, source, data.to(device), tuple(subjects), notes)


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
    if measurement.weights is None and not set(":.") & set(measurement.model.split("(")[0]):
        raise WeightsError(
            f"{measurement.model} was given without weights, and an untrained network says nothing. Give the file "
            f"with --weights, or train it first: steelman train {measurement.model}."
        )
    return load(measurement.model, measurement.weights, shape=data.shape, classes=len(data.classes))


def _names(measurement: Measurement) -> tuple[str, ...]:
    """What the models are called: as asked for, or the last part of every path where that tells them apart."""
    names = [Path(run).name for run in measurement.runs]
    names = names if len(set(names)) == len(names) else list(measurement.runs)
    if measurement.model is not None:
        weights = "" if measurement.weights is None else f" of {Path(measurement.weights).name}"
        names.append(measurement.model + weights)
    return measurement.names or tuple(names)


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
