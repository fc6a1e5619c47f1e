"""Losses of attacks: one value per image, and one sign: an attacker maximises.

`target=None` pushes away from the label `y`; with a target it pulls towards that class.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F

from steelman.types import Labels, Logits, PerExample

LossName: TypeAlias = Literal["cross_entropy", "margin", "dlr"]
Loss: TypeAlias = Callable[[Logits, Labels, Labels | None], PerExample]


def cross_entropy(logits: Logits, y: Labels, target: Labels | None = None) -> PerExample:
    """-log softmax_y, or log softmax_target (Goodfellow et al. 2015, arXiv:1412.6572).

    As softplus(logsumexp of the others - own): the same value, but with a gradient that points the right way also where
    the softmax is 1 in float32, which the usual form rounds to 0 or to that of the other classes alone.
    """
    own = y if target is None else target
    others = logits.scatter(1, own[:, None], -torch.inf).logsumexp(1)
    value = F.softplus(others - _pick(logits, own))
    return value if target is None else -value


def margin(logits: Logits, y: Labels, target: Labels | None = None) -> PerExample:
    """The best other logit minus the label's, or the target's minus the best other (Carlini & Wagner 2017, f_6).

    Above 0 when the image is broken (or the target reached), below 0 when not; of equal logits the first one counts.
    """
    if target is None:
        return _best_other(logits, y) - _pick(logits, y)
    return _pick(logits, target) - _best_other(logits, target)


def difference(logits: Logits, y: Labels, target: Labels | None = None) -> PerExample:
    """The target's logit minus the label's: the function whose zero is the boundary between two classes."""
    return margin(logits, y) if target is None else _pick(logits, target) - _pick(logits, y)


def dlr(logits: Logits, y: Labels, target: Labels | None = None) -> PerExample:
    """The margin over a difference of sorted logits, which no rescaling of the logits changes.

    Croce & Hein 2020 (arXiv:2003.01690), equations 6 (untargeted) and 7 (targeted). With three classes, one fewer than
    equation 7 sorts, the second and third logit stand for its third and fourth: with the smallest one for both the
    loss would be -1 wherever the target comes last, and its gradient 0. With two classes nothing is left to divide by,
    and the value is the plain margin. Classes of which the model says -inf do not count.
    """
    if logits.shape[1] == 2:
        return margin(logits, y, target)
    ordered = logits.sort(dim=1, descending=True).values
    possible = (ordered > -torch.inf).sum(1)  # a class of -inf is ruled out by the model: as if it were not there
    if target is None:
        scale = ordered[:, 0] - _at(ordered, 2, possible - 1)
        value = margin(logits, y)
    else:
        scale = ordered[:, 0] - (_at(ordered, 2, possible - 2) + _at(ordered, 3, possible - 1)) / 2
        value = _pick(logits, target) - _pick(logits, y)
    plain = margin(logits, y, target)
    return torch.where(possible > 2, value / scale.clamp_min(1e-12), plain)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}


def _at(ordered: Logits, place: int, most: Labels) -> PerExample:
    """The logit in this place, or in the last one possible where that comes before."""
    return _pick(ordered, most.clamp(0, place))


def _pick(logits: Logits, y: Labels) -> PerExample:
    return logits.gather(1, y[:, None]).squeeze(1)


def _best_other(logits: Logits, y: Labels) -> PerExample:
    return logits.scatter(1, y[:, None], -torch.inf).amax(1)
