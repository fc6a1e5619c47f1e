"""What the three attacks of the `resistance` study (maxdinech/mnist-attack, 2017) share: a confidence, and a p-norm."""

import math
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.attacks.minimal import Nearby
from steelman.attacks.problem import Problem
from steelman.engine import generator_for, guarded, micro_batch
from steelman.errors import UsageError
from steelman.losses import Loss, margin
from steelman.threats import L1, L2, Ball
from steelman.types import Images, Labels, Logits, PerExample

On: TypeAlias = Literal["logits", "softmax"]


def from_softmax(logits: Logits, y: Labels, target: Labels | None = None) -> PerExample:
    """Minus the label's softmax probability, or the target's: flat in float32 where that is 0 or 1, as published."""
    picked = logits.softmax(1).gather(1, (y if target is None else target)[:, None]).squeeze(1)
    return -picked if target is None else picked - 1


def from_logits(logits: Logits, y: Labels, target: Labels | None = None) -> PerExample:
    """log(1 - confidence) with the confidence sigmoid(-margin) against the strongest rival: never flat before that."""
    return -F.softplus(-margin(logits, y, target))


LOSS: dict[On, Loss] = {"softmax": from_softmax, "logits": from_logits}


def confidence(value: PerExample, on: On) -> PerExample:
    """The confidence in the label (with a target: in all but the target) of which `LOSS[on]` gave this value."""
    return -value if on == "softmax" else -torch.expm1(value)


def order(p: float | None, threat: Ball) -> float:
    """The norm's p: the one given, else the threat's own."""
    return p if p is not None else 1.0 if isinstance(threat, L1) else 2.0 if isinstance(threat, L2) else math.inf


def length(r: Images, p: float) -> PerExample:
    """The p-norm of each image's change; its derivative at 0 is 0."""
    return torch.linalg.vector_norm(r.flatten(1), ord=p, dim=1)


def pulled_back(problem: Problem, r: Images, place: Callable[[Images], Images], grad: Images) -> Images:
    """The gradient for r of a function whose gradient for the candidate place(r), cut to the pixel range, is `grad`."""
    with torch.enable_grad():
        free = r.detach().requires_grad_()
        candidate = placed(problem, place(free))
        (pulled,) = torch.autograd.grad((candidate * grad.nan_to_num(0)).sum(), free)
    return pulled.nan_to_num(0)


def slope(r: Images, function: Callable[[Images], PerExample]) -> Images:
    """The gradient of a function of each image's change, 0 where it has none."""
    with torch.enable_grad():
        free = r.detach().requires_grad_()
        (grad,) = torch.autograd.grad(function(free).sum(), free)
    return grad.nan_to_num(0)


def course(
    walk: Callable[[Problem, Nearby], Iterator[tuple[PerExample, PerExample]]],
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Ball,
) -> tuple[Tensor, Tensor]:
    """The norm and the confidence at each step of a walk, each (steps, b); no image stops early."""
    with guarded(model):
        generator = generator_for(x)  # nothing is drawn from it
        batch = micro_batch(model, x)
        problem = Problem(model, x.detach(), y, threat, generator=generator, batch=batch, closest=True)
        norms, confidences = zip(*walk(problem, Nearby(problem)), strict=True)
    return torch.stack(norms), torch.stack(confidences)


def placed(problem: Problem, change: Images) -> Images:
    """The image with this change, cut to the pixel range where there is one."""
    x_adv = problem.x + change
    return x_adv.clamp(0, 1) if problem.threat.clip else x_adv


def check(attack: object, *, p: float | None, steps: int, halvings: int, learning_rate: float) -> None:
    """See that the fields which the three share are in range.

    Raises:
        UsageError: fewer than one step, negative halvings, a learning rate of 0 or less, or p below 1.
    """
    if steps < 1 or halvings < 0:
        raise UsageError(f"{attack!r}: expected at least one step, and halvings of 0 or more.")
    if not learning_rate > 0 or not (p is None or p >= 1):
        raise UsageError(f"{attack!r}: expected learning_rate > 0, and p >= 1 or None for the threat's norm.")
