"""From the words of a command line to values: data sources, devices, trainings, measurements."""

import dataclasses
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from steelman.cli.options import Subject
from steelman.cli.output import warn
from steelman.data import Source
from steelman.data._files import data_root
from steelman.data.arrays import Arrays
from steelman.data.folder import Folder
from steelman.errors import RunError, SpecError, UsageError
from steelman.export import check_destination
from steelman.measurement import Measurement
from steelman.recipe import default_recipe
from steelman.recipes import Named, by_name, check_data
from steelman.runs import Run
from steelman.spec import catalogue, parse
from steelman.studies import Study
from steelman.targets import TargetKind, check_kind
from steelman.threats import L0, Ball, as_ball
from steelman.train import Training, load_run

_VERBS = {
    "measurement": "evaluate",
    "comparison": "compare",
    "certification": "certify",
    "crossing": "transfer-matrix",
    "training": "train",
}  # by the kind of spec that they take
_ARRAYS = (".npz", ".safetensors")
_MOST_RADII = 1000
_ALWAYS_WITHIN = 1.0  # an eps up to this is within the pixel range of any image and norm
_LATE = 0.9  # the share of training after which eps should be what is meant


def source(text: str, root: Path | None = None, *, shape: tuple[int, int, int] | None = None) -> Source:
    """The data that a name, a spec or a path means; pictures in a folder are read in the model's shape if given.

    Raises:
        SpecError: no such data set.
        UsageError: a single array.
    """
    path = Path(text).expanduser()
    known = {name.lower() for name in catalogue("data")}
    written_as_path = os.sep in text.partition("(")[0] or path.suffix.lower() in (*_ARRAYS, ".zip")
    if text.lower() in known or not (written_as_path or path.exists() or (data_root(root) / path).exists()):
        try:
            return parse(text, "data")
        except SpecError as error:
            raise SpecError(
                f"{error} Or give the path of a folder or .zip of pictures, .npz or .safetensors."
            ) from None
    if path.suffix.lower() == ".npy":
        raise UsageError(
            f"{text} is one array. Save images and labels together: np.savez('set.npz', images=..., labels=...)."
        )
    place = str(path.resolve()) if path.exists() else text  # a run says where its data are, from any directory
    if path.suffix.lower() in _ARRAYS:
        return Arrays(place)
    folder = Folder(place)
    if shape is not None and shape[1] == shape[2]:
        folder = dataclasses.replace(folder, channels=shape[0], size=shape[1])
    return folder


def skipping(source: Source) -> Source:
    """The same source, corrupt pictures left out.

    Raises:
        UsageError: there is nothing to leave out.
    """
    if not isinstance(source, Folder):
        raise UsageError(f"--skip-bad was given for {source!r}. It leaves out pictures of a folder or .zip only.")
    return dataclasses.replace(source, skip_bad=True)


def device(text: str) -> str:
    """The device, seen to be there.

    Raises:
        UsageError: there is no such device here (says which there are).
    """
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    possible = ["cpu", *(["cuda"] if cuda else []), *cuda]
    if text not in possible:
        raise UsageError(f"there is no device {text!r} here. Possible: {', '.join(possible)}.")
    return text


def measurement(
    runs: tuple[str, ...],
    attack: str | None,
    threat: str | None,
    subject: Subject,
    target: str | None = None,
    *,
    curve: str | None = None,
    nearest: str | None = None,
    certifier: str | None = None,
    shield: str | None = None,
    repair: bool = False,
) -> Measurement:
    """What the options of `attack` and `evaluate` ask for."""
    ball = given_threat(threat)
    runs = tuple(str(Path(run).expanduser().resolve()) for run in runs)
    data = None
    if subject.data is not None:
        shape = load_run(Path(runs[0])).shape if runs else None
        data = source(subject.data, subject.data_root, shape=shape)
    elif subject.skip_bad and runs:
        data = load_run(Path(runs[0])).training.data
    if subject.skip_bad and data is not None:
        data = skipping(data)
    return Measurement(
        attack=parse(usual_attack(ball) if attack is None else attack, "attack"),
        threat=ball,
        runs=runs,
        model=subject.model,
        weights=None if subject.weights is None else str(subject.weights.expanduser().resolve()),
        data=data,
        split=subject.split or "test",
        num=subject.num,
        seed=subject.seed or 0,
        target=None if target is None else _target(target),
        curve=() if curve is None else radii(curve, ball),
        nearest=None if nearest is None else parse(nearest, "attack"),
        certifier=None if certifier is None else parse(certifier, "certifier"),
        shield=None if shield is None else parse(shield, "shield"),
        repair=repair,
    )


