"""The course of attack C for many images at once, and the three resistances that maxdinech/mnist-attack reads off it.

The steps are those of `Descent.walk`; here nothing is judged, predictions are kept, and an image that cannot move any
more leaves at once: its gradient is exactly 0, so the change is 0 at every step to come.
"""

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steelman.attacks.confidence import LOSS, confidence, length
from steelman.attacks.descent import Descent
from steelman.attacks.minimal import Adam
from steelman.engine import forward, guarded, micro_batch
from steelman.types import Counts, Images, Labels, Logits, Mask, PerExample

POINTS = 50  # steps of a course that are kept
FAILED = 10_000.0  # how the original writes an infinite resistance
Resistance: TypeAlias = Literal["Res_N", "Res_max", "Res_min"]
RESISTANCES: tuple[Resistance, ...] = ("Res_N", "Res_max", "Res_min")


@dataclass(frozen=True)
class Course:
    """What attack C did to each image.

    `norms` and `confidences` are those before `POINTS` of the steps, evenly spaced. `first` is the first step at which
    the confidence was low enough to count as broken, -1 where none was, and `rival` the strongest other class there.
    `sure` images have a confidence of exactly 1.0 in float32 at the start, `dead` ones a gradient of exactly 0.
    """

    norms: Float[Tensor, "b t"]
    confidences: Float[Tensor, "b t"]
    last: PerExample  # |r|_2 after the last step
    peak: PerExample  # the largest |r|_2
    first: Counts
    rival: Labels
    sure: Mask
    dead: Mask

    @property
    def reached(self) -> Mask:
        """Where the attack succeeded."""
        return self.first >= 0

    def resistance(self, which: Resistance) -> PerExample:
        """Res_N is the final norm, Res_max the peak, Res_min the first low step; `FAILED` where the attack failed."""
        value = {"Res_N": self.last, "Res_max": self.peak, "Res_min": self.first.float()}[which]
        return torch.where(self.reached, value, torch.full_like(value, FAILED))

    def take(self, rows: Tensor) -> "Course":
        """The course of some of the images."""
        return Course(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def follow(model: nn.Module, x: Images, y: Labels, attack: Descent) -> Course:
    """The course of an attack away from the classes y, images in micro-batches; the model is guarded."""
    with guarded(model):
        size = micro_batch(model, x)
        return joined([_follow(model, *part, attack) for part in zip(x.split(size), y.split(size), strict=True)])


def joined(courses: list[Course]) -> Course:
    """The courses of consecutive images as one."""
    return Course(**{f.name: torch.cat([getattr(course, f.name) for course in courses]) for f in fields(Course)})


def _follow(model: nn.Module, x: Images, y: Labels, attack: Descent) -> Course:
    """The images that move are walked; for the others the start says it all."""
    r = torch.zeros_like(x)
    value, logits, grad = _look(model, x, y, r, attack)
    sure = confidence(value, attack.on)
    still = (attack.direction(r, grad, sure, 2.0 if attack.p is None else attack.p) == 0).flatten(1).all(1)
    zero = torch.zeros_like(sure)
    never = torch.full_like(y, -1)
    low = still & (sure <= attack.thresholds[0])
    flat = Course(
        zero[:, None].repeat(1, POINTS),
        sure[:, None].repeat(1, POINTS),
        zero,
        zero.clone(),
        torch.where(low, 0, never),
        torch.where(low, _strongest_other(logits, y), never),
        sure == 1,
        (grad == 0).flatten(1).all(1),
    )
    moving = (~still).nonzero().squeeze(1)
    if len(moving):
        walked = _walk(model, x[moving], y[moving], attack)
        for name in ("norms", "confidences", "last", "peak", "first", "rival"):
            getattr(flat, name)[moving] = getattr(walked, name)
    return flat


def _walk(model: nn.Module, x: Images, y: Labels, attack: Descent) -> Course:
    p = 2.0 if attack.p is None else attack.p
    r, adam = torch.zeros_like(x), Adam(x)
    peak = torch.zeros(len(x), device=x.device)
    first, rival = torch.full_like(y, -1), torch.full_like(y, -1)
    kept = {i * attack.steps // POINTS for i in range(POINTS)}
    norms: list[Tensor] = []
    confidences: list[Tensor] = []
    for step in range(attack.steps):
        value, logits, grad = _look(model, x, y, r, attack)
        norm, sure = length(r, 2.0), confidence(value, attack.on)
        peak = torch.maximum(peak, norm)
        if step in kept:
            norms.append(norm)
            confidences.append(sure)
        fresh = (first < 0) & (sure <= attack.thresholds[0])
        first = torch.where(fresh, step, first)
        rival = torch.where(fresh, _strongest_other(logits, y), rival)
        r = attack.limited(r + attack.learning_rate * adam.step(attack.direction(r, grad, sure, p)))
    last = length(r, 2.0)
    no = torch.zeros_like(first, dtype=torch.bool)
    return Course(
        torch.stack(norms, 1), torch.stack(confidences, 1), last, torch.maximum(peak, last), first, rival, no, no
    )


def _look(model: nn.Module, x: Images, y: Labels, r: Images, attack: Descent) -> tuple[PerExample, Logits, Images]:
    """The attack's loss at x + r cut to the pixel range, the logits there, and the loss's gradient for r."""
    with torch.enable_grad():
        free = r.detach().requires_grad_()
        logits = forward(model, (x + free).clamp(0, 1))
        value = LOSS[attack.on](logits, y, None)
        (grad,) = torch.autograd.grad(value.sum(), free)
    return value.detach(), logits.detach(), grad.nan_to_num(0)


def _strongest_other(logits: Logits, y: Labels) -> Labels:
    return logits.scatter(1, y[:, None], -torch.inf).argmax(1)
