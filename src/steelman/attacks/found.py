"""What a search hands back, image by image: the best candidate, counts of queries, and the health of its gradients."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from steelman.types import Counts, Images, Labels, Logits, Mask, PerExample

_UNTOUCHED = {"distance": math.nan, "score": -math.inf}  # of images that no search has looked at


@dataclass(frozen=True)
class Health:
    """How usable the gradients were, per image, summed over its gradient evaluations.

    `nan` and `zero` sum the shares of gradient entries that were NaN or exactly 0; `dead` counts gradients without any
    usable entry; `saturated` counts evaluations whose softmax was exactly 1.0 in float32; `moved` is the largest share
    of pixels in which a candidate differed from the original; `steps` counts the evaluations.
    """

    steps: Counts
    nan: PerExample
    zero: PerExample
    dead: Counts
    saturated: Counts
    moved: PerExample

    @classmethod
    def blank(cls, like: Images) -> "Health":
        """All zero."""
        count = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        share = torch.zeros(len(like), device=like.device)
        return cls(count, share, share.clone(), count.clone(), count.clone(), share.clone())

    def note(self, rows: slice | Tensor, grad: Images, logits: Logits) -> None:
        """Keep book of these images' gradient: entries that are NaN or exactly 0, and a saturated softmax."""
        size, alive = grad[0].numel(), not_zero(grad)
        nan = torch.zeros_like(alive)
        self.steps[rows] += 1
        if not math.isfinite(float(grad.sum())):
            nan = grad.flatten(1).isnan().sum(1)
            self.nan[rows] += nan / size
        self.zero[rows] += (size - alive - nan) / size
        self.dead[rows] += alive == 0
        self.saturated[rows] += logits.softmax(1).amax(1) == 1


@dataclass(frozen=True)
class Found:
    """What a search found, per image. `x_adv` is a broken image where `success`, else the best allowed try."""

    x_adv: Images
    success: Mask
    distance: PerExample  # of x_adv; NaN without success
    score: PerExample  # largest margin seen among allowed candidates
    forwards: Counts
    backwards: Counts
    rejected: Counts  # candidates outside the threat's set: 0 for an attack that projects
    proven: Mask  # certified to hold before any attack, which they were therefore spared; False for most attacks
    audited: Mask  # given up by a budgeted attack, and then attacked by the full ensemble; False for other attacks
    sampled: Mask  # of these the random sample, which speaks for all that were given up and not attacked in full
    health: Health


def predicts(logits: Tensor) -> Tensor:
    """Where the largest logit of the last dimension is finite: NaN is no prediction, -inf of other classes no harm."""
    return logits.amax(-1).isfinite()


def broken(logits: Logits, y: Labels, target: Labels | None = None) -> Mask:
    """Where the prediction is wrong, or is the target; never where there is none."""
    guess = logits.argmax(1)
    return (guess != y if target is None else guess == target) & predicts(logits)


def improved(found: Found, rows: Tensor, more: Found) -> Found:
    """What was found with what a second, full search found on some of the images, all counts added up."""
    parts = {field.name: getattr(found, field.name).clone() for field in fields(Found) if field.name != "health"}
    keep = rows[more.success]
    for name in ("x_adv", "success", "distance"):
        parts[name][keep] = getattr(more, name)[more.success]
    parts["score"][rows] = torch.maximum(found.score[rows], more.score)
    parts["audited"][rows] = True
    for name in ("forwards", "backwards", "rejected"):
        parts[name][rows] += getattr(more, name)
    health = {field.name: getattr(found.health, field.name).clone() for field in fields(Health)}
    for name, values in health.items():
        late = getattr(more.health, name)
        values[rows] = torch.maximum(values[rows], late) if name == "moved" else values[rows] + late
    return Found(**parts, health=Health(**health))


def spread(found: Found, rows: Tensor, x: Images, proven: Mask) -> Found:
    """The same among all images x, of which `rows` were attacked and the others are proven to hold."""
    whole: dict[str, Any] = {}
    for field in fields(Found):
        if field.name != "health":
            part = getattr(found, field.name)
            blank = _UNTOUCHED.get(field.name, 0)
            whole[field.name] = part.new_full((len(x), *part.shape[1:]), blank).index_copy(0, rows, part)
    whole["x_adv"] = x.index_copy(0, rows, found.x_adv)
    whole["proven"] = proven
    blank = Health.blank(x)
    health = {f.name: getattr(blank, f.name).index_copy(0, rows, getattr(found.health, f.name)) for f in fields(Health)}
    return Found(**whole, health=Health(**health))


def join(chunks: Iterable[Found], num: int) -> Found:
    """The results of consecutive chunks, `num` images together, at least one, as one.

    A chunk is let go before the next is asked for.
    """
    whole: list[Tensor] = []
    start = 0
    for chunk in chunks:
        parts = _tensors(chunk)
        if len(chunk.success) == num:
            return chunk
        whole = whole or [part.new_empty((num, *part.shape[1:])) for part in parts]
        for values, part in zip(whole, parts, strict=True):
            values[start : start + len(part)] = part
        start += len(chunk.success)
    own, health = whole[: -len(fields(Health))], whole[-len(fields(Health)) :]
    return Found(*own, health=Health(*health))


def _tensors(found: Found) -> list[Tensor]:
    """All columns in their order, those of the health last."""
    own = [getattr(found, field.name) for field in fields(Found) if field.name != "health"]
    return own + [getattr(found.health, field.name) for field in fields(Health)]


def not_zero(x: Tensor) -> PerExample:
    """How many of each row's numbers are neither 0 nor NaN; by signs, several times faster than by counting."""
    return x.sign().abs_().flatten(1).sum(1)  # torch's sign of NaN is 0
