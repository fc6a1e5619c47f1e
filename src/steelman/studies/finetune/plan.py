"""What the study does at each preset and scale, and what the original reported."""

from dataclasses import dataclass, replace

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
from steelman.models.v_one import VOne
from steelman.recipe import Recipe, default_recipe
from steelman.threats import Linf


@dataclass(frozen=True)
class Fronts:
    """What is computed of networks behind a V1 front end, which cost many times as much; seed 0 alone.

    `tuned` are fine-tuned against FGSM as their plain twins are; `controls` are trained and measured before that.
    """

    tuned: tuple[VOne, ...]
    controls: tuple[VOne, ...]
    epochs: int
    finetune_epochs: int
    num_train: int | None
    num_test: int | None
    num_pgd: int


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
    fronts: Fronts | None = None


SMALL: tuple[Architecture, ...] = (ConvNet(), Linear1())
MIDDLE: tuple[Architecture, ...] = (ConvNet(), BasicCNN(), Linear1())
ALL: tuple[Architecture, ...] = (AlexNet28(), *MIDDLE)  # those of the original's final report
FEW = VOne(simple=32, complex=32)  # cells, an eighth of the published numbers
BEHIND = tuple(VOne(backend) for backend in ALL)
CONTROLS: tuple[VOne, ...] = (
    *(replace(front, bottleneck=64) for front in BEHIND),
    VOne(filters="learned"),
    VOne(filters="random"),
)
FEW_CONTROLS = (replace(FEW, filters="random"),)
SCALES = {
    "smoke": Scale(SMALL, 8, 6, 1, 1_200, 400, 64, 400, 48),
    "quick": Scale(MIDDLE, 6, 4, 1, 4_000, 1_000, 128, 1_000, 32, Fronts((FEW,), FEW_CONTROLS, 4, 2, 4_000, 192, 24)),
    "full": Scale(ALL, 10, 29, 1, None, None, 1_000, None, 256, Fronts(BEHIND, CONTROLS, 10, 29, None, None, 200)),
}


@dataclass(frozen=True)
class Published:
    """A row of the original's final report: natural and FGSM accuracy in percent (MNIST, eps 0.35)."""

    natural_before: float
    fgsm_before: float
    natural_after: float | None = None  # None where the original did not fine-tune
    fgsm_after: float | None = None


PUBLISHED = {
    "AlexNet28": Published(99.05, 8.88, 89.29, 93.12),
    "ConvNet": Published(98.90, 15.07, 68.01, 99.10),
    "BasicCNN": Published(99.05, 8.47, 89.56, 98.74),
    "Linear1": Published(98.37, 0.06, 84.22, 99.08),
}

PUBLISHED_FRONTS = {
    "VOneAlexNet28-32": Published(98.59, 95.31, 98.81, 97.95),
    "VOneConvNet-32": Published(98.47, 93.43, 99.30, 98.82),
    "VOneBasicCNN-32": Published(98.84, 95.31, 99.24, 98.85),
    "VOneLinear1-32": Published(94.06, 92.54, 97.61, 95.55),
    "VOneAlexNet28-64": Published(98.75, 94.82),
    "VOneConvNet-64": Published(98.75, 94.79),
    "VOneBasicCNN-64": Published(98.57, 91.54),
    "VOneLinear1-64": Published(95.52, 90.36),
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
    tuned: tuple[VOne, ...] = ()  # networks behind a V1 front end
    controls: tuple[VOne, ...] = ()

    def behind(self) -> "Plan":
        """The same for networks behind a front end: fewer images and epochs, FGSM images alone."""
        fronts = self.scale.fronts or FEWEST
        names = ("epochs", "finetune_epochs", "num_train", "num_test", "num_pgd")
        changes = {name: getattr(fronts, name) for name in names}
        scale = replace(self.scale, **changes, num_final=fronts.num_test)
        return replace(self, scale=scale, against=(FGSM(),), seeds=self.seeds[:1])

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


FEWEST = Fronts((), (), 3, 2, 1_200, 200, 32)  # where front ends are asked for at a scale that has none


def label(architecture: Architecture) -> str:
    """The name of a network in files and tables: its class; behind a front end VOneConvNet-32, or -32-random."""
    if not isinstance(architecture, VOne):
        return type(architecture).__name__
    kind = "" if architecture.filters == "gabor" else f"-{architecture.filters}"
    return f"VOne{type(architecture.backend).__name__}-{architecture.bottleneck}{kind}"


def fronts(chosen: tuple[Architecture, ...] | None, usual: tuple[VOne, ...], *, published: bool) -> tuple[VOne, ...]:
    """The networks behind a front end: those chosen, or the scale's own with the preset's geometry and derivative.

    Raises:
        UsageError: one of those chosen has no front end.
    """
    if chosen is not None:
        if other := next((one for one in chosen if not isinstance(one, VOne)), None):
            raise UsageError(f"{other!r} has no V1 front end. Expected VOne(backend={other!r}), or give it in models.")
        return tuple(one for one in chosen if isinstance(one, VOne))
    if not published:
        return usual
    return tuple(replace(one, image_size=224, derivative="published") for one in usual)


def distinct(networks: tuple[Architecture, ...]) -> None:
    """See that no two networks would be kept under the same name.

    Raises:
        UsageError: two would.
    """
    names = [label(one) for one in networks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two networks of the study are called {twice}. Expected one of each kind: run two studies.")


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


def check_arms(models: tuple[Architecture, ...], against: tuple[Attack, ...]) -> None:
    """Refuse networks and attacks whose arms could not be kept or shown.

    Raises:
        UsageError: a network with a V1 front end among the plain ones, or two attacks of one kind.
    """
    if front := next((one for one in models if isinstance(one, VOne)), None):
        raise UsageError(f"{front!r} was given as a plain model. Expected it in fronts=({front!r},).")
    kinds = [type(attack).__name__ for attack in against]
    if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
        raise UsageError(f"two attacks to fine-tune against are {twice}. Expected one of each kind: run two studies.")


def arms(preset: str) -> tuple[Attack, ...]:
    """What to fine-tune against: FGSM as the original did; corrected: also the remedy, PGD."""
    return (FGSM(),) if preset == "published" else (FGSM(), PGD(steps=7))
