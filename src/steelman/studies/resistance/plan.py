"""What the study does at each preset and scale, and what the original reported."""

import math
from dataclasses import dataclass
from typing import Any

from steelman.attacks import Attack
from steelman.attacks.auto_loss import AutoLoss
from steelman.attacks.confidence import On
from steelman.attacks.ddn import DDN
from steelman.attacks.dichotomy import Dichotomy
from steelman.attacks.fmn import FMN
from steelman.attacks.gda import GDA
from steelman.defences.double_softmax import DoubleSoftmax
from steelman.errors import UsageError
from steelman.models import Architecture
from steelman.models.alexnet import AlexNetSmall
from steelman.models.cnn import CNN
from steelman.models.mlp import MLP
from steelman.models.vgg import VGGSmall
from steelman.recipe import Recipe, default_recipe
from steelman.studies.resistance.course import POINTS
from steelman.threats import L1, L2, Ball, Linf


@dataclass(frozen=True)
class Scale:
    """How much is computed: networks, epochs, images, steps."""

    models: tuple[Architecture, ...]
    epochs: int | None  # None for each architecture's own
    num_train: int | None  # images; None for all
    num_test: int | None  # whose resistance is measured
    num_val: int  # on which thresholds are chosen
    num_attacked: int  # by A, B and C in every network
    p: tuple[float, ...]  # the norms of those attacks
    sphere: tuple[int, int]  # steps and halvings of attack A
    steps: int  # of the attacks B and C
    nearest: int  # steps of the attacks that measure the distance
    num_finding: int  # images of infinite resistance that are attacked again
    num_wrong: int  # wrong images of train and val that a discriminator learns from, at most
    num_detect: int  # images of which each attack makes adversarial ones
    queries: int  # of Square
    num_probe: int  # images that the trust checks look at

    @property
    def nearest_linf(self) -> int:
        """Steps of the attack that measures the distance in L-inf."""
        return max(1, self.nearest // 2)


SMALL: tuple[Architecture, ...] = (MLP(), CNN(), AlexNetSmall())
MIDDLE: tuple[Architecture, ...] = (MLP(), MLP("batchnorm"), CNN(), CNN("batchnorm"), AlexNetSmall())
ALL: tuple[Architecture, ...] = (
    MLP(),
    MLP("dropout"),
    MLP("batchnorm"),
    CNN(),
    CNN("dropout"),
    CNN("batchnorm"),
    AlexNetSmall(),
    AlexNetSmall("batchnorm"),
    VGGSmall(),
    VGGSmall("batchnorm"),
)
SCALES = {
    "smoke": Scale(SMALL, 14, 600, 120, 80, 8, (2.0,), (30, 6), 60, 20, 16, 16, 12, 60, 16),
    "quick": Scale(MIDDLE, 12, 5_000, 500, 250, 16, (2.0, math.inf), (60, 8), 150, 40, 40, 60, 30, 300, 32),
    "full": Scale(
        ALL, None, None, None, 2_000, 100, (2.0, math.inf, 1.0), (1000, 12), 500, 200, 500, 4_000, 200, 2000, 128
    ),
}


@dataclass(frozen=True)
class Plan:
    """The study with every choice made."""

    scale: Scale
    models: tuple[Architecture, ...]
    subject: Architecture  # whose images' resistance is measured
    p: tuple[float, ...]
    seed: int
    published: bool

    @property
    def on(self) -> On:
        """What the attacks of the original differentiate."""
        return "softmax" if self.published else "logits"

    def recipe(self, architecture: Architecture) -> Recipe:
        """The architecture's own; published: softmax twice, and the last weights, as the original kept no others.

        AlexNet's training it stopped by hand at an epoch that looked good: there, as corrected, the one best on val.
        """
        changes: dict[str, Any] = {} if self.scale.epochs is None else {"epochs": self.scale.epochs}
        if self.published:
            by_hand = isinstance(architecture, AlexNetSmall)
            changes |= {"objective": DoubleSoftmax(), "keep": "best" if by_hand else "last"}
        return default_recipe(architecture, **changes)

    def course(self, on: On | None = None) -> GDA:
        """Attack C: 500 steps of 1e-3, or fewer and longer ones."""
        steps = self.scale.steps
        return GDA(p=2.0, on=on or self.on, steps=steps, learning_rate=0.5 / steps, halvings=0)

    def attacks(self, p: float) -> dict[str, Attack]:
        """The three attacks of the original and the reference minimal-norm attacks, in one norm."""
        on, steps, (sphere, halvings) = self.on, self.scale.steps, self.scale.sphere
        polish, rate = (0 if self.published else 6), 0.5 / steps
        references: dict[str, Attack] = {"DDN": reference(self.scale.nearest)} if p == 2 else {}
        references |= {"FMN": FMN(self.scale.nearest)} if p in (1, 2, math.inf) else {}
        return {
            "A": Dichotomy(p=p, on=on, steps=sphere, learning_rate=5 / max(sphere, 100), halvings=halvings),
            "B": AutoLoss(p=p, on=on, steps=steps, learning_rate=rate, halvings=polish),
            "C": GDA(p=p, on=on, steps=steps, learning_rate=rate, halvings=polish),
            **references,
        }


def reference(steps: int) -> DDN:
    """What measures the distance: on the margin, because a cross-entropy of steep logits has no gradient either."""
    return DDN(steps, loss="margin")


def unlimited(p: float) -> Ball:
    """The threat without limit in which an attack of this p searches; L2 for a p that has none of its own."""
    return Linf(math.inf) if math.isinf(p) else L1(math.inf) if p == 1 else L2(math.inf)


def name_of(architecture: Architecture) -> str:
    """The original's name of a network: MLP, MLP_d, MLP_bn and so on; AlexNet and VGG have dropout as they are."""
    stem = type(architecture).__name__.removesuffix("Small")
    plain = "dropout" if stem in ("AlexNet", "VGG") else "none"
    protection = getattr(architecture, "protection", plain)
    return stem if protection == plain else f"{stem}_{'bn' if protection == 'batchnorm' else 'd'}"


def check(models: tuple[Architecture, ...], p: tuple[float, ...], steps: int | None, num: int | None) -> None:
    """Refuse a study that cannot be done.

    Raises:
        UsageError: two networks of one name, a p below 1, fewer than 50 steps, or no image.
    """
    names = [name_of(model) for model in models]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"two of the models are named {twins[0]}. Expected each once; run a second study for the other."
        )
    if any(not one >= 1 for one in p):
        raise UsageError(f"p is {p}. Expected norms of 1 or more, such as (2, inf).")
    if steps is not None and steps < POINTS:
        raise UsageError(f"steps is {steps}. Expected {POINTS} or more: a course is kept at {POINTS} of its steps.")
    if num is not None and num < 1:
        raise UsageError(f"num is {num}. Expected at least one test image, or None for the scale's own.")


