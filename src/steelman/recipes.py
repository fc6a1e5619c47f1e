"""Recipes with a name: trainings that were run to the end, with what came out and what they took."""

from dataclasses import dataclass, replace

from steelman.data import Source
from steelman.defences.fgsmrs import FGSMRS
from steelman.defences.gaussian import Gaussian
from steelman.defences.guarded import Guarded
from steelman.defences.interval import IBP
from steelman.errors import UsageError, choices
from steelman.models import Architecture
from steelman.models.fast_cnn import FastCNN
from steelman.recipe import Recipe
from steelman.threats import Linf


@dataclass(frozen=True)
class Named:
    """A recipe, the network and the data that it was measured on, and what to expect of it.

    `expected` says in words what was measured, with its number of images; `minutes` on two cores.
    """

    name: str
    architecture: Architecture
    data: str
    recipe: Recipe
    minutes: float
    expected: str


_INTERVALS = Recipe(
    objective=IBP(Linf(0.3), kappa=0.5, ramp=0.2, regularization=0.0),
    lr=4e-3,
    epochs=24,
    batch_size=128,
    schedule="one-cycle",
    clip_gradient=10.0,
    keep="last",
    precision="auto",
    with_val=True,
)
_FOR_INTERVALS = FastCNN(batch_norm=True, threshold="fixed", weights="intervals", hidden=200)

RECIPES = (
    Named(
        "certified-linf-0.3",
        _FOR_INTERVALS,
        "MNIST",
        _INTERVALS,
        minutes=4.8,
        expected="natural 97.58 % [97.26, 97.87], Reliable 91.59 % [91.03, 92.13], certified 90.73 % [90.14, 91.29] "
        "(10,000 test images, the lowest of three seeds; minutes where the processor multiplies bfloat16, "
        "elsewhere up to 8.4)",
    ),
    Named(
        "certified-linf-0.3-wide",
        replace(_FOR_INTERVALS, filters=48, hidden=512),
        "MNIST",
        replace(
            _INTERVALS,
            objective=IBP(Linf(0.3), kappa=0.5, ramp=0.33, regularization=0.0),
            lr=3e-3,
            epochs=50,
        ),
        minutes=40.0,
        expected="natural 98.38 % [98.11, 98.62], Reliable 93.21 % [92.70, 93.70], certified 92.11 % [91.56, 92.63] "
        "(10,000 test images, the lowest of three seeds; minutes where the processor multiplies bfloat16)",
    ),
    Named(
        "adversarial-linf-0.3",
        FastCNN(threshold="fixed"),  # masks gradients: attack it through surrogates, as Reliable does
        "MNIST",
        Recipe(
            objective=Guarded(FGSMRS(Linf(0.3), noise=0.5, step=1.0, towards=1.0, ramp=0.4, surrogates=True), gap=0.25),
            lr=3e-3,
            epochs=10,
            batch_size=128,
            schedule="one-cycle",
            ema=0.998,
            keep="last",
        ),
        minutes=2.0,
        expected="natural 99.18 % [98.98, 99.35], Reliable 88.15 % [87.50, 88.78] (10,000 test images, the lowest of "
        "five seeds)",
    ),
    Named(
        "smoothed-l2-sigma-0.5",
        FastCNN(filters=32, hidden=256),
        "MNIST",
        Recipe(
            objective=Gaussian(0.5, samples=2, consistency=10.0),
            lr=3e-3,
            epochs=20,
            batch_size=128,
            schedule="one-cycle",
            ema=0.998,
            keep="last",
        ),
        minutes=10.0,
        expected="smoothed natural 97.4 % [95.6, 98.6], certified by Smoothing(0.5) at L2 1.0 90.4 % [87.5, 92.8], at "
        "1.5 66.6 % [62.3, 70.7], with n=100_000 75.4 % [71.4, 79.1] (500 test images, the lowest of three seeds)",
    ),
)


def by_name(name: str) -> Named:
    """The recipe of that name; names ignore case.

    Raises:
        UsageError: there is none (says which there are).
    """
    for one in RECIPES:
        if one.name == name.strip().lower():
            return one
    raise UsageError(choices("recipe", name, (one.name for one in RECIPES)) + " Or write Recipe(...).")


def check_data(named: Named, source: Source) -> None:
    """See that a recipe is used for the data it was made for: its radius and noise mean something else elsewhere.

    Raises:
        UsageError: it is not.
    """
    if type(source).__name__ != named.data:
        raise UsageError(
            f"{named.name} is a recipe for {named.data}, the data are {source!r}. Give --data {named.data.lower()}, or "
            f'change what it says to fit yours: --recipe "{named.recipe!r}".'
        )
