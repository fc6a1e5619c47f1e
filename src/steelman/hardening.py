"""Hardening: which training makes a classifier that exists hold within a threat, in the minutes that there are."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from steelman.attacks.pgd import PGD
from steelman.data import Splits
from steelman.defences import Objective
from steelman.defences.adversarial import Adversarial
from steelman.defences.guarded import Guarded
from steelman.defences.nfgsm import NFGSM
from steelman.defences.trades import TRADES
from steelman.engine import generator_for, steady_allocator
from steelman.errors import UsageError
from steelman.recipe import Recipe
from steelman.threats import Ball, Linf
from steelman.train import Training, load_run

SHARE = 0.85  # of the time that training may take; the rest is for measuring every epoch
_LEAST = 2 / 3  # of an epoch: what cannot do that much takes fewer images
_MOST = 30  # epochs
_TIMED = 3  # steps
_BATCH = 128


@dataclass(frozen=True)
class Choice:
    """One way of hardening: an objective, what it is good for, and how many epochs it needs to be worth it."""

    objective: Objective
    words: str
    epochs: int


@dataclass(frozen=True)
class Plan:
    """The training that was chosen, and why."""

    training: Training
    words: str


def choices(threat: Ball) -> tuple[Choice, ...]:
    """The ways from the strongest and slowest to the fastest."""
    fast: Objective = Adversarial(PGD(steps=2), threat)
    words = "two-step adversarial training"
    if isinstance(threat, Linf):
        fast, words = Guarded(NFGSM(threat, noise=1.0)), "N-FGSM with a guard against catastrophic overfitting"
    return (
        Choice(TRADES(threat, steps=10, ramp=0.3), "TRADES with 10 steps", 8),
        Choice(Adversarial(PGD(steps=7), threat, ramp=0.3), "adversarial training with PGD-7", 4),
        Choice(fast, words, 1),
    )


def plan(run: Path, threat: Ball, minutes: float, *, root: Path | None = None, seed: int = 0) -> Plan:
    """The strongest training of a finished run's network that fits into so many minutes on this machine.

    A few steps of each are timed on the run's own data; the network is trained on from its weights.

    Raises:
        UsageError: no time, or a threat without a finite radius.
        RunError, DataError, WeightsError: the run or its data cannot be read.
    """
    if not minutes > 0:
        raise UsageError(f"minutes is {minutes:g}. Expected the time that training may take, such as 10.")
    if not 0 < threat.eps < float("inf"):
        raise UsageError(f"the threat is {threat!r}. Expected a finite radius above 0, such as Linf(0.3).")
    trained = load_run(run)
    splits = trained.training.data.splits(root)
    seconds, num = 60 * minutes * SHARE, len(splits.train)

    def affordable(choice: Choice) -> float:
        return seconds * _BATCH / (num * _seconds_per_step(trained.model, splits, choice.objective))

    *slow, fast = choices(threat)
    timed = ((choice, affordable(choice)) for choice in slow)
    choice, epochs = next(((one, fit) for one, fit in timed if fit >= one.epochs), (fast, 0.0))
    epochs = epochs or affordable(fast)
    fits = int(min(_MOST, max(1.0, epochs)))
    fewer = None if epochs >= _LEAST else max(_BATCH, int(num * epochs))
    recipe = Recipe(
        objective=choice.objective,
        lr=_rate(trained.training),
        epochs=fits,
        batch_size=_BATCH,
        schedule="one-cycle",
        keep="last",  # the best natural accuracy on val is the least robust
        clip_gradient=10.0,
    )
    training = replace(trained.training, recipe=recipe, seed=seed, start=str(run.resolve()), blocks=None, num=fewer)
    images = f"{fewer or num:,} images"
    about = minutes * min(1.0, fits / epochs)  # many epochs more than these are no use
    words = f"{choice.words}, {fits} epoch{'s' if fits > 1 else ''} of {images}, about {about:.2g} min on this machine"
    return Plan(training, words)


def _rate(training: Training) -> float:
    """Half the peak at which the network was trained: it is not to be forgotten, only moved."""
    recipe = training.recipe
    usual = float(training.architecture.recipe.get("lr", Recipe().lr))
    return min(2e-3, (recipe.lr if recipe and recipe.optimizer != "sgd" else usual) / 2 + 5e-4)


def _seconds_per_step(model: nn.Module, splits: Splits, objective: Objective) -> float:
    """The median time of a step; the weights are left as they are."""
    x, y = splits.train.pixels(slice(0, _BATCH)), splits.train.labels[:_BATCH].long()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    times: list[float] = []
    with steady_allocator():
        for _ in range(1 + _TIMED):
            began = time.perf_counter()
            loss = objective(model, x, y, progress=1.0, generator=generator_for(x))
            torch.autograd.grad(loss, parameters, allow_unused=True)
            times.append((time.perf_counter() - began) * _BATCH / len(x))
    return sorted(times[1:])[_TIMED // 2]