def given_threat(text: str | None) -> Ball:
    """The ball that --threat names.

    Raises:
        UsageError: none was given, or a threat that is no ball.
    """
    if text is None:
        raise UsageError(
            "no threat was given. Say what an attacker may do with --threat, such as Linf(0.3) or L2(1.5)."
        )
    return as_ball(parse(text, "threat"))


def usual_attack(threat: Ball) -> str:
    """The attack of whoever names none."""
    return "Strongest((SigmaZero(), PGD(steps=100, loss='margin')))" if isinstance(threat, L0) else "Reliable()"


def radii(text: str, threat: Ball, option: str = "--curve") -> tuple[float, ...]:
    """The radii that `0.05,8/255,0.2` names, or, for a whole number, so many equal steps up to the threat's eps.

    Raises:
        UsageError: no numbers, a number of steps below 1, steps up to a threat without limit.
    """
    if text.strip().isdecimal():
        num = int(text)
        if not 1 <= num <= _MOST_RADII or not math.isfinite(threat.eps):
            raise UsageError(
                f"{num} radii up to {threat!r}. Expected 1 to {_MOST_RADII} up to a finite eps, or the radii "
                f"themselves: {option} 0.5,1,1.5."
            )
        if num == 1 != threat.eps:
            warn(f"{option} 1 is one radius, the threat's {threat.eps:g}. For the radius 1 write {option} 1.0.")
        steps = [threat.eps * (step / num) for step in range(1, num + 1)]
        return tuple(sorted({float(math.ceil(eps)) for eps in steps})) if isinstance(threat, L0) else tuple(steps)
    try:
        return tuple(_number(part) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"cannot read the radii {text!r}. Expected such as 0.05,0.1,8/255, or how many.") from None


def _target(text: str) -> int | TargetKind:
    try:
        return int(text)
    except ValueError:
        return check_kind(text.strip().lower())


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def training(
    model: str, data: Source | None, start: Path | None, seed: int | None, changes: Mapping[str, Any], *, skip_bad: bool
) -> Training:
    """What the options of `train` ask for: an architecture or a whole Training(...), with what was given changed.

    Args:
        model: the text.
        data: None for the training's own, else digits.
        start: the run whose weights are trained on.
        seed: None for the training's own, else 0.
        changes: fields of the recipe, None where not given; under "recipe" a whole one to start from.
        skip_bad: leave out corrupt pictures.
    """
    if is_spec(model, "training"):
        whole: Training = parse(model, "training")
    else:
        whole = Training(parse(model, "architecture"), source("digits"))
    own_start = None if start is None else str(Run.existing(start.expanduser().resolve()).path)
    given = {"data": data, "start": own_start, "seed": seed, "recipe": changes["recipe"]}
    whole = dataclasses.replace(whole, **_given(given))
    if skip_bad:
        whole = dataclasses.replace(whole, data=skipping(whole.data))
    if fields := _given({name: value for name, value in changes.items() if name != "recipe"}):
        recipe = whole.recipe or default_recipe(whole.architecture)
        whole = dataclasses.replace(whole, recipe=dataclasses.replace(recipe, **fields))
    return whole


def named_recipe(text: str | None) -> Named | None:
    """The recipe that a plain name means; None for a spec, or without one.

    Raises:
        UsageError: no recipe has that name.
    """
    if text is None or text.strip().lower().partition("(")[0].strip() == "recipe":
        return None
    return by_name(text)


