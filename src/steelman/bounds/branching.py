"""Branch and bound on linear bounds: Wang et al. 2021, Beta-CROWN (arXiv:2103.06624).

The slopes below open units are found by ascent: Xu et al. 2021, Fast and complete (arXiv:2011.13824).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steelman.bounds import box_around, check_still
from steelman.bounds.box import Box
from steelman.bounds.crown import enclosed, rounded_down
from steelman.bounds.graph import RELU, Graph, MaxPool, after, trace
from steelman.bounds.linear import Back, Ends, back
from steelman.engine import generator_for
from steelman.threats import Ball, Linf
from steelman.types import Images, Labels, PerExample

Units: TypeAlias = dict[int, Tensor]  # by the place of a ReLU: a value for each of its units in each part

WHOLE_STEPS, PART_STEPS, TRIAL_STEPS = 50, 15, 6  # of ascent: on the whole, on its parts, and to try a unit
RATE, FADE = 0.1, 0.98  # of the ascent, and by what it falls each step (Wang et al., appendix B)
TRIED = 40  # units of each ReLU that are tried on the whole
AT_ONCE = 32  # parts that are halved together
STARTS, DESCENT = 32, 30  # of the search for a point below 0, and its steps


def branched_margins(model: nn.Module, x: Images, y: Labels, threat: Ball, *, branches: int) -> PerExample:
    """A lower bound of the label's logit minus the best other one over all images that the threat allows.

    Where linear bounds leave a class open, what the threat allows is halved by the sign of a unit, the halves are
    halved again, and so on, until every part is above 0 or `branches` parts have been looked at. Above 0 the image is
    proven robust, in exact arithmetic and in float32 alike. An image of which a short search finds a point below 0 gets
    -inf at once. Images are computed one by one.

    Args:
        model: in eval mode; not changed.
        x: pixels in [0, 1].
        y: class indices.
        threat: a ball of Linf, L2 or L1.
        branches: the most parts to look at for one image and class.

    Raises:
        Unknown: the model or the threat has no linear bounds; says why not.
    """
    check_still(model)
    graph = trace(model)
    found = x.new_zeros(len(x))
    rest: nn.Module | None = None
    with torch.no_grad():
        for row, (image, label) in enumerate(zip(x.detach(), y.tolist(), strict=True)):
            box = box_around(image[None], threat)
            relaxed, known = enclosed(graph, box, refine=False)
            rest = after(graph, relaxed.start) if rest is None else rest
            if rest is not None and _falls(rest, known[relaxed.start], image[None], label, threat):
                found[row] = -math.inf
            else:
                found[row] = rounded_down(_Branching(graph, box).margin(label, branches), x.dtype)
    return found


def _falls(rest: nn.Module, ends: Ends, image: Images, label: int, threat: Ball) -> bool:
    """Whether a projected descent from random points finds one that is given another label.

    In a box it begins behind the first steps that keep it one, so that a threshold hides nothing from it: `rest` is the
    network from there on, and `ends` the box.
    """
    generator = generator_for(image)
    low, high = ends.low.to(image), ends.high.to(image)
    image = image.expand(STARTS, *image.shape[1:])
    if isinstance(threat, Linf):
        share = torch.rand((STARTS, *low.shape[1:]), generator=generator, device=low.device)
        value = torch.lerp(low, high, share.to(low))
    else:
        value = threat.sample(image, generator)
    for step in range(DESCENT):
        with torch.enable_grad():
            logits = rest(value.requires_grad_())
            others = logits.index_fill(1, torch.tensor([label], device=logits.device), -math.inf).amax(1)
            margins = logits[:, label] - others
            total = margins.sum()
        if bool((margins <= 0).any()):
            return True
        (grad,) = torch.autograd.grad(total, value)
        size = 0.5 * (1 - step / DESCENT)
        if isinstance(threat, Linf):
            value = (value.detach() - size * (high - low) * grad.sign()).maximum(low).minimum(high)
        else:
            value = threat.project(threat.ascend(value.detach(), -grad, size * threat.reach(image)), image)
    return False


@dataclass(frozen=True, eq=False)
class _Parts:
    """Parts of what the threat allows, a row each: the signs that units have there, and what bounds it best so far."""

    signs: Units  # 1: not below 0, -1: not above, 0: either
    slopes: Units  # of the line below each open unit
    multipliers: Units  # of the units whose sign is set (Lagrange's)
    rows: Units  # what the bound makes of each unit's output
    bound: Tensor

    def only(self, rows: Tensor) -> "_Parts":
        """Some of them."""
        return self._of(({p: v[rows] for p, v in values.items()} for values in self.units), self.bound[rows])

    def and_these(self, others: "_Parts") -> "_Parts":
        """These and others."""
        both = zip(self.units, others.units, strict=True)
        units = ({p: torch.cat((mine[p], theirs[p])) for p in mine} for mine, theirs in both)
        return self._of(units, torch.cat((self.bound, others.bound)))

    def or_these(self, others: "_Parts") -> "_Parts":
        """Row by row these or, where their bound is higher, the others."""
        rows = others.bound > self.bound

        def chosen(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(rows.view(-1, *[1] * (mine.ndim - 1)), theirs.detach(), mine)

        both = zip(self.units, others.units, strict=True)
        units = ({p: chosen(mine[p], theirs[p]) for p in mine} for mine, theirs in both)
        return self._of(units, torch.where(rows, others.bound, self.bound))

    @property
    def units(self) -> tuple[Units, Units, Units, Units]:
        """All that there is of each unit."""
        return self.signs, self.slopes, self.multipliers, self.rows

    @staticmethod
    def _of(units: Iterable[Units], bound: Tensor) -> "_Parts":
        signs, slopes, multipliers, rows = units
        return _Parts(signs, slopes, multipliers, rows, bound)


class _Branching:
    """The proofs of one image."""

    def __init__(self, graph: Graph, box: Box) -> None:
        self.relaxed, self.known = enclosed(graph, box, refine=True)
        self.steps = graph.steps
        relus = [(place, step.inputs[0]) for place, step in enumerate(graph.steps, 1) if step.kind == RELU]
        ends = {place: self.known[before] for place, before in relus if place > self.relaxed.start}
        self.open = {place: one for place, one in ends.items() if bool(_straddles(one.low, one.high).any())}

    def margin(self, label: int, branches: int) -> Tensor:
        """The least margin over all classes; no further class is looked at after one that stays open."""
        last = self.known[len(self.steps)].low
        unit = torch.eye(last.shape[1], dtype=torch.float64, device=last.device)
        targets = unit[label] - unit
        bounds = self.relaxed.lower(len(self.steps), targets[None])[0].nan_to_num(-math.inf)
        bounds[label] = math.inf
        for other in bounds.argsort().tolist():
            if bounds[other] <= 0 and self.open:
                bounds[other] = bounds[other].maximum(self._halved(targets[other], branches))
            if bounds[other] <= 0:
                break
        return bounds.amin()

    def _halved(self, target: Tensor, branches: int) -> Tensor:
        """A lower bound of a combination of the logits: the least of all parts."""
        parts = self._ascended(target, self._whole(), WHOLE_STEPS)
        least, looked = parts.bound.amin(), 1
        if least > 0 or branches == 1 or not (self._losses(parts) > 0).any():
            return least
        gains, done = self._gains(target, parts), least.new_full((), math.inf)
        while looked < branches and len(left := (parts.bound <= 0).nonzero().squeeze(1)):
            done = torch.where(parts.bound > 0, parts.bound, math.inf).amin().minimum(done)
            order = left[parts.bound[left].argsort()]
            worst, others = parts.only(order[:AT_ONCE]), parts.only(order[AT_ONCE:])
            losses = self._losses(worst)
            if not (losses > 0).any(1).all():  # a part without open units has its exact bound
                break
            halves = self._ascended(target, self._halves(worst, losses, gains), PART_STEPS)
            parts, looked = halves.and_these(others), looked + len(halves.bound)
            least = parts.bound.amin().minimum(done)
        return least

    def _whole(self) -> _Parts:
        zero = {place: torch.zeros_like(ends.low) for place, ends in self.open.items()}
        slopes = {place: (ends.high > -ends.low).to(ends.low) for place, ends in self.open.items()}
        bound = next(iter(zero.values())).new_full((1,), -math.inf)
        return _Parts(zero, slopes, zero, zero, bound)

    def _gains(self, target: Tensor, whole: _Parts) -> Tensor:
        """How far the bounds of the halves rise above that of the whole, multiplied, for the units tried; else 0.

        Of each ReLU those are tried whose lines cost most. What is best for the whole serves its parts as well.
        """
        losses = self._losses(whole)[0]
        units, start = [], 0
        for ends in self.open.values():
            loss = losses[start : start + ends.low.numel()]
            units.append(loss.topk(min(TRIED, int((loss > 0).sum()))).indices + start)
            start += len(loss)
        units = torch.cat(units)
        many = whole.only(torch.zeros_like(units))
        gains = torch.zeros_like(losses)
        gains[units] = 1.0
        for sign in (1.0, -1.0):
            half = self._ascended(target, self._with_sign(many, units, sign), TRIAL_STEPS)
            gains[units] *= (half.bound.clamp_max(0) - whole.bound).clamp_min(1e-4)  # above 0 is no better than 0
        return gains

    def _halves(self, parts: _Parts, losses: Tensor, gains: Tensor) -> _Parts:
        """Each part twice, with either sign of the open unit that gains most; of equal ones, whose lines cost most."""
        chosen = torch.where(losses > 0, gains + 1e-12 * losses, -1.0).argmax(1)
        return self._with_sign(parts, chosen, 1.0).and_these(self._with_sign(parts, chosen, -1.0))

    def _with_sign(self, parts: _Parts, chosen: Tensor, sign: float) -> _Parts:
        """The parts where one unit of each has that sign; units are counted over all ReLUs."""
        signs, start = {}, 0
        for place, old in parts.signs.items():
            size = old[0].numel()
            here = torch.arange(start, start + size, device=old.device) == chosen[:, None]
            signs[place] = old.masked_fill(here.view_as(old), sign)
            start += size
        return replace(parts, signs=signs)

    def _losses(self, parts: _Parts) -> Tensor:
        """By how much at most the two lines about each open unit lower the bound; -1 for units that are not open."""
        losses = []
        for place, ends in self.open.items():
            rows, slopes = parts.rows[place], parts.slopes[place]
            above = -ends.low * _chord(ends.low, ends.high)
            below = torch.minimum(slopes * -ends.low, (1 - slopes) * ends.high)
            both = _straddles(ends.low, ends.high) & (parts.signs[place] == 0)
            losses.append(torch.where(both, rows.clamp_min(0) * below - rows.clamp_max(0) * above, -1.0).flatten(1))
        return torch.cat(losses, 1)

    def _ascended(self, target: Tensor, parts: _Parts, steps: int) -> _Parts:
        """The parts with slopes and multipliers for which their bounds are higher: the best that were seen."""
        slopes, multipliers = ({p: v.clone() for p, v in one.items()} for one in (parts.slopes, parts.multipliers))
        leaves = [one.requires_grad_() for one in (*slopes.values(), *multipliers.values())]
        ascent = torch.optim.Adam(leaves, lr=RATE, maximize=True)
        best = parts
        for step in range(steps):
            rows: Units = {}
            now = replace(parts, slopes=slopes, multipliers=multipliers, rows=rows)
            with torch.enable_grad():
                bound = self._lower(target, now)
                total = bound.sum()
            best = best.or_these(replace(now, bound=bound.detach()))
            if step == steps - 1 or (best.bound > 0).all():
                break
            grads = torch.autograd.grad(total, leaves, allow_unused=True)
            for leaf, grad in zip(leaves, grads, strict=True):
                leaf.grad = grad
            ascent.param_groups[0]["lr"] = RATE * FADE**step
            ascent.step()
            with torch.no_grad():
                for slope, multiplier in zip(slopes.values(), multipliers.values(), strict=True):
                    slope.clamp_(0, 1)
                    multiplier.clamp_min_(0)
        return best

    def _lower(self, target: Tensor, parts: _Parts) -> Tensor:
        """The bounds of all parts; whatever slopes from 0 to 1 and multipliers of 0 or more they have, they hold."""
        backs, num = dict(self.relaxed.backs), len(parts.bound)
        for place, step in enumerate(self.steps, 1):
            if place in self.open:
                backs[place] = self._through(place, parts)
            elif isinstance(step.kind, MaxPool):
                ends = self.known[step.inputs[0]]
                low, high = (end.expand(num, *end.shape[1:]) for end in (ends.low, ends.high))
                backs[place] = back(step.kind, [Ends(low, high)])
        relaxed = replace(self.relaxed, backs=backs)
        return relaxed.lower(len(self.steps), target.expand(num, 1, -1))[:, 0].nan_to_num(-math.inf)

    def _through(self, place: int, parts: _Parts) -> Back:
        """How rows pass a ReLU backwards; a unit z of known sign s adds -m s z, at most 0, for its multiplier m."""
        ends, sign = self.open[place], parts.signs[place]
        low = torch.where(sign > 0, ends.low.clamp_min(0), ends.low)
        high = torch.where(sign < 0, ends.high.clamp_max(0), ends.high)
        both, on = _straddles(low, high), (low >= 0).to(low)
        upper = torch.where(both, _chord(low, high), on)[:, None]
        above = torch.where(both, -low, 0.0)[:, None] * upper
        lower = torch.where(both, parts.slopes[place], on)[:, None]
        bonus = (parts.multipliers[place] * sign)[:, None]

        def pass_back(rows: Float[Tensor, "b 1 ..."]) -> tuple[list[Tensor], Tensor]:
            parts.rows[place] = rows.detach()[:, 0]
            up, down = rows.clamp_min(0), rows.clamp_max(0)
            return [up * lower + down * upper - bonus], (down * above).flatten(2).sum(2)

        return pass_back


def _straddles(low: Tensor, high: Tensor) -> Tensor:
    return (low < 0) & (high > 0)


def _chord(low: Tensor, high: Tensor) -> Tensor:
    """The slope of the line above an open ReLU."""
    return high / torch.where(_straddles(low, high), high - low, 1.0)
