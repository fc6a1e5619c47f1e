"""What the study does at each preset and scale, and what the original reported."""

from dataclasses import dataclass

from steelman.attacks import Attack
from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.defences.adversarial import Adversarial
from steelman.errors import UsageError
from steelman.models import Architecture
from steelman.models.alexnet import AlexNet28
from steelman.models.basic_cnn import BasicCNN
from steelman.models.convnet import ConvNet
from steelman.models.linear import Linear1
from steelman.recipe import Recipe, default_recipe
from steelman.threats import Linf


@dataclass(frozen=True)
class Scale:
    """How much is computed: images, epochs, seeds."""

    models: tuple[Architecture, ...]
    epochs: int  # of training
    finetune_epochs: int
    seeds: int
    num_train: int | None  # images; None for all
    num_test: int | None  # judged by natural accuracy and FGSM, every epoch
    num_pgd: int  # judged by PGD-40 every epoch, and over eps
    num_final: int | None  # judged by FGSM and PGD-40 before and after fine-tuning
    num_probe: int  # looked at by the trust checks


SMALL: tuple[Architecture, ...] = (ConvNet(), Linear1())
MIDDLE: tuple[Architecture, ...] = (ConvNet(), BasicCNN(), Linear1())
ALL: tuple[Architecture, ...] = (AlexNet28(), *MIDDLE)  # those of the original's final report
SCALES = {
    "smoke": Scale(SMALL, 8, 8, 1, 1_200, 400, 64, 400, 48),
    "quick": Scale(MIDDLE, 10, 10, 2, 4_000, 1_000, 200, 1_000, 128),
    "full": Scale(ALL, 10, 29, 1, None, None, 1_000, None, 256),
}


@dataclass(frozen=True)
class Published:
    """A row of the original's final report: natural and FGSM accuracy in percent (MNIST, eps 0.35)."""

    natural_before: float
    fgsm_before: float
    natural_after: float
    fgsm_after: float


PUBLISHED = {
    "AlexNet28": Published(99.05, 8.88, 89.29, 93.12),
    "ConvNet": Published(98.90, 15.07, 68.01, 99.10),
    "BasicCNN": Published(99.05, 8.47, 89.56, 98.74),
    "Linear1": Published(98.37, 0.06, 84.22, 99.08),
}

JUDGE = PGD(steps=40)


@dataclass(frozen=True)
class Plan:
    """The study with every choice made."""

    scale: Scale
    models: tuple[Architecture, ...]
    against: tuple[Attack, ...]  # one arm of fine-tuning each
    threat: Linf
    eps_list: tuple[float, ...]
    mix: float
    lr: float  # of fine-tuning
    seeds: tuple[int, ...]
    published: bool

    def train_recipe(self, architecture: Architecture) -> Recipe:
        """Training: the architecture's own recipe; published: in eval mode, the last weights count."""
        faults = {"eval_mode": True, "drop_last": True, "keep": "last"} if self.published else {}
        return default_recipe(architecture, epochs=self.scale.epochs, **faults)

    def finetune_recipe(self, attack: Attack) -> Recipe:
        """Fine-tuning on images made by `attack` on the fly; published: a new optimiser every epoch, eval mode."""
        return Recipe(
            objective=Adversarial(attack, self.threat, mix=self.mix),
            lr=self.lr,
            epochs=self.scale.finetune_epochs,
            keep="last",
            eval_mode=self.published,
            drop_last=self.published,
            fresh_optimizer=self.published,
        )


def check(eps_list: tuple[float, ...], mix: float | None, seeds: int | None) -> None:
    """Refuse a study that cannot be done.

    Raises:
        UsageError: no eps, a mix outside [0, 1], or no seed.
    """
    if not eps_list:
        raise UsageError("eps_list is empty. Expected at least one radius, such as (0.1, 0.35).")
    if mix is not None and not 0 <= mix <= 1:
        raise UsageError(f"mix is {mix}. Expected the adversarial share of a batch, 0 <= mix <= 1.")
    if seeds is not None and seeds < 1:
        raise UsageError(f"seeds is {seeds}. Expected at least one.")


def arms(preset: str) -> tuple[Attack, ...]:
    """What to fine-tune against: FGSM as the original did; corrected: also the remedy, PGD."""
    return (FGSM(),) if preset == "published" else (FGSM(), PGD(steps=7))
