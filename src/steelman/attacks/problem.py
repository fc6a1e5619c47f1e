"""What an attack searches in: it owns every forward pass, judges, counts, remembers, and watches the gradients."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor, nn

from steelman.engine import forward
from steelman.losses import LOSSES, LossName, margin
from steelman.threats import Ball
from steelman.types import Counts, Images, Labels, Logits, Mask, PerExample


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
    health: Health


class Problem:
    """One search: images x, labels y and a threat, evaluated in micro-batches of `batch` images.

    Success is judged in float32 on the very candidate, and only when the threat allows it. A broken image is finished:
    it costs no more evaluations (`closest=True` goes on and keeps the nearest success). With `judged=False` nothing is
    judged, no image is finished, and `best` is the last candidate.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: Ball,
        *,
        generator: Generator,
        batch: int,
        target: Labels | None = None,
        closest: bool = False,
        judged: bool = True,
    ) -> None:
        self.model, self.x, self.y, self.threat = model, x, y.long(), threat
        self.target = None if target is None else target.long()
        self.closest, self.judged = closest, judged
        self.generator = generator
        self.batch = batch
        self.best = x
        self.active = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self.num_active = len(x)
        if not judged:
            return
        self.best = x.clone()
        self.success = torch.zeros_like(self.active)
        self.distance = torch.full((len(x),), math.nan, device=x.device)
        self.score = torch.full((len(x),), -math.inf, device=x.device)
        self.forwards = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.backwards = torch.zeros_like(self.forwards)
        self.rejected = torch.zeros_like(self.forwards)
        self.health = Health.blank(x)

    def value(self, x_adv: Images, loss: LossName) -> PerExample:
        """The loss of each candidate, to be maximised; 0 for finished images. Judges the candidates."""
        values = torch.zeros(len(x_adv), device=x_adv.device)
        if not self.judged:
            self.best = x_adv
            return values
        for rows in self._parts():
            candidate = x_adv[rows]
            with torch.no_grad():
                logits = forward(self.model, candidate)
                values[rows] = self._loss(logits, rows, loss)
            self._judge(rows, candidate, logits)
        self._finish()
        return values

    def value_and_grad(self, x_adv: Images, loss: LossName) -> tuple[PerExample, Images]:
        """The loss of each candidate and its gradient; 0 for finished images. Judges the candidates."""
        if self.num_active == len(x_adv) <= self.batch:
            result = self._gradient(slice(0, len(x_adv)), x_adv, loss)
        else:
            values, grads = torch.zeros(len(x_adv), device=x_adv.device), torch.zeros_like(x_adv)
            for rows in self._parts():
                values[rows], grads[rows] = self._gradient(rows, x_adv[rows], loss)
            result = values, grads
        self._finish()
        return result

    @property
    def done(self) -> bool:
        """Whether every image is finished."""
        return self.num_active == 0

    def found(self) -> Found:
        """What the search found so far."""
        return Found(
            self.best,
            self.success,
            torch.where(self.success, self.threat.distance(self.best, self.x), math.nan),
            self.score,
            self.forwards,
            self.backwards,
            self.rejected,
            self.health,
        )

    def _parts(self) -> Iterator[slice | Tensor]:
        """Rows of the images that are still searched, a micro-batch at a time."""
        if self.num_active == len(self.x):
            yield from (slice(i, min(i + self.batch, len(self.x))) for i in range(0, len(self.x), self.batch))
        elif self.num_active:
            yield from self.active.nonzero().squeeze(1).split(self.batch)

    def _gradient(self, rows: slice | Tensor, candidate: Images, loss: LossName) -> tuple[PerExample, Images]:
        candidate = candidate.detach().requires_grad_()
        with torch.enable_grad():
            logits = forward(self.model, candidate)
            values = self._loss(logits, rows, loss)
            (grad,) = torch.autograd.grad(values.sum(), candidate)
        if self.judged:
            self._judge(rows, candidate.detach(), logits.detach())
            self._examine(rows, grad, logits.detach())
        return values.detach(), grad

    def _loss(self, logits: Logits, rows: slice | Tensor, loss: LossName) -> PerExample:
        return LOSSES[loss](logits, self.y[rows], None if self.target is None else self.target[rows])

    def _judge(self, rows: slice | Tensor, candidate: Images, logits: Logits) -> None:
        """Remember candidates that are allowed and better than what was known."""
        x, y = self.x[rows], self.y[rows]
        target = None if self.target is None else self.target[rows]
        hit = broken(logits, y, target)
        allowed = self.threat.contains(candidate, x)
        score = margin(logits, y, target)
        score = torch.where(allowed & ~score.isnan(), score, -math.inf)
        self.rejected[rows] += ~allowed
        self.forwards[rows] += 1
        better = allowed & (hit | (score > self.score[rows]))
        self.score[rows] = torch.maximum(self.score[rows], score)
        if self.closest:
            distance = self.threat.distance(candidate, x)
            better = allowed & hit & ~(self.distance[rows] <= distance)
            self.distance[rows] = torch.where(better, distance, self.distance[rows])
        self.success[rows] |= hit & allowed
        self.best[rows] = torch.where(better.view(-1, 1, 1, 1), candidate, self.best[rows])
        moved = (candidate != x).flatten(1).float().mean(1)
        self.health.moved[rows] = torch.maximum(self.health.moved[rows], moved)

    def _examine(self, rows: slice | Tensor, grad: Images, logits: Logits) -> None:
        """Keep book of NaN, exactly zero and saturated gradients."""
        flat, size = grad.flatten(1), grad[0].numel()
        zero = size - flat.count_nonzero(1)  # NaN counts as nonzero
        health = self.health
        self.backwards[rows] += 1
        health.steps[rows] += 1
        if not math.isfinite(float(flat.sum())):
            nan = flat.isnan().sum(1)
            health.nan[rows] += nan / size
        else:
            nan = torch.zeros_like(zero)
        health.zero[rows] += zero / size
        health.dead[rows] += zero + nan == size
        health.saturated[rows] += logits.softmax(1).amax(1) == 1

    def _finish(self) -> None:
        if self.judged and not self.closest:
            self.active = ~self.success
            self.num_active = int(self.active.sum())


def broken(logits: Logits, y: Labels, target: Labels | None = None) -> Mask:
    """Where the prediction is wrong, or is the target; never where the largest logit is no finite number.

    NaN is no prediction and no success; classes that a model rules out with -inf do no harm.
    """
    guess = logits.argmax(1)
    return (guess != y if target is None else guess == target) & logits.amax(1).isfinite()


def join(found: list[Found]) -> Found:
    """The results of consecutive chunks as one."""
    parts = {
        field.name: torch.cat([getattr(one, field.name) for one in found])
        for field in fields(Found)
        if field.name != "health"
    }
    health = Health(
        **{field.name: torch.cat([getattr(one.health, field.name) for one in found]) for field in fields(Health)}
    )
    return Found(**parts, health=health)
