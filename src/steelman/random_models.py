"""Accuracy of a model that draws random numbers: of a single answer, and of the majority of many."""

from dataclasses import dataclass
from typing import Any

import torch
from scipy import special
from torch import Generator, Tensor, nn

from steelman.chance import drawing_from, is_random
from steelman.data import Data
from steelman.engine import guarded
from steelman.evaluate import Outcome, check_pixels, logits_of
from steelman.stats import Share, mean_sd
from steelman.types import Images, Labels

DRAWS = 21  # odd: two classes cannot tie


@dataclass(frozen=True)
class RandomAccuracy:
    """Of the same images: how often one answer is right (`expected`), and on how many the majority is (`vote`).

    `sd` is the standard deviation of the accuracy of a single pass over all images, from pass to pass.
    """

    vote: Share
    expected: Share
    sd: float
    draws: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"vote": self.vote.to_json(), "expected": self.expected.to_json(), "sd": self.sd, "draws": self.draws}


def random_accuracy(
    model: nn.Module, data: Data | tuple[Images, Labels], *, draws: int = DRAWS, target: Labels | None = None
) -> RandomAccuracy:
    """Accuracy of a random model over its own draws, each share with its 95 % interval.

    With targets (n,) an answer counts as right that is not the target: what holds against an attack that aims at it.

    The images' mean numbers of right answers are at most as spread as right and wrong would be with the same mean
    (Hoeffding 1963, section 5), so Clopper-Pearson's interval, taken at their sum, is on the safe side.
    """
    x, y = (data.pixels(), data.labels) if isinstance(data, Data) else data
    x = check_pixels(x)
    with guarded(model):
        answers = torch.stack([logits_of(model, x).argmax(1) for _ in range(draws)])
    good = (lambda said: said == y) if target is None else (lambda said: said != target)
    right = good(answers).float()
    sd = mean_sd(right.mean(1).tolist())[1] if draws > 1 else 0.0
    return RandomAccuracy(Share.of(good(answers.mode(0).values)), fractional(right.mean(0)), sd, draws)


def fractional(values: Tensor) -> Share:
    """The mean of values in [0, 1] with Clopper-Pearson's interval at their sum."""
    n, hits = len(values), float(values.double().sum())
    low = float(special.betaincinv(hits, n - hits + 1, 0.025)) if hits > 0 else 0.0
    high = float(special.betainccinv(hits + 1, n - hits, 0.025)) if hits < n else 1.0
    return Share(hits / n, low, high, n)


def random_accuracies(
    model: nn.Module,
    data: Data,
    outcome: Outcome,
    *,
    draws: int = DRAWS,
    generator: Generator | None = None,
) -> dict[str, Any] | None:
    """Natural and robust accuracy over draws as plain data; None for a deterministic model.

    A strike leaves images alone that one draw got wrong. Others may get them right, so they are attacked here as well.
    """
    x = check_pixels(data.pixels())
    with guarded(model):
        if not is_random(model, x):
            return None
    with drawing_from(model, 0 if generator is None else generator.initial_seed()):
        return _over_draws(model, x, outcome, draws, generator)


def _over_draws(
    model: nn.Module, x: Images, outcome: Outcome, draws: int, generator: Generator | None
) -> dict[str, Any]:
    wrong = (~outcome.right).nonzero().squeeze(1)
    x_adv = outcome.x_adv
    if len(wrong):
        aim = None if outcome.target is None else outcome.target[wrong]
        options: dict[str, Any] = {"target": aim, "generator": generator}
        found = outcome.attack.run(model, x[wrong], outcome.y[wrong], outcome.threat, **options)
        x_adv = x_adv.index_copy(0, wrong, found.x_adv)
    natural = random_accuracy(model, (x, outcome.y), draws=draws)
    robust = random_accuracy(model, (x_adv, outcome.y), draws=draws, target=outcome.target)
    return {"draws": draws, "natural": natural.to_json(), "robust": robust.to_json()}