# ---- what the original reported

ACCURACY = {  # train, val, test in percent; the original's "test" is our val and the other way round
    ("MNIST", "MLP"): (98.70, 97.05, 96.92),
    ("MNIST", "MLP_d"): (95.76, 96.15, 95.58),
    ("MNIST", "MLP_bn"): (99.54, 97.99, 97.77),
    ("MNIST", "CNN"): (99.62, 98.95, 99.05),
    ("MNIST", "CNN_d"): (99.00, 98.78, 98.99),
    ("MNIST", "CNN_bn"): (99.93, 99.22, 99.20),
    ("MNIST", "AlexNet"): (99.57, None, 99.38),
    ("MNIST", "AlexNet_bn"): (99.90, None, 99.03),
    ("MNIST", "VGG"): (99.97, None, 99.25),
    ("MNIST", "VGG_bn"): (99.98, None, 99.46),
    ("Fashion", "AlexNet"): (93.87, None, 91.24),
    ("Fashion", "AlexNet_bn"): (97.49, None, 90.09),
}
SUCCESSES = {"MLP": 77, "MLP_d": 61, "MLP_bn": 83, "CNN": 15, "CNN_d": 13, "CNN_bn": 74}  # of B, of 100 MNIST images


@dataclass(frozen=True)
class Reported:
    """The original's figures for AlexNet on one data set."""

    quantile: int  # percent of the right images above, of the wrong ones below
    right_above: tuple[float, float, float]  # Res_N, Res_max, Res_min
    wrong_below: tuple[float, float, float]
    thresholds: tuple[float, float, float]
    failed: str  # attacks that failed, as it counted them
    corrected: tuple[int, int]  # of so many wrong images
    top2: float  # percent
    auroc: tuple[float, float, float, float]  # of Res_N, Res_max, Res_min, confidence, from its stored arrays
    best: tuple[int, int]  # errors of the best single threshold, and without any


REPORTED = {
    "MNIST": Reported(
        90,
        (0.97, 2.8, 109.0),
        (0.57, 1.3, 58.0),
        (0.57, 1.3, 58.0),
        "0 of 62 wrong and 200 of 500 right images",
        (53, 62),
        0.09,
        (0.988, 0.989, 0.989, 0.859),
        (60, 62),
    ),
    "Fashion": Reported(
        80,
        (0.28, 0.544, 26.0),
        (0.29, 0.543, 25.0),
        (0.28, 0.54, 25.0),
        "2 of 500 wrong and 95 of 500 right images",
        (613, 876),
        2.6,
        (0.872, 0.875, 0.874, 0.804),
        (858, 876),
    ),
}