def check_named(named: Named, training: Training) -> None:
    """See that a named recipe fits the data, and warn where the network is another than the one it was measured on."""
    check_data(named, training.data)
    if training.architecture != named.architecture:
        warn(
            f"{named.name} was measured on {named.architecture!r} ({named.expected}). Expect other figures of "
            f"{training.architecture!r}."
        )


def study(text: str, changes: Mapping[str, Any], *, skip_bad: bool) -> Study:
    """The study that a name or spec means, with the fields changed that are not None."""
    asked: Study = dataclasses.replace(parse(text, "study"), **_given(changes))
    return dataclasses.replace(asked, data=skipping(asked.data)) if skip_bad else asked


def stem(path: Path, option: str = "--save") -> Path:
    """Where an outcome is saved, without its ending; the directory is made and seen to be writable.

    Raises:
        UsageError: a path without a name.
        RunError: it is not writable.
    """
    if not path.name:
        raise UsageError(f"{option} is {str(path)!r}, which names no file. Give a path such as results/set.")
    plain = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    try:
        plain.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=plain.parent):
            return plain
    except OSError as error:
        raise RunError(
            f"cannot write to {plain.parent} ({error.strerror}). "
            f"Give {option} a path in a directory that you may write."
        ) from None


def destination(path: Path) -> Path:
    """Where images are exported to; seen to be of a known kind and writable.

    Raises:
        UsageError: nothing is known of the ending.
        RunError: it is not writable, or a folder that is not empty.
    """
    path = path.expanduser()
    check_destination(path)
    stem(path / "x" if path.is_dir() else path, "--export")
    return path


def warn_of_training(training: Training, root: Path | None) -> None:
    """A line on stderr when training allows its attacker every image, or comes too late to the radius that is meant."""
    objective = (training.recipe or default_recipe(training.architecture)).objective
    ball, late = objective.ball(), objective.ball(_LATE)
    if ball is None or late is None:
        return
    if late.eps < ball.eps:
        warn(
            f"eps is {late.eps:.3g} when {_LATE:.0%} of training is done, and {ball.eps:g} at its end or never: the "
            f"net will hardly have seen {ball!r}. Give a shorter ramp, such as 0.5."
        )
    if ball.eps > _ALWAYS_WITHIN:  # rare: it costs reading the data twice
        warn_of_threat(ball, training.data.splits(root).train.shape)


def is_spec(text: str, kind: str) -> bool:
    """Whether a text is the spec of such a value, and not the path of a run.

    Raises:
        UsageError: it is that of another verb.
    """
    head, call, _ = text.lstrip().lower().partition("(")
    if call and head != kind and head in _VERBS:
        raise UsageError(f"that is the spec of a {head}. Give it to steelman {_VERBS[head]}.")
    return bool(call) and head == kind


def alone(kind: str, subject: Subject, **options: object) -> None:
    """See that no option stands beside a spec, which says everything.

    Raises:
        UsageError: one does.
    """
    names = ("model", "weights", "data", "split", "num", "seed", "skip_bad")
    options |= {name: getattr(subject, name) for name in names}
    if given := [f"--{name.replace('_', '-')}" for name, value in options.items() if _is_given(value)]:
        raise UsageError(f"the {kind} says everything, and {', '.join(given)} was given beside it. Change its text.")


def _is_given(value: object) -> bool:
    """0 is; what is not there, a flag that is not set, and no words are not."""
    return value is not None and value is not False and value != () and value != []


def warn_of_threat(threat: Ball, shape: tuple[int, int, int]) -> None:
    """A line on stderr when eps is finite and beyond the pixel range: it is likely meant for 0 to 255."""
    largest = threat.largest(shape)
    if largest < threat.eps < float("inf"):
        warn(
            f"eps {threat.eps:g} is beyond the pixel range: pixels are in [0, 1], and {largest:.4g} already allows "
            f"every image. For levels of 0 to 255 write {type(threat).__name__}({threat.eps:g}/255)."
        )


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
