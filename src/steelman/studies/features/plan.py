"""What the study does at each preset and scale, and what the original reported."""

from dataclasses import dataclass, replace
from typing import Literal

from steelman.attacks.pgd import PGD
from steelman.attacks.reliable import Reliable
from steelman.defences import Objective
from steelman.defences.worst_group import WorstGroup
from steelman.errors import UsageError
from steelman.features import Inversion
from steelman.features.mean_gauss_newton import MeanGaussNewton
from steelman.features.normalised_gradient import NormalisedGradient
from steelman.models import Architecture
from steelman.models.fc100 import FC100
from steelman.recipe import Recipe, default_recipe
from steelman.studies import Study
from steelman.threats import Linf
from steelman.threats.groups import HELD_OUT, Groups

Start = Literal["images", "noise", "grey"]

TEST_SEED = 0x1A2B3C4D  # of the original's perturbed test images
GROUPS = ("vertical lines", "horizontal lines", "|noise|", "removal", "clean")
# the original's two tables, in the order of the groups: MNIST, one run
PUBLISHED = {
    "standard": (0.829, 0.549, 0.808, 0.727, 0.977),
    "robust": (0.968, 0.967, 0.969, 0.950, 0.972),
    "robust features": (0.792, 0.822, 0.908, 0.876, 0.960),
    "non-robust features": (0.856, 0.434, 0.865, 0.657, 0.954),
}


@dataclass(frozen=True)
class Scale:
    """How much is computed: images, epochs, seeds."""

    epochs: int  # of the standard net
    robust_epochs: int
    seeds: int
    num_train: int | None  # images; None for all
    num_test: int | None  # for the group tables
    num_attacked: int  # by FGSM, PGD-40 and Reliable
    num_features: int | None  # images reconstructed
    retrain_epochs: int
    blind_epochs: int
    num_probe: int  # looked at by the trust checks
    num_val: int  # real images on which the epoch of a retraining is chosen; published: none is chosen
    reliable: Reliable = Reliable()  # noqa: RUF009 (frozen)
    mislabelling: PGD = PGD(steps=20)  # noqa: RUF009 (frozen)


SCALES = {
    "smoke": Scale(4, 4, 1, 500, 150, 16, 120, 6, 10, 12, 60, Reliable(rounds=2, polish=60, queries=60, audit=0)),
    "quick": Scale(
        *(4, 4, 1, 6_000, 1_000, 32, 2_000, 3, 12, 12, 300),
        reliable=Reliable(rounds=2, polish=60, queries=60, audit=0),
        mislabelling=PGD(steps=7),
    ),
    "full": Scale(6, 3, 3, None, None, 1_000, None, 8, 20, 128, 2_000),
}


@dataclass(frozen=True)
class Plan:
    """The study with every choice made."""

    scale: Scale
    architecture: Architecture
    retrained: Architecture  # of the networks that learn from one set
    layer: str  # "" for the last ReLU
    groups: Groups
    objective: Objective
    inversion: Inversion
    tolerance: float
    start: Start
    denoising: Literal["opening", "components"]
    threat: Linf
    seeds: tuple[int, ...]
    published: bool

    @property
    def held_out(self) -> Groups:
        """Perturbations that no training of the study sees."""
        return Groups(HELD_OUT, seed=TEST_SEED)

    def standard_recipe(self) -> Recipe:
        """Training of the standard net; published: Adam 3e-5, batches of 32, the last weights count."""
        if self.published:
            return default_recipe(self.architecture, epochs=self.scale.epochs, keep="last")
        return Recipe(epochs=self.scale.epochs)

    def warm_recipe(self) -> Recipe:
        """What the published robust training starts from: two epochs of plain SGD."""
        return Recipe(optimizer="sgd", momentum=0.0, lr=4e-4, batch_size=32, epochs=2, keep="last")

    def robust_recipe(self) -> Recipe:
        """Training on the worst group; published: dropout off, a learning rate that is the mean of the original's."""
        if self.published:
            own = Recipe(lr=2.6e-4, batch_size=128, eval_mode=True, keep="last")
            return replace(own, objective=self.objective, epochs=self.scale.robust_epochs)
        return Recipe(objective=self.objective, epochs=self.scale.robust_epochs)

    def retrain_recipe(self) -> Recipe:
        """The same for every set; published: Adam 3e-5, batches of 32, the last weights count."""
        if self.published:
            return default_recipe(self.architecture, epochs=self.scale.retrain_epochs, keep="last")
        return Recipe(epochs=self.scale.retrain_epochs)

    def blind_recipe(self) -> Recipe:
        """Of the net that tells robust from non-robust features; published: Adam 3e-5, batches of 32."""
        return Recipe(epochs=self.scale.blind_epochs, lr=3e-5 if self.published else 3e-3, batch_size=32)


def planned(study: Study) -> Plan:
    """The choices of the study's preset and scale.

    Published: perturbations drawn once, normalised-gradient descent of train and val, more dropout in retraining.
    Corrected: perturbations drawn anew in every batch, the fast inversion of train until it is within 2 %.
    """
    published, scale = study.preset == "published", SCALES[study.scale]
    groups = Groups(seed=TEST_SEED)
    return Plan(
        scale=scale,
        architecture=FC100(),
        retrained=FC100(conv_dropout=0.4, head_dropout=0.4) if published else FC100(),
        layer="",
        groups=groups,
        objective=WorstGroup(Groups(groups.members, fixed=published)),
        inversion=NormalisedGradient() if published else MeanGaussNewton(),
        tolerance=0.0 if published else 0.02,
        start="images",
        denoising="opening",
        threat=Linf(study.data.usual_eps),
        seeds=tuple(range(study.seed, study.seed + scale.seeds)),
        published=published,
    )


def check(seeds: int | None, num: int | None, tolerance: float | None) -> None:
    """Refuse a study that cannot be done.

    Raises:
        UsageError: no seed, fewer than 20 images to reconstruct, or a negative tolerance.
    """
    if seeds is not None and seeds < 1:
        raise UsageError(f"seeds is {seeds}. Expected at least one.")
    if num is not None and num < 20:
        raise UsageError(f"num is {num}. Expected at least 20 images to reconstruct.")
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"tolerance is {tolerance}. Expected a relative residual of 0 or more.")
