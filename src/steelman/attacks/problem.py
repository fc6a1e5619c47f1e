"""What an attack searches in: it owns every forward pass, judges, counts, remembers, and watches the gradients."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from collections.abc import Generator as Yields
from dataclasses import fields, replace
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor, nn

from steelman.attacks.found import Found, Health, broken, not_zero
from steelman.chance import is_random, states
from steelman.engine import coarse_pays, forward, slope
from steelman.errors import UsageError
from steelman.losses import LOSSES, Loss, LossName, margin
from steelman.progress import Progress, silent
from steelman.threats import Ball
from steelman.types import Images, Labels, Logits, Mask, PerExample
from steelman.windows import Windows

Rows: TypeAlias = slice | Tensor
Map: TypeAlias = Callable[[Images], Images] | None
SLACK = 1 / 16  # of the largest logit: candidates whose coarse margin is nearer to 0 are judged in float32
# what a search for some of the images hands back, image by image
_REMEMBERED = ("best", "margin", "success", "distance", "score", "forwards", "backwards", "rejected")


class Problem:
    """One search: images x, labels y and a threat, evaluated in micro-batches of `batch` images.

    Success is judged in float32 on the very candidate, and only when the threat allows it. A broken image is finished:
    it costs no more evaluations (`closest=True` goes on and keeps the nearest success; `finishes=False` goes on, and
    `best` is that of the largest margin). With `judged=False` nothing is judged and `best` is the last candidate.

    Every evaluation takes a candidate for each image and returns a row for each; rows of finished images are 0 and
    cost nothing. `margin` holds the margin of the candidates evaluated last: above 0 where they are wrong (or the
    target), whether allowed or not.

    A gradient may be `coarse` where only its direction is wanted: computed in bfloat16 where that pays (see
    `steelman.engine.coarse_pays`). Then values are coarse too, but what may be broken is asked again in float32.

    Of a random model every evaluation is the mean of `samples` passes, and it is judged on its mean logits (expectation
    over transformation, arXiv:1707.07397); no image is finished, however many passes, for one that is just wrong is so
    at every second draw only. A deterministic model is asked once all the same.
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
        finishes: bool = True,
        samples: int = 1,
    ) -> None:
        if torch.is_inference_mode_enabled():
            raise UsageError(
                "torch.inference_mode() leaves no gradients. Attack outside it; torch.no_grad() is no harm."
            )
        self.model, self.x, self.y, self.threat = model, x, y.long(), threat
        self.target = None if target is None else target.long()
        self.closest, self.judged, self.finishes = closest, judged, finishes
        self.generator, self.batch = generator, batch
        self.progress: Progress = silent  # told how far the search is, as it counts
        self.best = x.clone()
        self.active = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self.num_active = len(x)
        self.margin = torch.full((len(x),), -math.inf, device=x.device)
        self.success = torch.zeros_like(self.active)
        self.distance = torch.full((len(x),), math.nan, device=x.device)  # of the nearest success, with `closest`
        self.score = torch.full((len(x),), -math.inf, device=x.device)
        self.forwards = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.backwards = torch.zeros_like(self.forwards)
        self.rejected = torch.zeros_like(self.forwards)
        self.health = Health.blank(x)
        self._classes = 0  # not known yet
        self._random: bool | None = None  # not known yet, and not asked where a single pass is enough
        # whether a pass moves a generator: seen at the first one, where images could be finished at all
        self._draws: bool | None = None if judged and finishes and not closest else False
        self.samples = self._worth(samples)

    def logits(self, x_adv: Images) -> Logits:
        """The model's outputs for each candidate. Judges the candidates."""
        outputs: Logits | None = None
        for rows in self._parts():
            candidate = x_adv[rows]
            with torch.no_grad():
                logits = self._ask(candidate)
                for _ in range(self.samples - 1):
                    logits = logits + self._ask(candidate)
            logits = self._mean(logits)
            if outputs is None:
                outputs = logits.new_zeros(len(x_adv), logits.shape[1])
            outputs[rows] = logits
            self._judge(rows, candidate, logits)
            self.forwards[rows] += self.samples - 1
        self._finish()
        return x_adv.new_zeros(len(x_adv), self.num_classes) if outputs is None else outputs

    def value(
        self,
        x_adv: Images,
        loss: LossName | Loss,
        *,
        toward: Labels | None = None,
        among: Mask | None = None,
        windows: Windows | None = None,
    ) -> PerExample:
        """The loss of each candidate, to be maximised. Judges the candidates.

        `toward` is the class that the loss pulls to; what counts as a success stays as it is. The candidates that are
        not `among` those given are passed over as if they were finished. With `windows` the candidates are those that
        they look at, and what is not changed is not computed again; what seems to be a success is asked of the model.
        """
        values = torch.zeros(len(x_adv), device=x_adv.device)
        for rows in self._parts(among):
            candidate = x_adv[rows]
            with torch.no_grad():
                logits = self._ask(candidate) if windows is None else self._seen(windows, rows, candidate)
                value = self._loss(logits, rows, loss, toward)
                for _ in range(self.samples - 1):
                    more = self._ask(candidate)
                    logits, value = logits + more, value + self._loss(more, rows, loss, toward)
            values[rows] = self._mean(value)
            self._judge(rows, candidate, self._mean(logits))
            self.forwards[rows] += self.samples - 1
        self._finish()
        return values

    def value_and_grad(
        self,
        x_adv: Images,
        loss: LossName | Loss,
        *,
        toward: Labels | None = None,
        samples: int | None = None,
        through: Map = None,
        coarse: bool = False,
    ) -> tuple[PerExample, Images]:
        """The loss of each candidate and its gradient. Judges the candidates.

        `coarse` says that both may be: three digits are enough for the search. `samples` stands for the problem's own
        number of passes, also for a deterministic model.

        With `through`, a differentiable map from the candidates that are still searched (a micro-batch) to what the
        model sees, the loss is that of what it sees and the gradient that of the candidate. Such a pass is counted, but
        nothing is judged: what the model saw is no candidate. Each of the `samples` calls the map again.
        """
        samples = self.samples if samples is None else samples
        coarse = coarse and samples == 1 and self._coarse_pays
        own = (loss, toward, samples, through, coarse)
        if self.num_active == len(x_adv) <= self.batch:
            values, grads = self._gradient(slice(0, len(x_adv)), x_adv, *own)
        else:
            values, grads = torch.zeros(len(x_adv), device=x_adv.device), torch.zeros_like(x_adv)
            for rows in self._parts():
                values[rows], grads[rows] = self._gradient(rows, x_adv[rows], *own)
        self._finish()
        return values, grads

    def values_and_grads(self, x_adv: Images, loss: Loss, towards: Tensor) -> tuple[Tensor, Tensor]:
        """The loss towards each of several classes and all its gradients, from one forward pass.

        `towards` is (classes, b); the results are (classes, b) and (classes, b, c, h, w). Judges the candidates.
        """
        values = torch.zeros(towards.shape, device=x_adv.device)
        grads = torch.zeros((len(towards), *x_adv.shape), device=x_adv.device)
        for rows in self._parts():
            candidate = x_adv[rows].detach().requires_grad_()
            total = torch.zeros((), device=x_adv.device)
            for _ in range(self.samples):
                with torch.enable_grad():
                    logits = self._ask(candidate)
                    for i, toward in enumerate(towards):
                        value = self._loss(logits, rows, loss, toward)
                        grad = slope(value.sum(), candidate, keep=i + 1 < len(towards))
                        values[i, rows] += self._mean(value.detach())
                        grads[i, rows] += self._mean(grad)
                        self._examine(rows, grad, logits.detach())
                total = total + logits.detach()
            self._judge(rows, candidate.detach(), self._mean(total))
            self.forwards[rows] += self.samples - 1
        self._finish()
        return values, grads

    def show(self, x_adv: Images) -> None:
        """Judge a last candidate; free where nothing is judged."""
        if self.judged:
            self.value(x_adv, "margin")
        else:
            self.best = x_adv

    @property
    def num_classes(self) -> int:
        """How many classes the model knows; asks it for one image where it has not been asked yet."""
        if not self._classes:
            with torch.no_grad():
                self._classes = self._ask(self.x[:1]).shape[1]
        return self._classes

    @property
    def done(self) -> bool:
        """Whether every image is finished."""
        return self.num_active == 0

    @contextlib.contextmanager
    def part(
        self,
        rows: Tensor | None = None,
        *,
        threat: Ball | None = None,
        samples: int = 1,
        model: nn.Module | None = None,
    ) -> Yields["Problem"]:
        """The same search for some images alone (those not finished, unless `rows` says which), within a threat.

        A `model` given must have the same outputs as this problem's; its derivatives may be others, and the health of
        these is not kept.

        What it finds, counts and remembers goes into this problem in the end. The threat may be narrower than this
        problem's, not wider; `samples` may be more passes, not fewer.
        """
        rows = self.active.nonzero().squeeze(1) if rows is None else rows
        target = None if self.target is None else self.target[rows]
        options: dict[str, Any] = {"closest": self.closest, "judged": self.judged, "finishes": self.finishes}
        options |= {"target": target, "generator": self.generator, "batch": self.batch}
        part = Problem(model or self.model, self.x[rows], self.y[rows], threat or self.threat, **options)
        for name in _REMEMBERED:
            setattr(part, name, getattr(self, name)[rows])
        part._classes, part._random, part._draws = self._classes, self._random, self._draws
        part.samples = max(self.samples, self._worth(samples))
        kept = [field.name for field in fields(Health)] if model is None else ["moved"]  # its gradients are not ours
        part.health = replace(part.health, **{name: getattr(self.health, name)[rows] for name in kept})
        part._finish()
        try:
            yield part
        finally:
            for name in _REMEMBERED:
                getattr(self, name)[rows] = getattr(part, name)
            for name in kept:
                getattr(self.health, name)[rows] = getattr(part.health, name)
            self._classes, self._draws = part._classes, part._draws
            self._finish()

    def found(self) -> Found:
        """What the search found so far."""
        proven, audited, sampled = (torch.zeros_like(self.success) for _ in range(3))
        distance = torch.where(self.success, self.threat.distance(self.best, self.x), math.nan)
        queries = (self.forwards, self.backwards, self.rejected)
        own = (self.best, self.success, distance, self.score, *queries)
        return Found(*own, proven, audited, sampled, self.health)

    def _worth(self, samples: int) -> int:
        """So many passes where the model draws random numbers, else one."""
        if samples > 1 and self._random is None and len(self.x):
            self._random = is_random(self.model, self.x)
        return samples if self._random else 1

    def _ask(self, x: Images, *, coarse: bool = False) -> Logits:
        """The model's logits; from the first of them it is known whether it draws random numbers."""
        before = states(self.model, x.device) if self._draws is None else ()
        logits = forward(self.model, x, coarse=coarse)
        if before:
            self._draws = before != states(self.model, x.device)
        return logits

    def _mean(self, total: Tensor) -> Tensor:
        return total / self.samples if self.samples > 1 else total

    def _parts(self, among: Mask | None = None) -> Iterator[Rows]:
        """Rows of the images that are still searched, a micro-batch at a time."""
        if among is not None and not among.all():
            rows = (self.active & among).nonzero().squeeze(1)
            yield from rows.split(self.batch) if len(rows) else ()
        elif self.num_active == len(self.x):
            yield from (slice(i, min(i + self.batch, len(self.x))) for i in range(0, len(self.x), self.batch))
        elif self.num_active:
            yield from self.active.nonzero().squeeze(1).split(self.batch)

    def _gradient(
        self,
        rows: Rows,
        candidate: Images,
        loss: LossName | Loss,
        toward: Tensor | None,
        samples: int,
        through: Map,
        coarse: bool,
    ) -> tuple[PerExample, Images]:
        candidate = candidate.detach().requires_grad_()
        value, grad, logits = self._pass(rows, candidate, loss, toward, through, coarse=coarse)
        for _ in range(samples - 1):
            more = self._pass(rows, candidate, loss, toward, through, coarse=False)
            value, grad, logits = value + more[0], grad + more[1], logits + more[2]
        if samples > 1:
            value, grad, logits = value / samples, grad / samples, logits / samples
        if through is None:
            if coarse and self.judged:
                logits = self._settled(rows, candidate.detach(), logits)
            self._judge(rows, candidate.detach(), logits)
        elif self.judged:
            self.forwards[rows] += 1
        self._examine(rows, grad, logits)
        if self.judged:
            self.forwards[rows] += samples - 1
            self.backwards[rows] += samples - 1
        return value, grad

    def _pass(
        self, rows: Rows, candidate: Images, loss: LossName | Loss, toward: Tensor | None, through: Map, *, coarse: bool
    ) -> tuple[PerExample, Images, Logits]:
        with torch.enable_grad():
            logits = self._ask(candidate if through is None else through(candidate), coarse=coarse)
            values = self._loss(logits, rows, loss, toward)
            grad = slope(values.sum(), candidate)
        return values.detach(), grad, logits.detach()

    @functools.cached_property
    def _coarse_pays(self) -> bool:
        return coarse_pays(self.model, self.x)

    def _settled(self, rows: Rows, candidate: Images, logits: Logits) -> Logits:
        """Coarse logits, those of candidates that may be broken computed again: float32 decides."""
        lead = margin(logits, self.y[rows], None if self.target is None else self.target[rows])
        near = (~(lead < -SLACK * logits.abs().amax(1))).nonzero().squeeze(1)
        if len(near):
            with torch.no_grad():
                logits = logits.index_copy(0, near, self._ask(candidate[near]))
            self.forwards[self._places(rows)[near]] += 1
        return logits

    def _places(self, rows: Rows) -> Tensor:
        return torch.arange(len(self.x), device=self.x.device)[rows]

    def _seen(self, windows: Windows, rows: Rows, candidate: Images) -> Logits:
        logits = windows.logits(self._places(rows), candidate)
        hit = broken(logits, self.y[rows], None if self.target is None else self.target[rows])
        if hit.any():
            logits[hit] = self._ask(candidate[hit])
        return logits

    def _loss(self, logits: Logits, rows: Rows, loss: LossName | Loss, toward: Tensor | None) -> PerExample:
        toward = self.target if toward is None else toward
        function = LOSSES[loss] if isinstance(loss, str) else loss
        return function(logits, self.y[rows], None if toward is None else toward[rows])

    def _judge(self, rows: Rows, candidate: Images, logits: Logits) -> None:
        """Remember candidates that are allowed and better than what was known."""
        if not self.judged:
            self.best[rows] = candidate
            return
        self._classes = logits.shape[1]
        x, y = self.x[rows], self.y[rows]
        target = None if self.target is None else self.target[rows]
        hit = broken(logits, y, target)
        lead = margin(logits, y, target)
        self.margin[rows] = lead
        change = candidate - x
        distance = self.threat.length(change)
        allowed, distance = self.threat.allows(candidate, distance), distance.float()
        score = torch.where(allowed & ~lead.isnan(), lead, -math.inf)
        moved = not_zero(change).float() / x[0].numel()
        self.health.moved[rows] = torch.maximum(self.health.moved[rows], moved)
        self.rejected[rows] += ~allowed
        self.forwards[rows] += 1
        better = allowed & ((hit & ~self.success[rows]) | (score > self.score[rows]))
        self.score[rows] = torch.maximum(self.score[rows], score)
        if self.closest:
            better = allowed & hit & ~(self.distance[rows] <= distance)
            self.distance[rows] = torch.where(better, distance, self.distance[rows])
        self.success[rows] |= hit & allowed
        self._keep(rows, candidate, better)

    def _keep(self, rows: Rows, candidate: Images, better: Mask) -> None:
        """Copy the better candidates, and those alone."""
        chosen = better.nonzero().squeeze(1)
        if len(chosen) == len(better):
            self.best[rows] = candidate
        elif len(chosen):
            self.best[self._places(rows)[chosen]] = candidate[chosen]

    def _examine(self, rows: Rows, grad: Images, logits: Logits) -> None:
        """Count the gradient, and keep book of its health."""
        if self.judged:
            self.backwards[rows] += 1
            self.health.note(rows, grad, logits)

    def _finish(self) -> None:
        if self.judged and self.finishes and not self.closest and self.samples == 1 and not self._draws:
            self.active = ~self.success
            self.num_active = int(self.active.sum())
