"""strike(): guard the model, attack what it gets right, judge what comes back, and keep every image's outcome."""

import json
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator, nn

from steelman.attacks import Attack
from steelman.attacks.found import Health, broken, predicts
from steelman.chance import drawing_from
from steelman.data import Data
from steelman.engine import generator_for, guarded, micro_batch, predict
from steelman.errors import PixelError, RunError, ThreatViolation, UsageError
from steelman.files import replacing
from steelman.progress import Progress, silent
from steelman.spec import parse
from steelman.stats import Share
from steelman.targets import TargetKind, choose_targets
from steelman.threats import TOLERANCE, Ball
from steelman.types import Counts, Images, Labels, Logits, Mask, PerExample


@dataclass(frozen=True)
class Outcome:
    """What a strike did to each image. All shares derive from these rows.

    `broken` holds for images that were right and whose `x_adv` the threat allows and the model gets wrong, judged again
    on the returned float32 pixels. `distance` is NaN where the attack failed. Rows of images that were wrong from the
    start were not attacked: their `x_adv` is the original.
    """

    attack: Attack
    threat: Ball
    x_adv: Images
    y: Labels
    before: Labels  # prediction on the original
    after: Labels  # prediction on x_adv
    before_confidence: PerExample
    after_confidence: PerExample
    right: Mask  # right on the original
    broken: Mask
    survives: Mask  # broken still, after rounding to 8 bits as an image file does
    distance: PerExample
    margin: PerExample  # largest margin of any allowed candidate, above 0 when broken; NaN where not attacked
    forwards: Counts
    backwards: Counts
    rejected: Counts
    proven: Mask  # certified to hold, by bounds of the model, and therefore not attacked
    audited: Mask  # given up by a budgeted attack, and then attacked by the full ensemble
    sampled: Mask  # of these the random sample, which speaks for all that were given up and not attacked in full
    health: Health
    seconds: float = 0.0
    was_training: bool = False  # the model was handed over in train mode
    target: Labels | None = None  # the class that the attack aimed at: `broken` then means that it was reached

    @property
    def natural(self) -> Share:
        """Accuracy on the originals."""
        return Share.of(self.right)

    @property
    def robust(self) -> Share:
        """Accuracy under the attack: right, and not broken. An upper bound of the true robust accuracy."""
        return Share.of(self.right & ~self.broken)

    def save(self, stem: Path) -> None:
        """Write `stem`.safetensors (per image) and `stem`.json (attack, threat, shares), each whole or not at all.

        Raises:
            RunError: the disk is full or the directory is not writable.
        """
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if _is_tensor(self, field.name)}
        tensors |= {f"health.{field.name}": getattr(self.health, field.name) for field in fields(Health)}
        with replacing(Path(f"{stem}.safetensors"), Path(f"{stem}.json")) as (rows, words):
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, rows)
            words.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    def to_json(self) -> dict[str, Any]:
        """Attack, threat and shares."""
        return {
            "attack": repr(self.attack),
            "threat": repr(self.threat),
            "natural": self.natural.to_json(),
            "robust": self.robust.to_json(),
            "gradients": int(self.backwards.sum()),
            "forwards": int(self.forwards.sum()),
            "seconds": round(self.seconds, 3),
            "was_training": self.was_training,
        }

    @classmethod
    def load(cls, stem: Path, device: str | torch.device = "cpu") -> "Outcome":
        """Read what `save` wrote, onto a device.

        Raises:
            RunError: no such files, files that hold something else, or rows that are not equally many.
        """
        try:
            tensors = load_file(f"{stem}.safetensors", device=str(device))
            _check_lengths(tensors)
            tensors.setdefault("sampled", tensors["audited"].clone())  # outcomes of before samples were marked
            words = json.loads(Path(f"{stem}.json").read_text())
            health = Health(**{field.name: tensors.pop(f"health.{field.name}") for field in fields(Health)})
            return cls(
                attack=parse(words["attack"], "attack"),
                threat=parse(words["threat"], "threat"),
                health=health,
                seconds=words["seconds"],
                was_training=words["was_training"],
                **tensors,
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = str(error).partition("\n")[0]
            raise RunError(f"cannot read the outcome {stem}: {reason}. Expected its .safetensors and .json.") from None


def struck_once(
    stem: Path | None, model: nn.Module, data: Data, attack: Attack, threat: Ball, **options: Any
) -> Outcome:
    """The outcome of this very strike that an earlier call saved under the stem; else it is made, and saved there.

    The caller sees to it that model and images are those of the earlier call, as a run does by their digest.

    Raises:
        RunError: it cannot be read or written; and as `strike`.
    """
    if stem is not None and Path(f"{stem}.json").exists():
        found = Outcome.load(stem, data.labels.device)
        if (found.attack, found.threat) == (attack, threat) and torch.equal(found.y, data.labels.long()):
            return found
    outcome = strike(model, data, attack, threat, **options)
    if stem is not None:
        outcome.save(stem)
    return outcome


def strike(
    model: nn.Module,
    data: Data | tuple[Images, Labels],
    attack: Attack,
    threat: Ball,
    *,
    target: Labels | TargetKind | None = None,
    closest: bool = False,
    proven: Mask | None = None,
    generator: Generator | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Attack every image that the model gets right and that is not `proven` to hold, and judge the result.

    `target` aims at a class for each image: given as labels, or chosen as steelman.targets says ("random",
    "least-likely", "next"). The model's mode, gradients and memory layout are restored afterwards, on error too. What a
    random model draws follows from the generator's seed, so that the same strike gives the same rows; its own
    generators and the global one then stand where they stood.

    Raises:
        PixelError: images that are no float32 pixels in [0, 1], or of a shape that the model does not take.
        UsageError: labels or targets outside the model's classes, a target that is the label, or an output that is
            not logits (n, classes).
        ThreatViolation: the attack returned an image that the threat does not allow.
    """
    x, y = (data.pixels(), data.labels) if isinstance(data, Data) else data
    x, y = check_pixels(x), y.long()
    started, was_training = time.perf_counter(), any(module.training for module in model.modules())
    with guarded(model), drawing_from(model, 0 if generator is None else generator.initial_seed()):
        logits = logits_of(model, x)
        _check_labels(y, logits)
        goal = _targets(target, y, logits, generator)
        right = _right(logits, y)
        rows = (right if proven is None else right & ~proven).nonzero().squeeze(1)
        aim = None if goal is None else goal[rows]
        options: dict[str, Any] = {"closest": closest, "generator": generator, "progress": progress}
        found = attack.run(model, x[rows], y[rows], threat, target=aim, **options) if len(rows) else None
        outcome = _blank(attack, threat, x, y, logits, right)
        if proven is not None:
            outcome.proven.copy_(proven & right)
        if found is not None:
            _forbid_violations(attack, threat, found.x_adv, x[rows])
            outcome.x_adv[rows] = found.x_adv
            outcome.margin[rows] = found.score
            for name in ("forwards", "backwards", "rejected", "proven", "audited", "sampled"):
                getattr(outcome, name)[rows] = getattr(found, name)
            for field in fields(Health):
                getattr(outcome.health, field.name)[rows] = getattr(found.health, field.name)
            judge(model, outcome, rows, aim, x[rows])
    return replace(outcome, seconds=time.perf_counter() - started, was_training=was_training, target=goal)


def adversarial_accuracy(
    model: nn.Module,
    data: Data | tuple[Images, Labels],
    attack: Attack,
    threat: Ball,
    *,
    generator: Generator | None = None,
) -> Mask:
    """Which images are right after the attack's own last step, with images that were wrong before attacked as well.

    This is the "adversarial accuracy" of many papers. It can exceed the natural accuracy (a true label leaks into a
    one-step attack, Kurakin et al. 2017, arXiv:1611.01236), which `strike` rules out; it is here to be compared.
    """
    x, y = (data.pixels(), data.labels) if isinstance(data, Data) else data
    x, generator = check_pixels(x), generator or generator_for(x)
    with guarded(model):
        _check_labels(y, logits_of(model, x[:1]).expand(len(x), -1))  # one image tells the number of classes
        batch = micro_batch(model, x)
        parts = zip(x.split(batch), y.split(batch), strict=True)
        crafted = [attack.perturb(model, part, labels, threat, generator=generator) for part, labels in parts]
        return _right(predict(model, torch.cat(crafted), batch), y)


def accuracy(model: nn.Module, data: Data | tuple[Images, Labels]) -> Mask:
    """Which images the model gets right."""
    x, y = (data.pixels(), data.labels) if isinstance(data, Data) else data
    with guarded(model):
        logits = logits_of(model, check_pixels(x))
    _check_labels(y, logits)
    return _right(logits, y)


def check_pixels(x: torch.Tensor) -> Images:
    """The images, rounding errors beyond [0, 1] clamped.

    Raises:
        PixelError: not float32, not (n, channels, height, width), none, NaN, or outside [0, 1], with the likely cause.
    """
    if x.dtype != torch.float32:
        raise PixelError(f"images are {x.dtype}. Expected float32 pixels in [0, 1]: {_dtype_remedy(x.dtype)}.")
    if x.ndim != 4 or len(x) == 0:
        raise PixelError(
            f"images have shape {tuple(x.shape)}. Expected (n, channels, height, width), n at least 1, such as x[None]."
        )
    low, high = float(x.min()), float(x.max())
    if not low >= -TOLERANCE or not high <= 1 + TOLERANCE:  # also true of NaN
        raise PixelError(f"pixels run from {low:.4g} to {high:.4g}. Expected [0, 1]: {_range_remedy(low, high)}.")
    return x if low >= 0 and high <= 1 else x.clamp(0, 1)


def logits_of(model: nn.Module, x: Images) -> Logits:
    """The model's logits for x; the caller guards the model.

    Raises:
        PixelError: the model does not take images of this shape.
        UsageError: the output is not (n, classes), or the weights are of another precision than the images.
    """
    try:
        return predict(model, x)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if any(word in reason for word in ("shape", "size", "channels")) and not reason.startswith("view size"):
            raise PixelError(
                f"the model does not take images of shape {tuple(x.shape[1:])} (channels, height, width): {reason}. "
                "Give images of the shape it was trained on."
            ) from error
        others = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} - {x.dtype}
        if "type" in reason and others:
            given = ", ".join(sorted(map(str, others)))
            raise UsageError(
                f"the model's weights are {given}, the images {x.dtype}. Convert it: model.float()."
            ) from error
        raise


def judge(model: nn.Module, outcome: Outcome, rows: torch.Tensor, target: Labels | None, x: Images) -> Logits:
    """Fill in what the model says of the returned points, as they are and rounded to 8 bits; the logits as they are."""
    y, x_adv = outcome.y[rows], outcome.x_adv[rows]
    after = logits_of(model, x_adv)
    rounded = logits_of(model, (x_adv.clamp(0, 1) * 255).round() / 255)
    outcome.after[rows] = after.argmax(1)
    outcome.after_confidence[rows] = after.softmax(1).amax(1)
    hit = broken(after, y, target)
    outcome.broken[rows] = hit
    outcome.survives[rows] = hit & broken(rounded, y, target)
    distance = outcome.threat.distance(x_adv, x)
    outcome.distance[rows] = torch.where(hit, distance, torch.nan)
    return after


def _forbid_violations(attack: Attack, threat: Ball, x_adv: Images, x: Images) -> None:
    allowed = threat.contains(x_adv, x)
    if not allowed.all():
        worst = float(threat.distance(x_adv, x)[~allowed].max())
        raise ThreatViolation(
            f"{attack!r} returned {int((~allowed).sum())} of {len(x)} images outside {threat!r} (distance up to "
            f"{worst:.6g}). Project before returning: threat.project(x_adv, x)."
        )


def _blank(attack: Attack, threat: Ball, x: Images, y: Labels, logits: Logits, right: Mask) -> Outcome:
    guess, confidence = logits.argmax(1), logits.softmax(1).amax(1)
    count, no = torch.zeros_like(y), torch.zeros_like(right)
    return Outcome(
        attack=attack,
        threat=threat,
        x_adv=x.clone(),
        y=y,
        before=guess,
        after=guess.clone(),
        before_confidence=confidence,
        after_confidence=confidence.clone(),
        right=right,
        broken=no,
        survives=no.clone(),
        distance=torch.full_like(confidence, torch.nan),
        margin=torch.full_like(confidence, torch.nan),
        forwards=count,
        backwards=count.clone(),
        rejected=count.clone(),
        proven=no.clone(),
        audited=no.clone(),
        sampled=no.clone(),
        health=Health.blank(x),
    )


def _right(logits: Logits, y: Labels) -> Mask:
    return (logits.argmax(1) == y) & predicts(logits)


def _check_labels(y: Labels, logits: Logits, what: str = "labels") -> None:
    if len(y) != len(logits):
        raise UsageError(f"{len(y)} {what} for {len(logits)} images. Expected one an image.")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= logits.shape[1]:
        raise UsageError(
            f"{what} run from {low} to {high}, the model knows {logits.shape[1]} classes. "
            f"Expected 0 to {logits.shape[1] - 1}: check that the data and the model belong together."
        )


def _targets(
    target: Labels | TargetKind | None, y: Labels, logits: Logits, generator: Generator | None
) -> Labels | None:
    if isinstance(target, str):
        return choose_targets(target, logits, y, generator or generator_for(y))
    if target is not None:
        _check_targets(target, y, logits)
    return target


def _check_targets(target: Labels, y: Labels, logits: Logits) -> None:
    """A target that is the label would be reached without any attack, and count as a success."""
    _check_labels(target, logits, "targets")
    if (own := int((target == y).sum())) > 0:
        raise UsageError(
            f"{own} of {len(y)} targets are the image's own label. Expected another class; leave those images out."
        )


def _is_tensor(outcome: Outcome, name: str) -> bool:
    return isinstance(getattr(outcome, name), torch.Tensor)


def _check_lengths(tensors: dict[str, torch.Tensor]) -> None:
    """Rows that are not equally many tell that the file was put together from several.

    Raises:
        ValueError: they are not.
    """
    lengths = {name: len(tensor) if tensor.ndim else 0 for name, tensor in tensors.items()}
    num = lengths.get("y", 0)
    if odd := [f"{name} has {length}" for name, length in sorted(lengths.items()) if length != num]:
        raise ValueError(f"{odd[0]} rows, y has {num}")


def _dtype_remedy(dtype: torch.dtype) -> str:
    return "divide by 255" if dtype == torch.uint8 else "call .float()"


def _range_remedy(low: float, high: float) -> str:
    if low != low or high != high:
        return "the images hold NaN; look where they come from"
    if high > 8:
        return "these look like 0 to 255, divide by 255"
    if low < 0:
        return "these look normalised; undo it and make steelman's Normalize(mean, std) the model's first layer"
    return "rescale the pixels"
